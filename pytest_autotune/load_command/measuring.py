"""One level of a load test: measured, summarised, judged."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_autotune.errors import BenchmarkError
from pytest_autotune.formatting import quantity
from pytest_autotune.intervals import confidence_intervals
from pytest_autotune.load.generator import never
from pytest_autotune.load.http import more_workers
from pytest_autotune.records import utc_now
from pytest_autotune.slo import DELIVERED, Status, Verdict, judge, request_limits
from pytest_autotune.statistics import summarise
from pytest_autotune.steadiness import steady

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from pytest_autotune.intervals import Interval
    from pytest_autotune.load.generator import LoadGenerator, Progress
    from pytest_autotune.load_command.loadtest import LoadTest
    from pytest_autotune.samples import Level, Measurement, Sample
    from pytest_autotune.slo import Limit

ATTEMPTS = 2  # at a batch that the client was too slow for: a busy moment is no result


@dataclass(frozen=True, slots=True)
class LoadBatch:
    """What became of one level of a load test."""

    level: Level
    verdict: Verdict
    seed: int | None = None
    started_at: datetime | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)  # as in suites; empty when nothing was measured
    intervals: Mapping[str, Interval] = field(default_factory=dict)  # of 95 % confidence
    steadiness: str = ""  # whether the server was in a steady state; empty where the load is meant to change
    measurement: Measurement | None = None  # None: the generator gave up
    recorded: str = ""  # what a batch that another tool has recorded is called; what the client did is not known then
    about: Mapping[str, object] = field(default_factory=dict)  # where it was recorded

    @property
    def name(self) -> str:
        """What the batch is called in a table."""
        return self.recorded or self.level.name

    @property
    def valid(self) -> bool:
        """Whether the batch was measured: its numbers are the server's."""
        return self.verdict.status is not Status.FAILED


def measure(
    test: LoadTest,
    level: Level,
    generator: LoadGenerator,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
    enough: Callable[[Sequence[Sample], float], str] = never,
    on_retry: Callable[[str], None] = lambda _: None,
) -> LoadBatch:
    """Load the server at one level and judge what came back; once more when the client was saturated.

    The second time by more processes, unless their number is given; `on_retry` is told why. A
    generator that gives up makes a failed batch, with its reason.
    """
    workers = test.workload.workers
    for attempt in range(1, ATTEMPTS + 1):
        workload, started_at = replace(test.workload_at(level, attempt=attempt), workers=workers), utc_now()
        try:
            measurement = generator.run(
                test.target, level, workload, died=lambda: None, on_progress=on_progress, enough=enough
            )
        except BenchmarkError as error:
            verdict = Verdict(Status.FAILED, reason=f"no data: {error}")
            return LoadBatch(level, verdict, seed=workload.seed, started_at=started_at)
        if not measurement.client.saturated or measurement.stopped or attempt == ATTEMPTS:
            break
        on_retry(measurement.client.saturated)
        if test.workload.workers is None:
            workers = more_workers(measurement.client.workers)
    return _batch(test, measurement, workload.seed, started_at)


def _batch(test: LoadTest, measurement: Measurement, seed: int, started_at: datetime) -> LoadBatch:
    samples, window_s, limits = measurement.samples, measurement.window_s, request_limits(test.limits)
    also = [limit.metric for limit in test.limits if "." in limit.metric]
    metrics = summarise(
        samples, window_s, gpus=test.gpus, request_limits=limits, also=also, delivered=measurement.delivered
    )
    return LoadBatch(
        level=measurement.level,
        verdict=judge_load(measurement, metrics, test.limits),
        seed=seed,
        started_at=started_at,
        metrics=metrics,
        intervals=confidence_intervals(samples, window_s, gpus=test.gpus, request_limits=limits, also=also),
        steadiness=str(steady(samples, window_s)) if measurement.level.shape in ("concurrency", "rate") else "",
        measurement=measurement,
    )


def judge_load(measurement: Measurement, metrics: Mapping[str, float], limits: Sequence[Limit]) -> Verdict:
    """Return the verdict of a batch.

    It failed when the client was saturated, or when nothing that was asked of it can be said: no
    request at all, or none that succeeded where no limit speaks of errors. It violates a limit that is
    missed, and the load itself when less than `DELIVERED` of it reached the server.
    """
    if measurement.client.saturated:
        return judge(metrics, limits, no_data=measurement.client.saturated)
    if not metrics.get("requests"):
        return judge(metrics, limits, no_data="no request was sent inside the window; measure for longer")
    verdict = judge(metrics, limits)
    if metrics["failed"] == metrics["requests"] and verdict.status is not Status.VIOLATING:
        return judge(metrics, limits, no_data=f"no request succeeded ({error_text(measurement.errors)})")
    short = shortfall(measurement, limits)
    if not short or verdict.status is Status.FAILED:
        return verdict
    reason = "; ".join(filter(None, (short, verdict.reason)))
    return Verdict(Status.VIOLATING, verdict.checks, verdict.penalty, reason)


def shortfall(measurement: Measurement, limits: Sequence[Limit] = ()) -> str:
    """Say how the load that was asked for did not reach the server; empty when it did.

    A closed loop asks for nothing at a certain time: a client that kept too few requests in flight was
    saturated, one that paused between turns or after failures did as it was told. A limit on what is
    delivered stands in place of `DELIVERED`.
    """
    if measurement.oversaturated:
        return f"over-saturated: {measurement.oversaturated}"
    if any(limit.metric == "delivered" for limit in limits):
        return ""
    by_clock = measurement.level.open_loop or any(sample.due_s is not None for sample in measurement.samples)
    if by_clock and measurement.delivered < DELIVERED.bound and not measurement.stopped:
        delivered, least = (quantity(DELIVERED.metric, share) for share in (measurement.delivered, DELIVERED.bound))
        return f"{delivered} of the load was delivered (at least {least})"
    return ""


def error_text(errors: Mapping[str, int]) -> str:
    """Return the kinds of failures, the most frequent first: ``http-503 12, timeout 1``."""
    counted = sorted(errors.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{kind} {number}" for kind, number in counted)
