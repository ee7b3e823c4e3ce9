"""Reads result files of genai-bench, its own or those of a folder that it left earlier, without running anything.

Of each request it records TTFT, end-to-end latency and tokens, in the order in which the requests ended, but
not when: `laid_out` gives them times that fit. So every latency and the throughput of a whole run are as it
measured them; when within the run a request took place is an estimate. A failed request has no times at all.
There are no inter-token latencies. The run includes the second over which its users start, and up to a second
until it notices its end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_autotune.errors import BenchmarkError
from pytest_autotune.load.others.documents import read_each
from pytest_autotune.load.others.measuring import error_kind, health, measurement
from pytest_autotune.samples import Level, Sample

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_autotune.samples import Measurement

TOOL = "genai-bench"
# <scenario>_<task>_num_concurrency_<c>_time_<t>s.json; embeddings and reranking go by batch size instead.
_NAME = re.compile(
    r"(?P<scenario>.+)_(?P<task>[a-z]+(?:-[a-z]+)*-to-[a-z]+)"
    r"_(?P<by>(?:num_)?concurrency|batch_size)_(?P<value>\d+)_time_(?P<time>\d+)s\.json"
)
_SCALES = {"s": 1.0, "ms": 1e-3}


@dataclass(frozen=True, slots=True)
class RecordedBatch:
    """One run of genai-bench: one scenario at one level. Runs are never averaged with each other."""

    path: Path
    scenario: str  # as it was asked for: "D(100,100)", "N(480,240)/(300,150)", "E(64)", "dataset", ...
    task: str  # "text-to-text", ...
    level: Level
    batch_size: int | None  # documents of a request, for tasks that go by it
    measurement: Measurement
    told: Mapping[str, Any]  # genai-bench's own figures: its `aggregated_metrics`


@dataclass(frozen=True, slots=True)
class RecordedFolder:
    """The runs of a folder by scenario and level, and a line for each file that could not be read."""

    batches: tuple[RecordedBatch, ...]
    skipped: tuple[str, ...]


def read_genai_bench(folder: Path | str) -> RecordedFolder:
    """Read an experiment folder of genai-bench, or a folder of such folders.

    Every scenario is read (D, N, U, E, R, I, A and dataset), each file as a batch of its own. Raises
    `BenchmarkError` when there is no readable result.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BenchmarkError(f"no such folder: {folder}; name an experiment folder of {TOOL}")
    found, skipped = read_each(result_files(folder), read)
    if not found:
        why = f" ({len(skipped)} unreadable: {skipped[0]})" if skipped else ""
        raise BenchmarkError(
            f"{folder} holds no result of {TOOL}{why}; expected <scenario>_<task>_num_concurrency_<c>_time_<t>s.json"
        )
    found.sort(key=lambda batch: (batch.path.parent, batch.scenario, batch.level.value, batch.batch_size or 0))
    return RecordedFolder(tuple(found), tuple(skipped))


def result_files(folder: Path) -> list[Path]:
    """Return the result files of an experiment folder, else of the folders in it."""
    for pattern in ("*.json", "*/*.json"):
        paths = sorted(path for path in folder.glob(pattern) if _NAME.fullmatch(path.name))
        if paths:
            return paths
    return []


def read(path: Path, document: dict[str, Any]) -> RecordedBatch:
    """Read one result file; raise `KeyError` or `ValueError` when it lacks what a batch needs."""
    told = document["aggregated_metrics"]
    name = _NAME.fullmatch(path.name)
    by = told.get("iteration_type") or (name["by"] if name else "num_concurrency")
    level = Level(1 if by == "batch_size" else int(told["num_concurrency"]))
    length_s = float(told["run_duration"])
    if length_s <= 0:
        raise ValueError("its run has no duration")
    samples = laid_out(requests(document), level.concurrency or 1, length_s)
    return RecordedBatch(
        path=path,
        scenario=told.get("scenario") or (name["scenario"] if name else ""),
        task=name["task"] if name else "",
        level=level,
        batch_size=int(told["batch_size"]) if by == "batch_size" else None,
        measurement=measurement(level, samples, length_s=length_s, warmup_s=0.0, client=health(TOOL, 0.0)),
        told=told,
    )


def requests(document: dict[str, Any]) -> list[Sample]:
    """Return the requests of a result file, each as if it were sent at 0, in the order in which they ended."""
    scale = _SCALES[document.get("_time_unit", "s")]
    found = [_sample(request, scale) for request in document["individual_request_metrics"]]
    if not found:
        raise ValueError("no request in it")
    return found


def laid_out(samples: Sequence[Sample], streams: int, length_s: float) -> list[Sample]:
    """Return requests one after the other on `streams` streams, in a run of `length_s` seconds, in their order.

    The next request goes to the stream that is free first; the time that a stream has left lies evenly
    between its requests.
    """
    rows: list[list[Sample]] = [[] for _ in range(streams)]
    busy_s = [0.0] * streams
    for sample in samples:
        row = min(range(streams), key=lambda number: (busy_s[number], len(rows[number])))
        rows[row].append(sample)
        busy_s[row] += sample.end_s
    placed: list[Sample] = []
    last_s = length_s * (1 - 1e-9)  # a window holds what ends before its end
    for row_samples, row_s in zip(rows, busy_s, strict=True):
        pause_s = max(length_s - row_s, 0.0) / max(len(row_samples), 1)
        start_s = 0.0
        for sample in row_samples:
            at_s = max(min(start_s, last_s - sample.end_s), 0.0)
            first_s = None if sample.first_s is None else at_s + sample.first_s
            placed.append(replace(sample, sent_s=at_s, first_s=first_s, end_s=at_s + sample.end_s))
            start_s += sample.end_s + pause_s
    return sorted(placed, key=lambda sample: sample.end_s)


def _sample(request: dict[str, Any], scale: float) -> Sample:
    code = request["error_code"]
    if code is not None:
        text = request["error_message"] or ""
        return Sample(0.0, None, 0.0, 0, 0, error=_kind(text, code))
    return Sample(
        sent_s=0.0,
        first_s=scale * request["ttft"],
        end_s=scale * request["e2e_latency"],
        prompt_tokens=request["num_input_tokens"],
        output_tokens=request["num_output_tokens"] or 0,
    )


def _kind(text: str, code: int) -> str:
    """Return the kind of an error; without an answer of the server genai-bench makes up the code."""
    if code == 408 or text.startswith("Connection error"):
        return error_kind(text) if code != 408 else "timeout"
    kind = error_kind(text)
    return kind if code == 500 and kind in ("cut", "reset", "closed") else f"http-{code}"
