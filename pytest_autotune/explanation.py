"""Why the best configuration is the best: which parameters mattered, what binds it, what one step away did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_autotune.distributions import two_sided
from pytest_autotune.formatting import change, setting, settings
from pytest_autotune.slo import Status
from pytest_autotune.space import canonical

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_autotune.columns import Column
    from pytest_autotune.selection import JudgedTrial, Selection
    from pytest_autotune.space import Configuration, Value

LEAST_TRIALS = 6  # with fewer, no share of anything can be told from chance
_GROUPS = 4  # a number with more values than this is cut into so many groups of neighbours

UNSET = None  # stands for a parameter that a configuration leaves to the engine; as a value null means the same


@dataclass(frozen=True, slots=True)
class Importance:
    """How much of the differences between trials goes with a parameter, as a share, with its 95 % interval.

    Epsilon squared of the trials' ranks: the variance between groups of equal values less what chance
    brings, by the whole variance (Kelley, "An unbiased correlation ratio measure", PNAS 21, 1935). Of
    ranks, so that trials without a score, which are all last, count too. The interval is the jackknife's,
    each trial left out once (Efron and Stein, "The jackknife estimate of variance", Annals of Statistics 9,
    1981). Trials of an adaptive search are no random sample: what it avoided early seems to matter less.
    A parameter that has a condition is held against the trials that have it only: the others say what its
    condition did.
    """

    parameter: str
    share: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.parameter} {100 * self.share:.0f} % ({100 * self.low:.0f} to {100 * self.high:.0f} %)"


@dataclass(frozen=True, slots=True)
class Step:
    """What came of the best configuration with one parameter changed."""

    parameter: str
    best: Value  # UNSET when the best leaves it to the engine
    other: Value
    brings: Mapping[str, Value]  # parameters that exist under the other value only
    difference: float | None  # of the score, relative to the best's; None when the other has none
    outcome: str  # status, and the reason when there is no score


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the trials of a suite say about their best."""

    importances: tuple[Importance, ...]  # largest first
    binding: str  # what keeps the best configuration from a higher load, in a sentence
    steps: tuple[Step, ...]


def explain_best(selection: Selection, conditional: Collection[str] = ()) -> Explanation | None:
    """Explain the selected trial from all finished ones; None when none was selected.

    `conditional` are the parameters that a configuration may lack because of their conditions.
    """
    if selection.best is None:
        return None
    finished = [judged for judged in selection.ranking if judged.trial.state == "finished"]
    steps = _steps(selection.best, finished, conditional)
    return Explanation(importances(finished, conditional), what_binds(selection.best), steps)


def importances(trials: Sequence[JudgedTrial], conditional: Collection[str] = ()) -> tuple[Importance, ...]:
    """Return how much each parameter mattered, most first; nothing with fewer than `LEAST_TRIALS` or equal trials."""
    names = dict.fromkeys(name for judged in trials for name in judged.trial.configuration)
    found = []
    for name in names:
        having = [judged for judged in trials if name not in conditional or name in judged.trial.configuration]
        if len(having) < LEAST_TRIALS:
            continue
        ranks = _ranks([judged.rank_value if judged.eligible else None for judged in having])
        groups = _groups([judged.trial.configuration.get(name, UNSET) for judged in having])
        if np.unique(groups).size > 1 and np.ptp(ranks) > 0:
            share, reach = _epsilon_squared(groups, ranks), _jackknife(groups, ranks)
            low, high = max(0.0, share - reach), min(1.0, share + reach)
            found.append(Importance(name, max(0.0, share), low, max(0.0, high)))
    return tuple(sorted(found, key=lambda one: (-one.share, one.parameter)))


def what_binds(best: JudgedTrial) -> str:
    """Say in a sentence what keeps a configuration from a higher load than the one that it scored at."""
    higher = sorted(
        (batch for batch in best.batches if best.level is not None and batch.level > best.level),
        key=lambda batch: batch.level,
    )
    for batch in higher:
        if batch.verdict.status is not Status.COMPLIANT:
            return f"at {batch.level.words}: {batch.verdict.reason}"
    if higher:
        return f"nothing: {higher[-1].level.words} complies too, and brings no more"
    return "nothing: it complies at the highest load level that was measured, and a higher one may bring more"


