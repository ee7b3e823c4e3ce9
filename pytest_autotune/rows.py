"""What the store's tables hold, row by row, as the records that the rest of the package works on."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from pytest_autotune.records import Answers, BatchRecord, RunRecord, TrialRecord
from pytest_autotune.samples import ClientHealth, Level
from pytest_autotune.slo import Ruling, Status

if TYPE_CHECKING:
    from sqlalchemy import Row

_CLIENT_FIELDS = frozenset(field.name for field in fields(ClientHealth))


def run_record(row: Row[Any]) -> RunRecord:
    """Return a row of `runs`."""
    return RunRecord(row.id, row.started_at, row.ended_at, row.outcome, tuple(row.arguments), row.environment)


def trial_record(row: Row[Any], measured: tuple[BatchRecord, ...]) -> TrialRecord:
    """Return a row of `trials`, with its batches."""
    return TrialRecord(
        id=row.id,
        slot=row.slot,
        configuration=row.configuration,
        state=row.state,
        status=None if row.status is None else Status(row.status),
        reason=row.reason,
        cause=row.cause,
        owner=row.owner,
        argv=tuple(row.argv),
        effective=row.effective,
        gpus=row.gpus,
        deploy_s=row.deploy_s,
        elapsed_s=row.elapsed_s,
        server_log=row.server_log,
        started_at=row.started_at,
        run_id=row.run_id,
        batches=measured,
        study=row.study,
        generation=row.generation,
        attempt=row.attempt,
        ended_at=row.ended_at,
        url=row.url,
        model_name=row.model_name,
        answers=None if row.answers is None else Answers(row.answers["questions"], tuple(row.answers["texts"])),
    )


def batch_record(row: Row[Any]) -> BatchRecord:
    """Return a row of `batches`."""
    client = row.client  # an older or newer release may know other fields
    return BatchRecord(
        level=Level(row.value, row.shape),
        status=row.status,
        metrics=row.metrics,
        client=None if client is None else ClientHealth(**{k: v for k, v in client.items() if k in _CLIENT_FIELDS}),
        errors=row.errors,
        requests=row.requests,
        window_s=row.window_s,
        started_at=row.started_at,
        reason=row.reason,
        cause=row.cause,
        failed_checks=tuple(row.failed_checks),
        delivered=row.delivered,
        oversaturated=row.oversaturated,
        stopped=row.stopped,
        intervals={metric: (low, high) for metric, (low, high) in row.intervals.items()},
        remarks=tuple(row.remarks),
        rulings={metric: Ruling(**ruling) for metric, ruling in row.rulings.items()},
        server=row.server,
    )
