"""How often the gate is right, through the whole pipeline: python -m benchmarks.gate [--engine vllm] [--gates 10].

For each candidate, gates over HTTP: ``pytest --autotune-compare`` in a project of its own, against a baseline that is
equal or better. On the embedded engine the others have 5 % less throughput, or latencies that are 15 % longer, p99 of
the time to first token among them; on vLLM (named by PYTEST_AUTOTUNE_VLLM_PYTHON, on its CPU build with a tiny model)
one takes a single sequence at a time. Beside it, from the same measurements, what one run against one stored number
would have said, and the noise of equal sides. With ``--results FILE`` each gate is kept as a line of JSON, and the
tables are of all gates in the file: hours of them can be run in parts. `benchmarks.gate_model` simulates many more.
It prints, and asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.gate_model import share
from benchmarks.load import machine
from benchmarks.tables import Printer
from pytest_autotune.baseline import Baseline, Served, write_baseline
from pytest_autotune.comparison import Pair, Tolerance, compare
from pytest_autotune.hardware import fingerprint
from pytest_autotune.noise import Noise
from pytest_autotune.pairing import pairs_of
from pytest_autotune.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "PYTEST_AUTOTUNE_VLLM_PYTHON"
METRIC, THRESHOLD = "output_throughput", 0.05  # of the usual comparison
NOISY = ("output_throughput", "ttft.p50", "ttft.p99", "tpot.mean", "e2e.p99")
SCALE = 0.5  # time of the embedded engine's servers

Said = Literal["regression", "open", "no change", "error"]
SAID: tuple[Said, ...] = ("regression", "no change", "open", "error")


@dataclass(frozen=True, slots=True)
class Side:
    """What a server is started with, in the suite of the candidate or the record of the baseline."""

    fixed: Mapping[str, Any]
    configuration: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Setup:
    """An engine, a load, and candidates; the first of them is the baseline again."""

    model: str
    levels: Sequence[int]
    suite: str  # what follows after engine, model and fixed
    baseline: Side
    candidates: Mapping[str, Side]
    extra: Mapping[str, Any] = field(default_factory=dict)  # of suite and record


def embedded() -> Setup:
    """Return servers of the embedded engine."""
    configuration = {"max-num-seqs": 64}

    def side(scale: float) -> Side:
        return Side({"gpu": "A100-80G", "max-model-len": 4096, "time-scale": scale}, configuration)

    return Setup(
        model="meta-llama/Llama-3.1-8B-Instruct",
        levels=(8, 16),
        suite="load: {prompt_tokens: 256, output_tokens: 32, concurrency: [8, 16], duration: 4s, warmup: 500ms}\n"
        "slo: {ttft.p99: 10s, e2e.p99: 10s}\ntimeouts: {stop: 1s}\n",
        baseline=side(SCALE),
        candidates={
            "equal (A/A)": side(SCALE),
            "throughput -5 %, latencies +5 %": side(SCALE / 0.95),
            "latencies +15 %": side(SCALE * 1.15),
        },
    )


def real() -> Setup:
    """Return servers of vLLM, with a tiny model of random weights."""
    python = os.environ[PYTHON]
    model = ROOT / ".autotune" / "tiny-model"
    if not model.exists():
        subprocess.run([python, ROOT / "tests" / "real" / "tiny_model.py", model], check=True)

    def side(sequences: int) -> Side:
        fixed = {"load-format": "dummy", "enforce-eager": True, "max-model-len": 512}
        return Side(fixed, {"max-num-seqs": sequences})

    return Setup(
        model=str(model),
        levels=(4,),
        # Servers that share two cores vary by more than the automatic tolerances, and take a minute to start. Answers
        # of one length keep step with each other, and the window's ends then cut off different parts of a cycle.
        suite="load: {prompt_tokens: 16, output_tokens: 'U(8,24)', concurrency: [4], duration: 10s, warmup: 2s}\n"
        "slo: {ttft.p90: 10s, tpot.mean: 1s}\ntimeouts: {start: 5m, ready: 2m, stop: 15s}\n"
        "gate: {throughput: -20%, pairs: 4}\n",
        baseline=side(8),
        candidates={"equal (A/A)": side(8), "max-num-seqs 8 -> 1": side(1)},
        extra={
            "engine_python": python,
            "env": {"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        },
    )


@dataclass(frozen=True, slots=True)
class Judged:
    """One gate."""

    engine: str
    candidate: str
    said: Said
    took_s: float
    pairs: list[Pair]


def main() -> None:
    """Judge each candidate so many times; print how often the gate said what."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["sim", "vllm"], default="sim")
    parser.add_argument("--gates", type=int, default=10, help="of each candidate, in this run")
    parser.add_argument("--results", type=Path, help="keep each gate in this file, and show all that it has")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    judged = [] if options.results is None else _kept(options.results, options.engine)
    setup = (embedded if options.engine == "sim" else real)() if options.gates else None
    for _ in range(options.gates):
        assert setup is not None
        for candidate, side in setup.candidates.items():
            one = _gate(setup, options.engine, candidate, side)
            judged.append(one)
            print(f"{candidate}: {one.said} after {len(one.pairs)} pairs, {one.took_s:.0f} s", file=sys.stderr)
            if options.results is not None:
                _keep(options.results, one)
    _report(Printer(markdown=options.markdown), options.engine, judged)