def step_words(step: Step) -> tuple[str, str, str]:
    """Return a step as parameter, values and what came of it: ``("tp", "2 -> 4", "-12 %")``."""
    values = f"{_words(step.best)} -> {_words(step.other)}"
    if step.brings:
        values += f" with {settings(step.brings)}"
    return step.parameter, values, step.outcome if step.difference is None else change(step.difference)


def _steps(best: JudgedTrial, trials: Iterable[JudgedTrial], conditional: Collection[str]) -> tuple[Step, ...]:
    own = best.trial.configuration
    steps = []
    for judged in trials:
        other = judged.trial.configuration
        name = _changed(own, other, conditional)
        if name is None:
            continue
        difference = None
        if judged.eligible and judged.score is not None and best.score:
            difference = judged.score / best.score - 1
        outcome = f"{judged.status}: {judged.reason}" if judged.reason else str(judged.status)
        brings = {each: value for each, value in other.items() if each not in own and each != name}
        steps.append(Step(name, own.get(name, UNSET), other.get(name, UNSET), brings, difference, outcome))
    return tuple(sorted(steps, key=lambda step: (step.parameter, _order(step.other), settings(step.brings))))


def _changed(own: Configuration, other: Configuration, conditional: Collection[str]) -> str | None:
    """Return the one parameter in which configurations differ, beside those that come and go with it; else None."""
    differing = [name for name in own if name in other and _key(own[name]) != _key(other[name])]
    lacking = sorted(own.keys() ^ other.keys())
    if len(differing) == 1 and all(name in conditional for name in lacking):
        return differing[0]
    return lacking[0] if len(lacking) == 1 and not differing else None


def _ranks(values: Sequence[float | None]) -> Column:
    """Return average ranks; trials without a value share the lowest."""
    numbers = np.array([-np.inf if value is None else value for value in values])
    _, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    middle: Column = (last - (counts - 1) / 2)[inverse]
    return middle


def _groups(values: Sequence[Value]) -> NDArray[np.int64]:
    """Return a group for each value: equal ones share one, and so do neighbours of a number with many values."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        numbers = np.array(values, dtype=np.float64)
        distinct = np.unique(numbers)
        if distinct.size > _GROUPS:
            cuts = np.quantile(distinct, np.arange(1, _GROUPS) / _GROUPS)
            return np.searchsorted(cuts, numbers)
    keys = ["" if value is UNSET else _key(value) for value in values]
    indices: NDArray[np.int64] = np.unique(keys, return_inverse=True)[1]
    return indices


def _jackknife(groups: NDArray[np.int64], ranks: Column) -> float:
    """Return half the width of the 95 % interval."""
    count = ranks.size
    kept = ~np.eye(count, dtype=bool)
    without = np.array([_epsilon_squared(groups[rows], ranks[rows]) for rows in kept])
    error = np.sqrt((count - 1) / count * ((without - without.mean()) ** 2).sum())
    return two_sided(0.95, count - 1) * float(error)


def _epsilon_squared(groups: NDArray[np.int64], ranks: Column) -> float:
    centred = ranks - ranks.mean()
    whole = float(centred @ centred)
    sizes = np.bincount(groups)
    present = sizes > 0
    count, spare = ranks.size, ranks.size - int(present.sum())
    if whole == 0 or spare <= 0 or present.sum() < 2:
        return 0.0
    sums = np.bincount(groups, weights=centred)
    between = float((sums[present] ** 2 / sizes[present]).sum())
    within = (whole - between) / spare
    return (between - (count - 1 - spare) * within) / whole


def _key(value: Value) -> str:
    return canonical({"": value})


def _order(value: Value) -> tuple[bool, float, str]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return not number, float(value) if number else 0.0, _words(value)


def _words(value: Value) -> str:
    return "default" if value is UNSET else setting(value)
