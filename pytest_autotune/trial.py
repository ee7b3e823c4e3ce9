"""One trial from claim to teardown: deployed on first use, measured level by level, recorded at once."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from pytest_autotune.batches import (
    screening_of,
    workload_until_resolved,
)
from pytest_autotune.bench import NOTHING_DEPLOYED, NotRun, claim_of, recall
from pytest_autotune.capacity import dominated
from pytest_autotune.confirmation import confirms
from pytest_autotune.errors import BenchmarkError, ClientSaturated, DeployError, Infeasible
from pytest_autotune.feasibility import NOT_LAUNCHED
from pytest_autotune.files import file_name
from pytest_autotune.loading import Loading
from pytest_autotune.probing import level_to_beat, value_to_beat
from pytest_autotune.recorded import failure_of
from pytest_autotune.selection import judge_batches, judge_record, judge_trial, slo_lines
from pytest_autotune.slo import Status
from pytest_autotune.ticker import Ticker

if TYPE_CHECKING:
    from collections.abc import Collection

    from pytest_autotune.bench import Bench, Plan, Slot
    from pytest_autotune.deploy.server import Server
    from pytest_autotune.load.generator import Workload
    from pytest_autotune.records import Answers, BatchRecord, TrialRecord
    from pytest_autotune.samples import Level, Sample
    from pytest_autotune.screening import Screening
    from pytest_autotune.slo import Verdict
    from pytest_autotune.space import Configuration

log = logging.getLogger(__name__)

ATTEMPTS = 2  # at a batch that the load generator was too slow for: a busy moment is no finding, and no error yet
HEARTBEAT_S = 20.0  # a third of the silence after which an owner on another machine is taken for dead


@dataclass(frozen=True, slots=True)
class MeasuredBatch:
    """A batch with its requests and its verdict."""

    record: BatchRecord
    samples: tuple[Sample, ...]
    verdict: Verdict


class LiveTrial:
    """A claimed trial. `close` must be called; it tears the server down and settles the record.

    One that was measured before (`recorded`) answers from the store and deploys nothing, unless
    `server` is asked for.
    """

    def __init__(self, plan: Plan, slot: Slot, bench: Bench) -> None:
        """Claim the slot; raise `NotRun` when another process is at it."""
        claim = recall(plan, slot, bench) if bench.rejudge else claim_of(plan, slot, bench)
        self.plan = plan
        self.slot = slot
        self.recorded = claim.kind == "recorded"
        self.record = bench.restated(plan, claim.trial) if self.recorded else claim.trial
        self.failure: DeployError | None = None
        self.end: BatchRecord | None = None  # the batch under which the server died
        self._bench = bench
        self._begun = time.monotonic()
        self._resources = ExitStack()
        self._loading: Loading | None = None  # of the server, once there is one
        self._settled = ""  # how the server did before its first batch; empty when the suite does not ask
        self.batches: dict[Level, BatchRecord] = {}
        self.screened_out = ""  # why this configuration cannot win, once that is known
        compares = plan.baseline is not None  # all of both sides is measured: nothing is in search of a best
        self._screened = compares or confirms(slot.name) or not claim.trial.configuration or not bench.screens
        self._skips = plan.suite.load.skip is not None and not compares
        self._met = not self._skips  # the level of the best so far was looked at
        self._concluded = False  # every load that matters was measured
        self._measured: dict[Level, MeasuredBatch] = {}
        if not self.recorded:
            beat = partial(bench.store.heartbeat, self.record.id)
            self._resources.enter_context(Ticker(beat, interval_s=HEARTBEAT_S))
        else:
            self.batches = {batch.level: batch for batch in self.record.batches}
            self.end = next((batch for batch in self.record.batches if batch.status == "died"), None)
            self.failure = failure_of(self.record)
            if self.record.status is Status.SCREENED_OUT:
                self.screened_out = self.record.reason

    @property
    def configuration(self) -> Configuration:
        """The overrides that this trial runs with."""
        return self.record.configuration

    @property
    def gpus(self) -> int:
        """GPUs that a server of this trial takes."""
        return self.plan.engine.gpus(self.plan.suite, self.configuration)

    def server(self) -> Server:
        """Return the running server, deploying it on first use.

        Raises `Infeasible` or `DeployError` the first time, `NotRun` afterwards.
        """
        return self._loader().server

    def deploy(self) -> None:
        """Make sure that the trial has a server, or the record of one; raise what the deployment raised."""
        if self.recorded:
            if self.failure is not None:
                raise self.failure
            return
        self.server()

    def measure(self, level: Level) -> MeasuredBatch:
        """Return the batch at `level`, measuring it the first time.

        Raises `NotRun` when the server is not there any more, `Infeasible` when this load kills
        it by its configuration, `BenchmarkError` when the batch cannot be measured.
        """
        if level not in self.batches:
            self._require_use(level)
            self._screen()
            self._meet_best()
        if level not in self._measured:
            if level not in self.batches:
                self._require_use(level)
                self._run_batch(level)
            else:
                self._measured[level] = self._read_batch(level)
        batch = self._measured[level]
        if batch.record.status == "died":
            raise self._death(batch.record)
        if batch.record.status == "failed":
            raise _failed(batch.record)
        return batch

    def judged(self, record: BatchRecord) -> tuple[BatchRecord, Verdict]:
        """Return a batch with its verdict by the limits of today."""
        return record, self._judge(record)

    def history(self) -> tuple[TrialRecord, ...]:
        """Return what the store has of the suite's trials now."""
        return self.plan.history(self._bench.store)

    @property
    def inaccurate(self) -> str:
        """Why this configuration cannot win by what its server answered; empty when nothing is known against it yet."""
        if self.plan.exam is None:
            return ""
        stored = self._stored()
        told = stored.accuracy is not None and (stored.accuracy.reference is not None or self.plan.baseline is not None)
        return stored.inaccurate if told else ""

    def conclude(self) -> None:
        """Note that every load that matters was measured, so that the trial is finished when it is closed."""
        self._concluded = True

    def note_check(self, level: Level, name: str, problem: str) -> None:
        """Record what a check of the user's own found wrong with the batch at `level`; nothing when `problem` is empty.

        A recorded batch is checked anew each time: its last outcome counts.
        """
        failed = self.batches[level].failed_checks
        if problem or any(text.startswith(f"{name}: ") for text in failed):
            self._bench.store.record_check(self.record.id, level, name=name, problem=problem)

    def forget_checks_but(self, names: Collection[str]) -> None:
        """Drop what checks found that the suite no longer has; `names` are those of its functions."""
        for level, batch in self.batches.items():
            for text in batch.failed_checks:
                check = text.partition(": ")[0]
                if check.removesuffix(f"[{level.name}]") not in names:
                    self.note_check(level, check, "")

    def close(self) -> None:
        """Tear the server down, whatever happened, and record what the trial came to."""
        try:
            self._resources.close()
        finally:
            self._loading = None
            if not self.recorded:
                self._settle()

    def _loader(self) -> Loading:
        """Return what loads the server; raise what `server` does."""
        if self._loading is not None:
            return self._loading
        if self.failure is not None:
            raise NotRun(f"not deployed: {self.failure.reason.removeprefix(NOT_LAUNCHED)}")
        if self._bench.rejudge:
            raise NotRun(NOTHING_DEPLOYED)
        try:
            loading = Loading(
                self._deploy_with_retry(),
                self.plan,
                self._bench.generator,
                name=self.slot.name,
                gpus=self.gpus,
                announce=partial(self._bench.announce, self),
            )
            if self.plan.suite.load.settle_s is not None and not self.recorded:
                self._settled = loading.settle(repetition=self._repetition)
        except DeployError as failure:
            self.failure = failure
            raise
        self._loading = loading
        return loading

    def _deploy_with_retry(self) -> Server:
        """Deploy, once more when it failed for what may have passed: the network, a full disk, others on a GPU."""
        from pytest_autotune.engines.engine import CauseKind

        try:
            return self._deploy()
        except DeployError as failure:
            if failure.cause is None or failure.cause.kind not in (CauseKind.INFRASTRUCTURE, CauseKind.PORT):
                raise
            log.warning("%s is deployed once more: %s", self.slot.name, failure.reason)
        return self._deploy()

    def _deploy(self) -> Server:
        from pytest_autotune.deploy.server import Launch

        plan, bench = self.plan, self._bench
        record = partial(bench.store.record_deployment, self.record.id, gpus=self.gpus)
        if not self.recorded and (refused := bench.feasibility.refusal(self.configuration)):
            log.info("%s %s", self.slot.name, refused)
            record(argv=(), effective={}, deploy_s=None, server_log="")
            raise refused
        directory = bench.output / file_name(plan.suite.name) / file_name(self.slot.name)
        directory.mkdir(parents=True, exist_ok=True)
        launch = Launch(
            suite=plan.suite,
            engine=plan.engine,
            configuration=self.configuration,
            log=directory / "server.log",
            owner=bench.owner,
            on_phase=lambda phase: bench.announce(self, phase, None),
            gpus=0 if plan.installed.simulated and not plan.suite.pool.pretended else self.gpus,
            on_waited=partial(self._note_lease, time.monotonic(), self.record.waited_s),
        )
        record = partial(record, server_log=str(launch.log))
        noted: dict[str, Any] = {"argv": (), "effective": {}, "deploy_s": None}
        try:
            with ExitStack() as deployed:
                server = deployed.enter_context(bench.deployer.deploy(launch))
                noted = {
                    "argv": server.argv,
                    "effective": server.effective,
                    "deploy_s": server.started_s,
                    "url": server.url,
                    "model_name": server.model_name,
                }
                noted["answers"] = self._examine(server)
                self._resources.push(deployed.pop_all())
        except DeployError:
            if not self.recorded:
                record(**noted)
            raise
        if not self.recorded:
            record(**noted)
        return server

    def _examine(self, server: Server) -> Answers | None:
        """Ask what the accuracy gate is judged by; None where the suite asks nothing, or it was asked before."""
        if self.plan.exam is None or self.recorded:
            return None
        from pytest_autotune.examining import ask

        self._bench.announce(self, "accuracy", None)
        return ask(server, self.plan.exam, self.plan.suite)

    def _note_lease(self, asked: float, before_s: float, cores: tuple[int, ...]) -> None:
        """Record what was waited for since `asked`, beside what a deployment before has waited."""
        if not self.recorded:
            waited_s = before_s + time.monotonic() - asked
            self.record = replace(self.record, waited_s=waited_s, cores=cores)
            self._bench.store.record_lease(self.record.id, waited_s=waited_s, cores=cores)

    def _require_use(self, level: Level) -> None:
        """Raise `NotRun` for a level that cannot be measured, or need not be where the suite allows to skip it."""
        if self.screened_out:
            raise NotRun(f"{Status.SCREENED_OUT}: {self.screened_out}")
        if self.end is not None:
            raise NotRun(f"the server died at {self.end.level}: {self.end.reason}")
        if reason := self._dominated(level):
            raise NotRun(reason)
        if self.recorded:
            raise NotRun(f"{level} was not measured when this trial was recorded; --autotune-fresh measures it again")

    def _dominated(self, level: Level) -> str:
        suite = self.plan.suite
        if not self._skips:
            return ""
        judged = judge_batches(self.batches.values(), suite.slo, suite.objective, steepness=suite.steepness)
        return dominated(level, judged, suite.objective, self._to_beat)

    @cached_property
    def _to_beat(self) -> float | None:
        return value_to_beat(self)

    def _screen(self) -> None:
        """Begin with the level at which the best so far is best, once: what cannot win ends there.

        What goes on has measured that level in full, so that screening costs it nothing. The engine's
        defaults, the reference, and what measures a configuration again are never screened.
        """
        if self._screened or self.recorded:
            return
        self._screened = True
        found = screening_of(self.plan.suite, self.plan.levels, self.history(), self._bench.store, gpus=self.gpus)
        if found is not None:
            self._run_batch(*found)

    def _meet_best(self) -> None:
        """Begin with the level at which the best so far is to be beaten, once, where others may be skipped for it."""
        if self._met or self.recorded:
            return
        self._met = True
        if self.screened_out or self.batches:
            return
        level = level_to_beat(self)
        if level is not None:
            self._run_batch(level)

    def _run_batch(self, level: Level, screening: Screening | None = None) -> None:
        loading = self._loader()
        workers: int | None = self.plan.suite.load.workers
        for attempt in range(1, ATTEMPTS + 1):
            workload = replace(self._workload(level, attempt), workers=workers)
            record, samples = loading.batch(level, workload, screening)
            if record.client is None or record.client.saturated is None or attempt == ATTEMPTS:
                break
            screening = None  # other requests are sent now
            log.warning("%s %s is measured once more: %s", self.slot.name, level, record.reason)
            if self.plan.suite.load.workers is None:
                from pytest_autotune.load.http import more_workers

                workers = more_workers(record.client.workers)
        if screening is not None and screening.dropped and record.status == "measured":
            self.screened_out = screening.dropped
            log.info("%s %s: %s", self.slot.name, Status.SCREENED_OUT, self.screened_out)
            return
        if record.status == "died":
            self.end = record
        if self._settled and not self.batches:
            record = replace(record, remarks=(self._settled, *record.remarks))
        self._bench.store.record_batch(self.record.id, record, samples)
        self.batches[level] = record
        self._measured[level] = MeasuredBatch(record, samples, self._judge(record))

    @property
    def _repetition(self) -> str:
        """What makes prompts others: a server that was there before this run may still hold those of an earlier one."""
        return f"{self._bench.run_id} {self.slot.name}" if self.plan.suite.deploy == "endpoint" else ""

    def _workload(self, level: Level, attempt: int) -> Workload:
        from pytest_autotune.load.plan import batch_seed

        suite = self.plan.suite
        repetition = self._repetition
        if confirms(self.slot.name):
            repetition = f"{repetition} {self.slot.name}"
        seed = batch_seed(suite.load.seed, level, attempt=attempt, repetition=repetition)
        return workload_until_resolved(suite, level, seed=seed)

    def _death(self, record: BatchRecord) -> DeployError:
        from pytest_autotune.engines.engine import CauseKind

        text = f"the server died at {record.level}: {record.reason}"
        tail = "" if self._loading is None else self._loading.server.log_tail()
        if CauseKind(record.cause).finding:
            return Infeasible(text, log_tail=tail)
        return DeployError(text, log_tail=tail)

    def _read_batch(self, level: Level) -> MeasuredBatch:
        samples = self._bench.store.samples(self.record.id, level)
        record = self.batches[level]
        return MeasuredBatch(record, tuple(samples), self._judge(record))

    def _stored(self) -> TrialRecord:
        """Return the trial as the store has it now, its answers held against those of the reference."""
        stored = self._bench.store.trial(self.record.id)
        if self.plan.exam is None:
            return stored
        return next((trial for trial in self.history() if trial.id == stored.id), stored)

    def _judge(self, record: BatchRecord) -> Verdict:
        return judge_record(record, self.plan.suite.slo, steepness=self.plan.suite.steepness)

    def _settle(self) -> None:
        store, suite = self._bench.store, self.plan.suite
        elapsed_s = time.monotonic() - self._begun
        if isinstance(self.failure, Infeasible):
            status, reason = Status.INFEASIBLE, self.failure.reason
        elif self.failure is not None:
            status, reason = Status.FAILED, self.failure.reason
        elif self.screened_out:
            status, reason = Status.SCREENED_OUT, self.screened_out
        elif self.end is not None or self._concluded or self._listed_levels_done():
            judged = judge_trial(self._stored(), limits=suite.slo, objective=suite.objective, steepness=suite.steepness)
            status, reason = judged.status, judged.reason
            log.info("%s\n%s", self.slot.name, "\n".join(slo_lines(judged)))
        else:
            of = f" of {len(self.plan.levels)}" if self.plan.levels else ""
            store.release(self.record.id, reason=f"{len(self.batches)}{of} batches measured")
            return
        cause = getattr(self.failure, "cause", None)
        kind = "" if cause is None else str(cause.kind)
        store.finish(self.record.id, status=status, reason=reason, cause=kind, elapsed_s=elapsed_s)
        self.record = self._stored()
        self._bench.finished(self.record)

    def _listed_levels_done(self) -> bool:
        levels = self.plan.levels
        return bool(levels) and all(level in self.batches or self._dominated(level) for level in levels)


def _failed(record: BatchRecord) -> BenchmarkError:
    return (BenchmarkError if record.client is None else ClientSaturated)(record.reason)
