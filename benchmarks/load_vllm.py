"""Compare our load generator with vLLM's own on a real vLLM: python -m benchmarks.load_vllm [--quick].

A tiny model with random weights on the CPU; see docs/vllm-on-cpu.md for the interpreter that
PYTEST_AUTOTUNE_VLLM_PYTHON names. Both clients send the same prompts with the same sampling in turn,
and the mean over our runs of each figure is held against the lowest and the highest of theirs. Beside
them stands what the server itself has measured. It prints, and asserts nothing.

Nine repetitions: of three, the middle one of a client would lie outside the range of three of its own
twin in 8 of the 20 orders in which six equal runs can fall. Of nine, the mean hardly ever does.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

from benchmarks import processes
from benchmarks.clients import VLLM_PYTHON, Load, Ours, VllmBench
from benchmarks.load import machine, write_model
from benchmarks.tables import Printer
from pytest_autotune.deploy.leftovers import owner_id
from pytest_autotune.deploy.local import LocalDeployer
from pytest_autotune.deploy.server import Launch
from pytest_autotune.engines.vllm import VllmEngine
from pytest_autotune.load.prompts import Kind, Prompts
from pytest_autotune.statistics import percentile
from pytest_autotune.suite import Suite, TimeoutsBlock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.clients import Client

WORDS, TOKENS = 32, 32  # of a prompt (about three tokens each), and of an answer
STREAMS = (1, 4, 16)
FIGURES = ("mean TTFT", "p99 TTFT", "mean TPOT", "p99 TPOT")
BEYOND = ("TTFT beyond the server's", "TPOT beyond")  # a client's mean less the server's own
SERVED = ("time_to_first_token_seconds", "request_time_per_output_token_seconds")


def main() -> None:
    """Start a vLLM and run both clients against it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load_vllm", description="Ours and vLLM's own.")
    parser.add_argument("--quick", action="store_true", help="few requests: to see that it works")
    parser.add_argument("--repetitions", type=int, default=9, help="runs of each client at each number of streams")
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
            f"Tiny model on the CPU, prompts of {WORDS} words, {TOKENS} output tokens; times in ms: means of "
            f"{asked.repetitions} interleaved runs, each with the lowest and the highest.",
        )
        with vllm(model, Path(text)) as (url, name):
            compare(out, clients, url, name, quick=asked.quick, repetitions=asked.repetitions)


def compare(out: Printer, clients: list[Client], url: str, model: str, *, quick: bool, repetitions: int) -> None:
    """Print both clients' figures and how far apart they are."""
    rows: list[list[str]] = []
    verdicts: list[tuple[str, list[float], list[float]]] = []
    for streams in STREAMS:
        count = max(20, (5 if quick else 15) * streams)
        load = Load(
            url,
            streams,
            WORDS,
            TOKENS,
            # All streams start at once, as vLLM's client has it: prompts that meet in one step of the server wait for
            # each other, and requests of equal length stay in that step.
            warmup_s=0.0,
            window_s=300.0,
            round_s=1.0,
            count=count,
            model=model,
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
        ours, theirs = (list(map(list, zip(*met[client.name], strict=True))) for client in clients)
        for figure, our, their in zip(FIGURES, ours, theirs, strict=False):
            verdicts.append((f"{figure} at {of(streams)}", our, their))
    out.table(("client", "requests", *FIGURES, *BEYOND), rows)
    for what, our, their in verdicts:
        word = "PASS " if min(their) <= fmean(our) <= max(their) else "short"
        out.note(f"{word} {what}: ours {fmean(our):.2f} ms, theirs {min(their):.2f} to {max(their):.2f} ms")


def run(client: Client, load: Load, *, seed: int) -> tuple[float, ...]:
    """Return the figures of one run, in milliseconds.

    They are of requests while all streams were busy. Each stream's first is left out: our client has its
    connections open then, vLLM's opens them, so that the first prompts meet in one step of the server or in
    several. So is each stream's last: ours ends after so many requests and gives up those on their way, vLLM's
    sends so many and waits, and the last ones have the server for themselves.
    """
    streams = load.streams or 0
    drained = streams if isinstance(client, VllmBench) else 0
    load = replace(load, count=load.requests + drained)
    with tempfile.TemporaryDirectory(prefix="client-") as text:
        asked = replace(load, seed=seed, prompts=write_prompts(Path(text) / "prompts.json", load.requests, seed))
        before = served(load.url)
        finished = processes.run(
            client.command(asked, Path(text)),
            cores=[max(os.sched_getaffinity(0))],
            directory=Path(text),
            timeout_s=600,
            env={"HF_HUB_OFFLINE": "1"},
        )
        after = served(load.url)
        reading = client.read(finished.output, Path(text))
    if reading.failed:
        raise processes.ClientError(f"{client.name}: {reading.failed} requests failed")
    requests = _requests(reading.more)
    busy = requests[streams : len(requests) - drained]
    ttfts, tpots = (sorted(1000 * value for value in values) for values in zip(*busy, strict=True))
    own = [(after[name] - before[name]) / (after[f"{name}_n"] - before[f"{name}_n"]) for name in SERVED]
    whole = [fmean(values) for values in zip(*requests, strict=True)]
    beyond = [1000 * (mean - mean_own) for mean, mean_own in zip(whole, own, strict=True)]
    return fmean(ttfts), percentile(ttfts, 99), fmean(tpots), percentile(tpots, 99), *beyond


def served(url: str) -> dict[str, float]:
    """Return what the server has measured so far: sums in seconds, and as NAME_n their counts."""
    with urlopen(f"{url}/metrics") as answer:
        told = answer.read().decode()
    found = re.findall(rf"^vllm:({'|'.join(SERVED)})_(sum|count){{.*}} (\S+)$", told, re.MULTILINE)
    return {name if part == "sum" else f"{name}_n": float(value) for name, part, value in found}


def _requests(told: dict[str, Any]) -> list[tuple[float, float]]:
    """Return TTFT and TPOT of each request in seconds, in the order in which they were sent."""
    if "rows" in told:
        rows = sorted(told["rows"], key=lambda row: row[2])
        return [(first_s - start_s, (end_s - first_s) / (TOKENS - 1)) for _, start_s, _, first_s, end_s in rows]
    return [(ttft_s, sum(gaps_s) / (TOKENS - 1)) for ttft_s, gaps_s in zip(told["ttfts"], told["itls"], strict=True)]


class Detailed(VllmBench):
    """vLLM's own, with what it measured of each request."""

    def command(self, load: Load, directory: Path) -> Sequence[str]:
        """Return the command."""
        return [*super().command(load, directory), "--save-detailed"]


def write_prompts(file: Path, count: int, seed: int) -> str:
    """Write prompts that share no beginning, and return where they are."""
    prompts = Prompts(seed, as_ids=False)
    texts = (b"".join(prompts.piece(Kind.OWN, number, WORDS)).decode() for number in range(count))
    file.write_text(json.dumps([{"conversations": [{"value": text}, {"value": ""}]} for text in texts]))
    return str(file)


def of(streams: int) -> str:
    """Return the number of streams in words."""
    return f"{streams} stream{'s' if streams > 1 else ''}"


def spread_cell(values: tuple[float, ...]) -> str:
    """Return a mean with the range around it."""
    return f"{fmean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


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
