"""How other tools choose the next configuration: functions of the space, the history and a seed.

All of them propose only what exists and was not tried: a tool that does not see to that pays for it with failed
and repeated deployments, which is not counted here.
"""

from __future__ import annotations

import math
import random
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Literal

from pytest_autotune.scope import SpaceExhausted
from pytest_autotune.search import failure_value
from pytest_autotune.space import canonical, grid_points

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_autotune.search import Observation
    from pytest_autotune.space import Configuration, Space, Value

    Proposer = Callable[[Space, Sequence[Observation], int, Mapping[str, Value]], Configuration]

Encoding = Literal["bad value", "infinite", "graded"]

BAD = 0.0  # what a miss is told as: below every throughput
INFINITE = 1e308  # stands for the infinity of tools that tell one, which Optuna 5 takes for a failure
HARD = 0.5  # `fail_ratio` of the earlier system: a miss beyond it is a failure, a smaller one a penalty
STEEPNESS = 0.1
_ASKS = 200


def in_random_order(
    space: Space, history: Sequence[Observation], seed: int, fixed: Mapping[str, Value]
) -> Configuration:
    """Draw from what was not tried."""
    tried = {canonical(row.configuration) for row in history}
    left = [one for one in space.grid(fixed) if canonical(one) not in tried]
    if not left:
        raise SpaceExhausted(f"every allowed configuration was tried ({len(tried)} of them)")
    return random.Random(f"{seed}:{len(history)}").choice(left)


def by_plain_tpe(
    space: Space,
    history: Sequence[Observation],
    seed: int,
    fixed: Mapping[str, Value],
    *,
    encoding: Encoding,
) -> Configuration:
    """Ask Optuna's TPE with its own defaults, told one value per trial and no constraint."""
    import optuna
    from optuna.distributions import CategoricalDistribution
    from optuna.trial import TrialState, create_trial

    tried = {canonical(row.configuration) for row in history}
    chosen_at_random = in_random_order(space, history, seed, fixed)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=random.Random(f"{seed}:{len(history)}").getrandbits(32))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    choices = {one.name: grid_points(one) for one in space.parameters}
    distributions = {name: CategoricalDistribution(tuple(range(len(values)))) for name, values in choices.items()}
    for row in history:
        params = {name: values.index(row.configuration[name]) for name, values in choices.items()}
        value = _told(row, history, encoding)
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        study.add_trial(create_trial(state=state, value=value, params=params, distributions=dict(distributions)))
    for _ in range(_ASKS):
        asked = study.ask(dict(distributions))
        found = {name: values[asked.params[name]] for name, values in choices.items()}
        if canonical(found) not in tried and space.allows(found, fixed):
            return found
        study.tell(asked, state=TrialState.FAIL)
    return chosen_at_random


def _told(row: Observation, history: Sequence[Observation], encoding: Encoding) -> float | None:
    """Return what the study is told; None is a failed trial."""
    if row.value is not None:
        return row.value
    crashed = row.constraints.get("crash", 0.0) > 0
    if encoding == "infinite":
        return -INFINITE
    if encoding == "bad value":
        return None if crashed else BAD
    ratio = max((one for name, one in row.constraints.items() if name != "crash"), default=0.0)
    if crashed or ratio > HARD:
        return -(row.constraints["crash"] if crashed else failure_value(1.0, 1.0, "slo"))
    # The base of its penalty, the throughput of the violating batch, is not in the history: a typical one is.
    typical = median([one.value for one in history if one.value is not None] or [1.0])
    return typical - math.exp(ratio / STEEPNESS) * typical


PROPOSERS: Mapping[str, Proposer] = {
    "random": in_random_order,
    "tpe-as-used": partial(by_plain_tpe, encoding="bad value"),
    "tpe-infinite": partial(by_plain_tpe, encoding="infinite"),
    "graded": partial(by_plain_tpe, encoding="graded"),
}
