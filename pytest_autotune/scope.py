"""What a search may propose, as coordinates that samplers and models understand."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_autotune.space import Choice, Float, Integer, canonical, grid_points

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_autotune.space import Configuration, Parameter, Space, Value

DRAWS = 2_000  # random draws that may turn out forbidden or known
ENUMERABLE = 200_000  # combinations that are gone through one by one when draws find nothing


class SpaceExhausted(LookupError):  # an ending, not an error
    """Every allowed configuration was tried: a normal end of a search."""


@dataclass(frozen=True, slots=True)
class Points:
    """A parameter with few values, as their indices; in order when it is a number's."""

    name: str
    values: tuple[Value, ...]
    ordered: bool
    indices: Mapping[str, int]  # of the values, by their JSON: lists and objects are values too

    @property
    def middle(self) -> int:
        """The coordinate of what a configuration lacks."""
        return len(self.values) // 2

    def encode(self, value: Value) -> int | None:
        """Return the coordinate of a value; None when it is none of these."""
        return self.indices.get(_key(value))

    def decode(self, coordinate: float) -> Value:
        """Return the value at a coordinate."""
        return self.values[int(coordinate)]

    def draw(self, chance: random.Random) -> int:
        """Return a coordinate at random."""
        return chance.randrange(len(self.values))

    def distance(self, one: float, other: float) -> float:
        """Return how far apart two coordinates are, as a share of the whole."""
        if one == other:
            return 0.0
        return abs(one - other) / (len(self.values) - 1) if self.ordered else 1.0

    def place(self, value: Value) -> float | None:
        """Return where a value lies, between two points perhaps or at the end that it is beyond; None for a kind."""
        if (exact := self.encode(value)) is not None or not self.ordered:
            return exact
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        after = bisect_left(self.values, value)
        if after in (0, len(self.values)):
            return float(min(after, len(self.values) - 1))
        low, high = self.values[after - 1], self.values[after]
        return float(after - 1 + (value - low) / (high - low))

    def unit(self, coordinate: float) -> float:
        """Return a coordinate in [0, 1]; a kind keeps its index, of which only equality counts."""
        return coordinate / max(len(self.values) - 1, 1) if self.ordered else coordinate

    def others(self, coordinate: float, chance: random.Random) -> Sequence[float]:  # noqa: ARG002 - as of a range
        """Return the coordinates of the other values."""
        return [index for index in range(len(self.values)) if index != coordinate]


@dataclass(frozen=True, slots=True)
class Range:
    """A number in [low, high], or its logarithm: the coordinate that is drawn and modelled evenly."""

    parameter: Integer | Float

    @property
    def name(self) -> str:
        """Name of the parameter."""
        return self.parameter.name

    @property
    def low(self) -> float:
        """The least coordinate."""
        return self._scaled(self.parameter.low - self._half)

    @property
    def high(self) -> float:
        """The largest coordinate."""
        return self._scaled(self.parameter.high + self._half)

    @property
    def middle(self) -> float:
        """The coordinate of what a configuration lacks."""
        return (self.low + self.high) / 2

    @property
    def _half(self) -> float:
        """Whole numbers are rounded to; the first and the last get their full share of the range, too."""
        return 0.5 if isinstance(self.parameter, Integer) else 0.0

    def encode(self, value: Value) -> float | None:
        """Return the coordinate of a value; None when it is outside of the range, or no number."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return self._scaled(value) if self.parameter.low <= value <= self.parameter.high else None

    def decode(self, coordinate: float) -> Value:
        """Return the value at a coordinate."""
        number = math.exp(coordinate) if self.parameter.log else coordinate
        if isinstance(self.parameter, Integer):
            number = round(number)
        elif self.parameter.log:
            number = float(f"{number:.4g}")
        else:
            number = round(number, max(0, 3 - math.floor(math.log10(self.high - self.low))))
        return min(max(number, self.parameter.low), self.parameter.high)

    def draw(self, chance: random.Random) -> float:
        """Return a coordinate at random."""
        return chance.uniform(self.low, self.high)

    def distance(self, one: float, other: float) -> float:
        """Return how far apart two coordinates are, as a share of the whole."""
        return abs(one - other) / (self.high - self.low)

    @property
    def ordered(self) -> bool:
        """Whether neighbours are alike: always, of numbers."""
        return True

    def place(self, value: Value) -> float | None:
        """Return where a value lies, at the end that it is beyond perhaps; None for what is not a number."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return self._scaled(min(max(value, self.parameter.low), self.parameter.high))

    def unit(self, coordinate: float) -> float:
        """Return a coordinate in [0, 1]."""
        return (coordinate - self.low) / (self.high - self.low)

    def others(self, coordinate: float, chance: random.Random) -> Sequence[float]:
        """Return coordinates near by and far off."""
        width = self.high - self.low
        moved = [coordinate + chance.gauss(0.0, sigma) * width for sigma in (0.03, 0.03, 0.1, 0.1, 0.3, 0.3)]
        return [min(max(at, self.low), self.high) for at in moved]

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.parameter.log else float(value)


