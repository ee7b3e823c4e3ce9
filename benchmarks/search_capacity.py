"""Compare the search for the capacity with a sweep over every level: python -m benchmarks.search_capacity.

Both run through pytest on the embedded engine, over HTTP, on servers with the same settings: the sweep measures a
list of levels that lie as close as the tolerance, the search tries a few of them. It prints, and asserts nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.load import machine
from benchmarks.tables import Printer
from pytest_autotune.selection import JudgedTrial, judge_trial
from pytest_autotune.store import Store
from pytest_autotune.suite_file import load_suite

TOLERANCE = 0.1
HIGH = 128
SERVERS = {  # what binds: prompts in pieces, prompts whole, places
    "max-num-batched-tokens 512": "max-num-batched-tokens: 512",
    "max-num-batched-tokens 8192": "max-num-batched-tokens: 8192",
    "max-num-seqs 12": "max-num-batched-tokens: 512, max-num-seqs: 12",
}
SUITE = """\
name: {name}
engine: sim
model: meta-llama/Llama-3.1-8B-Instruct
fixed: {{gpu: L4, max-model-len: 2048, time-scale: 0.1, {settings}}}
load: {{prompt_tokens: 768, output_tokens: 40, concurrency: {levels}, warmup: 500ms, duration: {seconds}s}}
slo: {{ttft.p90: 250ms, tpot.mean: 13.5ms}}
"""


def main() -> None:
    """Run both on each server."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_capacity", description="Search against sweep.")
    parser.add_argument("--quick", action="store_true", help="one server, short batches: to see that it works")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    asked = parser.parse_args()
    out = Printer(markdown=asked.markdown)
    out.note(machine())
    out.title(
        "Capacity", f"Levels from 1 to {HIGH}, {TOLERANCE:.0%} apart; time of the whole trial, deployment included."
    )
    rows, verdicts = [], []
    for name, settings in list(SERVERS.items())[: 1 if asked.quick else None]:
        seconds = 0.6 if asked.quick else 1.5
        sweep, swept_s = trial("sweep", settings, str(list(levels())), seconds)
        search, searched_s = trial("search", settings, f"{{search: [1, {HIGH}], tolerance: {TOLERANCE:.0%}}}", seconds)
        rows.append([name, *cells(sweep, swept_s), *cells(search, searched_s)])
        verdicts.append((name, capacity(sweep), capacity(search), searched_s / swept_s))
    out.table(("server", "sweep", "batches", "s", "search", "batches", "s"), rows)
    for name, level, found, share in verdicts:
        apart = abs(found - level) / max(level, 1)
        out.verdict(f"{name}: capacity {found} found, {level} by the sweep, apart", apart, TOLERANCE, "of it")
        out.verdict(f"{name}: time of the search", share, 1 / 3, "of the sweep's")


def levels() -> list[int]:
    """Return levels of which each is the next whole number, or as much above as the tolerance."""
    found = [1]
    while found[-1] < HIGH:
        found.append(min(HIGH, max(found[-1] + 1, int(found[-1] * (1 + TOLERANCE)))))
    return found


def trial(name: str, settings: str, asked: str, seconds: float) -> tuple[JudgedTrial, float]:
    """Run a suite of one trial, and return it judged, and how long pytest took."""
    with tempfile.TemporaryDirectory(prefix="capacity-") as text:
        suite = Path(text) / f"{name}.yaml"
        suite.write_text(SUITE.format(name=name, settings=settings, levels=asked, seconds=seconds))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(suite), "--autotune"]
        environment = os.environ | {"PYTEST_ADDOPTS": ""}
        began = time.monotonic()
        run = subprocess.run(command, cwd=text, env=environment, capture_output=True, text=True, check=False)
        took_s = time.monotonic() - began
        if run.returncode not in (0, 1):
            raise SystemExit(run.stdout + run.stderr)
        with Store(f"sqlite:///{text}/.autotune/results.db") as store:
            (record,) = store.trials_of_run(store.runs()[0].id)
        rules = load_suite(suite)
        return judge_trial(record, limits=rules.slo, objective=rules.objective), took_s


def capacity(judged: JudgedTrial) -> int:
    """Return the largest level below every one that violates; 0 for none."""
    upper = min((batch.level for batch in judged.batches if not batch.compliant), default=None)
    found = [batch.level.value for batch in judged.compliant if upper is None or batch.level < upper]
    return int(max(found, default=0))


def cells(judged: JudgedTrial, took_s: float) -> list[str]:
    """Return a row's cells of one trial."""
    return [str(capacity(judged)), str(len(judged.batches)), f"{took_s:.1f}"]


if __name__ == "__main__":
    main()
