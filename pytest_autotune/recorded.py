"""What a recorded trial is worth now: its numbers under today's limits, its failure, or another try."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_autotune.errors import DeployError, Infeasible
from pytest_autotune.metrics import PER_GPU
from pytest_autotune.slo import Status, request_limits
from pytest_autotune.statistics import summarise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_autotune.records import BatchRecord, Interval, TrialRecord
    from pytest_autotune.samples import Sample
    from pytest_autotune.slo import Ruling, Tier
    from pytest_autotune.store import Store
    from pytest_autotune.suite import Suite


def worth_retrying(trial: TrialRecord) -> bool:
    """Say whether a finished trial holds trouble that was not its configuration's and may be gone now."""
    from pytest_autotune.engines.engine import CauseKind

    if trial.status is Status.FAILED:
        return not any(batch.status == "measured" for batch in trial.batches)
    return any(
        batch.status == "failed" or (batch.status == "died" and not CauseKind(batch.cause).finding)
        for batch in trial.batches
    )


def failure_of(record: TrialRecord) -> DeployError | None:
    """Return why a recorded trial never had a server, as its deployment raised it; None when it had one."""
    if record.status is Status.INFEASIBLE and not record.batches:
        return Infeasible(record.reason)
    if record.status is Status.FAILED and not record.batches:
        return DeployError(record.reason)
    return None


@dataclass(frozen=True, slots=True)
class Figures:
    """What the requests of a batch come to."""

    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    rulings: Mapping[str, Ruling]


def figures_of(
    samples: Sequence[Sample], window_s: float, suite: Suite, *, gpus: int, delivered: float | None
) -> Figures:
    """Return the metrics that a suite needs, and how sure they are; `delivered` is the load generator's own figure."""
    from pytest_autotune.intervals import confidence_intervals
    from pytest_autotune.sequential import rule

    limits, also = request_limits(suite.slo), suite.extra_metrics()
    metrics = summarise(samples, window_s, gpus=gpus, request_limits=limits, also=also, delivered=delivered)
    intervals = confidence_intervals(samples, window_s, gpus=gpus, request_limits=limits, also=also)
    rulings = {} if suite.certainty is None else rule(samples, window_s, suite.slo, suite.certainty)
    return Figures(metrics, intervals, rulings)


def restate(trial: TrialRecord, suite: Suite, store: Store) -> TrialRecord:
    """Return a recorded trial with its metrics computed anew from its stored samples.

    Goodput and unusual percentiles depend on the suite's limits, which may have changed since.
    """
    return replace(trial, batches=tuple(_restated(batch, trial, suite, store) for batch in trial.batches))


def unruled(trial: TrialRecord) -> TrialRecord:
    """Return a recorded trial without rulings of sequential tests: what was measured decides, however sure it is."""
    return replace(trial, batches=tuple(replace(batch, rulings={}) for batch in trial.batches))


def under(tier: Tier, trial: TrialRecord, suite: Suite, store: Store) -> TrialRecord:
    """Return a recorded trial as the limits of a tier see it: its goodput counts them, and its rulings are on them.

    Both are computed from the stored requests, which are read only where something depends on them.
    """
    named = {*(objective.metric for objective in suite.objectives), *(limit.metric for limit in tier.limits)}
    if suite.certainty is None and not any(name.removesuffix(PER_GPU) == "goodput" for name in named):
        return trial
    return replace(trial, batches=tuple(_under(tier, batch, trial, suite, store) for batch in trial.batches))


def _under(tier: Tier, batch: BatchRecord, trial: TrialRecord, suite: Suite, store: Store) -> BatchRecord:
    if batch.status != "measured":
        return batch
    import numpy as np

    from pytest_autotune.columns import amounts
    from pytest_autotune.sequential import rule

    samples = store.samples(trial.id, batch.level)
    metrics, rulings = dict(batch.metrics), {}
    if "goodput" in metrics:
        good = amounts(samples, np.array([0.0, batch.window_s]), request_limits(tier.limits))["goodput"]
        metrics["goodput"] = float(good[0]) / batch.window_s
        metrics["goodput" + PER_GPU] = metrics["goodput"] / max(trial.gpus, 1)
    if suite.certainty is not None:
        # What was decided of the same limit while the batch ran stands.
        shared = {limit.metric for limit in tier.limits if limit in suite.slo}
        decided = {metric: ruling for metric, ruling in batch.rulings.items() if metric in shared}
        rulings = {**rule(samples, batch.window_s, tier.limits, suite.certainty), **decided}
    return replace(batch, metrics=metrics, rulings=rulings)


def _restated(batch: BatchRecord, trial: TrialRecord, suite: Suite, store: Store) -> BatchRecord:
    if batch.status != "measured":
        return batch
    samples = store.samples(trial.id, batch.level)
    figures = figures_of(samples, batch.window_s, suite, gpus=trial.gpus, delivered=batch.delivered)
    return replace(batch, metrics=figures.metrics, intervals=figures.intervals, rulings=figures.rulings)
