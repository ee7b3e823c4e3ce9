"""Limits, the verdict of a batch, penalties."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Limit:
    """One service-level objective on a metric of a batch, in base units (seconds, shares, per second)."""

    metric: str  # "ttft.p90", "error_rate", "output_throughput", ...
    bound: float
    floor: bool = False  # the metric must be at least `bound`, not at most
    hard_fail: bool = True
    fail_ratio: float = 0.0
    weight: float = 1.0


class Status(StrEnum):
    """Verdict of a batch or a trial."""

    COMPLIANT = "compliant"
    VIOLATING = "violating"
    FAILED = "failed"  # could not be measured
    INFEASIBLE = "infeasible"  # the server refused the configuration
    INCONCLUSIVE = "inconclusive"
    NOT_RUN = "not run"


@dataclass(frozen=True, slots=True)
class Check:
    """One limit held against what was measured."""

    limit: Limit
    actual: float | None  # None: no data, never a pass
    ratio: float  # how far beyond the limit, relative to it: (actual - bound) / bound; <= 0 holds
    breach: Literal["hard", "soft"] | None  # None: it holds


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a batch keeps its limits, with every check."""

    status: Status
    checks: tuple[Check, ...] = ()
    penalty: float = 0.0  # of the soft breaches, relative to |score|
    reason: str = ""  # one line; empty when compliant


def judge(
    metrics: Mapping[str, float], limits: Sequence[Limit], *, steepness: float = 0.1, no_data: str | None = None
) -> Verdict:
    """Hold a batch's metrics against its limits; `no_data` says why the batch has none that count."""
    raise NotImplementedError
