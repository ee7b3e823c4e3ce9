"""How often the gate is right, through the whole pipeline: python -m benchmarks.gate [--gates 10] [--markdown].

For each scenario, gates on the embedded engine over HTTP: ``pytest --autotune-compare`` in a project of its own, the
baseline against itself, against a server with 5 % less throughput, and against one whose p99 of the time to first
token is about 15 % longer. Beside it, from the same measurements, what one run against one stored number would have
said. `benchmarks.gate_model` simulates many more gates on a model of the noise. It prints, and asserts nothing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmarks.load import machine
from benchmarks.tables import Printer
from pytest_autotune.baseline import Baseline, Served, write_baseline
from pytest_autotune.hardware import fingerprint
from pytest_autotune.pairing import pairs_of
from pytest_autotune.store import Store

if TYPE_CHECKING:
    from pytest_autotune.comparison import Pair

SUITE = """\
name: gate
engine: sim
model: meta-llama/Llama-3.1-8B-Instruct
parameters: {{max-num-seqs: [64]}}
fixed: {{gpu: A100-80G, max-model-len: 4096, time-scale: {time_scale}}}
load: {{prompt_tokens: {prompt_tokens}, output_tokens: 32, concurrency: [8, 16], duration: 4s, warmup: 500ms}}
slo: {{ttft.p99: 10s, e2e.p99: 10s}}
timeouts: {{stop: 1s}}
"""
TIME_SCALE, PROMPT_TOKENS = 0.5, 256
METRIC, THRESHOLD = "output_throughput", 0.05  # of the usual comparison

Said = Literal["regression", "open", "no change", "error"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """What the candidate's server differs in."""

    name: str
    time_scale: float = TIME_SCALE


SCENARIOS = (
    Scenario("equal (A/A)"),
    Scenario("throughput -5 %, latencies +5 %", time_scale=TIME_SCALE / 0.95),
    Scenario("latencies +15 %", time_scale=TIME_SCALE * 1.15),
)


def main() -> None:
    """Judge each scenario so many times; print how often the gate said what."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gates", type=int, default=10, help="of each scenario")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    printer = Printer(markdown=options.markdown)
    printer.title("Gates through the whole pipeline", f"{machine()}; {options.gates} gates for each row.")
    rows = [_row(scenario, options.gates) for scenario in SCENARIOS]
    printer.table(["candidate", "regression", "no change", "open", "error", "pairs", "single run: regression"], rows)


def _row(scenario: Scenario, gates: int) -> list[str]:
    said: Counter[Said] = Counter()
    measured: list[list[Pair]] = []
    for _ in range(gates):
        outcome, pairs = _gate(scenario)
        said[outcome] += 1
        measured.append(pairs)
    # The usual comparison: what one job measured of the candidate, against what another had measured of the baseline.
    singles = [
        _throughput(now[0], "candidate") < (1 - THRESHOLD) * _throughput(then[0], "baseline")
        for then, now in zip(measured, [*measured[1:], measured[0]], strict=True)
        if then and now
    ]
    mean = sum(map(len, measured)) / gates
    counts = [str(said[word]) for word in ("regression", "no change", "open", "error")]
    return [scenario.name, *counts, f"{mean:.1f}", f"{sum(singles)} of {len(singles)}"]


def _gate(scenario: Scenario) -> tuple[Said, list[Pair]]:
    """Run one gate; return what it said, and the pairs that it measured."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "suites").mkdir()
        suite = SUITE.format(time_scale=scenario.time_scale, prompt_tokens=PROMPT_TOKENS)
        (root / "suites" / "gate.yaml").write_text(suite)
        for path in (root / "suites" / "gate.best.json", root / "baseline.json"):
            write_baseline(path, _baseline())
        command = [sys.executable, "-m", "pytest", "suites", "--autotune-compare", "baseline.json", "-q"]
        ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        with Store(f"sqlite:///{root / '.autotune' / 'results.db'}") as store:
            trials = store.trials_of_run(store.runs()[0].id)
        if re.search(r"\d+ error", ended.stdout.splitlines()[-1]):
            return "error", pairs_of(trials)
        if ended.returncode == 1:
            return "regression", pairs_of(trials)
        return "open" if " OPEN: " in ended.stdout else "no change", pairs_of(trials)


def _baseline() -> Baseline:
    return Baseline(
        suite="gate",
        engine="sim",
        engine_version="",
        model="meta-llama/Llama-3.1-8B-Instruct",
        hardware=fingerprint(),
        configuration={"max-num-seqs": 64},
        server=Served(fixed={"gpu": "A100-80G", "max-model-len": 4096, "time-scale": TIME_SCALE}),
        load={},
        levels={"c8": {METRIC: 1.0}, "c16": {METRIC: 1.0}},
        run="benchmark",
        recorded_at="2026-01-01T00:00:00Z",
    )


def _throughput(pair: Pair, side: Literal["baseline", "candidate"]) -> float:
    levels = pair.baseline if side == "baseline" else pair.candidate
    return sum(metrics[METRIC] for metrics in levels.values())


if __name__ == "__main__":
    main()
