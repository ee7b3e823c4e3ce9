"""Limits, the verdict of a batch, penalties."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from pytest_autotune.formatting import change, quantities, quantity
from pytest_autotune.metrics import LATENCIES, parse_metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

RATIO_CAP = 1e12  # no ratio is larger, so that nothing computed from one is infinite
_EXPONENT_CAP = 100.0  # expm1(100) = 2.7e43: beyond it a soft breach gets no worse
_PENALTY_CAP = 1e100  # of all soft breaches together, whatever their weights
_ROUNDING = 1e-9  # (1.1 - 1.0) / 1.0 is 0.10000000000000009: still "exactly" a fail_ratio of 0.1


@dataclass(frozen=True, slots=True)
class Limit:
    """One service-level objective on a metric of a batch, in base units (seconds, shares, per second).

    Raises `ValueError` for numbers that cannot be compared with: negative or not finite.
    """

    metric: str  # "ttft.p90", "error_rate", "output_throughput", ...
    bound: float
    floor: bool = False  # the metric must be at least `bound`, not at most
    hard_fail: bool = True
    fail_ratio: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("limit", self.bound), ("fail_ratio", self.fail_ratio), ("weight", self.weight)):
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{self.metric}: {name} is {value!r}, it must be a finite number >= 0")


ERROR_RATE = Limit("error_rate", 0.01)  # holds unless another limit on it is given
DELIVERED = Limit("delivered", 0.98, floor=True)  # of a load by the clock: with less, it is another load than it says


@dataclass(frozen=True, slots=True)
class Tier:
    """A further set of limits, for one kind of use, that what was measured is held against."""

    name: str
    limits: tuple[Limit, ...]


class Status(StrEnum):
    """Verdict of a batch or a trial."""

    COMPLIANT = "compliant"
    VIOLATING = "violating"
    FAILED = "failed"  # could not be measured
    INFEASIBLE = "infeasible"  # the server refused the configuration
    INCONCLUSIVE = "inconclusive"
    SCREENED_OUT = "screened out"  # a trial whose first requests showed that it cannot win: not measured in full
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class Certainty:
    """How surely limits are to be decided by a sequential test (see `sequential`)."""

    confidence: float
    spread: float = 0.0  # standard deviation between whole batches of one server, relative


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a sequential test says of a limit on a percentile or a mean (see `sequential`)."""

    decision: Literal["holds", "missed", "open"]
    confidence: float  # of the decision; of an open one that of the likelier side
    share: float | None  # of the requests that keep the bound; None of a mean, which they need not keep
    requests: int

    def __str__(self) -> str:
        """Return it for a report: ``holds at 97.2 % confidence``."""
        if self.decision == "open":
            kept = "" if self.share is None else f", {100 * self.share:.4g} % of which keep it"
            return f"not resolved after {self.requests} requests{kept}"
        return f"{self.decision} at {min(100 * self.confidence, 99.99):.4g} % confidence"


