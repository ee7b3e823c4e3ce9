"""In which order trials that share GPUs are begun, so that few of those are idle while some trial waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_autotune.engines.flags import merged
from pytest_autotune.engines.requirements import gpus_in_pool, gpus_taken
from pytest_autotune.errors import AutotuneError
from pytest_autotune.space import label
from pytest_autotune.suite_file import load_suite

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_autotune.suite import Suite


def order_of(path: Path, names: Sequence[str], workers: int) -> tuple[str, ...]:
    """Return the trials of a suite in the order in which so many workers begin them: as they are, unless it packs.

    It does for a grid that is measured to its end, whatever the order, and whose trials need different numbers of GPUs.
    """
    try:
        suite = load_suite(path)
        needs = _needs(suite)
        gpus = gpus_in_pool(suite)
    except (AutotuneError, ValueError):  # told when it is collected
        return tuple(names)
    known = [name for name in names if name in needs]
    if not gpus or len({needs[name] for name in known}) < 2:
        return tuple(names)
    return (*pack({name: needs[name] for name in known}, gpus, workers), *(name for name in names if name not in needs))


def pack(needs: Mapping[str, int], gpus: int, workers: int) -> tuple[str, ...]:
    """Return trials in rounds, each of at most so many trials with as many of the GPUs as go.

    A trial takes the most that it can with enough left over for the smallest one on each of the other workers; the
    first of equals goes first, and the first of all, the reference, stays that.
    """
    waiting = dict(needs)
    order: list[str] = []
    free, idle = gpus, workers
    while waiting:
        smallest = min(waiting.values())
        room = free - (min(idle, len(waiting)) - 1) * smallest
        fitting = {name: need for name, need in waiting.items() if need <= (room if order else gpus)}
        if not idle or not free or not fitting:
            if (free, idle) == (gpus, workers):  # even alone they do not leave enough to the others
                fitting = {name: need for name, need in waiting.items() if need <= gpus} or waiting
            else:
                free, idle = gpus, workers
                continue
        name = max(fitting, key=fitting.__getitem__) if order else next(iter(waiting))
        order.append(name)
        free, idle = max(free - waiting.pop(name), 0), idle - 1
    return tuple(order)


def _needs(suite: Suite) -> dict[str, int]:
    """Return how many GPUs the trials of a grid need, by name; none where the order decides what is measured."""
    search = suite.search
    ends = any(limit is not None for limit in (search.time_s, search.gpu_time_s, search.patience, search.screen))
    if suite.strategy != "grid" or ends or suite.load.skip is not None:
        return {}
    names: set[str] = set()
    needs: dict[str, int] = {}
    for configuration in suite.configurations():
        name = label(configuration, names)
        names.add(name)
        needs[name] = gpus_taken(suite, merged(suite.fixed, configuration))
    return needs
