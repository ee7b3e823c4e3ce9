"""Which configuration to measure next: a pure function of the space, what was measured, and a seed."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from pytest_autotune.scope import Range, Scope, axis_of, exhausted
from pytest_autotune.space import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.study import Study

    from pytest_autotune.scope import Points
    from pytest_autotune.space import Configuration, Space, Value

Strategy = Literal["grid", "random", "tpe", "gp", "bayes"]

STARTUP = 10  # measured configurations before Optuna has something to model; random ones until then
ASKS = 4  # proposals of the sampler that may turn out forbidden or known
TOLD_BEST, TOLD_LAST = 100, 400  # trials that it is told of when there are more
CANDIDATES = 64  # of those draws, compared when the sampler found nothing new

UNMEASURED = "unmeasured"  # constraint of every told trial: 1 when it has no value


@dataclass(frozen=True, slots=True)
class Observation:
    """One configuration of the search so far.

    `value` is the score, larger is better; None when nothing could be measured. `constraints` are
    distances beyond a limit: above 0 is a miss, and how far tells the sampler which way is better.
    A crash is one as well (see `failure_value`). All numbers are finite.
    """

    configuration: Configuration
    state: Literal["running", "done"]
    value: float | None = None
    constraints: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = {**self.constraints, "value": 0.0 if self.value is None else self.value}
        for name, number in numbers.items():
            if not math.isfinite(number):
                raise ValueError(f"{name} of {canonical(self.configuration)} is {number}, not a finite number")


def suggest(
    space: Space,
    history: Sequence[Observation],
    *,
    seed: int,
    strategy: Strategy,
    fixed: Mapping[str, Value] = MappingProxyType({}),
    defaults: Mapping[str, Value] = MappingProxyType({}),
) -> Configuration:
    """Return an allowed configuration that is not in `history`; raise `SpaceExhausted` when there is none.

    Equal arguments give equal answers, in any process. `fixed` are the suite's other settings, which
    constraints may name; `defaults` are the engine's own, of which `bayes` learns from rows that leave a
    parameter out. Adaptive strategies take numbers from the whole of [low, high] (`levels` are for
    grids), rounded to about a thousandth of it. Rows of `history` that the space cannot express teach
    the others nothing, but are not proposed again. `gp` needs torch and scipy. Raises `ValueError` as
    `Space.grid` does.
    """
    if strategy == "grid":
        tried = {canonical(row.configuration) for row in history}
        for configuration in space.grid(fixed):
            if canonical(configuration) not in tried:
                return configuration
        raise exhausted(tried)
    scope = _scope(space, history, fixed, defaults)
    chance = _chance(seed, history)
    if strategy == "random":
        return _any_untried(scope, chance)
    if strategy == "bayes":
        from pytest_autotune.bayes import propose  # and numpy, which collecting a suite need not wait for

        proposal = propose(scope, history, chance)
        return _any_untried(scope, chance) if proposal is None else proposal.configuration
    return _by_optuna(scope, history, chance, strategy)


def expected_gain(
    space: Space,
    history: Sequence[Observation],
    *,
    seed: int,
    fixed: Mapping[str, Value] = MappingProxyType({}),
    defaults: Mapping[str, Value] = MappingProxyType({}),
) -> float | None:
    """Return by how much what `bayes` suggests next is expected to be better than the best, relative to it.

    Probabilities that it fails or misses a limit are taken off. None while nothing can be said. Raises
    `SpaceExhausted`.
    """
    from pytest_autotune.bayes import propose

    proposal = propose(_scope(space, history, fixed, defaults), history, _chance(seed, history))
    return None if proposal is None else proposal.gain


def _scope(
    space: Space, history: Sequence[Observation], fixed: Mapping[str, Value], defaults: Mapping[str, Value]
) -> Scope:
    tried = {canonical(row.configuration) for row in history}
    return Scope(space, fixed, tried, tuple(axis_of(parameter) for parameter in space.parameters), defaults)


def _chance(seed: int, history: Sequence[Observation]) -> random.Random:
    return random.Random(f"{seed}:{len(history)}")  # noqa: S311 - a search, not a secret


def failure_value(elapsed_s: float, budget_s: float, text: str) -> float:
    """Return how bad a failure is, 80 to 1500: the earlier, and the more it is about memory, the worse.

    The graded failure penalties of inference-autotuner, as the size of a crash's constraint.
    """
    share = min(elapsed_s / budget_s, 1.0) if budget_s > 0 else 0.0
    value = 1000.0 if share < 0.20 else 500.0 if share < 0.60 else 200.0 if share < 0.95 else 100.0
    said = text.lower()
    for words, factor in (
        (("deploy", "not found"), 1.2),
        (("oom", "memory", "cuda"), 1.5),
        (("connection", "timeout"), 0.8),
    ):
        if any(word in said for word in words):
            return value * factor
    return value


def _any_untried(scope: Scope, chance: random.Random) -> Configuration:
    for configuration in scope.draws(chance):
        return configuration
    return chance.choice(scope.everything())


def _by_optuna(
    scope: Scope, history: Sequence[Observation], chance: random.Random, strategy: Literal["tpe", "gp"]
) -> Configuration:
    from pytest_autotune.bayes import most_telling

    points = [
        (row, point)
        for row in most_telling(history, best=TOLD_BEST, last=TOLD_LAST)
        if (point := scope.encode(row.configuration)) is not None
    ]
    if sum(row.state == "done" for row, _ in points) < STARTUP:
        return _any_untried(scope, chance)
    from optuna.trial import TrialState

    distributions = {axis.name: _distribution(axis) for axis in scope.axes}
    study = _study(points, distributions, _sampler(strategy, chance.getrandbits(32)))
    wanted: tuple[float, ...] = ()
    for _ in range(ASKS):
        asked = study.ask(distributions)
        wanted = tuple(asked.params[axis.name] for axis in scope.axes)
        configuration = scope.decode(wanted)
        if scope.takes(configuration):
            return configuration
        study.tell(asked, state=TrialState.FAIL)  # the sampler does not see failures: it was never asked
    candidates = list(itertools.islice(scope.draws(chance), CANDIDATES)) or scope.everything()
    return min(candidates, key=lambda candidate: scope.distance(wanted, candidate))


def _sampler(strategy: Literal["tpe", "gp"], seed: int) -> BaseSampler:
    import optuna

    if strategy == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    return optuna.samplers.GPSampler(seed=seed)


def _study(
    points: Sequence[tuple[Observation, Sequence[float]]],
    distributions: dict[str, BaseDistribution],
    sampler: BaseSampler,
) -> Study:
    """Return a study in memory that holds what was measured and what is being measured.

    A crash or a miss is a completed trial with a constraint above 0: were it a failed one, the
    sampler would not see it and propose the same corner again. Every trial has the same constraints.
    """
    import optuna
    from optuna.trial import TrialState, create_trial

    names = sorted({name for row, _ in points for name in row.constraints})
    rows = []
    for row, point in points:
        params = dict(zip(distributions, point, strict=True))
        if row.state == "running":
            rows.append(create_trial(state=TrialState.RUNNING, params=params, distributions=distributions))
            continue
        constraints = {UNMEASURED: float(row.value is None), **{name: row.constraints.get(name, 0.0) for name in names}}
        value = row.value or 0.0  # one without a value is told apart by its constraint
        rows.append(create_trial(value=value, params=params, distributions=distributions, constraints=constraints))
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize", sampler=sampler)
    finally:
        optuna.logging.set_verbosity(verbosity)
    study.add_trials(rows)
    return study


def _distribution(axis: Points | Range) -> BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(axis, Range):
        return FloatDistribution(axis.low, axis.high)
    if axis.ordered:
        return IntDistribution(0, len(axis.values) - 1)
    return CategoricalDistribution(tuple(range(len(axis.values))))
