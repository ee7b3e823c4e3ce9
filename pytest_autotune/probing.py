"""The capacity of a trial: probes on its running server, one after the other, until the search for it ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_autotune.capacity import (
    ABOVE,
    Found,
    Incumbent,
    Probe,
    brings_more_with_load,
    next_probe,
    per_gpu,
    value_of,
)
from pytest_autotune.confirmation import confirms
from pytest_autotune.errors import BenchmarkError, DeployError
from pytest_autotune.selection import judge_trial, select
from pytest_autotune.slo import Status, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_autotune.capacity import Outcome
    from pytest_autotune.records import BatchRecord, TrialRecord
    from pytest_autotune.samples import Level
    from pytest_autotune.selection import JudgedTrial
    from pytest_autotune.suite import Suite
    from pytest_autotune.trial import LiveTrial

_FAILURES = 2  # probes in a row that could not be measured: the trouble is not the load's
_OUTCOMES: Mapping[Status, Outcome] = MappingProxyType(
    {Status.COMPLIANT: "holds", Status.VIOLATING: "missed", Status.INCONCLUSIVE: "unsure"}
)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the probes of a trial came to."""

    found: Found
    probes: tuple[tuple[BatchRecord, Verdict], ...]  # in the order in which they were measured


def find_capacity(trial: LiveTrial) -> Capacity:
    """Probe the trial's server until its capacity is known, or read what its record says.

    Raises what the deployment raised, `Infeasible` or `DeployError` when the server dies before a load
    has been measured, `BenchmarkError` when loads cannot be measured, `NotRun` as `LiveTrial.measure` does.
    """
    suite = trial.plan.suite
    search = suite.load.searched
    assert search is not None, "only a suite whose load is searched has a capacity item"
    incumbent = _incumbent(trial)
    measured: list[tuple[BatchRecord, Verdict]] = []
    failures = 0
    while True:
        probes = [_probe(record, verdict, suite) for record, verdict in measured]
        level = next_probe(search, probes, incumbent)
        if isinstance(level, Found):
            return _found(trial, level, measured)
        if trial.recorded and level not in trial.batches:
            # Other limits ask for other probes, and a recorded trial has no server any more.
            probes = [_probe(*trial.judged(record), suite) for record in trial.record.batches]
            return _found(trial, _recorded(probes), [trial.judged(record) for record in trial.record.batches])
        try:
            trial.measure(level)
            failures = 0
        except BenchmarkError:
            failures += 1
            if failures == _FAILURES:
                raise
        except DeployError:
            if level not in trial.batches or not measured:
                raise
        measured.append(trial.judged(trial.batches[level]))


def _found(trial: LiveTrial, found: Found, measured: list[tuple[BatchRecord, Verdict]]) -> Capacity:
    trial.conclude()
    return Capacity(found, tuple(measured))


def _recorded(probes: Sequence[Probe]) -> Found:
    """Return what recorded probes say when the search would go on from them."""
    upper = min((probe.level for probe in probes if probe.outcome in ABOVE), default=None)
    holding = [probe.level for probe in probes if probe.outcome == "holds" and (upper is None or probe.level < upper)]
    reason = "by the limits of today other loads would be tried; --autotune-fresh measures them"
    return Found(max(holding, default=None), reason, bounded=True)


def _probe(record: BatchRecord, verdict: Verdict, suite: Suite) -> Probe:
    outcome = "died" if record.status == "died" else _OUTCOMES.get(verdict.status, "open")
    return Probe(record.level, outcome, value_of(record, suite.objective))


def value_to_beat(trial: LiveTrial) -> float | None:
    """Return what the best trial that was finished when this one began brings, to maximise.

    None where that rejects nothing: other objectives than those that rise with the load, the engine's defaults, which
    are the reference, and a trial that measures a configuration again, which may be up against itself.
    """
    if confirms(trial.slot.name) or not trial.configuration or not brings_more_with_load(trial.plan.suite.objective):
        return None
    best = _best_before(trial)
    return None if best is None else best.rank_value


def level_to_beat(trial: LiveTrial) -> Level | None:
    """Return the level of the list at which a trial is first held against the best so far; None without one.

    The nearest to what its GPUs owe of the load at which the best is best.
    """
    if value_to_beat(trial) is None:
        return None
    best = _best_before(trial)
    if best is None or best.level is None:
        return None
    load = best.level.value * _share_owed(trial, best)
    alike = [level for level in trial.plan.levels if level.shape == best.level.shape]
    return min(alike, key=lambda level: abs(math.log(level.value / load)), default=None)


def _incumbent(trial: LiveTrial) -> Incumbent | None:
    """Return the best trial that was finished when this one began, at the load that this one's GPUs owe for it."""
    best = _best_before(trial)
    if best is None or best.capacity is None:
        return None
    return Incumbent(best.capacity.value * _share_owed(trial, best), value_to_beat(trial))


def _share_owed(trial: LiveTrial, best: JudgedTrial) -> float:
    """Return what the GPUs of a trial owe of the load of the best: as much for each, where that is what counts."""
    counted = per_gpu(trial.plan.suite.objective) and best.trial.gpus
    return trial.gpus / best.trial.gpus if counted else 1.0


def _best_before(trial: LiveTrial) -> JudgedTrial | None:
    suite = trial.plan.suite
    earlier = [record for record in trial.history() if _finished_before(record, trial.record)]
    judged = [
        judge_trial(record, limits=suite.slo, objective=suite.objective, steepness=suite.steepness)
        for record in earlier
    ]
    return select(judged).best


def _finished_before(record: TrialRecord, trial: TrialRecord) -> bool:
    return record.id != trial.id and record.ended_at is not None and record.ended_at <= trial.started_at
