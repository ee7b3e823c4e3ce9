"""The baselines of a results store: what each run recorded of its suites, and the names that were promoted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select

from pytest_autotune.baseline import Baseline, parse_baseline
from pytest_autotune.errors import StoreError
from pytest_autotune.masking import mask
from pytest_autotune.tables import baseline_names, baselines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy import ColumnElement, Connection

    from pytest_autotune.database import Database

_LOCK = "baselines"  # a name is never promoted for what is removed at the same time


@dataclass(frozen=True, slots=True)
class StoredBaseline:
    """One run's baseline of a suite, as stored."""

    run_id: str
    suite: str  # name
    commit: str  # git revision of the suite's repository; empty where it has none
    recorded_at: datetime  # UTC
    document: Mapping[str, Any]  # as a file has it
    names: tuple[str, ...] = ()  # that stand for it, sorted

    @property
    def baseline(self) -> Baseline:
        """What the document holds; raises `SuiteError` for one that cannot be read."""
        return parse_baseline(json.dumps(self.document), f"{self.suite} of run {self.run_id}")


class Baselines:
    """Baselines by run, suite (its name) and promoted name. Each method is one transaction, as those of `Store`."""

    def __init__(self, database: Database, clock: Callable[[], datetime]) -> None:
        self._database = database
        self._clock = clock

    def record(self, baseline: Baseline) -> None:
        """Keep a baseline as that of its run; one that the run has recorded of the same suite before is replaced."""
        with self._database.write(lock=_LOCK) as connection:
            connection.execute(delete(baselines).where(_of(baseline.run, baseline.suite)))
            _insert(connection, baseline)

    def adopt(self, baseline: Baseline) -> None:
        """Keep a baseline that comes from a file; raise `StoreError` where its run has recorded something else."""
        with self._database.write(lock=_LOCK) as connection:
            found = _found(connection, _of(baseline.run, baseline.suite))
            if not found:
                _insert(connection, baseline)
            elif found[0].document != _document(baseline):
                raise StoreError(
                    f"run {baseline.run} has another baseline of {baseline.suite} in this store: "
                    "promote that by --run, or give the file's `run` another name"
                )

    def find(self, *, run_id: str | None = None, suite: str | None = None) -> tuple[StoredBaseline, ...]:
        """Return all baselines, or those of a run, of a suite, or of both, newest first."""
        wanted = ((baselines.c.run_id, run_id), (baselines.c.suite, suite))
        with self._database.read() as connection:
            return _found(connection, *(column == value for column, value in wanted if value is not None))

    def promote(self, name: str, chosen: Iterable[StoredBaseline]) -> dict[str, str]:
        """Let a name stand for baselines, one of a suite; return the runs that it stood for before, by suite."""
        replaced: dict[str, str] = {}
        with self._database.write(lock=_LOCK) as connection:
            for one in chosen:
                if connection.execute(select(baselines).where(_of(one.run_id, one.suite))).first() is None:
                    raise StoreError(f"the baseline of {one.suite} by run {one.run_id} is not in this store any more")
                own = (baseline_names.c.name == name) & (baseline_names.c.suite == one.suite)
                gone = delete(baseline_names).where(own).returning(baseline_names.c.run_id)
                before = connection.execute(gone).scalar()
                if before is not None:
                    replaced[one.suite] = before
                values = {"name": name, "suite": one.suite, "run_id": one.run_id, "promoted_at": self._clock()}
                connection.execute(insert(baseline_names).values(values))
        return replaced

    def forget(self, name: str, *, suite: str | None = None) -> tuple[str, ...]:
        """Let a name stand for nothing, or for no baseline of the suite; return the suites whose it was, sorted."""
        own = baseline_names.c.name == name
        if suite is not None:
            own &= baseline_names.c.suite == suite
        with self._database.write(lock=_LOCK) as connection:
            gone = connection.execute(delete(baseline_names).where(own).returning(baseline_names.c.suite))
            return tuple(sorted(gone.scalars()))

    def remove(self, chosen: Iterable[StoredBaseline]) -> tuple[StoredBaseline, ...]:
        """Remove baselines but those that have a name by now; return what was removed."""
        removed = []
        with self._database.write(lock=_LOCK) as connection:
            for one in chosen:
                named = select(baseline_names.c.name).where(
                    baseline_names.c.run_id == one.run_id, baseline_names.c.suite == one.suite
                )
                unnamed = delete(baselines).where(_of(one.run_id, one.suite), ~named.exists())
                if connection.execute(unnamed).rowcount:
                    removed.append(one)
        return tuple(removed)


def _of(run_id: str, suite: str) -> ColumnElement[bool]:
    return (baselines.c.run_id == run_id) & (baselines.c.suite == suite)


def _insert(connection: Connection, baseline: Baseline) -> None:
    new = insert(baselines).values(
        run_id=baseline.run,
        suite=baseline.suite,
        commit=baseline.commit,
        recorded_at=_moment(baseline),
        document=_document(baseline),
    )
    connection.execute(new)


def _document(baseline: Baseline) -> dict[str, Any]:
    """Return what is kept: secrets masked, but the configuration as it is deployed, as everywhere in the store."""
    document = baseline.model_dump(mode="json", by_alias=True)
    return {**mask(document), "configuration": document["configuration"]}


def _moment(baseline: Baseline) -> datetime:
    try:
        moment = datetime.fromisoformat(baseline.recorded_at)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise StoreError(f"recorded_at: {baseline.recorded_at!r} is no moment in UTC: write e.g. 2026-01-02T03:04:05Z")
    return moment


def _found(connection: Connection, *conditions: ColumnElement[bool]) -> tuple[StoredBaseline, ...]:
    names: dict[tuple[str, str], list[str]] = {}
    for row in connection.execute(select(baseline_names).order_by(baseline_names.c.name)):
        names.setdefault((row.run_id, row.suite), []).append(row.name)
    newest = (baselines.c.recorded_at.desc(), baselines.c.run_id.desc(), baselines.c.suite)
    rows = connection.execute(select(baselines).where(*conditions).order_by(*newest))
    return tuple(
        StoredBaseline(
            run_id=row.run_id,
            suite=row.suite,
            commit=row.commit,
            recorded_at=row.recorded_at,
            document=row.document,
            names=tuple(names.get((row.run_id, row.suite), ())),
        )
        for row in rows
    )
