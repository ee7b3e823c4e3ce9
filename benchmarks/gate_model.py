"""How often the gate is wrong, on a model of the noise: python -m benchmarks.gate_model [--quick].

Simulated comparisons of a candidate with its baseline, in pairs of deployments, by `comparison` at its defaults:
each deployment, each batch and each request differs by chance. Beside it the usual comparison of one run with a stored
number, comparisons of pairs that `benchmarks.gate` measured of equal sides, drawn anew, and what intervals by other
methods would be. It prints, and asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.load import machine
from benchmarks.tables import Printer
from pytest_autotune.comparison import Comparison, Looks, Pair, Tolerance, automatic, compare
from pytest_autotune.distributions import student_quantile
from pytest_autotune.metrics import worse_when

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Ends = tuple[NDArray[np.float64], NDArray[np.float64]]

REQUESTS = {"c4": 300, "c16": 600, "c64": 1000}  # of a batch, by level
LOOKS = Looks()
JOB = 0.03  # deviation of a job, which a stored number is of another of: published are 0.3 % within and 26 % between
STORED = {"output_throughput": 0.05, "ttft.p99": 0.1}  # thresholds of the usual comparison
DISTURBED = 0.1  # by which what else runs slows a deployment
NORMAL = NormalDist()
SHARES = np.linspace(0.0, 1.0, 20_001)[1:-1]
QUANTILES = np.array([NORMAL.inv_cdf(share) for share in SHARES.tolist()])

RECORDED = Path(__file__).with_name("recorded") / "gates-vllm.jsonl"
LOSSES = (0.0, -0.1, -0.199, -0.3, -0.4)  # of the throughput
WIDE = Tolerance(0.2)  # of the throughput, in the suite of those gates

ENDS = 0.005  # chance that an end of an interval is wrong: about that of five metrics at the last look
RESAMPLES = 999


@dataclass(frozen=True, slots=True)
class Varying:
    """By how much a metric differs by chance, as standard deviations of its logarithm."""

    deployment: float
    batch: float
    request: float  # of the requests themselves, whose mean or percentile it is
    percentile: float | None = None

    def batches(self, chance: np.random.Generator, requests: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return what the requests of batches add."""
        if self.percentile is None:
            return chance.normal(0.0, self.request / math.sqrt(requests), shape)
        # The k-th smallest of so many uniform numbers has a beta distribution: no request need be drawn.
        rank = math.ceil(requests * self.percentile)
        found: NDArray[np.float64] = np.interp(chance.beta(rank, requests - rank + 1, shape), SHARES, QUANTILES)
        return self.request * (found - NORMAL.inv_cdf(self.percentile))


METRICS = {
    "output_throughput": Varying(0.007, 0.007, 0.1),
    "ttft.p50": Varying(0.01, 0.015, 0.2, 0.5),
    "ttft.p99": Varying(0.02, 0.03, 0.2, 0.99),
    "tpot.p99": Varying(0.01, 0.015, 0.1, 0.99),
    "e2e.p99": Varying(0.015, 0.02, 0.1, 0.99),
}
WORSE = {metric: 1 if worse_when(metric) == "larger" else -1 for metric in METRICS}


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is true of a candidate, and how much is left to chance."""

    name: str
    changes: dict[str, float] = field(default_factory=dict)
    noise: float = 1.0  # times that of the model
    known: bool = False  # to the tolerances, from one earlier comparison of equal sides
    disturbed: float = 0.0  # share of deployments beside which something else ran
    levels: tuple[str, ...] = tuple(REQUESTS)


EQUAL, LOSS, RISE = "equal (A/A)", "throughput -5 %", "p99 TTFT +15 %"
LOST, RISEN = {"output_throughput": -0.05}, {"ttft.p99": 0.15}
ALLOWED = {metric: 0.9999 * WORSE[metric] * automatic(metric).worse for metric in METRICS}
SCENARIOS = (
    Scenario(EQUAL),
    Scenario(LOSS, LOST),
    Scenario(RISE, RISEN),
    Scenario("all just within their tolerances", ALLOWED),
    Scenario("throughput just beyond its tolerance", {"output_throughput": -0.0201}),
    Scenario("equal, noise doubled", noise=2.0),
    Scenario(f"{LOSS}, noise doubled", LOST, noise=2.0),
    Scenario(f"{RISE}, noise doubled", RISEN, noise=2.0),
    Scenario("equal, noise doubled and known", noise=2.0, known=True),
    Scenario(f"{LOSS}, noise doubled and known", LOST, noise=2.0, known=True),
    Scenario("equal, 1 of 20 deployments disturbed", disturbed=0.05),
    Scenario("equal, one level", levels=("c16",)),
    Scenario(f"{RISE}, one level", RISEN, levels=("c16",)),
)


def main() -> None:
    """Simulate all scenarios and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate_model", description="Errors of the gate.")
    parser.add_argument("--gates", type=int, default=2000, help="for each scenario")
    parser.add_argument("--quick", action="store_true", help="few gates: to see that it works")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    asked = parser.parse_args()
    out = Printer(markdown=asked.markdown)
    out.note(machine())
    gates = 50 if asked.quick else asked.gates
    report(out, gates)
    resampled(out, gates)
    methods(out, gates)


