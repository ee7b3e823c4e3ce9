"""The configuration that models of what was measured expect most of: Bayesian optimisation with constraints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pytest_autotune.surrogate import Metric, Surrogate

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pytest_autotune.scope import Scope
    from pytest_autotune.search import Observation
    from pytest_autotune.space import Configuration

    Array = NDArray[np.float64]

STARTUP = 5  # trials before anything is modelled, but not more than one beyond the parameters
LEARNT_BEST, LEARNT_LAST = 40, 60  # trials that are learnt from when there are more
CANDIDATES = 1_000  # configurations that are compared, with the neighbours of the best
NEIGHBOURLY = 5  # best ones, each value of each of whose parameters is a candidate
CRASH = "crash"  # constraint of the graded failure scale, 0 without a failure
CRASH_SCALE = 1_000.0  # of that scale: an early failure is 1, a late one 0.1, and everything that starts is -1
BLUR = 0.1  # deviation of the crash model at what it has seen: a neighbour of a crash need not crash
WIDEST = 1.5  # logarithm of a ratio to a limit beyond which a miss is only a miss

_ERF = np.vectorize(math.erf, otypes=[float])
_LEAST = 1e-300


class Proposal(NamedTuple):
    """What to measure next."""

    configuration: Configuration
    gain: float | None  # by how much it is expected to be better than the best, relative; None without one


@dataclass(frozen=True, slots=True)
class _Known:
    """What was measured, as arrays over the rows that can be placed."""

    metric: Metric
    points: Array  # (n, coordinates)
    done: NDArray[np.bool_]
    crash: Array
    values: Array  # not a number where there is none
    margins: dict[str, Array]  # logarithm of the ratio to a limit, by its metric; not a number where there is none


def propose(scope: Scope, history: Sequence[Observation], chance: random.Random) -> Proposal | None:
    """Return the most promising configuration; None as long as too little was measured to say.

    Expected improvement times the probability that it starts and that each limit holds (Gardner et
    al., "Bayesian Optimization with Inequality Constraints", ICML 2014), each from a model of its own.
    Raises `SpaceExhausted`.
    """
    known = _known(scope, history)
    if known is None or known.done.sum() < min(STARTUP, len(scope.axes) + 1):
        return None
    candidates, points = _candidates(scope, history, chance)
    rng = np.random.default_rng(chance.getrandbits(64))
    held = _log_probability(known, points, rng)
    measured = known.done & ~np.isnan(known.values)
    if not measured.any():
        return Proposal(candidates[int(np.argmax(held))], None)
    positive = bool((known.values[measured] > 0).all())
    values = np.log(known.values) if positive else known.values
    model = _learnt(known, measured, values, rng)
    improvement = _expected_improvement(model, points, float(values[measured].max()))
    score = held + np.log(np.maximum(improvement, _LEAST))
    chosen = int(np.argmax(score))
    gain = float(np.exp(score).max())
    best = float(known.values[measured].max())
    return Proposal(candidates[chosen], math.expm1(gain) if positive else gain / abs(best) if best else None)


def _known(scope: Scope, history: Sequence[Observation]) -> _Known | None:
    told = most_telling(history, best=LEARNT_BEST, last=LEARNT_LAST)
    placed = [(row, point) for row in told if (point := scope.locate(row.configuration)) is not None]
    if not placed:
        return None
    rows = [row for row, _ in placed]
    names = sorted({name for row in rows for name in row.constraints if name != CRASH})
    crash = np.array([row.constraints.get(CRASH, 0.0) for row in rows])
    return _Known(
        metric=Metric(tuple(axis.ordered for axis in scope.axes)),
        points=_units(scope, [point for _, point in placed]),
        done=np.array([row.state == "done" for row in rows]),
        crash=crash,
        values=np.array([math.nan if row.value is None else row.value for row in rows]),
        # A crash says nothing about limits: what its row has there stands for the worst.
        margins={
            name: np.where(crash > 0, math.nan, [row.constraints.get(name, math.nan) for row in rows]) for name in names
        },
    )


def most_telling(history: Sequence[Observation], *, best: int, last: int) -> list[Observation]:
    """Return the best rows and the last ones, in their order: what a model of bounded cost learns from."""
    if len(history) <= best + last:
        return list(history)
    valued = [index for index, row in enumerate(history) if row.value is not None]
    valued.sort(key=lambda index: -(history[index].value or 0.0))
    return [history[index] for index in sorted({*valued[:best], *range(len(history) - last, len(history))})]


def _units(scope: Scope, points: Sequence[Sequence[float]]) -> Array:
    return np.array([[axis.unit(at) for axis, at in zip(scope.axes, point, strict=True)] for point in points])


def _candidates(
    scope: Scope, history: Sequence[Observation], chance: random.Random
) -> tuple[list[Configuration], Array]:
    from pytest_autotune.space import canonical

    found: dict[str, Configuration] = {}
    if scope.combinations <= CANDIDATES:
        found = {canonical(one): one for one in scope.everything()}
    else:
        for one in scope.draws(chance):
            found[canonical(one)] = one
            if len(found) == CANDIDATES:
                break
        for near in _neighbours(scope, history, chance):
            found[canonical(near)] = near
    candidates = list(found.values()) or scope.everything()
    points = [scope.encode(one) for one in candidates]
    return candidates, _units(scope, [point for point in points if point is not None])


def _neighbours(scope: Scope, history: Sequence[Observation], chance: random.Random) -> list[Configuration]:
    """Return what differs from one of the best in one parameter."""
    valued = sorted((row for row in history if row.value is not None), key=lambda row: -(row.value or 0.0))
    found = []
    for row in valued[:NEIGHBOURLY]:
        point = scope.encode(row.configuration)
        if point is None:
            continue
        for place, axis in enumerate(scope.axes):
            for other in axis.others(point[place], chance):
                one = scope.decode([other if each == place else at for each, at in enumerate(point)])
                if scope.takes(one):
                    found.append(one)
    return found


def _log_probability(known: _Known, points: Array, rng: np.random.Generator) -> Array:
    """Return the logarithm of the probability that a configuration starts and keeps each limit."""
    total: Array = np.zeros(len(points))
    if (known.crash[known.done] > 0).any():
        labels = np.where(known.crash > 0, known.crash / CRASH_SCALE, -1.0)
        expected = _learnt(known, known.done, labels, rng).predict(points)
        held = expected.weights @ _below(-expected.means / np.hypot(expected.deviations, BLUR))
        total += np.log(np.maximum(held, _LEAST))
    for margins in known.margins.values():
        told = known.done & ~np.isnan(margins)
        if (margins[told] > 0).any():
            expected = _learnt(known, told, np.clip(margins, -WIDEST, WIDEST), rng).predict(points)
            held = expected.weights @ _below(-expected.means / expected.deviations)
            total += np.log(np.maximum(held, _LEAST))
    return total


def _learnt(known: _Known, told: NDArray[np.bool_], values: Array, rng: np.random.Generator) -> Surrogate:
    """Return a model of what was told, which takes what is being measured for what it expects there."""
    model = Surrogate(known.metric, known.points[told], values[told], rng)
    model.believe(known.points[~known.done])
    return model


def _expected_improvement(model: Surrogate, points: Array, best: float) -> Array:
    expected = model.predict(points)
    z = (expected.means - best) / expected.deviations
    density = np.exp(-0.5 * z * z) * NormalDist().pdf(0.0)
    improvement: Array = expected.weights @ (expected.deviations * (z * _below(z) + density))
    return improvement


def _below(z: Array) -> Array:
    """Return the standard normal distribution function."""
    below: Array = 0.5 * (1.0 + _ERF(z / math.sqrt(2.0)))
    return below
