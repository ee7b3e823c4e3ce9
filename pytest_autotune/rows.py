"""Rows of the results store as records."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from pytest_autotune.records import Answers, BatchRecord, RunRecord, TrialRecord
from pytest_autotune.samples import ClientHealth, Level
from pytest_autotune.slo import Ruling, Status
from pytest_autotune.tables import batches, trials

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Row


def trial_records(connection: Connection, condition: ColumnElement[bool]) -> list[TrialRecord]:
    """Return trials with their batches, in the order of claims.

    Trials first: one that reads as finished then has all its batches, whatever is written meanwhile.
    """
    rows = connection.execute(select(trials).where(condition).order_by(trials.c.id)).all()
    measured: dict[int, list[BatchRecord]] = {}
    for batch in connection.execute(select(batches).join(trials).where(condition).order_by(batches.c.id)):
        measured.setdefault(batch.trial_id, []).append(_batch_record(batch))
    return [_trial_record(row, tuple(measured.get(row.id, ()))) for row in rows]


def run_record(row: Row[Any]) -> RunRecord:
    """Return a run as its row says."""
    return RunRecord(row.id, row.started_at, row.ended_at, row.outcome, tuple(row.arguments), row.environment)


def _trial_record(row: Row[Any], measured: tuple[BatchRecord, ...]) -> TrialRecord:
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
        cores=tuple(row.cores),
        waited_s=row.waited_s,
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


_CLIENT_FIELDS = frozenset(field.name for field in fields(ClientHealth))


def _batch_record(row: Row[Any]) -> BatchRecord:
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
