"""What the fixture `benchmark` returns: the metrics of one batch by name, its requests and its verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_autotune.load_command.document import batch_document
from pytest_autotune.slo import Status, explain
from pytest_autotune.statistics import measured
from pytest_autotune.views import Metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.load_command.measuring import LoadBatch
    from pytest_autotune.samples import ClientHealth, Level, Measurement, Sample
    from pytest_autotune.slo import Verdict


class LoadResult(Metrics):
    """One load level as it was measured.

    Metrics go by name, as in suites: ``result.ttft.p99``, ``result["output_throughput"]``, ``result.error_rate``.
    """

    def __init__(self, batch: LoadBatch, measurement: Measurement) -> None:
        super().__init__(batch.metrics, f"the load at {batch.level}")
        self.level: Level = batch.level
        self.samples: tuple[Sample, ...] = tuple(measured(measurement.samples, measurement.window_s))
        self.errors: Mapping[str, int] = measurement.errors
        self.client: ClientHealth = measurement.client
        self.delivered: float = measurement.delivered
        self.verdict: Verdict = batch.verdict
        self.seed: int | None = batch.seed
        self._batch = batch

    @property
    def compliant(self) -> bool:
        """Whether every limit of `slo` holds and the load reached the server."""
        return self.verdict.status is Status.COMPLIANT

    def document(self) -> dict[str, Any]:
        """Return the batch as `--json` writes it."""
        return batch_document(self._batch)

    def __repr__(self) -> str:
        return f"<load {self.level}: {explain(self.verdict)}>"
