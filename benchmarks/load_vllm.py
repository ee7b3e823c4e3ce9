"""Compare our load generator with vLLM's own on a real vLLM: python -m benchmarks.load_vllm [--quick].

A tiny model with random weights on the CPU; see docs/vllm-on-cpu.md for the interpreter that
PYTEST_AUTOTUNE_VLLM_PYTHON names. Both clients send the same number of requests of the same lengths
in turn, a few times, and each figure of ours is held against theirs and how much that varies from
run to run. It prints, and asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from benchmarks import processes
from benchmarks.clients import VLLM_PYTHON, Load, Ours, VllmBench
from benchmarks.load import machine, write_model
from benchmarks.tables import Printer
from pytest_autotune.deploy.leftovers import owner_id
from pytest_autotune.deploy.local import LocalDeployer
from pytest_autotune.deploy.server import Launch
from pytest_autotune.engines.vllm import VllmEngine
from pytest_autotune.statistics import percentile
from pytest_autotune.suite import Suite, TimeoutsBlock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.clients import Client

PROMPT, TOKENS = 64, 32
STREAMS = (1, 4, 16)
FIGURES = ("mean TTFT", "p99 TTFT", "mean TPOT", "p99 TPOT")


def main() -> None:
    """Start a vLLM and run both clients against it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load_vllm", description="Ours and vLLM's own.")
    parser.add_argument("--quick", action="store_true", help="few requests: to see that it works")
    parser.add_argument("--repetitions", type=int, default=3, help="runs of each client at each number of streams")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    asked = parser.parse_args()
    out = Printer(markdown=asked.markdown)
    out.note(machine())
    with tempfile.TemporaryDirectory(prefix="benchmark-") as text:
        model = Path(text) / "tiny-model"
        clients: list[Client] = [Ours(), Detailed(model)]
        if missing := clients[1].missing():
            out.note(missing)
            return
        write_model(model)
        out.title(
            "Real vLLM",
            f"Tiny model on the CPU, {PROMPT} prompt tokens, {TOKENS} output tokens; times in ms: medians of "
            f"{asked.repetitions} interleaved runs, each with the lowest and the highest.",
        )
        with vllm(model, Path(text)) as (url, name):
            compare(out, clients, url, name, quick=asked.quick, repetitions=asked.repetitions)


def compare(out: Printer, clients: list[Client], url: str, model: str, *, quick: bool, repetitions: int) -> None:
    """Print both clients' figures and how far apart they are."""
    rows: list[list[str]] = []
    verdicts: list[tuple[str, float, float]] = []
    for streams in STREAMS:
        count = max(20, (5 if quick else 15) * streams)
        load = Load(
            url,
            streams,
            PROMPT,
            TOKENS,
            # All streams start at once, as vLLM's client has it: prompts that meet in one step of the server wait for
            # each other, and requests of equal length stay in that step.
            warmup_s=0.0,
            window_s=300.0,
            round_s=1.0,
            count=count,
            model=model,
            token_ids=True,
        )
        met: dict[str, list[tuple[float, ...]]] = {client.name: [] for client in clients}
        for number in range(repetitions + 1):
            for client in clients if number % 2 else clients[::-1]:
                figures = run(client, load, seed=1000 * streams + number)
                if number:  # the first run of each warms the server up
                    met[client.name].append(figures)
        for client in clients:
            cells = [spread_cell(values) for values in zip(*met[client.name], strict=True)]
            rows.append([f"{client.name}, {of(streams)}", f"{count}", *cells])
        ours, theirs = (list(zip(*met[client.name], strict=True)) for client in clients)
        for figure, our, their in zip(FIGURES, ours, theirs, strict=True):
            apart = abs(median(our) - median(their))
            verdicts.append(
                (f"{figure} at {of(streams)}, apart (asked for: within the spread)", apart, _spread(our, their))
            )
    out.table(("client", "requests", *FIGURES), rows)
    for what, apart, spread in verdicts:
        out.verdict(what, apart, float(f"{spread:.3g}"), "ms")


def run(client: Client, load: Load, *, seed: int) -> tuple[float, ...]:
    """Return the figures of one run, in milliseconds."""
    with tempfile.TemporaryDirectory(prefix="client-") as text:
        asked = replace(load, seed=seed)
        finished = processes.run(
            client.command(asked, Path(text)),
            cores=[max(os.sched_getaffinity(0))],
            directory=Path(text),
            timeout_s=600,
            env={"HF_HUB_OFFLINE": "1"},
        )
        reading = client.read(finished.output, Path(text))
    if reading.failed:
        raise processes.ClientError(f"{client.name}: {reading.failed} requests failed")
    requests = _requests(reading.more)[load.streams :]
    ttfts, tpots = (sorted(1000 * value for value in values) for values in zip(*requests, strict=True))
    return fmean(ttfts), percentile(ttfts, 99), fmean(tpots), percentile(tpots, 99)


def _requests(told: dict[str, Any]) -> list[tuple[float, float]]:
    """Return TTFT and TPOT of each request in seconds, in the order in which they were sent.

    Those that begin the load are left to the caller to drop: our client has its connections open then, vLLM's
    opens them, so that the first prompts meet in one step of the server or in several.
    """
    if "rows" in told:
        rows = sorted(told["rows"], key=lambda row: row[2])
        return [(first_s - start_s, (end_s - first_s) / (TOKENS - 1)) for _, start_s, _, first_s, end_s in rows]
    return [(ttft_s, sum(gaps_s) / (TOKENS - 1)) for ttft_s, gaps_s in zip(told["ttfts"], told["itls"], strict=True)]


class Detailed(VllmBench):
    """vLLM's own, with what it measured of each request."""

    def command(self, load: Load, directory: Path) -> Sequence[str]:
        """Return the command."""
        return [*super().command(load, directory), "--save-detailed"]


def of(streams: int) -> str:
    """Return the number of streams in words."""
    return f"{streams} stream{'s' if streams > 1 else ''}"


def _spread(*figures: tuple[float, ...]) -> float:
    """Return how far one client is from itself from run to run: the wider of the two, since the server is the same.

    Of three runs the range of either one alone is often far too narrow by chance.
    """
    return max(max(values) - min(values) for values in figures)


def spread_cell(values: tuple[float, ...]) -> str:
    """Return a median with the range around it."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


@contextmanager
def vllm(model: Path, directory: Path) -> Iterator[tuple[str, str]]:
    """Deploy the model, and give its URL and the name it is served under."""
    suite = Suite(
        name="benchmark",
        engine="vllm",
        engine_python=str(VLLM_PYTHON),
        model=str(model),
        env={"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"},
        fixed={"load-format": "dummy", "enforce-eager": True, "max-model-len": 512, "enable-prefix-caching": False},
        timeouts=TimeoutsBlock.model_validate({"start": 300, "ready": 120, "stop": 15}),
    )
    launch = Launch(
        suite, VllmEngine(), {"max_num_seqs": 16}, directory / "server.log", owner_id("benchmark"), lambda _phase: None
    )
    with LocalDeployer().deploy(launch) as server:
        yield server.url, server.model_name


if __name__ == "__main__":
    main()
