"""Whether a candidate is slower than its baseline: paired deployments, intervals of their differences, decisions.

In each repetition, a *pair*, both sides are deployed, in alternating order, and measured at the same levels with the
same arrivals. What is compared is a metric of the pair: the mean over the levels of the logarithm of candidate over
baseline (of shares such as `error_rate`, which may be 0, of the difference).

* **Repetitions, never requests.** The requests of a batch, and the batches of a server, share what that server and that
  moment are like. Pairs do not, so the interval is Student's t of the pairs (Student, "The probable error of a mean",
  Biometrika 6, 1908). Two equal sides differ symmetrically, however skewed each is, and symmetry is what t needs with
  few values; for long tails it is conservative (Cressie, "Relaxing assumptions in the one sample t-test", Australian
  Journal of Statistics 22, 1980; Benjamini, "Is the t test really conservative when the parent distribution is
  long-tailed?", Journal of the American Statistical Association 78, 1983): a pair that was disturbed makes the outcome
  open, not wrong. The alternatives fail with so few: the signed-rank test, and the Hodges-Lehmann interval with it, has
  no bound at a level below 2 ** -pairs, 1.6 % for six pairs, when 0.5 % is asked for. A bootstrapped t draws its tails
  from the same few values: it has no bound with four pairs, is 1.4 times as wide with six, and with ten misses more
  often than it says when the sides are skewed (``benchmarks/gate_model.py``).
* **Two errors**, each with a chance of at most 1 - confidence, as for limits (`sequential`). *A regression is told*
  although no metric is worse by more than its tolerance: one of several metrics suffices, so the end of an interval
  on the better side shares that chance with the other metrics (Bonferroni). *None is told* although some metric is
  worse by more: that takes an end on the worse side that is wrong for this one metric, and all may use the whole chance
  (an intersection-union test, Berger, "Multiparameter hypothesis testing and acceptance sampling", Technometrics 24,
  1982). An equal candidate lies a whole tolerance away from the first error, which is why false alarms are far rarer.
* **Looks.** Pairs are added until all is decided, and each look spends a part of the chance, (pairs / budget) ** 4 by
  then (the power family of Kim and DeMets, "Design and analysis of group sequential tests based on the type I error
  spending rate function", Biometrika 74, 1987). The parts are added up (Bonferroni again): that holds however looks are
  correlated, and costs 4 to 8 % of the width. Intervals of all looks hold together (repeated
  confidence intervals, Jennison and Turnbull, Journal of the Royal Statistical Society B 51, 1989), so stopping for any
  reason keeps them. Looks are after even numbers of pairs: what the second place of a pair does then cancels.
* **Coverage.** A metric that one side of a pair lacks at a level is not compared at all: the levels that remain are
  those at which the worse side survived.
* **Automatic tolerances** are the least that is of use, and more where comparisons of equal sides were so noisy
  that an equal candidate would not pass (`automatic`), to twice that. The noise of the pairs at hand does not widen
  them: a candidate that varies more is not to be allowed more, and is left open.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_autotune.distributions import student_quantile
from pytest_autotune.formatting import change, count, title
from pytest_autotune.metrics import PER_GPU, SHARES, TIMES, worse_when
from pytest_autotune.noise import Noise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Side = Mapping[str, Mapping[str, float]]  # of one deployment, by the name of the level, then of the metric

Outcome = Literal["regression", "improvement", "no change", "open"]

CONFIDENCE = 0.95
_POWER = 0.9  # with which `Effect.detectable` would have been seen
_SPENDING = 4  # power of the share of the budget
_PASSES = 0.98  # of equal candidates keep an automatic tolerance, each metric by itself
_WIDEST = 2.0  # times the least tolerance that an automatic one grows to
_LEAST_SHARE = 0.005  # of all requests
_LEAST_RATE = 0.02
_LEAST_GOODPUT = 0.05  # a small change of a latency near its limit is a large one of these
_LEAST_TIME = 0.05
_LEAST_TAIL = 0.07
_TAIL = 95.0  # percentiles from here on rest on few requests


@dataclass(frozen=True, slots=True)
class Pair:
    """One repetition: what both sides brought."""

    baseline: Side
    candidate: Side


@dataclass(frozen=True, slots=True)
class Looks:
    """After how many pairs it is looked whether more are needed."""

    first: int = 4
    every: int = 2
    budget: int = 10

    @property
    def schedule(self) -> tuple[int, ...]:
        """The numbers of pairs, the budget last."""
        return (*range(self.first, self.budget, self.every), self.budget)

    def share(self, pairs: int) -> float:
        """Return the part of the chance of an error that a look after so many pairs may use."""
        assert 0 < pairs <= self.budget
        before = max((look for look in self.schedule if look < pairs), default=0)
        return float((pairs / self.budget) ** _SPENDING - (before / self.budget) ** _SPENDING)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """By how much a metric may get worse: relative to the baseline, or of a share as it is (0.01: 1 pp)."""

    worse: float
    automatic: bool = False


@dataclass(frozen=True, slots=True)
class Effect:
    """What the candidate changed of one metric, relative to the baseline, or of a share as it is; above 0 is larger.

    Each end of the interval holds with the `confidence` of the comparison: that on the better side for all metrics
    together, that on the worse side for this one.
    """

    metric: str
    change: float
    low: float
    high: float
    tolerance: Tolerance
    pairs: int
    confidence: float
    by_level: Mapping[str, float]  # without intervals
    noise: Noise | None  # None of one pair
    detectable: float  # what this noise would have shown to be a regression in 90 %, above 0

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels that it covers: the same on both sides of every pair."""
        return tuple(self.by_level)

    @property
    def outcome(self) -> Outcome:
        """What the interval says: it lies beyond the tolerance, or its worse end within; else the outcome is open."""
        best, worst = (self.low, self.high) if worse_when(self.metric) == "larger" else (-self.high, -self.low)
        if best > self.tolerance.worse:
            return "regression"
        if worst < -self.tolerance.worse:
            return "improvement"
        return "no change" if worst <= self.tolerance.worse else "open"

    def __str__(self) -> str:
        """Say what changed, how much and how sure that is, in one sentence without its full stop."""
        name, allowed = title(self.metric), f"the {_size(self.metric, self.tolerance.worse)} allowed"
        if self.noise is None:
            moved = _percent(self.metric, self.change, signed=True)
            return f"{name} is not resolved: {moved} in one pair, which says nothing of chance"
        direction = "rise" if worse_when(self.metric) == "larger" else "fall"
        seen = f"a {direction} of {_size(self.metric, self.detectable)} would have been seen"
        if self.outcome == "open":
            return f"{name} is not resolved: {self._interval(signed=True)}, against {allowed}; {seen}"
        if self.low <= 0 <= self.high:
            return f"no change shown in {name}: {self._interval(signed=True)}; {seen}"
        relation = {"regression": f", more than {allowed}", "no change": f", within {allowed}"}.get(self.outcome, "")
        return f"{name} {'rose' if self.low > 0 else 'fell'} by {self._interval(signed=False)}{relation}"

    def _interval(self, *, signed: bool) -> str:
        """Write the change and its interval, as closely as the interval is wide."""
        low, high = self.low, self.high
        if not signed:
            low, high = sorted((abs(low), abs(high)))
        values = (self.change if signed else abs(self.change), low, high)
        width = 100 * (self.high - self.low)
        decimals = 2 if width < 1 else 1 if width < 10 else 0
        middle, least, most = (_percent(self.metric, value, decimals, signed=signed) for value in values)
        ends = f"{least.partition(' ')[0]} to {most}"
        return f"{middle} ({ends} at {self.confidence * 100:.4g} % confidence, {count(self.pairs, 'pair')})"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a metric is not compared."""

    metric: str
    reason: str

    def __str__(self) -> str:
        return f"{title(self.metric)} is not compared: {self.reason}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What pairs say of every metric that is asked for; those that neither side ever had are in neither list."""

    effects: tuple[Effect, ...]
    refusals: tuple[Refusal, ...]

    @property
    def outcome(self) -> Outcome:
        """The outcome of all metrics: a regression of any; open when one is, or was refused, or nothing was there."""
        outcomes = {effect.outcome for effect in self.effects}
        if "regression" in outcomes:
            return "regression"
        if "open" in outcomes or self.refusals or not outcomes:
            return "open"
        return "improvement" if "improvement" in outcomes else "no change"

    @property
    def settled(self) -> bool:
        """Whether further pairs would change nothing: a regression stands, and what was refused stays so."""
        outcomes = {effect.outcome for effect in self.effects}
        return "regression" in outcomes or ("open" not in outcomes and bool(outcomes or self.refusals))


