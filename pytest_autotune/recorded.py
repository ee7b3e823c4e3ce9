"""What a recorded trial is worth now: its numbers under today's limits, its failure, or another try."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_autotune.errors import DeployError, Infeasible
from pytest_autotune.slo import Status, request_limits
from pytest_autotune.statistics import summarise

if TYPE_CHECKING:
    from pytest_autotune.records import TrialRecord
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


def restate(trial: TrialRecord, suite: Suite, store: Store) -> TrialRecord:
    """Return a recorded trial with its metrics computed anew from its stored samples.

    Goodput and unusual percentiles depend on the suite's limits, which may have changed since.
    """
    limits, also = request_limits(suite.slo), suite.extra_metrics()
    batches = tuple(
        replace(
            batch,
            metrics=summarise(
                store.samples(trial.id, batch.level),
                batch.window_s,
                gpus=trial.gpus,
                request_limits=limits,
                also=also,
                delivered=batch.metrics.get("delivered"),  # the load generator's figure: samples cannot tell
            ),
        )
        if batch.status == "measured"
        else batch
        for batch in trial.batches
    )
    return replace(trial, batches=batches)
