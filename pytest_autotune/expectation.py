"""What a roofline expects of the configurations of a suite: an order to try them in, which judges nothing."""

from __future__ import annotations

import itertools
import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_autotune.engines.roofline import Demand, Layout, loads, speaks_of, worth
from pytest_autotune.load.lengths import mean_length
from pytest_autotune.load.plan import levels_of
from pytest_autotune.scope import Range, Scope, SpaceExhausted, axis_of
from pytest_autotune.seeding import fits
from pytest_autotune.space import canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_autotune.engines.engine import Engine
    from pytest_autotune.scope import Points
    from pytest_autotune.space import Configuration, Value
    from pytest_autotune.suite import Suite

log = logging.getLogger(__name__)

MOST = 4096  # configurations that are gone through: a second or two
_OF_RANGE = 8  # values that stand for a range with more of them


def expectations(suite: Suite, engine: Engine, configurations: Iterable[Configuration]) -> Mapping[str, float]:
    """Return what the objective is expected to come to, by the canonical JSON of the configurations; more is better.

    0 stands for what is expected to keep the limits at no load, or not to fit. What the engine refuses is left out.
    Empty where nothing can be expected: a log line says why.
    """
    demand = _demand_of(suite)
    if demand is None:
        return {}
    served = engine.served(suite)
    if served is None:
        log.info(
            "nothing is expected of %s: engine %s does not say what it serves on which GPUs", suite.name, engine.name
        )
        return {}
    known: dict[Layout, float] = {}
    found: dict[str, float] = {}
    for configuration in configurations:
        layout = engine.layout(suite, configuration)
        if layout is None or engine.refuses(suite, configuration) is not None:
            continue
        if layout not in known:
            value = worth(served, layout, demand, limits=suite.slo, objective=suite.objective)
            assert value is not None  # `_demand_of` has looked
            known[layout] = value
        found[canonical(configuration)] = known[layout]
    if not found:
        log.info("nothing is expected of %s: engine %s has no layout of any configuration", suite.name, engine.name)
    return found


def everything(suite: Suite) -> tuple[Configuration, ...] | None:
    """Return all configurations of a space that has few of them; None for a larger one."""
    space = suite.space
    scope = Scope(space, suite.fixed, set(), tuple(axis_of(parameter) for parameter in space.parameters))
    if scope.combinations > MOST:
        return None
    try:
        return tuple(scope.everything())
    except SpaceExhausted:  # constraints leave nothing
        return ()


def candidates(suite: Suite, engine: Engine) -> tuple[Configuration, ...]:
    """Return all of a space that has few; else what can be set of that which changes the layout, the rest left out."""
    every = everything(suite)
    return tuple(_parts(suite, engine)) if every is None else every


def likeliest(suite: Suite, engine: Engine, known: Iterable[Configuration]) -> tuple[Configuration, ...]:
    """Return the best expected configuration of each way to divide and to store the model, best first.

    None of the ways that the `known` configurations have, and none that is expected to keep the limits nowhere. Of
    equal ones the one with the fewest overrides.
    """
    possible = candidates(suite, engine)
    worth_of = expectations(suite, engine, possible)
    told = [(one, worth_of[key]) for one in possible if (key := canonical(one)) in worth_of]
    ranked = sorted(told, key=lambda one: (-one[1], len(one[0])))
    taken = {_way(engine.layout(suite, configuration)) for configuration in known}
    found = []
    for configuration, value in ranked:
        way = _way(engine.layout(suite, configuration))
        if value > 0 and way not in taken:
            taken.add(way)
            found.append(configuration)
    return tuple(found)


def _way(layout: Layout | None) -> Layout | None:
    """Return a layout without what only bounds how many sequences run, and what a roofline takes for the same."""
    if layout is None:
        return None
    sharing = layout.expert_tp * layout.expert_ep
    return replace(layout, expert_tp=sharing, expert_ep=1, max_sequences=None, memory_share=1.0)


def _demand_of(suite: Suite) -> Demand | None:
    """Return what is asked of each server; None for what a roofline says nothing about."""
    load = suite.load
    if not speaks_of(suite.objective):
        log.info("nothing is expected of %s: a roofline knows no %s", suite.name, suite.objective.metric)
        return None
    unlike = next((key for key in ("dataset", "conversation") if getattr(load, key) is not None), "")
    if not unlike and load.api not in ("completions", "chat"):
        unlike = load.api
    if not unlike and load.shape not in ("concurrency", "rate"):
        unlike = load.shape
    if unlike:
        log.info("nothing is expected of %s: a roofline knows no load of the kind %s", suite.name, unlike)
        return None
    prompt, output = load.lengths
    levels = levels_of(load) if load.searched is None else loads(load.searched)
    return Demand(max(1.0, mean_length(prompt)), max(1.0, mean_length(output)), levels)


def _parts(suite: Suite, engine: Engine) -> Iterator[Configuration]:
    """Yield the parts of configurations that change the layout."""
    space, fixed = suite.space, suite.fixed
    axes = tuple(axis_of(parameter) for parameter in space.parameters)
    # None is what the engine does by itself, whether it is left out or a value of the suite.
    choices = {
        axis.name: (None, *(value for value in _values(axis) if value is not None))
        for axis in _laying_out(axes, suite, engine)
    }
    while math.prod(map(len, choices.values())) > MOST:
        del choices[max(choices, key=lambda name: len(choices[name]))]
    for values in itertools.product(*choices.values()):
        chosen = {name: value for name, value in zip(choices, values, strict=True) if value is not None}
        if fits(space, chosen, fixed):
            yield chosen


def _laying_out(axes: Sequence[Points | Range], suite: Suite, engine: Engine) -> list[Points | Range]:
    """Return the parameters of which a value changes the layout, of the defaults or of another one with one change."""
    found: list[Points | Range] = []
    contexts: list[dict[str, Value]] = [{}]
    while True:
        changing = [axis for axis in axes if axis not in found and _changes(axis, contexts, suite, engine)]
        if not changing:
            return [axis for axis in axes if axis in found]
        found += changing
        contexts += [{axis.name: value} for axis in changing for value in _values(axis)]


def _changes(axis: Points | Range, contexts: Sequence[Configuration], suite: Suite, engine: Engine) -> bool:
    for context in contexts:
        before = engine.layout(suite, context)
        if any(engine.layout(suite, {**context, axis.name: value}) != before for value in _values(axis)):
            return True
    return False


def _values(axis: Points | Range) -> tuple[Value, ...]:
    """Return the values of a parameter, of a long range some that are evenly spread over its coordinate."""
    if not isinstance(axis, Range):
        return axis.values
    steps = _OF_RANGE - 1
    spread = (axis.low + (axis.high - axis.low) * step / steps for step in range(_OF_RANGE))
    return tuple(dict.fromkeys(axis.decode(at) for at in spread))
