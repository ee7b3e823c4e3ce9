"""One batch on its way to the store: how long it is measured, what ends it early, and its record."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_autotune.confirmation import confirms
from pytest_autotune.formatting import settings
from pytest_autotune.metrics import PER_GPU
from pytest_autotune.pricing import with_costs
from pytest_autotune.recorded import figures_of
from pytest_autotune.records import BatchRecord
from pytest_autotune.selection import judge_trial
from pytest_autotune.slowness import client_figures
from pytest_autotune.statistics import measured
from pytest_autotune.telemetry.remarks import doubts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from pytest_autotune.deploy.server import Server
    from pytest_autotune.engines.engine import Abilities, Cause
    from pytest_autotune.load.generator import Workload
    from pytest_autotune.records import TrialRecord
    from pytest_autotune.samples import Level, Measurement, Sample
    from pytest_autotune.screening import Screening
    from pytest_autotune.slo import Ruling
    from pytest_autotune.store import Store
    from pytest_autotune.suite import Suite
    from pytest_autotune.telemetry.watch import Watch

    Enough = Callable[[Sequence[Sample], float], str]

LONGER = 3.0  # times its duration: how long a batch may take for its verdict to be resolved
SHORTER = 5.0  # its duration by this: how long it takes at least


def workload_until_resolved(suite: Suite, level: Level, *, seed: int) -> Workload:
    """Return the workload of a batch, with as much time as its verdict may take; raises what `workload_of` raises."""
    from pytest_autotune.load.plan import workload_of

    workload = workload_of(suite.load, level, directory=suite.path.parent, seed=seed)
    if not _until_resolved(suite, level):
        return workload
    longest_s = suite.load.max_duration_s or LONGER * workload.duration_s
    return replace(workload, duration_s=max(longest_s, workload.duration_s))


def screening_of(
    suite: Suite, levels: Sequence[Level], history: Iterable[TrialRecord], store: Store, *, gpus: int
) -> tuple[Level, Screening] | None:
    """Return the level at which a candidate is held against the best so far, and what drops it there; None for neither.

    Trials that measured a configuration again had other requests: nothing is held against them.
    """
    if suite.search.screen is None:
        return None
    from pytest_autotune.screening import Incumbent, Rules, Screening, incumbent_among, rules_at

    best = incumbent_among(
        (
            judge_trial(trial, limits=suite.slo, objective=suite.objective, steepness=suite.steepness)
            for trial in history
            if not confirms(trial.slot)
        ),
        levels,
    )
    if best is None or best.best is None or best.score is None:
        return None
    level, objective = best.best.level, suite.objective
    thinks = suite.load.conversation is not None and suite.load.conversation.think_time_s > 0
    more_per_gpu = objective.metric.endswith(PER_GPU) and gpus < best.trial.gpus
    rules = rules_at(level, levels, objective, thinks=thinks, more_per_gpu=more_per_gpu)
    if rules == Rules():
        return None
    incumbent = Incumbent(
        trial=best.trial.id,
        words=settings(best.trial.configuration),
        level=level,
        score=best.score,
        highest=best.best.record.intervals.get(objective.metric, (None, None))[1],
        gpus=best.trial.gpus,
        samples=store.samples(best.trial.id, level),
    )
    until_s = suite.search.screen * (suite.load.planned_duration_s or 0.0)
    return level, Screening(
        incumbent, rules, objective=objective, limits=suite.slo, spread=suite.spread, gpus=gpus, until_s=until_s
    )


def when_resolved(
    suite: Suite, level: Level, decided: dict[str, Ruling], screening: Screening | None = None
) -> dict[str, Enough]:
    """Return what ends a batch once its verdict is known (and notes it), or once its trial is screened out.

    Nothing where the batch ends by itself.
    """
    resolved = _resolved(suite, level, decided)
    if screening is None:
        return {} if resolved is None else {"enough": resolved}

    def enough(samples: Sequence[Sample], elapsed_s: float) -> str:
        return screening.look(samples, elapsed_s) or ("" if resolved is None else resolved(samples, elapsed_s))

    return {"enough": enough}


def _resolved(suite: Suite, level: Level, decided: dict[str, Ruling]) -> Enough | None:
    certainty = suite.certainty
    if certainty is None or not _until_resolved(suite, level):
        return None
    from pytest_autotune.sequential import ending, resolved

    least_s = (suite.load.planned_duration_s or 0.0) / SHORTER

    def enough(samples: Sequence[Sample], elapsed_s: float) -> str:
        decided.update(resolved(samples, elapsed_s, suite.slo, certainty=certainty, least_s=least_s))
        return ending(decided)

    return enough


def watch_of(server: Server, abilities: Abilities, *, headers: Mapping[str, str]) -> Watch:
    """Return what looks at a server in a batch: its page where it has one, its machine, the GPUs it was given."""
    from pytest_autotune.control import Control
    from pytest_autotune.telemetry.watch import SCRAPE_S, OnGpus, Watch

    indices = server.gpus if isinstance(server, OnGpus) else ()
    control = Control(server.url, headers=headers, timeout_s=SCRAPE_S)
    return Watch(control, abilities.metrics, server=server, gpus=indices)


def record_of(
    measurement: Measurement,
    started_at: datetime,
    suite: Suite,
    *,
    gpus: int,
    decided: Mapping[str, Ruling],
    server: Mapping[str, float],
) -> BatchRecord:
    """Return the record of a measured batch; what was decided while it ran stands, `server` is what was seen of it."""
    samples, window_s = measurement.samples, measurement.window_s
    figures = figures_of(samples, window_s, suite, gpus=gpus, delivered=measurement.delivered)
    saturated = measurement.client.saturated
    record = BatchRecord(
        level=measurement.level,
        status="failed" if saturated else "measured",
        metrics=figures.metrics,
        client=measurement.client,
        errors=measurement.errors,
        requests=len(measured(samples, window_s)),
        window_s=window_s,
        started_at=started_at,
        reason=saturated or "",
        delivered=measurement.delivered,
        oversaturated=measurement.oversaturated,
        stopped=measurement.stopped,
        intervals=figures.intervals,
        rulings={**figures.rulings, **decided},
        remarks=(*_remarks(measurement), *doubts(server)),
        server=_with_client(server, measurement, figures.metrics),
    )
    return with_costs(record, suite.hourly, gpus=gpus)


def record_of_lost(level: Level, started_at: datetime, reason: str, cause: Cause | None) -> BatchRecord:
    """Return the record of a batch without a measurement; `cause` is what the server died of, None when it lives."""
    return BatchRecord(
        level=level,
        status="failed" if cause is None else "died",
        metrics={},
        client=None,
        errors={},
        requests=0,
        window_s=0.0,
        started_at=started_at,
        reason=reason if cause is None else str(cause),
        cause="" if cause is None else str(cause.kind),
    )


def _until_resolved(suite: Suite, level: Level) -> bool:
    """Say whether a batch is as long as its verdict takes; other tools and other shapes end by themselves."""
    even = level.shape in ("concurrency", "rate")
    return suite.confidence is not None and even and suite.load.generator == "builtin"


def _with_client(
    server: Mapping[str, float], measurement: Measurement, metrics: Mapping[str, float]
) -> dict[str, float]:
    """Return what was seen of a server with what only the client can add: its latencies, and energy for each token."""
    figures = dict(server)
    if any(name.startswith("engine.") for name in server):
        figures |= client_figures(measurement.samples, measurement.window_s)
    tokens = metrics.get("output_throughput", 0.0) * measurement.window_s
    if tokens and "gpu.energy" in server:
        figures["gpu.energy_per_output_token"] = server["gpu.energy"] / tokens
    return figures


def _remarks(measurement: Measurement) -> tuple[str, ...]:
    """Say whether a load that is level itself met a server in a steady state."""
    from pytest_autotune.steadiness import steady

    if measurement.level.shape not in ("concurrency", "rate"):
        return ()
    return (f"steady state: {steady(measurement.samples, measurement.window_s)}",)
