"""The Pareto front: compliant measurements that no other one beats in every objective."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from pytest_autotune.selection import JudgedBatch, JudgedTrial, Objective


AUGMENTED = 0.05  # weight of the sum in the Chebyshev function, as in ParEGO


@dataclass(frozen=True, slots=True)
class Point:
    """A compliant batch of a finished trial: a way to run the server, and what it brings in each objective."""

    trial: JudgedTrial
    batch: JudgedBatch
    values: tuple[float, ...]  # of the objectives' metrics, in base units


def pareto_front(trials: Sequence[JudgedTrial], objectives: Sequence[Objective]) -> tuple[Point, ...]:
    """Return the measurements that no other dominates, the best in the first objective first.

    One dominates another when it is at least as good in every objective and better in one. Of equal ones
    the first stands for all: `trials` come best first. A load level is part of the choice, so one trial can have
    several points. Batches without one of the metrics are left out.
    """
    points = [
        Point(judged, batch, values)
        for judged in trials
        if judged.trial.state == "finished"
        for batch in judged.compliant
        if (values := _values(batch, objectives)) is not None
    ]
    upward = [_ascending(point.values, objectives) for point in points]
    front: list[tuple[tuple[float, ...], Point]] = []
    # In descending order nothing that comes later can dominate what is kept (Kung, Luccio and Preparata 1975).
    for index in sorted(range(len(points)), key=lambda index: (*(-value for value in upward[index]), index)):
        if not any(_covers(kept, upward[index]) for kept, _ in front):
            front.append((upward[index], points[index]))
    return tuple(point for _, point in front)


def scalarised(
    trials: Sequence[JudgedTrial], objectives: Sequence[Objective], chance: random.Random
) -> list[float | None]:
    """Return one value to maximise for each trial, its best compliant batch's, by weights that are drawn.

    The augmented Chebyshev function of ParEGO (Knowles, "ParEGO: a hybrid algorithm with on-line landscape
    approximation", IEEE Transactions on Evolutionary Computation 10, 2006): a search that maximises it for
    other weights each time comes to all parts of the front. Objectives count by their place between
    the worst and the best compliant batch so far. 0 is the best in all; None where no compliant
    batch has all metrics.
    """
    upward = [
        [_ascending(values, objectives) for batch in judged.compliant if (values := _values(batch, objectives))]
        for judged in trials
    ]
    drawn = [chance.expovariate(1.0) for _ in objectives]  # normalised, they are uniform on the simplex
    weights = [weight / sum(drawn) for weight in drawn]
    columns = zip(*(each for batches in upward for each in batches), strict=True)
    ends = [(min(column), max(column)) for column in columns]

    def value(each: Sequence[float]) -> float:
        short = [
            weight * (high - at) / (high - low) if high > low else 0.0
            for weight, at, (low, high) in zip(weights, each, ends, strict=True)
        ]
        return -max(short) - AUGMENTED * sum(short)

    return [max(map(value, batches), default=None) for batches in upward]


def _values(batch: JudgedBatch, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    values = [batch.record.metrics.get(objective.metric) for objective in objectives]
    found = tuple(value for value in values if value is not None and math.isfinite(value))
    return found if len(found) == len(objectives) else None


def _ascending(values: Sequence[float], objectives: Sequence[Objective]) -> tuple[float, ...]:
    """Return values so that more is better."""
    return tuple(
        value if objective.direction == "maximize" else -value
        for value, objective in zip(values, objectives, strict=True)
    )


def _covers(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(own >= others for own, others in zip(one, other, strict=True))
