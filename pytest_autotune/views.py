"""What a test function in a suite sees of a batch and of the suite's limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_autotune.formatting import quantity
from pytest_autotune.metrics import IN_FLIGHT, TIMES
from pytest_autotune.slo import Status, explain
from pytest_autotune.statistics import measured as requests

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_autotune.samples import Level, Sample
    from pytest_autotune.slo import Limit, Verdict
    from pytest_autotune.trial import MeasuredBatch


class Measured(float):
    """A measured value or a limit that knows its metric; a failed assertion prints both with units."""

    __slots__ = ("metric",)
    metric: str

    def __new__(cls, value: float, metric: str) -> Measured:  # noqa: PYI034  (a float's constructor, not `Self`)
        """Attach the metric's name to a value in its base unit."""
        self = super().__new__(cls, value)
        self.metric = metric
        return self

    def __repr__(self) -> str:
        return f"{self.metric} {quantity(self.metric, self)}"


class Metrics:
    """Metrics by name, as ``batch["ttft.p90"]`` or ``batch.ttft.p90``, in seconds, shares and per second."""

    def __init__(self, values: Mapping[str, float], what: str) -> None:
        self._values = values
        self._what = what

    def __getitem__(self, metric: str) -> Measured:
        """Return one metric; raise `KeyError` naming what there is."""
        if metric not in self._values:
            there = ", ".join(sorted(self._values)) or "nothing"
            raise KeyError(f"{self._what} has no {metric!r}; there is {there}")
        return Measured(self._values[metric], metric)

    def __contains__(self, metric: str) -> bool:
        return metric in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __getattr__(self, name: str) -> Family | Measured:
        if name in TIMES or name == IN_FLIGHT:
            return Family(self, name)
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError as missing:
            raise AttributeError(missing.args[0]) from None


@dataclass(frozen=True, slots=True)
class Family:
    """The statistics of one distribution: ``.mean``, ``.p50``, ``.p99``, ``.max``, ..."""

    metrics: Metrics
    name: str

    def __getattr__(self, statistic: str) -> Measured:
        if statistic.startswith("_"):
            raise AttributeError(statistic)
        try:
            return self.metrics[f"{self.name}.{statistic}"]
        except KeyError as missing:
            raise AttributeError(missing.args[0]) from None


class Batch(Metrics):
    """The fixture `batch`: one load level measured against the trial's server."""

    def __init__(self, batch: MeasuredBatch) -> None:
        super().__init__(batch.record.metrics, f"the batch at {batch.record.level}")
        self.level: Level = batch.record.level
        self.concurrency: int | None = batch.record.level.concurrency
        self.samples: tuple[Sample, ...] = tuple(requests(batch.samples, batch.record.window_s))
        self.errors: Mapping[str, int] = batch.record.errors
        self.verdict: Verdict = batch.verdict

    @property
    def compliant(self) -> bool:
        """Whether the batch keeps every limit of the suite."""
        return self.verdict.status is Status.COMPLIANT

    def __repr__(self) -> str:
        return f"<batch {self.level}: {explain(self.verdict)}>"


class Limits(Metrics):
    """The fixture `slo`: the bounds of the suite's limits, by the same names as a batch's metrics."""

    def __init__(self, limits: tuple[Limit, ...]) -> None:
        super().__init__({limit.metric: limit.bound for limit in limits}, "the suite's slo")
        self.limits = limits
