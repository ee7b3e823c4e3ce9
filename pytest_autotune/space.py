"""Parameters, constraints, canonical ids and enumeration of configurations."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from fractions import Fraction
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pytest_autotune.constraints import Constraint as Constraint  # noqa: PLC0414, TC001  # belongs here for users
from pytest_autotune.spelling import nearest, show

Value = Any  # a JSON value: None, bool, int, float, str, list or dict of them
Configuration = Mapping[str, Value]  # parameter name -> value; only overrides, never engine defaults

ENUMERABLE = 64  # whole numbers of an Integer that a grid takes without being told `step` or `levels`

_FAITHFUL = re.compile(r"[A-Za-z0-9_.-]{1,40}")  # text that a label repeats as it is
_LONGEST_LABEL = 160  # characters; a label also names a directory, whose name may have 255 bytes


@dataclass(frozen=True, slots=True)
class Choice:
    """A parameter with a list of values (any JSON values), in the order of the file."""

    name: str
    values: tuple[Value, ...]
    when: Constraint | None = None  # a configuration has the parameter only where this holds

    def __repr__(self) -> str:
        return _written(self, "when")


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number in [low, high]; `levels` grid points, log-spaced if `log`, or every `step`."""

    name: str
    low: int
    high: int
    log: bool = False
    step: int | None = None
    levels: int | None = None
    when: Constraint | None = None

    def __repr__(self) -> str:
        return _written(self, "when")


@dataclass(frozen=True, slots=True)
class Float:
    """A number in [low, high]; `levels` grid points, log-spaced if `log`, or every `step`."""

    name: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    levels: int | None = None
    when: Constraint | None = None

    def __repr__(self) -> str:
        return _written(self, "when")


Parameter = Choice | Integer | Float


