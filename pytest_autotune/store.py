"""The results store: runs, trials, batches, samples, and the atomic claims of trials."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, Self

from sqlalchemy import Text, func, insert, select, type_coerce, update

from pytest_autotune.baselines import Baselines
from pytest_autotune.database import Database
from pytest_autotune.engines.engine import CauseKind
from pytest_autotune.errors import StoreError
from pytest_autotune.masking import mask, mask_argv, mask_text
from pytest_autotune.records import MeasuredRecord, Note, StartRecord, SuiteRecord, utc_now
from pytest_autotune.rows import run_record, trial_records
from pytest_autotune.sample_codec import CODEC, decode_samples, encode_samples
from pytest_autotune.samples import Level
from pytest_autotune.space import canonical
from pytest_autotune.tables import batches, progress, runs, samples, suites, trials

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, Connection, Row

    from pytest_autotune.records import Answers, BatchRecord, RunRecord, TrialRecord
    from pytest_autotune.samples import Sample
    from pytest_autotune.slo import Status
    from pytest_autotune.space import Configuration, Value

HEARTBEAT_LIMIT = timedelta(seconds=60)  # an owner silent for longer is dead, where nothing better is known


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a claim: who may measure a slot.

    * ``granted``: `trial` is ours to measure, now
    * ``recorded``: it was measured before; `trial` has the result
    * ``busy``: a living owner (`trial.owner`) is measuring it
    """

    kind: Literal["granted", "recorded", "busy"]
    trial: TrialRecord