def report(out: Printer, gates: int) -> None:
    """Judge all scenarios and print what came of them."""
    out.title(
        "The gate",
        f"{gates} comparisons for each row, {len(METRICS)} metrics, {len(REQUESTS)} levels, looks after "
        f"{', '.join(map(str, LOOKS.schedule))} pairs, shares with their 95 % interval; single run: one run of each "
        f"side, {JOB:.0%} between jobs, thresholds of 5 % of the throughput and 10 % of the p99 TTFT.",
    )
    rows = []
    caught = {}
    for number, scenario in enumerate(SCENARIOS):
        found = list(simulate(scenario, gates, np.random.default_rng(number)))
        caught[scenario.name] = float(np.mean([gate.outcome == "regression" for gate in found]))
        rows.append(
            [
                scenario.name,
                share([gate.outcome == "regression" for gate in found]),
                share([gate.outcome in ("no change", "improvement") for gate in found]),
                share([gate.outcome == "open" for gate in found]),
                f"{np.mean([gate.pairs for gate in found]):.1f}",
                share([gate.alarm for gate in found]),
            ]
        )
    out.table(("candidate", "regression", "no change", "open", "pairs", "single run: regression"), rows)
    out.verdict("false alarms over A/A", caught[EQUAL], 0.01, "")
    out.verdict("throughput losses of 5 % caught", caught[LOSS], 0.95, "", at_least=True)
    out.verdict("p99 TTFT rises of 15 % caught", caught[RISE], 0.9, "", at_least=True)


@dataclass(frozen=True, slots=True)
class Gate:
    """What came of one comparison."""

    outcome: str
    pairs: int
    alarm: bool  # the usual comparison tells a regression


def simulate(scenario: Scenario, gates: int, chance: np.random.Generator) -> Iterator[Gate]:
    """Judge so many comparisons, each until it is settled or the budget is spent."""
    defaults = {metric: automatic(metric) for metric in METRICS}
    earlier = draw(replace(scenario, changes={}), gates, chance) if scenario.known else []
    alarms = chance.normal(0.0, JOB * math.sqrt(2), (gates, len(STORED)))
    for gate, pairs in enumerate(draw(scenario, gates, chance)):
        tolerances = defaults
        if scenario.known:
            equal = compare(earlier[gate], defaults, looks=LOOKS)
            tolerances = {effect.metric: automatic(effect.metric, effect.noise) for effect in equal.effects}
        alarm = any(
            WORSE[metric] * (moved(pairs[0], metric) * math.exp(between) - 1) > threshold
            for (metric, threshold), between in zip(STORED.items(), alarms[gate].tolist(), strict=True)
        )
        comparison, taken = judged(pairs, tolerances)
        yield Gate(comparison.outcome, taken, alarm)


def moved(pair: Pair, metric: str) -> float:
    """Return candidate over baseline, of the means over levels: what one run of each side says."""
    before, now = (math.fsum(level[metric] for level in side.values()) for side in (pair.baseline, pair.candidate))
    return now / before


