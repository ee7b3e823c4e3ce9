"""What a suite file may try: parameters with their conditions, constraints and forbidden combinations, and seeds."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice, product
from typing import TYPE_CHECKING

from pytest_autotune.constraints import Constraint
from pytest_autotune.space import (
    Choice,
    ConditionError,
    Space,
    Unfit,
    canonical,
    find_circle,
    grid_points,
    grid_size,
    takes,
    values_of,
)
from pytest_autotune.spelling import misspelled, nearest, show
from pytest_autotune.suite import LARGEST_GRID

if TYPE_CHECKING:
    from collections.abc import Collection

    from pytest_autotune.problems import Collector, Where
    from pytest_autotune.space import Forbidden, Parameter, Value
    from pytest_autotune.suite_file import SuiteFile


def read_space(file: SuiteFile, known_flags: Collection[str] | None, collector: Collector) -> Space:
    """Return the space of a suite file, and note what is wrong with it.

    Constraints may name what the suite does not set (see `load_suite`), conditions and forbidden combinations may not.
    """
    constraints = _read_constraints(file, known_flags, collector)
    parameters = _read_conditions(file, collector)
    _check_forbidden(file, collector)
    if parameters is None:
        return Space(())
    space = Space(parameters, constraints, file.forbidden)
    _check_space(file, space, collector)
    _check_seeds(file, space, collector)
    return space


def _read_constraints(
    file: SuiteFile, known_flags: Collection[str] | None, collector: Collector
) -> tuple[Constraint, ...]:
    own = frozenset((*(parameter.name for parameter in file.parameters), *file.fixed))
    constraints = []
    for index, text in enumerate(file.constraints):
        where = ("constraints", index)
        constraint = collector.read(where, Constraint, text, own | frozenset(known_flags or ()))
        if constraint is None:
            continue
        constraints.append(constraint)
        for name in sorted(constraint.names - own):
            if known_flags is None:
                typo = misspelled(name, own)
                if typo is not None:
                    collector.note(where, f"unknown name {name!r} (did you mean {typo!r}?)")
            elif name not in known_flags:
                hint = nearest(name, (*own, *known_flags))
                collector.note(
                    where, f"unknown name {name!r}{hint}; write a parameter, a fixed setting or an engine flag"
                )
    return tuple(constraints)


def _read_conditions(file: SuiteFile, collector: Collector) -> tuple[Parameter, ...] | None:
    """Return the parameters, their conditions read by the names of the suite; None when one names what it cannot."""
    own = frozenset((*(parameter.name for parameter in file.parameters), *file.fixed))
    found = len(collector.found)
    parameters = []
    for parameter in file.parameters:
        where = ("parameters", parameter.name, "when")
        when = None if parameter.when is None else collector.read(where, Constraint, parameter.when.text, own)
        parameters.append(replace(parameter, when=when))
        for name in () if when is None else sorted(when.names):
            if name == parameter.name:
                collector.note(where, f"{name!r} cannot depend on itself; name other parameters or fixed settings")
            elif name not in own:
                hint = nearest(name, own - {parameter.name})
                remedy = hint or f"; write a parameter or a fixed setting, or put a value in quotes: '{name}'"
                collector.note(where, f"unknown name {name!r}{remedy}")
    if len(collector.found) > found:
        return None
    if circle := find_circle(parameters):
        first = next(parameter.name for parameter in parameters if parameter.name in circle)
        names = ", ".join(repr(parameter.name) for parameter in parameters if parameter.name in circle)
        problem = f"the conditions of {names} depend on each other, so that none could ever exist; remove one"
        collector.note(("parameters", first, "when"), problem)
        return None
    return tuple(parameters)


def _check_forbidden(file: SuiteFile, collector: Collector) -> None:
    """Refuse combinations of what the suite does not set, or of values that are not tried anyway."""
    parameters = {parameter.name: parameter for parameter in file.parameters}
    own = (*parameters, *file.fixed)
    grid = file.search.strategy == "grid"
    for index, forbidden in enumerate(file.forbidden):
        for name, values in forbidden.values.items():
            where = ("forbidden", index, name)
            if name not in own:
                collector.note(where, f"unknown name{nearest(name, own)}; write a parameter or a fixed setting")
            if name not in parameters:
                continue
            for value in values:
                if not takes(parameters[name], value, grid=grid):
                    collector.note(where, f"{show(value)} is never tried; {_values_of(parameters[name], values)}")


def _values_of(parameter: Parameter, written: tuple[Value, ...]) -> str:
    """Say which values a parameter takes, in place of those that are `written`."""
    if isinstance(parameter, Choice) and takes(parameter, list(written), grid=True):
        return f"to forbid the list itself, write [{show(list(written))}]"
    return values_of(parameter, grid=True)


def _check_space(file: SuiteFile, space: Space, collector: Collector) -> None:
    """Make sure that conditions can be evaluated, and that a grid can be listed and has something to try."""
    grid = file.search.strategy == "grid"
    if grid and not _can_be_listed(space, collector):
        return
    involved = space.narrowed(space.conditional)
    names = [parameter.name for parameter in involved.parameters]
    values = [grid_points(parameter) if grid else _ends(parameter) for parameter in involved.parameters]
    try:
        for combination in islice(product(*values), LARGEST_GRID):
            involved.active(dict(zip(names, combination, strict=True)), file.fixed)
    except ConditionError as error:
        collector.note(("parameters", error.parameter, "when"), str(error))
        return
    if grid or (file.search.strategy == "auto" and _is_small(space)):
        _check_rules(file, space, collector)


def _check_seeds(file: SuiteFile, space: Space, collector: Collector) -> None:
    """Refuse configurations to begin with that the search could not come to by itself, and those written twice."""
    seen: dict[str, int] = {}
    for index, seed in enumerate(() if file.search.strategy == "grid" else file.search.seeds):
        where = ("search", "seeds", index)
        try:
            key = canonical(space.fitted(seed, file.fixed))
        except Unfit as error:
            collector.note(where if error.parameter is None else (*where, error.parameter), str(error))
            continue
        except ValueError as error:  # a condition or constraint that cannot be evaluated
            collector.note(where, str(error))
            continue
        if key in seen:
            collector.note(where, f"is seeds[{seen[key]}] again; remove one of the two")
        seen.setdefault(key, index)


def _is_small(space: Space) -> bool:
    try:
        return space.size() <= LARGEST_GRID
    except ValueError:  # a range without grid points
        return False


def _ends(parameter: Parameter) -> tuple[Value, ...]:
    return parameter.values if isinstance(parameter, Choice) else (parameter.low, parameter.high)


def _can_be_listed(space: Space, collector: Collector) -> bool:
    found = len(collector.found)
    for parameter in space.parameters:
        collector.read(("parameters", parameter.name), grid_size, parameter)
    if len(collector.found) > found:
        return False
    size = space.size()
    if size > LARGEST_GRID:
        remedy = "list fewer values or write search: {strategy: auto}"
        collector.note(("parameters",), f"{size} combinations are more than a grid may have ({LARGEST_GRID}); {remedy}")
    return size <= LARGEST_GRID


def _check_rules(file: SuiteFile, space: Space, collector: Collector) -> None:
    """Make sure that constraints and forbidden combinations leave a configuration to be tried."""
    rules: list[tuple[Where, str, Constraint | Forbidden]] = [
        *((("constraints", index), repr(each.text), each) for index, each in enumerate(space.constraints)),
        *((("forbidden", index), each.text, each) for index, each in enumerate(space.forbidden)),
    ]
    if not rules:
        return
    allowed = 0
    each = [0] * len(rules)
    total = 0
    for configuration in Space(space.parameters).grid(file.fixed):
        values = {**file.fixed, **configuration}
        total += 1
        holding = 0
        for index, (where, _, rule) in enumerate(rules):
            try:
                holds = rule.holds(values)
            except ValueError as error:
                collector.note(where, str(error))
                return
            each[index] += holds
            holding += holds
        allowed += holding == len(rules)
    if allowed:
        return
    culprit = next((index for index, count in enumerate(each) if not count), None)
    if culprit is None:
        blocks = dict.fromkeys(str(where[0]) for where, _, _ in rules)
        those = "together they" if len(blocks) == 1 else f"together {' and '.join(blocks)}"
        collector.note((next(iter(blocks)),), f"{those} exclude all {total} configurations; relax one")
    else:
        where, text, _ = rules[culprit]
        collector.note(where, f"{text} excludes all {total} configurations; relax it")
