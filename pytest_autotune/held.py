"""What was measured now against one stored measurement: how each metric changed, and what that can tell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING, Literal

from pytest_autotune.formatting import change, points, title
from pytest_autotune.metrics import SHARES, worse_when

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_autotune.baseline import Baseline
    from pytest_autotune.comparison import Comparison
    from pytest_autotune.records import BatchRecord, Interval

Outcome = Literal["regression", "improvement", "no change", "open", "not judged"]
CONFIDENCE = 0.95  # of the intervals that batches have
_Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


@dataclass(frozen=True, slots=True)
class Held:
    """One metric over all load levels of a baseline, now against then; `change` is the mean over levels.

    It is relative to what was measured then, or of a share as it is (0.01: 1 pp), and so are all changes here.

    `low` and `high` are the interval that follows from how sure each of the batches is, the stored ones taken for as
    sure as those of today: None where a batch has too few requests for one. What differs between runs is not in it.
    """

    metric: str
    change: float
    low: float | None
    high: float | None
    tolerance: float | None  # by how much it may get worse, above 0; None: not judged
    levels: Mapping[str, tuple[float, float]]  # then and now, by level

    @property
    def outcome(self) -> Outcome:
        """What the change comes to: beyond the tolerance on either side only when all of the interval is."""
        if self.tolerance is None:
            return "not judged"
        if self.low is None or self.high is None:
            return "open"
        sign = 1 if worse_when(self.metric) == "smaller" else -1
        worst, best = sorted((sign * self.low, sign * self.high))
        if best < -self.tolerance:
            return "regression"
        if worst > self.tolerance:
            return "improvement"
        return "no change" if worst >= -self.tolerance else "open"

    @property
    def told(self) -> bool:
        """Whether there were requests enough for an interval."""
        return self.low is not None and self.high is not None

    @property
    def words(self) -> str:
        """The change in a sentence: what, how much, how sure, and what was allowed."""
        name = title(self.metric)
        moved = f"{name} {'rose' if self.change > 0 else 'fell'} by {self._size(abs(self.change))}"
        if self.change == 0:
            moved = f"{name} is what it was"
        if self.low is not None and self.high is not None:
            moved += f" ({self._signed(self.low)} to {self._signed(self.high)} by the noise within the batches)"
        if self.tolerance is None:
            return moved
        allowed = f"the {self._size(self.tolerance)} allowed"
        return {
            "regression": f"{moved}, more than {allowed}",
            "improvement": f"{moved}: better",
            "no change": f"{moved}, within {allowed}",
            "open": f"{moved}, which is not told from {allowed}" + ("" if self.told else ": too few requests"),
            "not judged": moved,
        }[self.outcome]

    def _size(self, value: float) -> str:
        return self._signed(value).lstrip("+")

    def _signed(self, value: float) -> str:
        return points(value) if self.metric in SHARES else change(value)


@dataclass(frozen=True, slots=True)
class Verification:
    """A verification against the baseline that said what to measure."""

    baseline: Baseline
    held: tuple[Held, ...]  # nothing where the two may not be compared
    refused: tuple[str, ...] = ()  # what differs and forbids it
    changed: tuple[str, ...] = ()  # what differs and is what the comparison is about
    lacking: tuple[str, ...] = ()  # metrics with a tolerance that one of the sides lacks at some level
    comparison: Comparison | None = None  # of a paired one, in which both sides were measured now


def hold(
    then: Mapping[str, Mapping[str, float]],
    now: Sequence[BatchRecord],
    *,
    metrics: Sequence[str],
    tolerances: Mapping[str, float],
) -> tuple[Held, ...]:
    """Hold what was measured now against a baseline's metrics by level, each metric over all of its levels.

    A metric that either side lacks at a level is left out, and one that is 0 there unless it is a share: fewer batches
    are never held against more.
    """
    records = {record.level.name: record for record in now}
    found = []
    for metric in metrics:
        pairs = {name: (values.get(metric), _value(records.get(name), metric)) for name, values in then.items()}
        least = 0.0 if metric in SHARES else math.ulp(0.0)  # nothing has no ratio
        whole = {n: (a, b) for n, (a, b) in pairs.items() if a is not None and b is not None and min(a, b) >= least}
        if worse_when(metric) is None or len(whole) < len(then):
            continue
        mean = fmean(_step(metric, a, b) for a, b in whole.values())
        widths = [_deviation(metric, records[name].intervals.get(metric, (None, None))) for name in whole]
        low = high = None
        if None not in widths:
            # Of both sides, and of the mean over the levels.
            half = _Z * math.sqrt(2 * sum(width**2 for width in widths if width is not None)) / len(widths)
            low, high = _change(metric, mean - half), _change(metric, mean + half)
        found.append(Held(metric, _change(metric, mean), low, high, tolerances.get(metric), whole))
    return tuple(found)


def _value(record: BatchRecord | None, metric: str) -> float | None:
    value = None if record is None else record.metrics.get(metric)
    return value if value is not None and math.isfinite(value) else None


def _step(metric: str, then: float, now: float) -> float:
    """Return the difference on the scale on which differences are averaged: of logarithms, or of shares."""
    return now - then if metric in SHARES else math.log(now / then)


def _change(metric: str, step: float) -> float:
    return step if metric in SHARES else math.expm1(step)


def _deviation(metric: str, interval: Interval) -> float | None:
    """Return the standard deviation of a metric on that scale by its interval; None where that has no two bounds."""
    low, high = interval
    if low is None or high is None or not low <= high < math.inf or (low <= 0 and metric not in SHARES):
        return None
    return _step(metric, low, high) / (2 * _Z)