def judged(pairs: Sequence[Pair], tolerances: dict[str, Tolerance], looks: Looks = LOOKS) -> tuple[Comparison, int]:
    """Compare as the gate does, at each look until it is settled, and return after how many pairs that was."""
    for look in looks.schedule:
        comparison = compare(pairs[:look], tolerances, looks=looks)
        if comparison.settled:
            break
    return comparison, look


def draw(scenario: Scenario, gates: int, chance: np.random.Generator) -> list[list[Pair]]:
    """Return the pairs of so many comparisons."""
    shape = (gates, LOOKS.budget, 2)  # the last: baseline and candidate
    slowed = np.where(chance.random(shape) < scenario.disturbed, math.log1p(DISTURBED), 0.0)
    measured: dict[tuple[str, str], list[list[list[float]]]] = {}
    for metric, varying in METRICS.items():
        true = np.array([0.0, math.log1p(scenario.changes.get(metric, 0.0))])
        deployments = true + WORSE[metric] * slowed + chance.normal(0.0, scenario.noise * varying.deployment, shape)
        for level in scenario.levels:
            batches = chance.normal(0.0, varying.batch, shape) + varying.batches(chance, REQUESTS[level], shape)
            measured[level, metric] = np.exp(deployments + scenario.noise * batches).tolist()

    def side(gate: int, pair: int, which: int) -> dict[str, dict[str, float]]:
        return {
            level: {metric: measured[level, metric][gate][pair][which] for metric in METRICS}
            for level in scenario.levels
        }

    return [[Pair(side(gate, pair, 0), side(gate, pair, 1)) for pair in range(LOOKS.budget)] for gate in range(gates)]


def resampled(out: Printer, gates: int) -> None:
    """Print what comparisons of measured pairs come to when the candidate loses so much throughput beside."""
    measured = measured_pairs()
    differences = [math.log(moved(pair, "output_throughput")) for pair in measured]
    out.title(
        "Measured noise",
        f"{gates} comparisons for each row, of pairs drawn from {len(measured)} of a real vLLM with equal "
        f"sides: they differ by {np.std(differences):.1%} of the throughput; the candidate's is made lower. Throughput "
        f"alone, by {WIDE.worse:.0%} allowed.",
    )
    rows = []
    for budget in (4, LOOKS.budget):
        looks = Looks(budget=budget)
        for number, loss in enumerate(LOSSES):
            chance = np.random.default_rng(number)
            found = [
                judged(drawn(measured, loss, budget, chance), {"output_throughput": WIDE}, looks) for _ in range(gates)
            ]
            outcomes = [comparison.outcome for comparison, _ in found]
            rows.append(
                [
                    f"{loss:+.1%}" if loss else EQUAL,
                    str(budget),
                    share([outcome == "regression" for outcome in outcomes]),
                    share([outcome in ("no change", "improvement") for outcome in outcomes]),
                    share([outcome == "open" for outcome in outcomes]),
                    f"{np.mean([taken for _, taken in found]):.1f}",
                ]
            )
    out.table(("throughput", "pairs at most", "regression", "no change", "open", "pairs"), rows)


def measured_pairs() -> list[Pair]:
    """Return the pairs of equal sides that were kept."""
    lines = [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]
    return [Pair(*sides) for line in lines if line["candidate"] == EQUAL for sides in line["pairs"]]


def drawn(measured: Sequence[Pair], loss: float, number: int, chance: np.random.Generator) -> list[Pair]:
    """Draw so many pairs, either side of each as the candidate, whose throughput is then lower by `loss`."""
    found = []
    for index, turned in zip(chance.integers(len(measured), size=number), chance.random(number) < 0.5, strict=True):
        pair = measured[index]
        before, now = (pair.candidate, pair.baseline) if turned else (pair.baseline, pair.candidate)
        slower = {
            level: {**metrics, "output_throughput": metrics["output_throughput"] * (1 + loss)}
            for level, metrics in now.items()
        }
        found.append(Pair(before, slower))
    return found


