"""Which configuration a trial measures: chosen from what the others came to, when its turn comes."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_autotune.budget import Budget, SearchEnded, cost_of, ending
from pytest_autotune.capacity import estimated
from pytest_autotune.confirmation import confirms, to_confirm
from pytest_autotune.engines.flags import flag_name
from pytest_autotune.engines.neutral import dialect_of
from pytest_autotune.formatting import count
from pytest_autotune.pareto import scalarised
from pytest_autotune.records import utc_now
from pytest_autotune.scope import SpaceExhausted
from pytest_autotune.search import Observation, expected_gain, failure_value, suggest
from pytest_autotune.seeding import assigned, left
from pytest_autotune.selection import judge_trial, select
from pytest_autotune.slo import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from pytest_autotune.engines.engine import Installed
    from pytest_autotune.records import TrialRecord
    from pytest_autotune.slo import Check
    from pytest_autotune.space import Configuration
    from pytest_autotune.suite import Suite

    First = tuple[Configuration, ...]  # what a search begins with, in order
    Bars = Callable[[Configuration], bool]  # says of a configuration that it need not be tried
    Choose = Callable[[tuple[TrialRecord, ...], Bars, First], Configuration]

FAR = 30.0  # logarithm of a ratio beyond which nothing is told apart
UNDECIDED = 0.01  # margin of a limit that could not be told from what was measured: at the limit, and not within it


def within_budget(suite: Suite, choose: Choose) -> Choose:
    """Return `choose`, which raises `SearchEnded` once the search has ended."""

    def chosen(history: tuple[TrialRecord, ...], bars: Bars, first: First) -> Configuration:
        if reason := _spent(suite, history):
            raise SearchEnded(f"the search has ended: {reason}")
        return choose(history, bars, first)

    return chosen


def given(configuration: Configuration) -> Choose:
    """Choose what a grid says, whatever the others came to."""
    return lambda _history, _bars, _first: configuration


def choose_searched(
    suite: Suite, place: tuple[int, Configuration], history: tuple[TrialRecord, ...], bars: Bars, first: First
) -> Configuration:
    """Pick the configuration of a numbered slot: what the search begins with comes first, in its order.

    `place` is its number, and the engine's own values that a choice may learn from.

    Which slot gets which of it follows from `first` and from what other slots have, never from whether they
    have ended. What is left of it for other slots counts as being measured, so that it is not suggested.
    """
    index, defaults = place
    searched = _of_search(history)
    taken = {_number(trial.slot): trial.configuration for trial in searched}
    configuration = assigned(index, first, taken)
    if configuration is not None:
        return configuration
    if reason := _little_to_gain(suite, history, defaults, bars):
        raise SearchEnded(f"the search has ended: {reason}")
    return suggest(
        replace(suite.space, bars=bars),
        (
            *_observed(suite, searched, f"{suite.search.seed}:{index}"),
            *(Observation(configuration=each, state="running") for each in left(first, taken)),
        ),
        seed=suite.search.seed + index,
        strategy=suite.strategy,
        fixed=suite.fixed,
        defaults=defaults,
    )


def choose_confirmed(
    suite: Suite, repeat: int, place: int, history: tuple[TrialRecord, ...], _bars: Bars, _first: First
) -> Configuration:
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


def how_it_ended(suite: Suite, history: tuple[TrialRecord, ...], defaults: Configuration) -> str:
    """Return why the search begins no further trial; empty when nothing keeps it from that.

    `defaults` are the engine's own, see `defaults_of`.
    """
    return _spent(suite, history) or _little_to_gain(suite, history, defaults)


def defaults_of(suite: Suite, installed: Installed) -> Configuration:
    """Return the engine's own values of the suite's parameters, by the suite's spelling; those that it tells."""
    flags, dialect = installed.flags or {}, dialect_of(suite)
    neutral = {} if dialect is None else dialect.renamed
    names = {each.name: flag_name(each.name) for each in suite.space.parameters}
    told = {name: flags.get(neutral.get(flag, flag)) for name, flag in names.items()}
    return {name: flag.default for name, flag in told.items() if flag is not None and flag.default is not None}


def _observed(suite: Suite, trials: Sequence[TrialRecord], seed: str) -> list[Observation]:
    """Return what the search is told of trials: with several objectives one value of them all, by the seed."""
    rows = [observe(trial, suite) for trial in trials]
    if not suite.tradeoffs:
        return rows
    judged = [
        judge_trial(trial, limits=suite.slo, objective=suite.objective, steepness=suite.steepness) for trial in trials
    ]
    chance = random.Random(seed)  # noqa: S311 - a search, not a secret
    values = scalarised(judged, suite.objectives, chance)
    return [
        replace(row, value=value) if row.state == "done" and row.value is not None else row
        for row, value in zip(rows, values, strict=True)
    ]


