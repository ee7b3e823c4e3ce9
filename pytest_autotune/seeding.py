"""What an adaptive search begins with, before it chooses by itself: which configurations, and in which trial each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pytest_autotune.parallelism import NAME as PARALLELISM
from pytest_autotune.parallelism import parallelism_of
from pytest_autotune.space import Choice, Integer, Unfit, canonical, grid_points
from pytest_autotune.spelling import show

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from pytest_autotune.space import Configuration, Parameter, Space, Value

    Configurations = tuple[Configuration, ...]

DEGREES = 16  # of a parallelism that has more of them, none is tried for itself


def distinct(*lists: Iterable[Configuration]) -> Configurations:
    """Return the configurations of all lists in their order, each once."""
    found: dict[str, Configuration] = {}
    for configuration in (one for each in lists for one in each):
        found.setdefault(canonical(configuration), configuration)
    return tuple(found.values())


def without(configurations: Iterable[Configuration], known: Iterable[Configuration], *, most: int) -> Configurations:
    """Return the first `most` configurations that are not among the `known` ones, each once."""
    keys = {canonical(each) for each in known}
    return tuple(each for each in distinct(configurations) if canonical(each) not in keys)[:most]


def at_each_degree(
    space: Space,
    fixed: Mapping[str, Value],
    *,
    parallel: Collection[str],
    default: Callable[[str], Value],
    viable: Callable[[Configuration], bool],
) -> Configurations:
    """Return the engine's defaults at each degree of each parallelism, smallest first.

    Left out is what the space does not allow, what is not `viable` here, and the engine's own `default`
    of a parameter: that is measured where nothing is set.
    """
    found: list[Configuration] = []
    for parameter in space.parameters:
        if parameter.name not in parallel:
            continue
        for degree in _degrees(parameter):
            configuration = {parameter.name: degree}
            if degree != default(parameter.name) and fits(space, configuration, fixed) and viable(configuration):
                found.append(configuration)
    return tuple(found)


def proposed(answer: object, space: Space, fixed: Mapping[str, Value]) -> Configurations:
    """Return the configurations that a plugin proposes; raise `ValueError` for what the space does not have."""
    if isinstance(answer, str | Mapping) or not isinstance(answer, Iterable):
        raise ValueError(f"{show(answer)} is not a list of configurations; return e.g. [{{'max-num-seqs': 64}}]")
    found = []
    for configuration in answer:
        if not isinstance(configuration, Mapping):
            raise ValueError(f"{show(configuration)} is not a configuration; return e.g. [{{'max-num-seqs': 64}}]")
        try:
            found.append(space.fitted(configuration, fixed))
        except Unfit as error:
            name = "" if error.parameter is None else f"{error.parameter!r}: "
            raise ValueError(f"{show(configuration)}: {name}{error}") from None
    return tuple(found)


def fits(space: Space, configuration: Configuration, fixed: Mapping[str, Value]) -> bool:
    """Say whether the space has a configuration, or a part of one."""
    try:
        space.fitted(configuration, fixed)
    except ValueError:
        return False
    return True


def left(first: Iterable[Configuration], taken: Mapping[int, Configuration]) -> Configurations:
    """Return what of `first` no trial has yet."""
    tried = {canonical(configuration) for configuration in taken.values()}
    return tuple(configuration for configuration in first if canonical(configuration) not in tried)


def assigned(index: int, first: Sequence[Configuration], taken: Mapping[int, Configuration]) -> Configuration | None:
    """Return what of `first` the trial at `index` measures; None when it is the search's to choose.

    `taken` are the trials that have a configuration, running or ended, with theirs. The free trials get
    what is left, in order. While nothing else is taken that is the one at the same place, whatever
    the order in which trials begin: each that does leaves the places of all others as they were.
    """
    remaining = left(first, taken)
    place = index - sum(other < index for other in taken)
    return remaining[place] if place < len(remaining) else None


def _degrees(parameter: Parameter) -> list[Value]:
    """Return the degrees of a parallelism, ascending; none of one with many, or of something else.

    Of `parallelism` those that take several GPUs: the others are as good as what the engine does by itself.
    """
    if not isinstance(parameter, Choice | Integer):
        return []
    try:
        values = grid_points(parameter)
    except ValueError:
        return []
    if parameter.name == PARALLELISM:
        sizes = {value: found.gpus for value in values if (found := parallelism_of(value)) is not None}
        degrees = sorted((value for value, gpus in sizes.items() if gpus > 1), key=sizes.__getitem__)
    else:
        degrees = sorted(
            value for value in values if isinstance(value, int) and not isinstance(value, bool) and value > 0
        )
    return degrees if len(degrees) <= DEGREES else []