def axis_of(parameter: Parameter) -> Points | Range:
    """Return the coordinate of a parameter."""
    if isinstance(parameter, Choice):
        values = grid_points(parameter)
        ordered = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        return _points(parameter.name, sorted(values) if ordered else values, ordered=ordered)
    if parameter.low == parameter.high:
        return _points(parameter.name, (parameter.low,), ordered=True)
    if parameter.step is None or (isinstance(parameter, Integer) and parameter.step == 1):
        return Range(parameter)
    return _points(parameter.name, grid_points(replace(parameter, levels=None)), ordered=True)


def _points(name: str, values: Sequence[Value], *, ordered: bool) -> Points:
    return Points(name, tuple(values), ordered, {_key(value): index for index, value in enumerate(values)})


def _key(value: Value) -> str:
    return canonical({"": value})


@dataclass(frozen=True, slots=True)
class Scope:
    """What may be proposed."""

    space: Space
    fixed: Mapping[str, Value]
    tried: set[str]
    axes: tuple[Points | Range, ...]
    defaults: Mapping[str, Value] = field(default_factory=lambda: MappingProxyType({}))  # of the engine, where known

    def decode(self, point: Sequence[float]) -> Configuration:
        """Return the configuration at a point."""
        values = {axis.name: axis.decode(at) for axis, at in zip(self.axes, point, strict=True)}
        return self.space.active(values, self.fixed)

    def encode(self, configuration: Configuration) -> tuple[float, ...] | None:
        """Return the point of a configuration; None when the space cannot express it.

        What the configuration lacks because of a condition is in the middle of its range.
        """
        if not configuration.keys() <= {axis.name for axis in self.axes}:
            return None
        missing = {axis.name: axis.decode(axis.middle) for axis in self.axes if axis.name not in configuration}
        values = {**missing, **configuration}
        point = tuple(
            axis.encode(configuration[axis.name]) if axis.name in configuration else axis.middle for axis in self.axes
        )
        if None in point or self.space.active(values, self.fixed).keys() != configuration.keys():
            return None
        return tuple(at for at in point if at is not None)

    def locate(self, configuration: Configuration) -> tuple[float, ...] | None:
        """Return where a configuration lies, what it leaves to the engine at the engine's default.

        None when a default is not known, or is of a kind that the space lacks.
        """
        if (exact := self.encode(configuration)) is not None:
            return exact
        conditional = self.space.conditional
        point = []
        for axis in self.axes:
            value = configuration.get(axis.name, self.defaults.get(axis.name))
            at = axis.place(value)
            if at is None and axis.name not in configuration and axis.name in conditional:
                at = axis.middle
            if at is None:
                return None
            point.append(at)
        return tuple(point)

    def takes(self, configuration: Configuration) -> bool:
        """Say whether a configuration may be proposed: allowed, and not tried."""
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

    @property
    def combinations(self) -> int:
        """How many combinations of values there are; an upper bound of the configurations."""
        return math.prod(len(_every_value(axis)) for axis in self.axes)

    def everything(self) -> list[Configuration]:
        """Return all that may be proposed, once each; raise `SpaceExhausted` when it is nothing, or too much."""
        choices = [_every_value(axis) for axis in self.axes]
        if self.combinations > ENUMERABLE:
            raise SpaceExhausted(f"{DRAWS} random draws found no allowed configuration that was not tried before")
        names = [axis.name for axis in self.axes]
        product = itertools.product(*choices)
        every = (self.space.active(dict(zip(names, values, strict=True)), self.fixed) for values in product)
        found = {canonical(configuration): configuration for configuration in every if self.takes(configuration)}
        if not found:
            raise exhausted(self.tried)
        return list(found.values())


def _every_value(axis: Points | Range) -> Sequence[Value]:
    if isinstance(axis, Points):
        return axis.values
    if isinstance(axis.parameter, Integer):
        return range(axis.parameter.low, axis.parameter.high + 1)
    return range(ENUMERABLE + 1)  # stands for the continuum: only its length is looked at


def exhausted(tried: set[str]) -> SpaceExhausted:
    """Return the end of a search that has tried everything."""
    return SpaceExhausted(f"every allowed configuration was tried ({len(tried)} of them)")