class Store:
    """A results store behind an SQLite or PostgreSQL URL. One per process, a context manager.

    A *study* is the key of one suite's measurements; a *generation* groups the trials of one search
    in it, which goes on over interrupted runs. Each method is one transaction: it happened wholly or
    not at all, whenever the process is killed, and what was measured is on the disk when it returns.

    `alive` says of an owner whether its process lives, or None where it cannot know (another
    machine); then, and without `alive`, an owner lives while its heartbeats are younger than 60 s.
    Every method raises `StoreError`. Secrets are masked in all that is stored but configurations.
    """

    def __init__(
        self, url: str, *, alive: Callable[[str], bool | None] | None = None, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = Database(url)
        self.name = self._database.name  # of the database, without a password
        self.baselines = Baselines(self._database, clock)
        self._alive = alive
        self._clock = clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def migrate(self) -> None:
        """Create or upgrade the schema; the controller does before any worker opens the store."""
        self._database.migrate()

    def begin_run(
        self, run_id: str, *, started_at: datetime, environment: Mapping[str, Any], arguments: Sequence[str]
    ) -> None:
        """Note that a run began."""
        values = {"environment": mask(environment), "arguments": mask_argv(arguments)}
        with self._database.write() as connection:
            connection.execute(insert(runs).values(id=run_id, started_at=started_at, **values))

    def end_run(self, run_id: str, *, outcome: str) -> None:
        """Note how a run ended: "passed", "failed", "interrupted", ..."""
        with self._database.write() as connection:
            ended = update(runs).where(runs.c.id == run_id).values(outcome=outcome, ended_at=self._clock())
            if connection.execute(ended).rowcount == 0:
                raise StoreError(f"run {run_id} was never begun in this store")

    def record_suite(self, run_id: str, study: str, *, suite: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """Note that the run covers this suite (node id) under this study key; return the document that is kept.

        That is the one of the process that noted it first, so that all processes of a run can agree by it.
        """
        with self._database.write(lock=f"suites {run_id}") as connection:
            same = (suites.c.run_id == run_id) & (suites.c.suite == suite)
            noted = connection.execute(select(suites.c.document).where(same)).first()
            if noted is not None:
                first: Mapping[str, Any] = noted.document
                return first
            kept: dict[str, Any] = mask(document)
            connection.execute(insert(suites).values(run_id=run_id, suite=suite, study=study, document=kept))
            return kept

    def claim(
        self,
        run_id: str,
        study: str,
        slot: str,
        *,
        owner: str,
        fresh: bool,
        choose: Callable[[tuple[TrialRecord, ...]], Configuration],
        retry: Callable[[TrialRecord], bool] = lambda _: False,
    ) -> Claim:
        """Ask for a slot of the study's current generation, or with `fresh` of one that this run begins.

        A slot that nobody claimed gets the configuration that `choose` returns for the generation's
        history; whatever `choose` raises leaves the store as it was. It runs within the transaction,
        while other claims of the study wait, so it must be quick and must not write to the store. A
        slot whose owner is gone, that `owner` itself claimed before, or whose finished trial `retry`
        finds not worth keeping, is granted anew with the same configuration.
        """
        with self._database.write(lock=f"study {study}") as connection:
            generation = run_id if fresh else _latest_generation(connection, study) or run_id
            of_slot = (trials.c.study == study) & (trials.c.generation == generation) & (trials.c.slot == slot)
            newest = select(trials).where(of_slot).order_by(trials.c.attempt.desc()).limit(1).with_for_update()
            last = connection.execute(newest).first()
            if last is None:
                attempt, configuration = (
                    1,
                    choose(_newest_attempts(trial_records(connection, _within(study, generation)))),
                )
            else:
                (earlier,) = trial_records(connection, trials.c.id == last.id)
                if last.state == "finished":
                    if not retry(earlier):
                        return Claim("recorded", earlier)
                    superseded = update(trials).where(trials.c.id == last.id).values(state="interrupted")
                    connection.execute(superseded)
                if last.state == "running":
                    if last.owner != owner and self._lives(last):
                        return Claim("busy", earlier)
                    self._end(connection, last.id, state="interrupted", reason=f"{last.owner} is gone")
                attempt, configuration = last.attempt + 1, earlier.configuration
            now = self._clock()
            new = insert(trials).values(
                study=study,
                generation=generation,
                slot=slot,
                attempt=attempt,
                configuration=dict(configuration),
                configuration_key=canonical(configuration),
                state="running",
                owner=owner,
                run_id=run_id,
                started_at=now,
                heartbeat_at=now,
            )
            granted = connection.execute(new.returning(trials.c.id)).scalar_one()
            (record,) = trial_records(connection, trials.c.id == granted)
        return Claim("granted", record)

    def heartbeat(self, trial: int) -> bool:
        """Say that the trial's owner lives; False when the trial is no longer its own."""
        with self._database.write(durable=False) as connection:
            return self._touch(connection, trial)

    def record_deployment(
        self,
        trial: int,
        *,
        argv: Sequence[str],
        effective: Mapping[str, Value],
        gpus: int,
        deploy_s: float | None,
        server_log: str,
        url: str = "",
        model_name: str = "",
        answers: Answers | None = None,
    ) -> None:
        """Note what was started and what it answered; `deploy_s` is None when it never became ready."""
        told = None
        if answers is not None:
            texts = [None if text is None else mask_text(text) for text in answers.texts]
            told = {"questions": answers.questions, "texts": texts}
        with self._database.write() as connection:
            kept = self._touch(
                connection,
                trial,
                argv=mask_argv(argv),
                effective=mask(effective),
                gpus=gpus,
                deploy_s=deploy_s,
                server_log=server_log,
                url=url,
                model_name=model_name,
                answers=told,
            )
            if not kept:
                raise _refusal(connection, trial)

    def record_lease(self, trial: int, *, waited_s: float, cores: Sequence[int]) -> None:
        """Note which cores a trial's server has for itself, and how long it has waited for what all share."""
        with self._database.write() as connection:
            if not self._touch(connection, trial, waited_s=waited_s, cores=list(cores)):
                raise _refusal(connection, trial)

    def record_batch(self, trial: int, batch: BatchRecord, samples_of_batch: Sequence[Sample]) -> None:
        """Keep a batch with its samples; a level that the trial already has is refused."""
        encoded = encode_samples(samples_of_batch)
        with self._database.write() as connection:
            if not self._touch(connection, trial):
                raise _refusal(connection, trial)
            recorded = select(batches.c.id).where(batches.c.trial_id == trial, batches.c.level == batch.level.name)
            if connection.execute(recorded).first() is not None:
                raise StoreError(f"batch {batch.level.name} of trial {trial} is already recorded")
            new = insert(batches).values(
                trial_id=trial,
                level=batch.level.name,
                shape=batch.level.shape,
                value=batch.level.value,
                status=batch.status,
                metrics=dict(batch.metrics),
                client=None if batch.client is None else asdict(batch.client),
                errors=dict(batch.errors),
                requests=batch.requests,
                window_s=batch.window_s,
                started_at=batch.started_at,
                reason=mask_text(batch.reason),
                cause=batch.cause,
                failed_checks=[mask_text(check) for check in batch.failed_checks],
                delivered=batch.delivered,
                oversaturated=mask_text(batch.oversaturated),
                stopped=mask_text(batch.stopped),
                intervals=dict(batch.intervals),
                remarks=[mask_text(remark) for remark in batch.remarks],
                rulings={metric: asdict(ruling) for metric, ruling in batch.rulings.items()},
                server=dict(batch.server),
            )
            key = connection.execute(new.returning(batches.c.id)).scalar_one()
            connection.execute(insert(samples).values(batch_id=key, codec=CODEC, data=encoded))

    def record_check(self, trial: int, level: Level, *, name: str, problem: str) -> None:
        """Note what a check of a Python suite found wrong with a batch, which makes it not compliant.

        It replaces what the check found before; an empty `problem` withdraws it.
        """
        with self._database.write() as connection:
            of_batch = (batches.c.trial_id == trial) & (batches.c.level == level.name)
            failed = connection.execute(select(batches.c.failed_checks).where(of_batch)).scalar_one()
            others = [text for text in failed if not text.startswith(f"{name}: ")]
            told = [mask_text(f"{name}: {problem}")] if problem else []
            connection.execute(update(batches).where(of_batch).values(failed_checks=[*others, *told]))

    def finish(self, trial: int, *, status: Status, reason: str = "", cause: str = "", elapsed_s: float) -> None:
        """Close a trial with its verdict: from now on it counts, and its slot is never measured again."""
        with self._database.write() as connection:
            values = {"status": str(status), "cause": cause, "elapsed_s": elapsed_s}
            if not self._end(connection, trial, state="finished", reason=reason, **values):
                raise _refusal(connection, trial)

    def release(self, trial: int, *, reason: str) -> None:
        """Give a trial back unfinished, to be measured again later; its batches stay readable."""
        with self._database.write() as connection:
            if not self._end(connection, trial, state="interrupted", reason=reason):
                raise _refusal(connection, trial)

    def mark_lost(self, run_id: str, owner: str, *, reason: str) -> tuple[int, ...]:
        """Give back every trial that a dead process was running, and return their ids."""
        with self._database.write() as connection:
            running = (trials.c.run_id == run_id) & (trials.c.owner == owner) & (trials.c.state == "running")
            found = connection.execute(select(trials.c.id).where(running).order_by(trials.c.id)).scalars().all()
            return tuple(i for i in found if self._end(connection, i, state="interrupted", reason=reason))

    def set_progress(self, run_id: str, owner: str, text: str) -> None:
        """Say what a process of the run is doing; its last text replaces the one before."""
        values = {"text": mask_text(text), "at": self._clock()}
        with self._database.write(durable=False) as connection:
            own = update(progress).where(progress.c.run_id == run_id, progress.c.owner == owner).values(values)
            if connection.execute(own).rowcount == 0:
                connection.execute(insert(progress).values(run_id=run_id, owner=owner, **values))

    def progress(self, run_id: str) -> list[Note]:
        """Return what each process of the run said last, by owner."""
        with self._database.read() as connection:
            said = select(progress.c.owner, progress.c.text, progress.c.at)
            rows = connection.execute(said.where(progress.c.run_id == run_id).order_by(progress.c.owner))
            return [Note(*row) for row in rows]

    def history(self, study: str) -> tuple[TrialRecord, ...]:
        """Return the newest attempt of each slot of the current generation, in the order of first claims."""
        with self._database.read() as connection:
            generation = _latest_generation(connection, study)
            return () if generation is None else _newest_attempts(trial_records(connection, _within(study, generation)))

    def trial(self, trial: int) -> TrialRecord:
        """Return one attempt."""
        with self._database.read() as connection:
            for record in trial_records(connection, trials.c.id == trial):
                return record
        raise StoreError(f"there is no trial {trial} in this store")

    def trials_of_run(self, run_id: str) -> tuple[TrialRecord, ...]:
        """Return every attempt that the run claimed, interrupted ones too, in order."""
        with self._database.read() as connection:
            return tuple(trial_records(connection, trials.c.run_id == run_id))

    def samples(self, trial: int, level: Level) -> tuple[Sample, ...]:
        """Return the requests of a batch, times within half a microsecond of what was measured."""
        of_batch = (batches.c.trial_id == trial) & (batches.c.level == level.name)
        with self._database.read() as connection:
            row = connection.execute(select(samples.c.codec, samples.c.data).join(batches).where(of_batch)).first()
        if row is None:
            raise StoreError(f"trial {trial} has no batch {level.name} in this store")
        return decode_samples(row.codec, row.data)

    def runs(self) -> tuple[RunRecord, ...]:
        """Return every run, newest first."""
        with self._database.read() as connection:
            rows = connection.execute(select(runs).order_by(runs.c.started_at.desc(), runs.c.id.desc()))
            return tuple(map(run_record, rows))

    def suites_of_run(self, run_id: str) -> tuple[SuiteRecord, ...]:
        """Return the suites that a run covered, by node id."""
        with self._database.read() as connection:
            rows = connection.execute(select(suites).where(suites.c.run_id == run_id).order_by(suites.c.suite))
            return tuple(SuiteRecord(row.run_id, row.study, row.suite, row.document) for row in rows)

    def covered(self, name: str) -> tuple[tuple[RunRecord, SuiteRecord], ...]:
        """Return each run, oldest first, with the suite of this name that it covered, as it noted it."""
        said = type_coerce(suites.c.document, Text).contains(f'"name":{json.dumps(name)}', autoescape=True)  # in short
        covering = select(runs, suites).join_from(runs, suites).where(said).order_by(runs.c.started_at, runs.c.id)
        with self._database.read() as connection:
            rows = [row for row in connection.execute(covering) if row.document.get("name") == name]
        return tuple((run_record(row), SuiteRecord(row.run_id, row.study, row.suite, row.document)) for row in rows)

    def measured(self, studies: Collection[str]) -> tuple[MeasuredRecord, ...]:
        """Return the numbers of what finished trials of these studies measured, of all runs and generations."""
        wanted = trials.c.study.in_(studies) & (trials.c.state == "finished") & (batches.c.status == "measured")
        columns = (trials.c.run_id, trials.c.study, trials.c.slot, batches.c.value, batches.c.shape, batches.c.metrics)
        found = select(*columns).join_from(trials, batches).where(wanted).order_by(batches.c.id)
        with self._database.read() as connection:
            return tuple(
                MeasuredRecord(row.run_id, row.study, row.slot, Level(row.value, row.shape), row.metrics)
                for row in connection.execute(found)
            )

    def studies(self) -> tuple[SuiteRecord, ...]:
        """Return each study once, as the run that covered it last noted it."""
        with self._database.read() as connection:
            rows = connection.execute(select(suites).order_by(suites.c.run_id, suites.c.suite))
            newest = {row.study: SuiteRecord(row.run_id, row.study, row.suite, row.document) for row in rows}
        return tuple(newest.values())

    def beginning(self, study: str) -> Mapping[str, Any] | None:
        """Return the suite's document as the run noted it that began the study's current generation."""
        with self._database.read() as connection:
            generation = _latest_generation(connection, study)
            noted = select(suites.c.document).where(suites.c.run_id == generation, suites.c.study == study)
            row = None if generation is None else connection.execute(noted).first()
        if generation is None:
            return None
        document: Mapping[str, Any] = {} if row is None else row.document
        return document

    def starts(self) -> tuple[StartRecord, ...]:
        """Return the launches of all runs that ran out of memory, with those that became ready, in order.

        Nothing when none ran out of memory. A trial that was settled without a launch is none.
        """
        of_memory = (trials.c.state == "finished") & (trials.c.cause == str(CauseKind.OUT_OF_MEMORY))
        out_of_memory = of_memory & trials.c.deploy_s.is_(None) & (trials.c.server_log != "")
        told = out_of_memory | trials.c.deploy_s.is_not(None)
        columns = ("run_id", "study", "configuration", "started_at", "deploy_s", "reason")
        with self._database.read() as connection:
            if connection.execute(select(trials.c.id).where(out_of_memory).limit(1)).first() is None:
                return ()
            rows = connection.execute(select(*(trials.c[name] for name in columns)).where(told).order_by(trials.c.id))
            launched = rows.all()
            of_runs = select(suites).where(suites.c.run_id.in_(select(trials.c.run_id).where(told)))
            documents = {(row.run_id, row.study): row.document for row in connection.execute(of_runs)}
        return tuple(
            StartRecord(
                run_id=row.run_id,
                document=documents.get((row.run_id, row.study), {}),
                configuration=row.configuration,
                started_at=row.started_at,
                ready=row.deploy_s is not None,
                reason=row.reason,
            )
            for row in launched
        )

    def _lives(self, trial: Row[Any]) -> bool:
        alive = None if self._alive is None else self._alive(trial.owner)
        return self._clock() - trial.heartbeat_at <= HEARTBEAT_LIMIT if alive is None else alive

    def _touch(self, connection: Connection, trial: int, **values: Any) -> bool:
        """Change a running trial and move its heartbeat; False when it is not running."""
        own = update(trials).where(trials.c.id == trial, trials.c.state == "running")
        return connection.execute(own.values(heartbeat_at=self._clock(), **values)).rowcount == 1

    def _end(self, connection: Connection, trial: int, *, state: str, reason: str, **values: Any) -> bool:
        now = self._clock()
        return self._touch(connection, trial, state=state, reason=mask_text(reason), ended_at=now, **values)


def _refusal(connection: Connection, trial: int) -> StoreError:
    """Explain a write to a trial that is not running: it was taken over while its owner seemed dead."""
    row = connection.execute(select(trials.c.state, trials.c.reason).where(trials.c.id == trial)).first()
    if row is None:
        return StoreError(f"there is no trial {trial} in this store")
    because = f" ({row.reason})" if row.reason else ""
    return StoreError(f"trial {trial} is {row.state}{because}, not running: what it measures now is not kept")


def _latest_generation(connection: Connection, study: str) -> str | None:
    """Return the generation that began last, however long an older one goes on."""
    begun = select(trials.c.generation).where(trials.c.study == study).group_by(trials.c.generation)
    return connection.execute(begun.order_by(func.min(trials.c.id).desc()).limit(1)).scalar()


def _within(study: str, generation: str) -> ColumnElement[bool]:
    return (trials.c.study == study) & (trials.c.generation == generation)


def _newest_attempts(records: Iterable[TrialRecord]) -> tuple[TrialRecord, ...]:
    return tuple({record.slot: record for record in records}.values())