def compare(
    pairs: Sequence[Pair],
    tolerances: Mapping[str, Tolerance],
    *,
    confidence: float = CONFIDENCE,
    looks: Looks = Looks(),
) -> Comparison:
    """Return what the pairs so far say of each metric that has a tolerance, as one of the `looks`."""
    asked = {metric: levels for metric in tolerances if (levels := _levels(pairs, metric))}
    refusals = tuple(
        Refusal(metric, reason) for metric, levels in asked.items() if (reason := _uncovered(pairs, metric, levels))
    )
    refused = {refusal.metric for refusal in refusals}
    chance = (1 - confidence) * looks.share(len(pairs)) if pairs else 0.0
    effects = tuple(
        _effect(pairs, metric, levels, tolerances[metric], chance=chance, metrics=len(asked), confidence=confidence)
        for metric, levels in asked.items()
        if metric not in refused
    )
    return Comparison(effects, refusals)


def automatic(
    metric: str,
    noise: Noise | None = None,
    *,
    confidence: float = CONFIDENCE,
    looks: Looks = Looks(),
) -> Tolerance:
    """Return the tolerance of a metric for which none is set; `noise` is that of earlier pairs of equal sides.

    It is the least that 98 of 100 equal candidates keep within the budget at this noise, from 2 % of a throughput
    or cost, 5 % of a goodput or time (7 % of a high percentile) or 0.5 pp of a share, to twice as much.
    """
    least = _least(metric)
    if noise is None:
        return Tolerance(least, automatic=True)
    freedom = looks.budget - 1
    reach = student_quantile(1 - (1 - confidence) * looks.share(looks.budget), freedom)
    # The mean of the pairs varies, and so does their deviation, by 1 / sqrt(2 freedom) of itself.
    reach += student_quantile(_PASSES, noise.freedom) * math.sqrt(1 + reach**2 / (2 * freedom))
    needed = abs(_change(metric, _sign(metric) * reach * noise.deviation / math.sqrt(looks.budget)))
    return Tolerance(min(max(least, needed), _WIDEST * least), automatic=True)