def methods(out: Printer, gates: int) -> None:
    """Print what intervals by other methods would be."""
    out.title(
        "Intervals",
        f"{gates} sets of differences of two equal sides for each cell: how many intervals miss 0, {2 * ENDS:.1%} asked"
        " for, and their median width in standard deviations of a difference.",
    )
    numbers = (4, 6, 10)
    rows = []
    for name in ("normal", "exponential", "1 of 20 slower by five deviations"):
        cells: dict[str, list[str]] = {}
        for number in numbers:
            chance = np.random.default_rng(number)
            both = sides(name, chance, (2, gates, number))
            values = both[1] - both[0]
            for method, (low, high) in (
                ("Student's t", students(values)),
                ("signed ranks", signed_ranks(values)),
                ("bootstrapped t", bootstraps(values, chance)),
            ):
                width = float(np.median(high - low) / values.std())
                cell = f"{share((low > 0) | (high < 0))}, width {width:.1f}" if math.isfinite(width) else "no bound"
                cells.setdefault(method, []).append(cell)
        rows += [[f"{name}: {method}", *row] for method, row in cells.items()]
    out.table(("each side: method", *(f"{number} pairs" for number in numbers)), rows)


def sides(name: str, chance: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return what deployments have more than the mean."""
    if name == "exponential":
        return chance.exponential(size=shape)
    slowed = 5.0 * (chance.random(shape) < 0.05) if name != "normal" else 0.0
    return chance.normal(size=shape) + slowed


def students(values: NDArray[np.float64]) -> Ends:
    """Return both ends of Student's interval of each row."""
    number = values.shape[1]
    reach = student_quantile(1 - ENDS, number - 1) * values.std(axis=1, ddof=1) / math.sqrt(number)
    return values.mean(axis=1) - reach, values.mean(axis=1) + reach


def signed_ranks(values: NDArray[np.float64]) -> Ends:
    """Return both ends of the interval of the signed-rank test, around the Hodges-Lehmann estimate.

    They are means of two values each, counted from either end (Hollander and Wolfe, "Nonparametric Statistical
    Methods", 2nd ed. 1999, section 3.3).
    """
    number = values.shape[1]
    ways = np.ones(1)  # of making each sum of ranks
    for rank in range(1, number + 1):
        ways = np.pad(ways, (0, rank)) + np.pad(ways, (rank, 0))
    beyond = int(np.searchsorted(np.cumsum(ways) / 2.0**number, ENDS, side="right"))
    if not beyond:
        endless = np.full(len(values), np.inf)
        return -endless, endless
    means = np.sort(np.stack([values[:, i] + values[:, j] for i in range(number) for j in range(i + 1)]) / 2, axis=0)
    return means[beyond - 1], means[-beyond]


def bootstraps(values: NDArray[np.float64], chance: np.random.Generator) -> Ends:
    """Return both ends of the bootstrapped t interval (Efron and Tibshirani, "An Introduction to the Bootstrap", 12.5).

    A resample of one value, again and again, has a t without bound.
    """
    number = values.shape[1]
    rank = round((RESAMPLES + 1) * ENDS)
    ends = np.empty((2, len(values)))
    for index, row in enumerate(values):
        drawn = row[chance.integers(number, size=(RESAMPLES, number))]
        deviations = drawn.std(axis=1, ddof=1)
        moved = drawn.mean(axis=1) - row.mean()
        ts = np.sort(np.where(deviations > 1e-12, moved / np.maximum(deviations, 1e-12), np.copysign(np.inf, moved)))
        ends[:, index] = row.mean() - row.std(ddof=1) * ts[[-rank, rank - 1]]
    return ends[0], ends[1]


def share(events: Sequence[bool] | NDArray[np.bool_]) -> str:
    """Return the share of independent events with its interval by Wilson's score."""
    number, happened, z = len(events), float(np.mean(events)), NORMAL.inv_cdf(0.975)
    centre = happened + z * z / (2 * number)
    reach = z * math.sqrt(happened * (1 - happened) / number + z * z / (4 * number * number))
    low, high = ((centre + side * reach) / (1 + z * z / number) for side in (-1, 1))
    return f"{happened:.1%} ({max(low, 0):.1%} to {min(high, 1):.1%})"


if __name__ == "__main__":
    main()
