"""From the `load:` block of a suite to what a load generator is given: levels, workload and header fields."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_autotune.errors import MissingRequirement
from pytest_autotune.load.generator import Stage, Workload
from pytest_autotune.load.lengths import Fixed
from pytest_autotune.masking import secret_values
from pytest_autotune.samples import Level
from pytest_autotune.variables import VARIABLE, expand

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_autotune.load.generator import Row
    from pytest_autotune.load.trace_lines import Format
    from pytest_autotune.load.traces import Trace
    from pytest_autotune.suite_load import DatasetBlock, LoadBlock

_CHUNK = 2**20  # bytes of a file that are hashed at a time


def levels_of(load: LoadBlock) -> tuple[Level, ...]:
    """Return the load levels, in the order in which they are measured; none when they are searched for."""
    if load.searched is not None:
        return ()
    match load.shape:
        case "rate":
            assert isinstance(load.rate, tuple)
            return tuple(Level(rate, "rate") for rate in load.rate)
        case "burst":
            return tuple(Level(size, "burst") for size in load.burst)
        case "stages":
            return (Level(1, "stages"),)
        case "replay":
            assert load.replay is not None
            return tuple(Level(speed, "replay") for speed in load.replay.speed)
        case _:
            assert isinstance(load.concurrency, tuple)
            return tuple(Level(streams) for streams in load.concurrency)


def workload_of(load: LoadBlock, level: Level, *, directory: Path, seed: int) -> Workload:
    """Return the workload of one batch; files of the suite are read from `directory`, where the suite's file is.

    Raises `SuiteError` for a file that cannot be read, and `MissingRequirement` for a variable in
    its name that is not set.
    """
    prompt, output = load.lengths
    rows, times_s = rows_of(load, directory)
    duration_s = load.planned_duration_s
    if duration_s is None:
        duration_s = _span_s(times_s) / level.value - load.planned_warmup_s
    by_rate = not load.stages or load.stages[0].rate is not None
    return Workload(
        prompt_tokens=prompt,
        output_tokens=output,
        duration_s=duration_s,
        warmup_s=load.planned_warmup_s,
        request_timeout_s=load.request_timeout_s,
        # A burst is over with its last answer: nothing is sent after it that a longer window could count.
        max_requests=int(level.value) if level.shape == "burst" else load.max_requests,
        max_errors=load.stop.errors,
        max_error_share=load.stop.error_share,
        seed=seed,
        rows=rows,
        shuffle=load.dataset is not None and load.dataset.shuffle,
        prefix_tokens=0 if load.prefix is None else load.prefix.tokens,
        prefix_groups=1 if load.prefix is None else load.prefix.groups,
        turns=Fixed(1) if load.conversation is None else load.conversation.turns,
        think_s=0.0 if load.conversation is None else load.conversation.think_time_s,
        documents=load.documents,
        query_tokens=load.query_lengths,
        arrivals=load.arrivals,
        stages=tuple(_stages(load)),
        stages_of="rate" if by_rate else "concurrency",
        times_s=times_s,
        max_concurrency=load.max_concurrency,
        stop_oversaturated=load.stop.oversaturated,
        workers=load.workers,
    )


def batch_seed(seed: int, level: Level, *, attempt: int = 1, repetition: str = "") -> int:
    """Return the seed of one batch: equal for equal trials, another for each level, attempt and repetition.

    So trials differ by their configuration only, and no batch finds its prompts in a prefix cache.
    """
    text = f"{seed} {level.name} {attempt} {repetition}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


def headers_of(load: LoadBlock) -> dict[str, str]:
    """Return the header fields of each request, with variables of the environment filled in.

    Raise `MissingRequirement` naming a variable that is not set.
    """
    headers = {name: expand(value, key=f"load.headers.{name}") for name, value in load.headers.items()}
    if load.api_key is not None:
        headers["authorization"] = f"Bearer {expand(load.api_key, key='load.api_key')}"
    return headers


def secrets_of(load: LoadBlock) -> tuple[str, ...]:
    """Return the values of header fields that came from the environment, to be masked wherever text is shown."""
    headers = headers_of(load)
    filled = {headers[name] for name, value in load.headers.items() if VARIABLE.search(value)}
    if load.api_key is not None:
        filled.add(headers["authorization"])
    return secret_values(("secret", part) for value in filled for part in (value, value.rpartition(" ")[2]))


def files_of(load: LoadBlock, directory: Path) -> dict[str, Path]:
    """Return the files that the load is read from, by the key that names each."""
    named = {"dataset": load.dataset, "replay": load.replay}
    return {
        key: directory / Path(expand(block.file, key=f"load.{key}.file")).expanduser()
        for key, block in named.items()
        if block is not None
    }


def rows_of(load: LoadBlock, directory: Path) -> tuple[tuple[Row, ...], tuple[float, ...]]:
    """Return the rows of the load's dataset or trace, and when each of a trace's was sent; files are read once."""
    files = files_of(load, directory)
    if load.replay is not None:
        path = files["replay"]
        trace = _read_trace(path, load.replay.format, load.replay.limit, _version(path))
        return trace.rows, trace.times_s
    if load.dataset is not None:
        path = files["dataset"]
        return _read_dataset(path, load.dataset, _version(path)), ()
    return (), ()


def lacking(load: LoadBlock, directory: Path) -> Iterator[str]:
    """Yield what the environment lacks to send the load, one sentence each."""
    for look in (lambda: headers_of(load), lambda: files_of(load, directory)):
        try:
            look()
        except MissingRequirement as missing:
            yield str(missing)


def fingerprints_of(load: LoadBlock, directory: Path) -> dict[str, str]:
    """Return what identifies the content of the load's files; nothing of those whose name is not known yet."""
    try:
        files = files_of(load, directory)
    except MissingRequirement:
        return {}
    return {key: _fingerprint(path) for key, path in files.items() if path.exists()}


@lru_cache(maxsize=2)
def _read_trace(path: Path, form: Format | None, limit: int | None, _version: int) -> Trace:
    from pytest_autotune.load.traces import read_trace

    return read_trace(path, format=form, limit=limit)


@lru_cache(maxsize=2)
def _read_dataset(path: Path, dataset: DatasetBlock, _version: int) -> tuple[Row, ...]:
    from pytest_autotune.load.dataset_rows import Columns
    from pytest_autotune.load.datasets import read_dataset

    columns = Columns(**dict(dataset.columns))
    return read_dataset(path, format=dataset.format, split=dataset.split, limit=dataset.limit, columns=columns)


def _version(path: Path) -> int:
    """Return what changes when a file is written anew."""
    return path.stat().st_mtime_ns if path.exists() else 0


def _span_s(times_s: tuple[float, ...]) -> float:
    """Return how long a trace lasts when its last request, too, is followed by a gap of the usual length."""
    gaps = len(times_s) - 1
    return times_s[-1] * (gaps + 1) / gaps if gaps > 0 and times_s[-1] > 0 else 1.0


def _stages(load: LoadBlock) -> Iterator[Stage]:
    for stage in load.stages:
        ramp = stage.rate or stage.concurrency
        assert ramp is not None, "a stage has either"
        yield Stage(stage.for_s, ramp.start, ramp.end)


def _fingerprint(path: Path) -> str:
    """Return a SHA-256 of a file's content, or of all files of a directory with their names."""
    parts = sorted(part for part in path.rglob("*") if part.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for part in parts:
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{part.relative_to(path)} {digest}\n".encode())
    return total.hexdigest()
