"""Which configuration to measure next: a pure function of the space, what was measured, and a seed."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, assert_never

from pytest_autotune.space import Choice, Float, Integer, canonical, grid_points

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from optuna.distributions import BaseDistribution
    from optuna.study import Study

    from pytest_autotune.space import Configuration, Parameter, Space, Value

Strategy = Literal["grid", "random", "tpe"]

STARTUP = 10  # measured configurations before TPE has something to model; random ones until then
ASKS = 8  # proposals of the sampler that may turn out forbidden or known
DRAWS = 2_000  # random draws that may turn out forbidden or known
CANDIDATES = 64  # of those draws, compared when the sampler found nothing new
ENUMERABLE = 200_000  # combinations that are gone through one by one when draws find nothing

UNMEASURED = "unmeasured"  # constraint of every told trial: 1 when it has no value


class SpaceExhausted(LookupError):  # an ending, not an error
    """Every allowed configuration was tried: a normal end of a search."""


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
) -> Configuration:
    """Return an allowed configuration that is not in `history`; raise `SpaceExhausted` when there is none.

    Equal arguments give equal answers, in any process. `fixed` are the suite's other settings, which
    constraints may name. Adaptive strategies take numbers from the whole of [low, high] (`levels`
    are for grids), rounded to about a thousandth of it. Rows of `history` that the space cannot
    express (the engine's defaults) are not proposed again, but teach nothing. Raises `ValueError` as
    `Space.grid` does.
    """
    tried = {canonical(row.configuration) for row in history}
    if strategy == "grid":
        for configuration in space.grid(fixed):
            if canonical(configuration) not in tried:
                return configuration
        raise _exhausted(tried)
    chance = random.Random(f"{seed}:{len(history)}")  # noqa: S311 - a search, not a secret
    scope = _Scope(space, fixed, tried, tuple(_axis(parameter) for parameter in space.parameters))
    if strategy == "random":
        return _any_untried(scope, chance)
    if strategy == "tpe":
        return _by_tpe(scope, history, chance)
    assert_never(strategy)


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


@dataclass(frozen=True, slots=True)
class _Points:
    """A parameter with few values, as their indices; in order when it is a number's."""

    name: str
    values: tuple[Value, ...]
    ordered: bool
    indices: Mapping[str, int]  # of the values, by their JSON: lists and objects are values too

    @property
    def middle(self) -> int:
        return len(self.values) // 2

    def encode(self, value: Value) -> int | None:
        return self.indices.get(_key(value))

    def decode(self, coordinate: float) -> Value:
        return self.values[int(coordinate)]

    def draw(self, chance: random.Random) -> int:
        return chance.randrange(len(self.values))

    def distance(self, one: float, other: float) -> float:
        if one == other:
            return 0.0
        return abs(one - other) / (len(self.values) - 1) if self.ordered else 1.0


@dataclass(frozen=True, slots=True)
class _Range:
    """A number in [low, high], or its logarithm: the coordinate that is drawn and modelled evenly."""

    parameter: Integer | Float

    @property
    def name(self) -> str:
        return self.parameter.name

    @property
    def low(self) -> float:
        return self._scaled(self.parameter.low - self._half)

    @property
    def high(self) -> float:
        return self._scaled(self.parameter.high + self._half)

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2

    @property
    def _half(self) -> float:
        """Whole numbers are rounded to; the first and the last get their full share of the range, too."""
        return 0.5 if isinstance(self.parameter, Integer) else 0.0

    def encode(self, value: Value) -> float | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return self._scaled(value) if self.parameter.low <= value <= self.parameter.high else None

    def decode(self, coordinate: float) -> Value:
        number = math.exp(coordinate) if self.parameter.log else coordinate
        if isinstance(self.parameter, Integer):
            number = round(number)
        elif self.parameter.log:
            number = float(f"{number:.4g}")
        else:
            number = round(number, max(0, 3 - math.floor(math.log10(self.high - self.low))))
        return min(max(number, self.parameter.low), self.parameter.high)

    def draw(self, chance: random.Random) -> float:
        return chance.uniform(self.low, self.high)

    def distance(self, one: float, other: float) -> float:
        return abs(one - other) / (self.high - self.low)

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.parameter.log else float(value)


def _axis(parameter: Parameter) -> _Points | _Range:
    if isinstance(parameter, Choice):
        values = grid_points(parameter)
        ordered = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        return _points(parameter.name, sorted(values) if ordered else values, ordered=ordered)
    if parameter.low == parameter.high:
        return _points(parameter.name, (parameter.low,), ordered=True)
    if parameter.step is None or (isinstance(parameter, Integer) and parameter.step == 1):
        return _Range(parameter)
    return _points(parameter.name, grid_points(replace(parameter, levels=None)), ordered=True)


def _points(name: str, values: Sequence[Value], *, ordered: bool) -> _Points:
    return _Points(name, tuple(values), ordered, {_key(value): index for index, value in enumerate(values)})


def _key(value: Value) -> str:
    return canonical({"": value})


@dataclass(frozen=True, slots=True)
class _Scope:
    """What may be proposed."""

    space: Space
    fixed: Mapping[str, Value]
    tried: set[str]
    axes: tuple[_Points | _Range, ...]

    def decode(self, point: Sequence[float]) -> Configuration:
        values = {axis.name: axis.decode(at) for axis, at in zip(self.axes, point, strict=True)}
        return self.space.active(values, self.fixed)

    def encode(self, configuration: Configuration) -> tuple[float, ...] | None:
        """Return the point of a configuration; None when the space cannot express it.

        What the configuration lacks because of a condition is in the middle of its range.
        """
        middle = {axis.name: axis.decode(axis.middle) for axis in self.axes}
        values = {**middle, **configuration}
        if values.keys() != middle.keys():
            return None
        point = tuple(
            axis.encode(configuration[axis.name]) if axis.name in configuration else axis.middle for axis in self.axes
        )
        if None in point or self.space.active(values, self.fixed).keys() != configuration.keys():
            return None
        return tuple(at for at in point if at is not None)

    def takes(self, configuration: Configuration) -> bool:
        return canonical(configuration) not in self.tried and self.space.allows(configuration, self.fixed)

    def distance(self, wanted: Sequence[float], configuration: Configuration) -> float:
        """Return how far a configuration is from a point: the sum over parameters of shares of their ranges."""
        point = self.encode(configuration)
        assert point is not None  # it was drawn from this space
        return sum(axis.distance(one, other) for axis, one, other in zip(self.axes, wanted, point, strict=True))

    def draws(self, chance: random.Random) -> Iterator[Configuration]:
        """Yield what random draws find, repeatedly perhaps."""
        for _ in range(DRAWS):
            configuration = self.decode([axis.draw(chance) for axis in self.axes])
            if self.takes(configuration):
                yield configuration

    def everything(self) -> list[Configuration]:
        """Return all that may be proposed, once each; raise `SpaceExhausted` when it is nothing, or too much."""
        choices = [_every_value(axis) for axis in self.axes]
        if math.prod(len(values) for values in choices) > ENUMERABLE:
            raise SpaceExhausted(f"{DRAWS} random draws found no allowed configuration that was not tried before")
        names = [axis.name for axis in self.axes]
        product = itertools.product(*choices)
        every = (self.space.active(dict(zip(names, values, strict=True)), self.fixed) for values in product)
        found = {canonical(configuration): configuration for configuration in every if self.takes(configuration)}
        if not found:
            raise _exhausted(self.tried)
        return list(found.values())


def _every_value(axis: _Points | _Range) -> Sequence[Value]:
    if isinstance(axis, _Points):
        return axis.values
    if isinstance(axis.parameter, Integer):
        return range(axis.parameter.low, axis.parameter.high + 1)
    return range(ENUMERABLE + 1)  # stands for the continuum: only its length is looked at


def _any_untried(scope: _Scope, chance: random.Random) -> Configuration:
    for configuration in scope.draws(chance):
        return configuration
    return chance.choice(scope.everything())


def _by_tpe(scope: _Scope, history: Sequence[Observation], chance: random.Random) -> Configuration:
    points = [(row, point) for row in history if (point := scope.encode(row.configuration)) is not None]
    if sum(row.state == "done" for row, _ in points) < STARTUP:
        return _any_untried(scope, chance)
    from optuna.trial import TrialState

    distributions = {axis.name: _distribution(axis) for axis in scope.axes}
    study = _study(points, distributions, chance.getrandbits(32))
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


def _study(
    points: Sequence[tuple[Observation, Sequence[float]]], distributions: dict[str, BaseDistribution], seed: int
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
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    finally:
        optuna.logging.set_verbosity(verbosity)
    study.add_trials(rows)
    return study


def _distribution(axis: _Points | _Range) -> BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(axis, _Range):
        return FloatDistribution(axis.low, axis.high)
    if axis.ordered:
        return IntDistribution(0, len(axis.values) - 1)
    return CategoricalDistribution(tuple(range(len(axis.values))))


def _exhausted(tried: set[str]) -> SpaceExhausted:
    return SpaceExhausted(f"every allowed configuration was tried ({len(tried)} of them)")