@dataclass(frozen=True, slots=True)
class Check:
    """One limit held against what was measured."""

    limit: Limit
    actual: float | None  # None: no data, never a pass
    ratio: float  # how far beyond the limit, relative to it: (actual - bound) / bound; <= 0 holds; 0 without data
    breach: Literal["hard", "soft", "open"] | None  # None: it holds; "hard" without data; "open": not resolved
    ruling: Ruling | None = None  # where the limit was tested, which then decides

    @property
    def holds(self) -> bool:
        """Whether the limit is kept."""
        return self.breach is None

    def __str__(self) -> str:
        """Return the check in one line: ``e2e.p90: 6.2 s > 5.0 s (+24 %)``."""
        if self.actual is None:
            return f"no data for {self.limit.metric}"
        actual, bound = quantities(self.limit.metric, self.actual, self.limit.bound)
        if self.breach == "open":
            return f"{self.limit.metric}: {actual} against {bound} is {self.ruling}"
        by = f" ({self.by})" if self.by else ""
        return f"{self.limit.metric}: {actual} {self.relation} {bound}{by}"

    @property
    def relation(self) -> str:
        """How the actual value stands to the bound: ``<=``, ``>``, and ``>=``, ``<`` for a floor."""
        kept = self.ratio <= 0 if self.breach == "open" else self.holds
        if self.limit.floor:
            return ">=" if kept else "<"
        return "<=" if kept else ">"

    @property
    def by(self) -> str:
        """The relative distance of the actual value from the bound, e.g. ``+24 %``; empty for a bound of 0."""
        if self.actual is None or self.limit.bound == 0:
            return ""
        return change(-self.ratio if self.limit.floor else self.ratio)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a batch keeps its limits, with every check."""

    status: Status
    checks: tuple[Check, ...] = ()
    penalty: float = 0.0  # of the soft breaches, relative to |score|
    reason: str = ""  # one line; empty when compliant

    @property
    def binding(self) -> Check | None:
        """The measured hard breach that is furthest beyond its limit."""
        hard = [check for check in self.checks if check.breach == "hard" and check.actual is not None]
        return max(hard, key=lambda check: check.ratio, default=None)

    @property
    def excess(self) -> float:
        """How far the binding limit is exceeded, relative to it; 0 when none is."""
        return 0.0 if self.binding is None else self.binding.ratio


def judge(
    metrics: Mapping[str, float],
    limits: Sequence[Limit],
    *,
    steepness: float = 0.1,
    no_data: str | None = None,
    rulings: Mapping[str, Ruling] = MappingProxyType({}),
) -> Verdict:
    """Hold a batch's metrics against its limits; `no_data` says why the batch has none that count.

    `rulings` are those of a sequential test, by metric: where there is one it decides, and one that is open makes the
    batch inconclusive unless another limit is missed.

    A limit holds when ``actual <= bound`` (a floor: ``>=``). A miss is hard when the limit says
    `hard_fail` and the ratio is above `fail_ratio`; at exactly `fail_ratio` it is soft. A hard miss
    makes the batch violating, a soft one costs ``weight * expm1(ratio / steepness)``.

    Without data nothing passes: the batch failed. It does violate, though, when some limit that has
    data is missed hard: a server that answers every request with an error misses its error rate, and
    that it has no latencies does not excuse it. A metric that is not finite is no data.
    """
    if not steepness > 0:
        raise ValueError(f"steepness is {steepness!r}, it must be above 0")
    if no_data is None and not metrics:
        no_data = "nothing was measured"
    if no_data is not None:
        unknown = tuple(Check(limit, None, 0.0, "hard") for limit in limits)
        return Verdict(Status.FAILED, unknown, reason=f"no data: {no_data}")
    checks = tuple(_ruled(_check(limit, metrics.get(limit.metric)), rulings.get(limit.metric)) for limit in limits)
    penalty = _penalty(checks, steepness)
    hard = sorted((c for c in checks if c.breach == "hard" and c.actual is not None), key=lambda c: -c.ratio)
    absent = [c for c in checks if c.actual is None]
    undecided = [] if hard else [c for c in checks if c.breach == "open"]
    reason = "; ".join(str(check) for check in (*hard, *absent, *undecided))
    status = Status.VIOLATING if hard else Status.FAILED if absent else Status.COMPLIANT
    if status is Status.COMPLIANT and undecided:
        status = Status.INCONCLUSIVE
    return Verdict(status, checks, penalty, reason)


def penalised(score: float, penalty: float) -> float:
    """Return a score to maximise less its penalty, ``score - penalty * |score|``; finite whatever the penalty."""
    return max(score - penalty * abs(score), -sys.float_info.max)


def request_limits(limits: Iterable[Limit]) -> dict[str, float]:
    """Return what one request must keep to count as good: the tightest latency bound of each family, in seconds."""
    tightest: dict[str, float] = {}
    for limit in limits:
        family = limit.metric.partition(".")[0]
        if family in LATENCIES and not limit.floor:
            tightest[family] = min(limit.bound, tightest.get(family, limit.bound))
    return tightest


def certified_statistic(limit: Limit) -> float | Literal["mean"] | None:
    """Return what a limit is on, a percentile or the mean, when a sequential test can decide it; else None."""
    family, statistic = parse_metric(limit.metric)
    if not limit.hard_fail or limit.floor or family not in LATENCIES or statistic is None:
        return None
    if statistic == "mean":
        return "mean"
    q = float(statistic[1:]) if statistic[0] == "p" else 0.0
    return q if 0 < q < 100 else None


def explain(verdict: Verdict) -> str:
    """Return the verdict as a short table: every limit, what was measured, by how much it holds or not."""
    headline = f"{verdict.status}: {verdict.reason}" if verdict.reason else str(verdict.status)
    rows = [_row(check) for check in verdict.checks]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join([headline, *(_aligned(row, widths) for row in rows)])


def _check(limit: Limit, actual: float | None) -> Check:
    if actual is None or not math.isfinite(actual):
        return Check(limit, None, 0.0, "hard")
    excess = limit.bound - actual if limit.floor else actual - limit.bound
    # A bound of 0 has no relative distance: the absolute one (in base units) stands in for it.
    ratio = min(max(excess / limit.bound if limit.bound else excess, -RATIO_CAP), RATIO_CAP)
    if excess <= 0:
        return Check(limit, actual, min(ratio, 0.0), None)
    ratio = max(ratio, sys.float_info.min)  # a subnormal excess may have been divided to 0
    beyond = limit.fail_ratio == 0 or ratio > limit.fail_ratio + _ROUNDING
    return Check(limit, actual, ratio, "hard" if limit.hard_fail and beyond else "soft")


def _ruled(check: Check, ruling: Ruling | None) -> Check:
    if ruling is None or check.actual is None:
        return check
    breach = check.breach
    if ruling.decision != "holds":
        breach = "hard" if ruling.decision == "missed" else "open"
    elif breach == "hard":
        breach = None
    return replace(check, breach=breach, ruling=ruling)


def _penalty(checks: Iterable[Check], steepness: float) -> float:
    soft = (
        check.limit.weight * math.expm1(min(check.ratio / steepness, _EXPONENT_CAP))
        for check in checks
        if check.breach == "soft"
    )
    return min(sum(soft), _PENALTY_CAP)


def _row(check: Check) -> tuple[str, str, str, str, str, str]:
    limit = check.limit
    if check.actual is None:
        return limit.metric, "no data", check.relation, quantity(limit.metric, limit.bound), "", "MISSED"
    actual, bound = quantities(limit.metric, check.actual, limit.bound)
    outcome = {None: "holds", "hard": "MISSED", "soft": "missed, soft", "open": "OPEN"}[check.breach]
    if check.ruling is not None:  # "holds at 97 % confidence" says both
        outcome = str(check.ruling) if check.ruling.decision == outcome else f"{outcome} ({check.ruling})"
    return limit.metric, actual, check.relation, bound, check.by, outcome


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    metric, actual, relation, bound, by, outcome = (
        cell.rjust(width) if index in (1, 4) else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return f"  {metric}  {actual} {relation} {bound}  {by}  {outcome}".rstrip()
