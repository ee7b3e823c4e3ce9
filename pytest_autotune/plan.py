"""Making a suite ready to run: engine, preflight, slots and the identity of its measurements."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from functools import partial
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING

from pytest_autotune.budget import Budget, Cost, SearchEnded, cost_of, ending
from pytest_autotune.confirmation import confirms, slot_name, to_confirm
from pytest_autotune.engines.validation import unknown_flags
from pytest_autotune.errors import MissingRequirement
from pytest_autotune.formatting import count
from pytest_autotune.hardware import fingerprint
from pytest_autotune.load.plan import files_of, lacking, levels_of, rows_of
from pytest_autotune.records import utc_now
from pytest_autotune.search import Observation, failure_value, suggest
from pytest_autotune.selection import judge_trial, select
from pytest_autotune.slo import Status
from pytest_autotune.space import label
from pytest_autotune.trial import Plan, Slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from pytest_autotune.engines.engine import Engine
    from pytest_autotune.records import TrialRecord
    from pytest_autotune.space import Configuration
    from pytest_autotune.suite import Suite

    Choose = Callable[[tuple[TrialRecord, ...]], Configuration]

DEFAULT_TRIALS = 20  # of an adaptive search: 15 to 30 launches is the range where one pays
GRID_COUNTED = 20_000  # combinations of a grid that are counted one by one
UNDECIDED = 0.01  # margin of a limit that could not be told from what was measured: at the limit, and not within it
DISK_NEEDED_BYTES = 200 * 2**20  # logs and samples of a run of ordinary size


def make_plan(suite: Suite, engine: Engine, *, nodeid: str) -> Plan:
    """Look the engine up on this machine and settle what identifies the suite's measurements.

    Raises `SuiteError` for a setting that the installed engine does not know, and for a file of the
    load that cannot be read.
    """
    _check_files(suite)
    installed = engine.inspect(suite)
    problems = unknown_flags(suite, installed)
    if problems:
        raise problems[0]
    adaptive = None if suite.search.strategy == "grid" else [suite.search.identity(), repr(suite.space)]
    identity = [nodeid, suite.measurement_key(), engine.name, installed.version, fingerprint(), adaptive]
    study = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    return Plan(
        suite=suite,
        engine=engine,
        installed=installed,
        nodeid=nodeid,
        study=study,
        slots=(*_slots(suite), *_confirming_slots(suite)),
        levels=levels_of(suite.load),
    )


def _slots(suite: Suite) -> Iterator[Slot]:
    """Yield the trials of a suite: one for each configuration of a grid, or numbered ones that the search fills."""
    if suite.search.strategy == "grid":
        names: set[str] = set()
        for index, configuration in enumerate(islice(suite.configurations(), suite.search.trials)):
            name = label(configuration, names)
            names.add(name)
            yield Slot(name, index, configuration, _within_budget(suite, _given(configuration)))
        return
    for index in range(suite.search.trials or DEFAULT_TRIALS):
        yield Slot(f"trial-{index:03d}", index, {}, _within_budget(suite, partial(_choose_searched, suite, index)))


def _confirming_slots(suite: Suite) -> Iterator[Slot]:
    """Yield the trials that measure the best ones and the engine's defaults again, round by round."""
    places = suite.search.confirm + suite.search.defaults if suite.search.confirm else 0
    for repeat in range(suite.search.repeats):
        for place in range(places):
            index = repeat * places + place
            yield Slot(slot_name(repeat, place), index, {}, partial(_choose_confirmed, suite, repeat, place))


def missing_requirements(plan: Plan, output: Path) -> tuple[str, ...]:
    """Say what this machine lacks to run the suite, one sentence each; start nothing."""
    suite = plan.suite
    return (*plan.installed.missing, *lacking(suite.load, suite.path.parent), *_missing_disk(output))


def _check_files(suite: Suite) -> None:
    """Read the files of the load now, while a mistake in them costs nothing yet."""
    directory = suite.path.parent
    try:
        files = files_of(suite.load, directory)
    except MissingRequirement:
        return  # which `missing_requirements` tells
    for key, path in files.items():
        if not path.exists():
            raise suite.error(
                f"there is no file {path}; a relative path counts from the suite's file", "load", key, "file"
            )
    rows_of(suite.load, directory)


def _missing_disk(output: Path) -> tuple[str, ...]:
    place = next(parent for parent in (output, *output.parents) if parent.exists())
    free = shutil.disk_usage(place).free
    if free >= DISK_NEEDED_BYTES:
        return ()
    return (f"needs {DISK_NEEDED_BYTES // 2**20} MiB free for logs and results in {place}, {free // 2**20} MiB are",)


def how_it_ended(suite: Suite, history: tuple[TrialRecord, ...]) -> str:
    """Return why the search begins no further trial; empty when nothing keeps it from that."""
    budget = suite.search.budget
    if budget == Budget():
        return ""
    finished = sorted((trial for trial in _of_search(history) if trial.state == "finished"), key=_ended)
    judged = (
        judge_trial(trial, limits=suite.slo, objective=suite.objective, steepness=suite.steepness) for trial in finished
    )
    return ending(budget, cost_of(history, utc_now()), (one.rank_value for one in judged))