def _report(printer: Printer, engine: str, judged: Sequence[Judged]) -> None:
    printer.title(f"Gates through the whole pipeline, {engine}", f"{machine()}; shares with their 95 % interval.")
    header = ["candidate", "gates", *SAID, "pairs", "seconds", "single run: regression"]
    names = list(dict.fromkeys(one.candidate for one in judged))
    printer.table(header, [_row(name, [one for one in judged if one.candidate == name]) for name in names])
    equal = [one.pairs for one in judged if one.candidate == names[0]]
    printer.title("Noise of equal sides", "Standard deviation of the differences of pairs, over all levels.")
    rows = [
        [metric, f"{noise.deviation:.1%}", str(noise.freedom), f"{most:.1%}"]
        for metric in NOISY
        for noise, most in _noise(metric, equal)
    ]
    printer.table(["metric", "deviation", "degrees of freedom", "most in one gate"], rows)


def _row(name: str, judged: Sequence[Judged]) -> list[str]:
    said = Counter(one.said for one in judged)
    measured = [one.pairs for one in judged]
    # The usual comparison: what one job measured of the candidate, against what another had measured of the baseline.
    singles = [
        _throughput(now[0].candidate) < (1 - THRESHOLD) * _throughput(then[0].baseline)
        for then, now in zip(measured, [*measured[1:], measured[0]], strict=True)
        if then and now
    ]
    shares = [share([one.said == word for one in judged]) if said[word] else "0" for word in SAID]
    means = [sum(map(len, measured)) / len(judged), sum(one.took_s for one in judged) / len(judged)]
    return [
        name,
        str(len(judged)),
        *shares,
        f"{means[0]:.1f}",
        f"{means[1]:.0f}",
        f"{sum(singles)} of {len(singles)}",
    ]


def _noise(metric: str, gates: Iterable[list[Pair]]) -> list[tuple[Noise, float]]:
    """Return what all gates together show of the noise of a metric, and its largest deviation in one of them."""
    found = [
        effect.noise
        for pairs in gates
        for effect in compare(pairs, {metric: Tolerance(0.05)}).effects
        if effect.noise is not None
    ]
    if not found:
        return []
    return [(reduce(Noise.with_more, found), max(noise.deviation for noise in found))]


def _gate(setup: Setup, engine: str, candidate: str, side: Side) -> Judged:
    """Run one gate."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "suites").mkdir()
        values = {"fixed": dict(side.fixed), **setup.extra}
        described = "".join(f"{name}: {json.dumps(value)}\n" for name, value in values.items())
        parameters = {name: [value] for name, value in side.configuration.items()}
        suite = f"name: gate\nengine: {engine}\nmodel: {setup.model}\nparameters: {json.dumps(parameters)}\n"
        (root / "suites" / "gate.yaml").write_text(f"{suite}{described}{setup.suite}")
        write_baseline(root / "suites" / "gate.best.json", _record(setup, engine, side))
        write_baseline(root / "baseline.json", _record(setup, engine, setup.baseline))
        command = [sys.executable, "-m", "pytest", "suites", "--autotune-compare", "baseline.json", "-q"]
        ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        with Store(f"sqlite:///{root / '.autotune' / 'results.db'}") as store:
            trials = store.trials_of_run(store.runs()[0].id)
    return Judged(engine, candidate, _said(ended.stdout), time.monotonic() - began, pairs_of(trials))


def _said(output: str) -> Said:
    """Return what a run came to, by its last line and the last column of its table; what is open may be red as well."""
    if re.search(r"\d+ error", output.splitlines()[-1]):
        return "error"
    outcomes = set(re.findall(r"  (regression|open)$", output, re.MULTILINE))
    return "regression" if "regression" in outcomes else "open" if outcomes else "no change"


def _record(setup: Setup, engine: str, side: Side) -> Baseline:
    return Baseline(
        suite="gate",
        engine=engine,
        engine_version="",
        model=setup.model,
        hardware=fingerprint(),
        configuration=dict(side.configuration),
        server=Served(fixed=dict(side.fixed), **setup.extra),
        load={},
        levels={f"c{level}": {METRIC: 1.0} for level in setup.levels},
        run="benchmark",
        recorded_at="2026-01-01T00:00:00Z",
    )


def _keep(path: Path, one: Judged) -> None:
    pairs = [[_short(pair.baseline), _short(pair.candidate)] for pair in one.pairs]
    line = {"engine": one.engine, "candidate": one.candidate, "said": one.said, "took_s": one.took_s, "pairs": pairs}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _short(side: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {level: {name: metrics[name] for name in NOISY if name in metrics} for level, metrics in side.items()}


def _kept(path: Path, engine: str) -> list[Judged]:
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        Judged(**{**line, "pairs": [Pair(*sides) for sides in line["pairs"]]})
        for line in lines
        if line["engine"] == engine
    ]


def _throughput(side: Mapping[str, Mapping[str, float]]) -> float:
    return sum(metrics[METRIC] for metrics in side.values())


if __name__ == "__main__":
    main()
