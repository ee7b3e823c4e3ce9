"""One run (an invocation of pytest): its store, environment, plans, and the bench its trials stand on."""

from __future__ import annotations

import logging
import os
import secrets
import time
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_autotune.metrics import is_extra
from pytest_autotune.progress import Standing
from pytest_autotune.records import utc_now
from pytest_autotune.spelling import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    import pytest

    from pytest_autotune.bench import Bench, NotRun, Plan
    from pytest_autotune.deploy.server import Deployer
    from pytest_autotune.engines.engine import Engine
    from pytest_autotune.feasibility import Feasibility
    from pytest_autotune.load.generator import LoadGenerator, Progress
    from pytest_autotune.progress import Reporter
    from pytest_autotune.records import TrialRecord
    from pytest_autotune.selection import JudgedBatch, JudgedTrial
    from pytest_autotune.settings import Settings
    from pytest_autotune.space import Configuration
    from pytest_autotune.store import Store
    from pytest_autotune.suite import Suite
    from pytest_autotune.trial import LiveTrial

log = logging.getLogger(__name__)

WORKER_END_S = 1.0  # for a worker's process to end once its connection is closed


class Run:
    """This process's part in a run: the controller's, or an xdist worker's. Closed when pytest unconfigures.

    Everything is made on first use, so that a pytest run without suites pays nothing.
    """

    def __init__(self, config: pytest.Config, settings: Settings, *, run_id: str | None) -> None:
        self.config = config
        self.settings = settings
        self.is_worker = run_id is not None
        self.id = run_id or new_run_id(utc_now())
        self.started_at = utc_now()
        self.reporter: Reporter | None = None
        self._plans: dict[str, Plan] = {}
        self._swept: set[str] = set()  # ways to deploy whose leftovers were removed in this process
        self._firsts: dict[str, dict[str, list[Configuration]]] = {}  # by node id: what a search begins with
        self._documents: dict[str, dict[str, Mapping[str, Any]]] = {}  # by run and study: the suite as it was then
        self._resources = ExitStack()
        self._standing: Standing | None = None

    @property
    def directory(self) -> Path:
        """Where this run writes logs and exports."""
        return self.settings.output / self.id

    @cached_property
    def store(self) -> Store:
        """The results store; the controller brings its schema up to date before any worker opens it."""
        from pytest_autotune.deploy.leftovers import owner_alive
        from pytest_autotune.store import Store

        return self._resources.enter_context(Store(self.settings.store_url, alive=owner_alive))

    @cached_property
    def owner(self) -> str:
        """How this process is recognised as the owner of trials and servers, also after its death."""
        from pytest_autotune.deploy.leftovers import owner_id

        return owner_id(self.id)

    @cached_property
    def environment(self) -> dict[str, Any]:
        """What this run runs on and with: versions, hardware, git revision."""
        from pytest_autotune.environment import describe

        return describe(self.settings.root)

    def begin(self, arguments: Sequence[str]) -> tuple[str, ...]:
        """On the controller: open the store, note the run, sweep what dead runs left; say what was swept."""
        from pytest_autotune.deploy.leftovers import sweep

        _make_output(self.settings.output)
        self.open_log("run")
        self.store.migrate()
        self.store.begin_run(
            self.id, started_at=self.started_at, environment=self.environment, arguments=tuple(arguments)
        )
        return sweep()

    def open_log(self, name: str) -> None:
        """Write what this process does to a log of the run, apart from the servers' logs."""
        self.directory.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(self.directory / f"{name}.log", encoding="utf-8")
        handler.setFormatter(UtcFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger = logging.getLogger("pytest_autotune")
        level = logger.level
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        self._resources.callback(handler.close)
        self._resources.callback(logger.removeHandler, handler)
        self._resources.callback(logger.setLevel, level)

    def end(self, outcome: str) -> None:
        """On the controller: note how the run ended."""
        self.store.end_run(self.id, outcome=outcome)

    def close(self) -> None:
        """Release the store."""
        self._resources.close()

    def engine(self, suite: Suite) -> Engine:
        """Return the suite's engine, from a plugin or built in; raise `SuiteError` for an unknown or unfinished one."""
        from pytest_autotune.engines.engine import lacking
        from pytest_autotune.engines.registry import BUILTIN, builtin

        engine: Engine | None = self.config.hook.pytest_autotune_engine(name=suite.engine) or builtin(suite.engine)
        if engine is None:
            known = ", ".join(BUILTIN)
            hint = nearest(suite.engine, BUILTIN)
            raise suite.error(f"{suite.engine!r} is unknown{hint}; there are {known}", "engine")
        if missing := ", ".join(lacking(engine)):
            problem = f"{suite.engine!r} of a plugin lacks {missing}; see pytest_autotune.engines.engine.Engine"
            raise suite.error(problem, "engine")
        return engine

    def plan(self, path: Path, *, nodeid: str) -> Plan:
        """Load the suite at `path` and make its plan, once per process: of its search, or else of its verification.

        Raises `NotRun` when there is nothing to verify.
        """
        from pytest_autotune.plan import make_plan
        from pytest_autotune.suite_file import load_suite

        if nodeid not in self._plans:
            if not self.settings.searching and not self._may_be_recorded(path, nodeid):
                raise self._nothing_recorded(path)
            suite = load_suite(path)
            self.config.hook.pytest_autotune_suite_loaded(config=self.config, suite=suite)
            self._deployer(suite)
            plan = make_plan(suite, self.engine(suite), nodeid=nodeid, servers=self._workers())
            self._plans[nodeid] = plan if self.settings.searching else self._verification(plan)
        return self._plans[nodeid]

    def _may_be_recorded(self, path: Path, nodeid: str) -> bool:
        """Say whether it is worth to load a suite: one that was never searched is skipped, even when it is wrong."""
        from pytest_autotune.baseline import beside

        if beside(path).exists():
            return True
        store = self._existing_store()
        return store is not None and any(covered.suite == nodeid for covered in store.studies())

    def _verification(self, plan: Plan) -> Plan:
        from pytest_autotune.pairing import compared
        from pytest_autotune.plan import make_plan
        from pytest_autotune.references import referred
        from pytest_autotune.verifying import recorded, verified

        store = self._existing_store()
        own = recorded(plan, store)
        if own is None:
            raise self._nothing_recorded(plan.suite.path)
        if self.settings.compare is None:
            return verified(plan, own)
        directory = self.config.invocation_params.dir
        other = referred(self.settings.compare, plan.suite, store=store, directory=directory)
        return compared(
            plan,
            own,
            other,
            lambda suite: make_plan(suite, self.engine(suite), nodeid=plan.nodeid, servers=self._workers()),
        )

    def _existing_store(self) -> Store | None:
        """Return the store with an up-to-date schema; None for a file that is not there: looking makes none."""
        if (file := self.settings.store_file) is not None and not file.exists():
            return None
        if self.settings.plan_only:  # else the run has begun, which migrates
            self.store.migrate()
        return self.store

    def _nothing_recorded(self, path: Path) -> NotRun:
        from pytest_autotune.bench import NotRun

        return NotRun(self.how_to_start(path))

    def missing(self, plan: Plan) -> tuple[str, ...]:
        """Say what this machine lacks for the plan, one sentence each."""
        from pytest_autotune.deploy.server import Preflight
        from pytest_autotune.errors import MissingRequirement
        from pytest_autotune.plan import missing_requirements

        missing = missing_requirements(plan, self.settings.output, servers=self._workers())
        deployer = self._deployer(plan.suite)
        if isinstance(deployer, Preflight):
            missing = (*missing, *deployer.missing(plan.suite))
        try:
            self._generator(plan.suite)
        except MissingRequirement as error:
            missing = (*missing, str(error))
        return missing

    def how_to_start(self, path: Path) -> str:
        """Say what to do about a suite that is neither searched nor verified in this run."""
        shown = os.path.relpath(path, self.config.invocation_params.dir)
        return f"no recorded best configuration; find one with: pytest {shown} --autotune"

    def bench(self, plan: Plan) -> Bench:
        """Return what a trial of `plan` works with, and note that this run covers the suite."""
        from pytest_autotune.beginning import FIRST, VERIFIES, begins_with
        from pytest_autotune.bench import Bench
        from pytest_autotune.feasibility import conditions

        document = plan.suite.document() | {"path": str(plan.suite.path), FIRST: self.first(plan)}
        if plan.baseline is not None:
            document[VERIFIES] = plan.baseline.model_dump(mode="json", by_alias=True)
        document |= conditions(plan.suite, version=plan.installed.version)
        if plan.installed.image:
            document["image_digest"] = plan.installed.image
        noted = self.store.record_suite(self.id, plan.study, suite=plan.nodeid, document=document)
        return Bench(
            store=self.store,
            run_id=self.id,
            owner=self.owner,
            fresh=self.settings.fresh or plan.baseline is not None,
            rejudge=self.settings.rejudge,
            output=self.directory,
            deployer=self._deployer(plan.suite),
            generator=self._generator(plan.suite),
            first=begins_with(plan, noted),
            feasibility=self._feasibility(plan, document),
            announce=self.announce,
            restated=self.restated,
            outdated=self.outdated,
            screens=not self._own_objective,
            finished=lambda trial: self._finished(plan, trial),
        )

    def first(self, plan: Plan) -> dict[str, list[Configuration]]:
        """Return what the plan's search begins with beyond what the suite says.

        Raises `SuiteError` for what a hook should not have returned. A search that has begun keeps what it
        began with, whatever other searches have found since: it stands in the suite's document of the run
        that began it. Of several processes that begin one together the first one's counts, see
        `Store.record_suite`.
        """
        from pytest_autotune.beginning import FIRST, first_of

        if plan.suite.strategy == "grid" or plan.baseline is not None or self.settings.rejudge:
            return {}
        if plan.nodeid not in self._firsts:
            begun = None if self.settings.fresh else self.store.beginning(plan.study)
            if begun is None:
                ask = self.config.hook.pytest_autotune_prior
                self._firsts[plan.nodeid] = first_of(plan, self.store, ask=ask, fresh=self.settings.fresh)
            else:
                self._firsts[plan.nodeid] = begun.get(FIRST, {})
        return self._firsts[plan.nodeid]

    def _feasibility(self, plan: Plan, document: Mapping[str, Any]) -> Feasibility:
        """Return what is known of the plan's configurations now; asked to measure everything again, no measurement."""
        from pytest_autotune.feasibility import Feasibility, known_out_of_memory

        flags, knobs = plan.installed.flags, plan.engine.memory_knobs
        anew = self.settings.fresh or plan.baseline is not None
        starts = () if anew or self.settings.rejudge else self.store.starts()
        known = known_out_of_memory(starts, document, knobs=knobs, flags=flags)
        return Feasibility(plan.suite, plan.engine, document["fixed"], flags, known)

    def restated(self, plan: Plan, trial: TrialRecord) -> TrialRecord:
        """Return a recorded trial with the metrics that the suite needs now: anew if it needed others then.

        Its costs are those of the price of today.
        """
        from pytest_autotune.pricing import priced
        from pytest_autotune.recorded import restate

        if self._document(plan, trial, _needed) != _needed(plan.suite.document()):
            trial = restate(trial, plan.suite, self.store)
        return priced(trial, plan.suite.hourly)

    def outdated(self, plan: Plan, history: tuple[TrialRecord, ...]) -> frozenset[int]:
        """Return the ids of trials that were screened out by other limits, objectives or rivals than count now.

        They were never measured in full, so that their numbers cannot be judged anew.
        """
        from pytest_autotune.screening import still_stands
        from pytest_autotune.selection import judge_trial
        from pytest_autotune.slo import Status

        dropped = [trial for trial in history if trial.status is Status.SCREENED_OUT and trial.state == "finished"]
        if not dropped:
            return frozenset()
        suite = plan.suite
        if suite.search.screen is None or self._own_objective:
            return frozenset(trial.id for trial in dropped)
        judged = [
            judge_trial(trial, limits=suite.slo, objective=suite.objective, steepness=suite.steepness)
            for trial in history
        ]
        now = _judged_by(suite.document())
        return frozenset(
            trial.id
            for trial in dropped
            if self._document(plan, trial, _judged_by) != now or not still_stands(trial.reason, judged)
        )

    def announce(self, live: LiveTrial, phase: str, progress: Progress | None) -> None:
        """Tell whoever watches where the trial stands."""
        if progress is None:
            log.info("%s %s %s", live.plan.suite.name, live.slot.name, phase)
        if self.reporter is None:
            return
        if self._standing is None or self._standing.trial is not live:
            self._standing = Standing.of_trial(live, self.store, workers=self._workers())
        self.reporter.show(self._standing.line(phase, progress))

    def score(self, suite: Suite, batches: Sequence[JudgedBatch]) -> float | None:
        """Ask plugins for a trial's score; None leaves it to the suite's objective."""
        score: float | None = self.config.hook.pytest_autotune_objective(suite=suite, batches=batches)
        return score

    def selected(self, plan: Plan, best: JudgedTrial | None) -> None:
        """Tell plugins which trial was selected."""
        self.config.hook.pytest_autotune_selected(config=self.config, suite=plan.suite, best=best)

    def worker_died(self, worker: str, reason: str) -> None:
        """Give up the trials of an xdist worker that is gone, so that the next run measures them."""
        from pytest_autotune.deploy.leftovers import await_end_of_any, owner_alive

        running = [trial for trial in self.store.trials_of_run(self.id) if trial.state == "running"]
        # Its connection is closed a moment before the kernel counts it as dead.
        await_end_of_any({trial.owner for trial in running}, timeout_s=WORKER_END_S)
        for trial in running:
            if owner_alive(trial.owner) is False:
                self.store.mark_lost(self.id, trial.owner, reason=f"{worker} died: {reason}")

    def interrupt_workers(self) -> None:
        """Send SIGINT to the xdist workers that are in the middle of a trial."""
        from pytest_autotune.deploy.leftovers import interrupt_owner

        running = (trial.owner for trial in self.store.trials_of_run(self.id) if trial.state == "running")
        for owner in set(running) - {self.owner}:
            interrupt_owner(owner)

    @property
    def _own_objective(self) -> bool:
        """Whether a plugin may rank trials by something of its own."""
        return bool(self.config.hook.pytest_autotune_objective.get_hookimpls())

    def _document(
        self, plan: Plan, trial: TrialRecord, part: Callable[[Mapping[str, Any]], list[object]]
    ) -> list[object] | None:
        """Return a part of the suite's document as it was when the trial was measured; None when that is not known."""
        if plan.study not in self._documents.get(trial.run_id, {}):  # this run may go on to further suites
            suites = self.store.suites_of_run(trial.run_id)
            self._documents[trial.run_id] = {covered.study: covered.document for covered in suites}
        document = self._documents[trial.run_id].get(plan.study)
        return None if document is None else part(document)

    def _finished(self, plan: Plan, trial: TrialRecord) -> None:
        self.config.hook.pytest_autotune_trial_finished(config=self.config, suite=plan.suite, trial=trial)

    def _workers(self) -> int:
        """How many processes run trials at a time; the environment may tell of a pytest that started this one."""
        worker: dict[str, int] = getattr(self.config, "workerinput", {})
        return worker.get("workercount", 1)

    def _deployer(self, suite: Suite) -> Deployer:
        from pytest_autotune.deploy import BUILTIN, builtin_deployer

        name = suite.deploy
        deployer: Deployer | None = self.config.hook.pytest_autotune_deployer(name=name) or builtin_deployer(name)
        if deployer is None:
            hint = nearest(name, BUILTIN)
            raise suite.error(f"{name!r} is unknown{hint}; there are {', '.join(BUILTIN)}", "deploy")
        if name not in self._swept:
            self._swept.add(name)
            for line in deployer.sweep():
                log.warning("%s", line)
        return deployer

    def _generator(self, suite: Suite) -> LoadGenerator:
        generator: LoadGenerator | None = self.config.hook.pytest_autotune_load_generator(suite=suite)
        if generator is not None:
            return generator
        if suite.load.generator != "builtin":
            from pytest_autotune.engines.requirements import generator_interpreter_of
            from pytest_autotune.load.others import generator_named

            return generator_named(suite.load.generator, python=generator_interpreter_of(suite))
        from pytest_autotune.load.http import HttpLoad

        return HttpLoad()


def _needed(document: Mapping[str, Any]) -> list[object]:
    """Return the parts of a suite's document that metrics are computed for.

    Of the tiers that is only what a batch does not have anyway: their bounds are held against it when it is read.
    """
    limits = (limit for limits in document.get("tiers", {}).values() for limit in limits)
    extra = sorted({limit["metric"] for limit in limits if is_extra(limit["metric"])})
    certainty = [document.get("confidence"), document.get("spread", 0.0)]
    return [document["slo"], document["objective"], document.get("tradeoffs", []), certainty, extra]


def _judged_by(document: Mapping[str, Any]) -> list[object]:
    """Return the parts of a suite's document that decide which trial is better."""
    return [*_needed(document), document["steepness"]]


class UtcFormatter(logging.Formatter):
    """Log lines with UTC times, so that logs of several machines can be laid side by side."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"
    converter = staticmethod(time.gmtime)


def new_run_id(now: datetime) -> str:
    """Return a name that sorts by time and is unique among runs that begin in the same second."""
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def _make_output(output: Path) -> None:
    """Make the output directory; it keeps itself out of version control."""
    output.mkdir(parents=True, exist_ok=True)
    ignore = output / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