def observe(trial: TrialRecord, suite: Suite) -> Observation:
    """Tell the search what a trial came to: a value to maximise, and constraints that hold at 0 or below.

    The constraints are always the same: one for each limit (the logarithm of what the best or else the
    least violating batch had, relative to the limit) and ``crash`` on the graded failure scale. What was screened out
    has no value and misses its limits by next to nothing: worse than all that complies, better than the rest. What was
    given up at a load that others carry has the value that it is estimated to bring at less: it misses nothing there.
    """
    if trial.state == "running":
        return Observation(configuration=trial.configuration, state="running", value=None, constraints={})
    judged = judge_trial(trial, limits=suite.slo, objective=suite.objective, steepness=suite.steepness)
    batch = judged.best or judged.least_violating
    crash = 0.0
    margins = dict.fromkeys((limit.metric for limit in suite.slo), 1.0)
    if judged.status in (Status.INCONCLUSIVE, Status.SCREENED_OUT):
        margins = dict.fromkeys(margins, UNDECIDED)
    elif trial.inaccurate or (judged.status is Status.VIOLATING and batch is None):
        # No limit need be missed, but no level complies: answers are not accurate, the server fell behind, or a check
        # of the user's own failed.
        pass
    elif batch is None:
        budget_s = suite.timeouts.start_s + suite.timeouts.ready_s
        crash = failure_value(elapsed_s=trial.elapsed_s or 0.0, budget_s=budget_s, text=f"{trial.cause} {trial.reason}")
    else:
        told = (check for check in batch.verdict.checks if check.actual is not None)
        margins |= {check.limit.metric: _margin(check) for check in told}
    value = judged.rank_value
    least = None if trial.inaccurate else suite.load.least
    if value is None and judged.status is Status.VIOLATING and least is not None:
        value = estimated(judged, suite.objective, least)
        margins = margins if value is None else dict.fromkeys(margins, 0.0)
    return Observation(
        configuration=trial.configuration,
        state="done",
        value=value,
        constraints={**margins, "crash": crash},
    )


def numbered(index: int) -> str:
    """Return the name of a trial of an adaptive search."""
    return f"trial-{index:03d}"


def _number(slot: str) -> int:
    return int(slot.removeprefix("trial-"))


def _spent(suite: Suite, history: tuple[TrialRecord, ...]) -> str:
    budget = suite.search.budget
    if budget == Budget():
        return ""
    tried = (trial for trial in _of_search(history) if trial.state == "finished" and trial.launched)
    finished = sorted(tried, key=_ended)
    judged = (
        judge_trial(trial, limits=suite.slo, objective=suite.objective, steepness=suite.steepness) for trial in finished
    )
    return ending(budget, cost_of(history, utc_now()), (one.rank_value for one in judged))


def _little_to_gain(
    suite: Suite, history: tuple[TrialRecord, ...], defaults: Configuration, bars: Bars | None = None
) -> str:
    """Say that what the search would try next is expected to bring less than the suite asks for; else empty."""
    least = suite.search.improvement
    if least is None or suite.strategy != "bayes":
        return ""
    observed = tuple(observe(trial, suite) for trial in _of_search(history))
    space = replace(suite.space, bars=bars)
    try:
        gain = expected_gain(space, observed, seed=suite.search.seed, fixed=suite.fixed, defaults=defaults)
    except SpaceExhausted:
        return ""  # which is an end of its own
    if gain is None or gain >= least:
        return ""
    return f"the next trial is expected to improve the best by {gain:.2%}, less than {least:.2%}"


def _of_search(history: Iterable[TrialRecord]) -> tuple[TrialRecord, ...]:
    """Leave out the trials that measure a configuration again: they teach the search nothing new."""
    return tuple(trial for trial in history if not confirms(trial.slot))


def _ended(trial: TrialRecord) -> tuple[datetime, int]:
    return trial.ended_at or trial.started_at, trial.id


def _margin(check: Check) -> float:
    """Return log(actual / limit), of a floor log(limit / actual): equal steps are equal factors, whatever the unit.

    Of a limit of 0, or of nothing measured against one, there is no logarithm: the relative excess stands for it.
    """
    actual, bound = check.actual, check.limit.bound
    if actual is None or actual <= 0 or bound <= 0:
        return max(-FAR, min(check.ratio, FAR))
    margin = max(-FAR, min(math.log(actual) - math.log(bound), FAR))
    return -margin if check.limit.floor else margin