def grid_cost(plan: Plan, history: tuple[TrialRecord, ...]) -> Cost | None:
    """Return about what every configuration at every level for its whole duration costs, start-up as it was so far.

    None when that cannot be said: nothing was deployed, the parameters have no grid or too large a one, or
    the length of a batch depends on a trace.
    """
    suite, load = plan.suite, plan.suite.load
    deploys_s = [trial.deploy_s for trial in history if trial.deploy_s is not None]
    try:
        if not deploys_s or load.planned_duration_s is None or suite.space.size() > GRID_COUNTED:
            return None
        configurations = list(suite.configurations())
    except ValueError:
        return None
    batch_s = load.planned_warmup_s + load.planned_duration_s
    trial_s = fmean(deploys_s) + _levels_of_grid(plan) * batch_s
    gpus = sum(max(plan.engine.gpus(suite, configuration), 1) for configuration in configurations)
    return Cost(len(configurations), gpu_time_s=trial_s * gpus, time_s=trial_s * len(configurations))


def _levels_of_grid(plan: Plan) -> int:
    """Return how many loads a grid measures: those of the list, or the powers of two of a search, as peers do."""
    search = plan.suite.load.searched
    return len(plan.levels) if search is None else math.floor(math.log2(search.high / search.low)) + 1


def _choose_confirmed(suite: Suite, repeat: int, place: int, history: tuple[TrialRecord, ...]) -> Configuration:
    """Pick what is measured again, from what the search has finished by now."""
    judged = (
        judge_trial(trial, limits=suite.slo, objective=suite.objective, steepness=suite.steepness)
        for trial in _of_search(history)
    )
    search = suite.search
    chosen = to_confirm(select(judged), top=search.confirm, repeat=repeat, seed=search.seed)
    if place >= len(chosen):
        raise SearchEnded(f"nothing to confirm: the search has {count(len(chosen), 'configuration')} to measure again")
    return chosen[place]


def _of_search(history: Iterable[TrialRecord]) -> tuple[TrialRecord, ...]:
    """Leave out the trials that measure a configuration again: they teach the search nothing new."""
    return tuple(trial for trial in history if not confirms(trial.slot))


def _ended(trial: TrialRecord) -> tuple[datetime, int]:
    return trial.ended_at or trial.started_at, trial.id


def _within_budget(suite: Suite, choose: Choose) -> Choose:
    """Return `choose`, which raises `SearchEnded` once the search has ended."""

    def chosen(history: tuple[TrialRecord, ...]) -> Configuration:
        if reason := how_it_ended(suite, history):
            raise SearchEnded(f"the search has ended: {reason}")
        return choose(history)

    return chosen


def _given(configuration: Configuration) -> Choose:
    return lambda _history: configuration


def _choose_searched(suite: Suite, index: int, history: tuple[TrialRecord, ...]) -> Configuration:
    """Pick the configuration of a numbered slot; the engine's defaults come first, as the reference."""
    if index == 0 and suite.search.defaults:
        return {}
    return suggest(
        suite.space,
        tuple(observe(trial, suite) for trial in _of_search(history)),
        seed=suite.search.seed + index,
        strategy=suite.search.strategy,
        fixed=suite.fixed,
    )


def observe(trial: TrialRecord, suite: Suite) -> Observation:
    """Tell the search what a trial came to: a value to maximise, and constraints that hold at 0 or below.

    The constraints are always the same: one for each limit (how far the least violating batch is
    beyond it, relative to the limit) and ``crash`` on the graded failure scale. What was screened out
    has no value and misses its limits by next to nothing: worse than all that complies, better than the rest.
    """
    if trial.state == "running":
        return Observation(configuration=trial.configuration, state="running", value=None, constraints={})
    judged = judge_trial(trial, limits=suite.slo, objective=suite.objective, steepness=suite.steepness)
    batch = judged.best or judged.least_violating
    crash = 0.0
    margins = dict.fromkeys((limit.metric for limit in suite.slo), 1.0)
    if judged.status in (Status.INCONCLUSIVE, Status.SCREENED_OUT):
        margins = dict.fromkeys(margins, UNDECIDED)
    elif judged.status is Status.VIOLATING and batch is None:
        pass  # no limit was missed, but no level complies: the server fell behind, or a check of the user's own failed
    elif batch is None:
        budget_s = suite.timeouts.start_s + suite.timeouts.ready_s
        crash = failure_value(elapsed_s=trial.elapsed_s or 0.0, budget_s=budget_s, text=f"{trial.cause} {trial.reason}")
    else:
        margins |= {check.limit.metric: check.ratio for check in batch.verdict.checks if check.actual is not None}
    value = judged.rank_value
    return Observation(
        configuration=trial.configuration,
        state="done",
        value=value,
        constraints={**margins, "crash": crash},
    )
