"""Making a suite ready to run: engine, preflight, slots and the identity of its measurements."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING

from pytest_autotune.bench import Plan, Slot
from pytest_autotune.budget import Cost
from pytest_autotune.choosing import choose_confirmed, choose_searched, defaults_of, given, numbered, within_budget
from pytest_autotune.confirmation import slot_name
from pytest_autotune.deploy.cores import missing_cores, settled
from pytest_autotune.deploy.docker import image_digest
from pytest_autotune.engines.requirements import gpus_in_pool, is_parallel
from pytest_autotune.engines.validation import unknown_flags, unusable_settings
from pytest_autotune.errors import MissingRequirement
from pytest_autotune.examining import exam_of_search
from pytest_autotune.hardware import drivers, fingerprint
from pytest_autotune.load.plan import files_of, lacking, levels_of, rows_of
from pytest_autotune.seeding import at_each_degree, distinct
from pytest_autotune.space import label

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_autotune.choosing import First
    from pytest_autotune.engines.engine import Engine, Installed
    from pytest_autotune.records import TrialRecord
    from pytest_autotune.space import Configuration
    from pytest_autotune.suite import Suite

GRID_COUNTED = 20_000  # combinations of a grid that are counted one by one
_GP_NEEDS = ("torch", "scipy")  # of Optuna's Gaussian process
DISK_NEEDED_BYTES = 200 * 2**20  # logs and samples of a run of ordinary size


def make_plan(suite: Suite, engine: Engine, *, nodeid: str, servers: int = 1) -> Plan:
    """Look the engine up on this machine and settle what identifies the suite's measurements.

    `servers` are those that run at a time, which share the cores.

    Raises `SuiteError` for a setting that the engine, or the installed one, does not know, and for a file
    of the load that cannot be read.
    """
    suite = settled(suite, servers)
    _check_files(suite)
    installed = engine.inspect(suite)
    if suite.deploy == "docker":
        installed = replace(installed, image=image_digest(suite))
    problems = unusable_settings(suite) or unknown_flags(suite, installed)
    if problems:
        raise problems[0]
    searched = {**suite.search.identity(), "strategy": suite.strategy}
    adaptive = None if suite.strategy == "grid" else [searched, repr(suite.space)]
    image = filter(None, [installed.image])  # a tag that was moved is another engine
    known = [engine.name, installed.version, fingerprint(), adaptive, *drivers(), *image]
    identity = [nodeid, suite.measurement_key(), *known]
    study = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    defaults = defaults_of(suite, installed)
    return Plan(
        suite=suite,
        engine=engine,
        installed=installed,
        nodeid=nodeid,
        study=study,
        slots=(*_slots(suite, defaults), *_confirming_slots(suite)),
        levels=levels_of(suite.load),
        first=() if adaptive is None else _first(suite, engine, installed, defaults),
        exam=exam_of_search(suite),
    )


def _first(suite: Suite, engine: Engine, installed: Installed, defaults: Configuration) -> First:
    """Return what an adaptive search begins with by the suite: the engine's defaults, seeds, degrees of parallelism."""
    fixed, search, space = suite.fixed, suite.search, suite.space
    seeds = [space.fitted(seed, fixed) for seed in search.seeds]
    if not search.defaults:
        return distinct(seeds)
    parallel = [parameter.name for parameter in space.parameters if is_parallel({parameter.name: None})]
    gpus = _gpus_known(suite, installed) if parallel else None

    def viable(configuration: Configuration) -> bool:
        enough = gpus is None or engine.gpus(suite, configuration) <= gpus
        return enough and engine.refuses(suite, configuration) is None

    degrees = at_each_degree(
        space,
        fixed,
        parallel=parallel,
        default=defaults.get,
        viable=viable,
    )
    return distinct([{}], seeds, degrees)


def _gpus_known(suite: Suite, installed: Installed) -> int | None:
    """Return how many GPUs servers of the suite have; None when that is not known, or they need none."""
    needless = installed.simulated and not suite.pool.pretended
    if needless or suite.deploy != "local":
        return None
    try:
        return gpus_in_pool(suite) or None
    except MissingRequirement:
        return None  # which `missing_requirements` tells


def _slots(suite: Suite, defaults: Configuration) -> Iterator[Slot]:
    """Yield the trials of a suite: one for each configuration of a grid, or numbered ones that the search fills."""
    if suite.strategy == "grid":
        names: set[str] = set()
        for index, configuration in enumerate(islice(suite.configurations(), suite.search.trials)):
            name = label(configuration, names)
            names.add(name)
            yield Slot(name, index, configuration, within_budget(suite, given(configuration)))
        return
    for index in range(suite.trials):
        choose = partial(choose_searched, suite, (index, defaults))
        yield Slot(numbered(index), index, {}, within_budget(suite, choose))


def _confirming_slots(suite: Suite) -> Iterator[Slot]:
    """Yield the trials that measure the best ones and the engine's defaults again, round by round."""
    places = suite.search.confirm + suite.search.defaults if suite.search.confirm else 0
    for repeat in range(suite.search.repeats):
        for place in range(places):
            index = repeat * places + place
            yield Slot(slot_name(repeat, place), index, {}, partial(choose_confirmed, suite, repeat, place))


def missing_requirements(plan: Plan, output: Path, *, servers: int = 1) -> tuple[str, ...]:
    """Say what this machine lacks to run so many of the suite's servers, one sentence each; start nothing."""
    suite = plan.suite
    files = lacking(suite.load, suite.path.parent)
    return (
        *plan.installed.missing,
        *filter(None, [missing_cores(suite, servers=servers)]),
        *files,
        *_missing_sampler(suite),
        *_missing_disk(output),
    )


def _missing_sampler(suite: Suite) -> tuple[str, ...]:
    absent = [name for name in _GP_NEEDS if suite.strategy == "gp" and find_spec(name) is None]
    if not absent:
        return ()
    remedy = "pip install 'pytest-autotune[gp]', or write strategy: bayes, which needs nothing more"
    return (f"search.strategy: gp needs {' and '.join(absent)}: {remedy}",)


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
