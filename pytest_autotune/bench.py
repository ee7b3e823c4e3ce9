"""What a suite is measured by: its plan, its trials to be, what they need of the world, and how they are claimed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pytest_autotune.confirmation import confirms
from pytest_autotune.pricing import priced
from pytest_autotune.recorded import worth_retrying
from pytest_autotune.slo import Status
from pytest_autotune.store import Claim

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

    from pytest_autotune.accuracy import Exam
    from pytest_autotune.baseline import Baseline
    from pytest_autotune.deploy.server import Deployer
    from pytest_autotune.engines.engine import Engine, Installed
    from pytest_autotune.feasibility import Feasibility
    from pytest_autotune.load.generator import LoadGenerator, Progress
    from pytest_autotune.records import TrialRecord
    from pytest_autotune.samples import Level
    from pytest_autotune.space import Configuration
    from pytest_autotune.store import Store
    from pytest_autotune.suite import Suite
    from pytest_autotune.trial import LiveTrial

NOTHING_DEPLOYED = "--autotune-rejudge deploys nothing"
OUTDATED = "it was screened out, by what counts no more: it is to be measured again"


class NotRun(Exception):
    """A trial or batch that is not run in this session, with the reason; no error and no finding."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A suite made ready to run: its engine as found on this machine, and the identity of its measurements."""

    suite: Suite
    engine: Engine
    installed: Installed
    nodeid: str  # of the suite file
    study: str  # key of the measurements in the store
    slots: tuple[Slot, ...]  # its trials, in the order they are collected
    levels: tuple[Level, ...]
    first: tuple[Configuration, ...] = ()  # what an adaptive search begins with, as far as the suite says it
    baseline: Baseline | None = None  # of a verification: what it is held against; None in a search
    exam: Exam | None = None  # what its servers are asked before they are loaded; None: nothing
    opponent: Plan | None = None  # of a paired comparison: how the baseline's trials, which are slots too, are run

    def history(self, store: Store) -> tuple[TrialRecord, ...]:
        """Return what the store has of these trials; the study's others are of values that the suite no longer has."""
        names = {slot.name for slot in self.slots}
        return self.revised(trial for trial in store.history(self.study) if trial.slot in names)

    def revised(self, trials: Iterable[TrialRecord]) -> tuple[TrialRecord, ...]:
        """Return the recorded trials of a search as they count today.

        Costs are at the price of today, and answers are held against those of the reference among these trials.
        """
        found = tuple(priced(trial, self.suite.hourly) for trial in trials)
        return found if self.exam is None else self.exam.held(found)

    @property
    def searching(self) -> tuple[Slot, ...]:
        """The slots of the search, without those that measure its best again."""
        return tuple(slot for slot in self.slots if not confirms(slot.name))


@dataclass(frozen=True, slots=True)
class Slot:
    """A trial to be: its node name, and how its configuration is found when its turn comes."""

    name: str
    index: int  # among those that search, or that confirm
    parameters: Configuration  # of a grid, known at collection; empty for a slot that the search fills
    # From the history, what says of a configuration that it need not be tried, and what the search begins with.
    choose: Callable[
        [tuple[TrialRecord, ...], Callable[[Configuration], bool], tuple[Configuration, ...]], Configuration
    ]


@dataclass(frozen=True, slots=True)
class Bench:
    """What a trial needs of the world around it."""

    store: Store
    run_id: str
    owner: str
    fresh: bool
    rejudge: bool  # answer from the store only
    output: Path  # directory of this run
    deployer: Deployer
    generator: LoadGenerator
    first: tuple[Configuration, ...]  # what the search begins with: the same for all its trials
    feasibility: Feasibility
    announce: Callable[[LiveTrial, str, Progress | None], None]  # trial, phase, progress of its batch
    restated: Callable[[Plan, TrialRecord], TrialRecord]  # with the metrics that the suite's limits need now
    outdated: Callable[[Plan, tuple[TrialRecord, ...]], Collection[int]]  # screened out by what counts no more
    screens: bool  # no plugin ranks trials by something of its own
    finished: Callable[[TrialRecord], None]  # called once the server is gone and the result is stored


def claim_of(plan: Plan, slot: Slot, bench: Bench) -> Claim:
    """Claim a slot, its configuration chosen if it has none; raise `NotRun` when another process is at it."""
    ask = partial(
        bench.store.claim,
        bench.run_id,
        plan.study,
        slot.name,
        owner=bench.owner,
        fresh=bench.fresh,
        choose=lambda history: slot.choose(plan.revised(history), bench.feasibility.bars, bench.first),
    )
    claim = ask(retry=lambda trial: worth_retrying(trial) or _may_start_now(trial, bench) or _unasked(trial, plan))
    if claim.kind == "recorded" and _outdated(claim.trial, plan, bench):
        recorded = claim.trial.id
        claim = ask(retry=lambda trial: trial.id == recorded)
    if claim.kind == "busy":
        raise NotRun(f"being measured by another process ({claim.trial.owner})")
    return claim


def _may_start_now(trial: TrialRecord, bench: Bench) -> bool:
    """Say whether what a server was not launched for does not stand any more."""
    return not trial.launched and bench.feasibility.refusal(trial.configuration) is None


def _unasked(trial: TrialRecord, plan: Plan) -> bool:
    return plan.exam is not None and plan.exam.unasked(trial)


def recall(plan: Plan, slot: Slot, bench: Bench) -> Claim:
    """Return the recorded trial of a slot, whatever another try might bring."""
    finished = (trial for trial in plan.history(bench.store) if trial.state == "finished" and trial.slot == slot.name)
    recorded = next(finished, None)
    if recorded is None:
        raise NotRun(f"not measured yet; {NOTHING_DEPLOYED}")
    if _outdated(recorded, plan, bench):
        raise NotRun(f"{OUTDATED}; {NOTHING_DEPLOYED}")
    return Claim("recorded", recorded)


def _outdated(trial: TrialRecord, plan: Plan, bench: Bench) -> bool:
    if trial.status is not Status.SCREENED_OUT:
        return False
    return trial.id in bench.outdated(plan, plan.history(bench.store))
