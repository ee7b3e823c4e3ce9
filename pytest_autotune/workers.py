"""How many trials fit onto this machine at a time, as far as their suites tell before anything is collected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_autotune import hardware
from pytest_autotune.deploy.cores import servers_at_a_time
from pytest_autotune.engines.requirements import gpus_in_pool, least_gpus
from pytest_autotune.errors import AutotuneError
from pytest_autotune.suite_file import load_suite

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pytest_autotune.suite import Suite

_SIMULATED = "sim"  # whose servers take no GPUs, but for pretended ones


def workers_for(paths: Iterable[Path]) -> int | None:
    """Return the most trials that one of these suites can have at a time; None when none of them can be read.

    Never more than there are cores beside the one of this process, and at least 1. What is wrong with a suite is told
    when it is collected; of one written in Python nothing is known before.
    """
    fitting = []
    for path in paths:
        try:
            fitting.append(_trials_at_a_time(load_suite(path)))
        except AutotuneError:
            continue
    return max(1, min(max(fitting), _spare_cores())) if fitting else None


def _trials_at_a_time(suite: Suite) -> int:
    """Return how often the least that a server of the suite takes is in its pools of GPUs and of cores."""
    if suite.deploy == "endpoint":
        return 1  # it is one server for all of them
    pool = 0 if suite.engine == _SIMULATED and not suite.pool.pretended else gpus_in_pool(suite)
    least = least_gpus(suite)
    by_gpus = pool // least if pool and least else None
    if suite.cores.leased and (suite.cores.per_server is not None or by_gpus is None):
        by_cores = servers_at_a_time(suite)
        return by_cores if by_gpus is None else min(by_gpus, by_cores)
    return _spare_cores() if by_gpus is None else by_gpus


def _spare_cores() -> int:
    return hardware.cores() - 1
