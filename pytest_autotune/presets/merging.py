"""How the parameters of several presets become one set of parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

from pytest_autotune.problems import Collector
from pytest_autotune.space import canonical

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

Merge = Literal["union", "intersection", "last"]
MERGES: tuple[Merge, ...] = get_args(Merge)


def plain(name: str) -> str:
    """Return a name as engines compare it: ``-`` and ``_`` are the same."""
    return name.replace("_", "-")


def merge(contents: Mapping[str, Mapping[str, Any]], how: Merge, *, without: Collection[str] = ()) -> dict[str, Any]:
    """Return the parameters of presets, which are given by name and in order, as one mapping in their notation.

    `union` keeps every value, in order and once. `intersection` keeps the parameters that all have, with the
    values that all have. `last` takes each parameter from the last preset that has it. A parameter keeps its
    first spelling; those in `without`, as `plain` has them, are left out. Raise `ValueError` for a range of which
    two presets have to be made one, and when nothing is in common.
    """
    holders: dict[str, dict[str, Any]] = {}  # of each parameter: its value in each preset that has it
    spelled: dict[str, str] = {}
    for preset, parameters in contents.items():
        for name, value in parameters.items():
            holders.setdefault(plain(name), {})[preset] = value
            spelled.setdefault(plain(name), name)
    if how == "intersection":
        holders = {name: held for name, held in holders.items() if len(held) == len(contents)}
        if not holders:
            raise ValueError(f"{_listed(contents)} have no parameter in common; write merge: union or merge: last")
    collector = Collector()
    merged = {}
    for name, held in holders.items():
        if name in without:
            continue
        if len(held) == 1 or how == "last":
            merged[spelled[name]] = list(held.values())[-1]
        else:
            merged[spelled[name]] = collector.read((), _merged, spelled[name], held, how)
    collector.finish()
    return merged


def _merged(name: str, held: Mapping[str, Any], how: Merge) -> list[Any]:
    lists = []
    for preset, value in held.items():
        if not isinstance(value, list):
            problem = f"{name!r} of {preset} is no plain list of values, and {_listed(held)} all have it"
            raise ValueError(f"{problem}; write merge: last, or the parameter itself")
        lists.append({canonical({"": each}): each for each in value})
    union = {key: each for one in lists for key, each in one.items()}
    if how == "union":
        return list(union.values())
    common = [each for key, each in union.items() if all(key in one for one in lists)]
    if not common:
        raise ValueError(
            f"{name!r} has no value that {_listed(held)} have in common; write merge: union or merge: last"
        )
    return common


def _listed(presets: Mapping[str, Any]) -> str:
    *others, last = presets
    return f"{', '.join(others)} and {last}"