def _effect(
    pairs: Sequence[Pair],
    metric: str,
    levels: Sequence[str],
    tolerance: Tolerance,
    *,
    chance: float,
    metrics: int,
    confidence: float,
) -> Effect:
    steps = {
        level: [_step(metric, pair.baseline[level][metric], pair.candidate[level][metric]) for pair in pairs]
        for level in levels
    }
    number, sign = len(pairs), _sign(metric)
    values = [math.fsum(column) / len(levels) for column in zip(*steps.values(), strict=True)]
    mean = math.fsum(values) / number
    noise = None
    better, worse, detectable = -sign * math.inf, sign * math.inf, math.inf
    if number > 1:
        noise = Noise(math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (number - 1)), number - 1)
        error = noise.deviation / math.sqrt(number)
        shared = student_quantile(1 - chance / metrics, noise.freedom) * error
        better = mean - sign * shared
        worse = mean + sign * student_quantile(1 - chance, noise.freedom) * error
        detectable = sign * _bound(metric, tolerance) + shared + student_quantile(_POWER, noise.freedom) * error
    low, high = sorted((better, worse))
    return Effect(
        metric=metric,
        change=_change(metric, mean),
        low=_change(metric, low),
        high=_change(metric, high),
        tolerance=tolerance,
        pairs=number,
        confidence=confidence,
        by_level={level: _change(metric, math.fsum(column) / number) for level, column in steps.items()},
        noise=noise,
        detectable=abs(_change(metric, sign * detectable)),
    )


def _levels(pairs: Sequence[Pair], metric: str) -> tuple[str, ...]:
    """Return the levels at which any side of any pair has the metric, in the order in which they are met."""
    met = dict.fromkeys(
        level
        for pair in pairs
        for side in (pair.baseline, pair.candidate)
        for level, metrics in side.items()
        if metric in metrics
    )
    return tuple(met)


def _uncovered(pairs: Sequence[Pair], metric: str, levels: Sequence[str]) -> str:
    """Say which side of which pairs has no number at which levels; empty when all have."""
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, pair in enumerate(pairs, 1):
        for side, measured in (("baseline", pair.baseline), ("candidate", pair.candidate)):
            for level in levels:
                value = measured.get(level, {}).get(metric)
                if value is None or not math.isfinite(value):
                    found[f"the {side} lacks it"][level].append(number)
                elif value <= 0 and metric not in SHARES:
                    found[f"the {side} has no ratio, not being above 0,"][level].append(number)
    return "; ".join(
        f"{what} at " + ", ".join(f"{level} ({_numbered(numbers)})" for level, numbers in places.items())
        for what, places in found.items()
    )


def _numbered(numbers: Sequence[int]) -> str:
    return f"pair{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _sign(metric: str) -> int:
    worse = worse_when(metric)
    assert worse is not None, f"{metric} is neither better nor worse"
    return 1 if worse == "larger" else -1


def _step(metric: str, baseline: float, candidate: float) -> float:
    """Return the difference on the scale on which differences are averaged."""
    return candidate - baseline if metric in SHARES else math.log(candidate) - math.log(baseline)


def _change(metric: str, step: float) -> float:
    """Return a difference on that scale as a relative change, of a share as it is."""
    if metric in SHARES:
        return step
    return math.inf if step > 700 else math.expm1(step)  # where floats end


def _bound(metric: str, tolerance: Tolerance) -> float:
    """Return the largest change for the worse that is allowed, on the scale on which differences are averaged."""
    allowed = _sign(metric) * tolerance.worse
    if metric in SHARES:
        return allowed
    return -math.inf if allowed <= -1 else math.log1p(allowed)


def _least(metric: str) -> float:
    family, _, statistic = metric.partition(".")
    if family in SHARES:
        return _LEAST_SHARE
    if family in TIMES:
        tail = statistic in ("std", "min", "max") or (statistic[0] == "p" and float(statistic[1:]) >= _TAIL)
        return _LEAST_TAIL if tail else _LEAST_TIME
    return _LEAST_GOODPUT if family.removesuffix(PER_GPU) == "goodput" else _LEAST_RATE


def _size(metric: str, value: float) -> str:
    """Write a change without its direction."""
    text = change(value).removeprefix("+")
    return text.replace("%", "pp") if metric in SHARES else text


def _percent(metric: str, value: float, decimals: int = 1, *, signed: bool) -> str:
    return f"{100 * value:{'+' if signed else ''}z.{decimals}f} {'pp' if metric in SHARES else '%'}"