@dataclass(frozen=True, slots=True)
class Forbidden:
    """A combination that is not tried: settings, each with one of its listed values."""

    values: Mapping[str, tuple[Value, ...]]

    @property
    def text(self) -> str:
        """The combination as a message repeats it."""
        return show({name: each[0] if len(each) == 1 else list(each) for name, each in self.values.items()})

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Say whether `values` are not that combination; what lacks one of its settings is not."""
        return not all(
            name in values and any(same(values[name], one) for one in each) for name, each in self.values.items()
        )


class ConditionError(ValueError):
    """The condition under which a parameter exists cannot be evaluated."""

    def __init__(self, parameter: str, problem: str) -> None:
        super().__init__(problem)
        self.parameter = parameter


class Unfit(ValueError):
    """A configuration that a space does not have; `parameter` is the name that is wrong, if it is one."""

    def __init__(self, problem: str, parameter: str | None = None) -> None:
        super().__init__(problem)
        self.parameter = parameter


@dataclass(frozen=True, slots=True)
class Space:
    """The parameters of a suite with the constraints between them, and the combinations that are not tried.

    A configuration has a parameter with a condition (`when`) only where that holds, and only where all
    that it names is set. Raises `ValueError` when conditions depend on each other.
    """

    parameters: tuple[Parameter, ...]
    constraints: tuple[Constraint, ...] = ()
    forbidden: tuple[Forbidden, ...] = ()
    # What need not be tried by what was learnt since; the space stays the same one.
    bars: Callable[[Configuration], bool] | None = field(default=None, repr=False, compare=False)
    _ordered: tuple[Parameter, ...] = field(init=False, compare=False, repr=False)  # after what their conditions name

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ordered", _ordered(self.parameters))

    def __repr__(self) -> str:
        return _written(self, "forbidden")

    @property
    def conditional(self) -> frozenset[str]:
        """The names of the parameters that a configuration may lack."""
        return frozenset(parameter.name for parameter in self.parameters if parameter.when is not None)

    def active(self, values: Mapping[str, Value], fixed: Mapping[str, Value]) -> Configuration:
        """Return the configuration that `values`, one for each parameter, stand for: what exists under them, in order.

        Raises `ConditionError` for a condition that cannot be evaluated.
        """
        known = dict(fixed)
        lacking = set()
        for parameter in self._ordered:
            if _exists(parameter, known):
                known[parameter.name] = values[parameter.name]
            else:
                lacking.add(parameter.name)
        return {each.name: values[each.name] for each in self.parameters if each.name not in lacking}

    def narrowed(self, names: Collection[str]) -> Space:
        """Return the space of those parameters, and of those that their conditions depend on."""
        wanted = set(names)
        for parameter in reversed(self._ordered):
            if parameter.name in wanted and parameter.when is not None:
                wanted |= parameter.when.names
        return replace(self, parameters=tuple(each for each in self.parameters if each.name in wanted))

    def grid(self, fixed: Mapping[str, Value]) -> Iterator[Configuration]:
        """Yield every allowed configuration, last parameter fastest; constraints and conditions also see `fixed`.

        Lazy, without duplicates; a space without parameters has one configuration, the empty one.
        Raises `ValueError` for a parameter that cannot be enumerated (see `grid_points`).
        """
        names = [parameter.name for parameter in self.parameters]
        points = [grid_points(parameter) for parameter in self.parameters]
        conditional = self.conditional
        for values in itertools.product(*points):
            configuration: Configuration = dict(zip(names, values, strict=True))
            if conditional:
                configuration = self.active(configuration, fixed)
                # Values of what does not exist make no difference: the first of them stand for all.
                if any(
                    value is not first
                    for name, value, (first, *_) in zip(names, values, points, strict=True)
                    if name not in configuration
                ):
                    continue
            if self.allows(configuration, fixed):
                yield configuration

    def allows(self, configuration: Configuration, fixed: Mapping[str, Value]) -> bool:
        """Say whether every constraint holds and nothing forbids or bars it; raises `ValueError` as a constraint does.

        What names a parameter that the configuration lacks holds.
        """
        rules: tuple[Constraint | Forbidden, ...] = (*self.constraints, *self.forbidden)
        if rules:
            values = {**fixed, **configuration}
            if not all(rule.holds(values) for rule in rules):
                return False
        return self.bars is None or not self.bars(configuration)

    def fitted(self, configuration: Configuration, fixed: Mapping[str, Value]) -> Configuration:
        """Return a configuration, or a part of one, as the space writes it: 2.0 of a whole number as 2, in its order.

        Ranges are taken as adaptive searches do, whatever points a grid has. Raises `Unfit` for what is no
        parameter, for a value that is never tried, for a parameter whose condition does not hold under the
        others and `fixed`, and for what constraints or forbidden combinations exclude.
        """
        own = {parameter.name: parameter for parameter in self.parameters}
        for name, value in configuration.items():
            if name not in own:
                hint = nearest(name, own) or f"; there are {', '.join(own) or 'none'}"
                raise Unfit(f"is no parameter of the suite{hint}", name)
            if not takes(own[name], value, grid=False):
                raise Unfit(f"{show(value)} is never tried; {values_of(own[name], grid=False)}", name)
        written = {name: _written_value(own[name], configuration[name]) for name in own if name in configuration}
        for name in written:
            if (when := own[name].when) is not None and not _exists(own[name], {**fixed, **written}):
                raise Unfit(f"does not exist here; it does when {when.text}", name)
        values = {**fixed, **written}
        rules: tuple[Constraint | Forbidden, ...] = (*self.constraints, *self.forbidden)
        for rule in rules:
            if not rule.holds(values):
                what = "forbidden" if isinstance(rule, Forbidden) else "constraint"
                raise Unfit(f"excluded by the {what} {rule.text}; change it, or relax that")
        return written

    def size(self) -> int:
        """Return how many combinations the grid has before constraints, without building any.

        An upper bound where rounding makes grid points of a whole number coincide, and where parameters
        have conditions.
        """
        return math.prod(grid_size(parameter) for parameter in self.parameters)


def grid_size(parameter: Parameter) -> int:
    """Return the number of grid points of a parameter; raises `ValueError` as `grid_points` does."""
    if isinstance(parameter, Choice):
        return len(parameter.values)
    if parameter.levels is not None:
        return parameter.levels
    if parameter.step is not None:
        return int((_exact(parameter.high) - _exact(parameter.low)) / _exact(parameter.step)) + 1
    if isinstance(parameter, Float):
        raise ValueError(f"{parameter.name!r} has no grid; give grid: N or step:")
    whole = parameter.high - parameter.low + 1
    if whole > ENUMERABLE:
        raise ValueError(f"{parameter.name!r} has {whole} values, too many for a grid; give grid: N or step:")
    return whole


def grid_points(parameter: Parameter) -> tuple[Value, ...]:
    """Return the values that a grid tries, ascending (choices in the order of the file), without duplicates.

    Raises `ValueError` for a `Float` without `step` and `levels`, and for an `Integer` without
    them that has more than `ENUMERABLE` values.
    """
    number = grid_size(parameter)
    if isinstance(parameter, Choice):
        return tuple({_json(value): value for value in parameter.values}.values())
    if isinstance(parameter, Integer):
        if parameter.levels is None:
            return tuple(range(parameter.low, parameter.high + 1, parameter.step or 1))
        return tuple(sorted({round(point) for point in _spread(parameter, number)}))
    if parameter.step is None:
        return tuple(sorted(set(_spread(parameter, number))))
    # Decimal keeps 0.85 + 2 * 0.05 at 0.95, which a user can read and a server can be told.
    low, step = _exact(parameter.low), _exact(parameter.step)
    return tuple(float(low + index * step) for index in range(number))


def takes(parameter: Parameter, value: Value, *, grid: bool) -> bool:
    """Say whether a search may give the parameter that value; a grid takes its grid points only."""
    if isinstance(parameter, Choice):
        return any(same(value, one) for one in parameter.values)
    if isinstance(value, bool) or not isinstance(value, int | float) or not parameter.low <= value <= parameter.high:
        return False
    if grid and parameter.levels is not None:
        return value in grid_points(parameter)
    step = parameter.step or (1 if isinstance(parameter, Integer) else None)
    return step is None or (_fraction(value) - _fraction(parameter.low)) % _fraction(step) == 0


def values_of(parameter: Parameter, *, grid: bool) -> str:
    """Say which values a parameter takes: ``write a value from 1 to 8 in steps of 1``."""
    if isinstance(parameter, Choice):
        return f"write one of {show(list(parameter.values))}"
    steps = "" if parameter.step is None else f" in steps of {show(parameter.step)}"
    points = f", {parameter.levels} grid points" if grid and parameter.levels is not None else ""
    return f"write a value from {show(parameter.low)} to {show(parameter.high)}{steps}{points}"


def same(one: Value, other: Value) -> bool:
    """Say whether two values are the same JSON: true is not 1, but 1.0 is."""
    if isinstance(one, list | tuple | dict) or isinstance(other, list | tuple | dict):
        return _json(one) == _json(other)
    return isinstance(one, bool) is isinstance(other, bool) and bool(one == other)


def find_circle(parameters: Iterable[Parameter]) -> tuple[str, ...]:
    """Return the names of parameters whose conditions depend on each other, or on themselves; nothing without any."""
    try:
        TopologicalSorter(_named(parameters)).prepare()
    except CycleError as error:
        return tuple(error.args[1][1:])
    return ()


def canonical(configuration: Configuration) -> str:
    """Return the configuration as canonical JSON (sorted keys, no spaces): its identity.

    Raises `ValueError` for anything that is not JSON, not-a-number and infinity included.
    """
    return _json(dict(configuration))


def label(configuration: Configuration, taken: Collection[str] = ()) -> str:
    """Return a readable node id, e.g. ``tp:4-max-num-seqs:256``; ``defaults`` for the empty one.

    Only letters, digits and ``_ . - : +``, so it can stand in a node id, in ``-k`` and in a file
    name. Parameters come in the order of the mapping. Configurations of the same names with different
    content have different labels: what cannot be written as it is (other characters, text that looks
    like a number, lists) ends in ``+`` and a hash of its JSON, and so does a label that would be too
    long. Those of different names may read alike, so a label that is `taken` ends in a hash, too.
    """
    if not configuration:
        return "defaults"
    text = "-".join(f"{_name_label(name)}:{_value_label(value)}" for name, value in configuration.items())
    if len(text) <= _LONGEST_LABEL and text not in taken:
        return text
    return f"{text[: _LONGEST_LABEL - 17]}+{_digest(canonical(configuration), 16)}"


def _spread(parameter: Integer | Float, number: int) -> Iterator[float]:
    """Yield `number` points from low to high, both included, evenly or by a constant ratio."""
    low, high = float(parameter.low), float(parameter.high)
    yield low
    if low == high or number == 1:
        return
    for index in range(1, number - 1):
        share = index / (number - 1)
        if parameter.log:
            point = math.exp(math.log(low) * (1 - share) + math.log(high) * share)
            gap = point * math.expm1(min(1.0, (math.log(high) - math.log(low)) / (number - 1)))
        else:
            point = low * (1 - share) + high * share
            gap = high / (number - 1) - low / (number - 1)
        # Rounded to a thousandth of the gap: 0.883 instead of 0.8833333333333333.
        rounded = round(point, max(0, 3 - math.floor(math.log10(gap)))) if gap > 0 else point
        yield min(high, max(low, rounded))  # floating point may leave a tiny range
    yield high


def _exact(value: float) -> Decimal:
    return Decimal(repr(value))


def _fraction(value: float) -> Fraction:
    return Fraction(repr(value))


def _ordered(parameters: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
    """Return the parameters so that each comes after those that its condition names."""
    own = {parameter.name: parameter for parameter in parameters}
    try:
        return tuple(own[name] for name in TopologicalSorter(_named(parameters)).static_order())
    except CycleError:
        names = ", ".join(map(repr, find_circle(parameters)))
        raise ValueError(f"the conditions of {names} depend on each other") from None


def _named(parameters: Iterable[Parameter]) -> dict[str, list[str]]:
    """Return the parameters that the condition of each names."""
    named = {one.name: [] if one.when is None else sorted(one.when.names) for one in parameters}
    return {name: [other for other in others if other in named] for name, others in named.items()}


def _written_value(parameter: Parameter, value: Value) -> Value:
    """Return a value that the parameter takes as it writes it: values that are the same have one canonical form."""
    if isinstance(parameter, Choice):
        return next(one for one in parameter.values if same(one, value))
    return int(value) if isinstance(parameter, Integer) else float(value)


def _exists(parameter: Parameter, known: Mapping[str, Value]) -> bool:
    """Say whether a configuration that sets what is `known` has the parameter."""
    if parameter.when is None:
        return True
    if not parameter.when.names <= known.keys():
        return False
    try:
        return parameter.when.holds(known)
    except ValueError as error:
        raise ConditionError(parameter.name, str(error)) from error


def _written(shown: Parameter | Space, optional: str) -> str:
    """Return what a dataclass writes, without a field that is not used.

    The identity of a study is made of this: a field that a space does not use must not change it.
    """
    used = [one.name for one in fields(shown) if one.repr and (one.name != optional or getattr(shown, one.name))]
    return f"{type(shown).__qualname__}({', '.join(f'{name}={getattr(shown, name)!r}' for name in used)})"


def _json(value: Value) -> str:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"{show(value)} is not a JSON value: {error}") from error


def _name_label(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_.-]+", name) else _hashed(name)


def _value_label(value: Value) -> str:
    if isinstance(value, str):
        return value if _FAITHFUL.fullmatch(value) and not _reads_as_other(value) else _hashed(value)
    if value is None or isinstance(value, bool):
        return _json(value)
    if isinstance(value, int | float):
        return _json(value).replace("e+", "e")
    return _hashed(value)


def _reads_as_other(text: str) -> bool:
    """Say whether text in a label would be taken for a number, true, false or null."""
    if text in ("true", "false", "null"):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def _hashed(value: Value) -> str:
    slug = re.sub(r"[^A-Za-z0-9_]+", ".", value if isinstance(value, str) else _json(value)).strip(".")
    return f"{slug[:24]}+{_digest(_json(value), 8)}"


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
