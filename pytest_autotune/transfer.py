"""Which configurations earlier searches agree on: what they found of each, put on one scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from pytest_autotune.capacity import estimated
from pytest_autotune.seeding import fits
from pytest_autotune.slo import Status
from pytest_autotune.space import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_autotune.selection import JudgedTrial, Objective
    from pytest_autotune.space import Configuration, Space, Value

EXPECTED = 0.05  # weight of what a model expects: it decides between what was hardly compared, and on what was not
ROUNDS = 20  # of alternating least squares: the order has long settled


class Worths(NamedTuple):
    """What a search, or a model of servers, says of configurations: any scale, more is better, 0 is useless."""

    weight: float
    of: Mapping[str, float]  # by `canonical` configuration


def agreed(searches: Iterable[Worths]) -> dict[str, float]:
    """Return the worth of each configuration that some search knows, on a scale of their own.

    A search with long prompts measures less of everything than one with short ones, and each has tried
    others. So a value is taken for the worth of its configuration times a scale of its search, and both are
    fitted in turn: rank-one least squares with missing values (Wold, "Estimation of principal components and
    related models by iterative least squares", 1966), the mean over searches by their weights. Searches
    in which nothing is worth anything tell nothing.
    """
    told = ((search, max(search.of.values(), default=0.0)) for search in searches if search.weight > 0)
    telling = [
        Worths(search.weight, {key: value / best for key, value in search.of.items()})
        for search, best in told
        if best > 0
    ]
    scales = [1.0] * len(telling)
    found: dict[str, float] = {}
    for _ in range(ROUNDS):
        weights: dict[str, float] = {}
        sums: dict[str, float] = {}
        for search, scale in zip(telling, scales, strict=True):
            for key, value in search.of.items():
                weights[key] = weights.get(key, 0.0) + search.weight
                sums[key] = sums.get(key, 0.0) + search.weight * value / scale
        found = {key: total / weights[key] for key, total in sums.items()}
        scales = [_scale(search.of, found) for search in telling]
    return found


def worths(
    ranking: Sequence[JudgedTrial], objective: Objective, space: Space, fixed: Mapping[str, Value]
) -> dict[str, float]:
    """Return what a search found of the configurations that `space` has; 0 of those that comply nowhere.

    What was given up at a load that others carry counts with what it is estimated to bring at less
    (`capacity.estimated`), and never for more than the best. The engine's defaults count, so that searches have
    something in common. What could not be measured for other reasons than its configuration, or was dropped
    early, tells nothing.
    """
    least = min((batch.level for one in ranking for batch in one.batches), default=None)
    values: dict[str, float | None] = {}
    for one in ranking:
        if not fits(space, one.trial.configuration, fixed):
            continue
        if one.eligible or one.status in (Status.VIOLATING, Status.INFEASIBLE):
            key = canonical(space.fitted(one.trial.configuration, fixed))
            values[key] = one.rank_value if one.eligible else estimated(one, objective, least)
    best = max((one.rank_value or 0.0 for one in ranking if one.eligible), default=None)
    if best is None:
        return {}
    return {key: _above_zero(value, best) for key, value in values.items()}


def most_promising(
    searches: Sequence[Worths], known: Iterable[Configuration], expected: Worths | None = None
) -> tuple[Configuration, ...]:
    """Return the `known` configurations that are worth anything, best first; equal ones stay in their order."""
    worth = agreed(searches if expected is None else (*searches, expected))
    found = {key: one for one in known if worth.get(key := canonical(one), 0.0) > 0}
    return tuple(sorted(found.values(), key=lambda one: -worth[canonical(one)]))


def nearness(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the weight of a search among others, by the mean tokens of its prompts and answers: 1 for equal loads.

    With prompts or answers e times as long it is 1 / e. What is not known (0) makes no difference.
    """
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a > 0 and b > 0]
    return math.exp(-sum(abs(math.log(a / b)) for a, b in pairs))


def _scale(values: Mapping[str, float], worth: Mapping[str, float]) -> float:
    """Return the factor by which `worth` fits the values best; there is one: some value is above 0."""
    return sum(value * worth[key] for key, value in values.items()) / sum(worth[key] ** 2 for key in values)


def _above_zero(value: float | None, best: float) -> float:
    """Return a value to maximise, at most the best, on a scale that ends at 0: of negated costs the inverse."""
    if value is None:
        return 0.0
    value = min(value, best)
    if best < 0:
        return 1 / -value
    return max(value, 0.0) if best > 0 else float(value == best)
