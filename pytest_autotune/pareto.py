"""The Pareto front: compliant measurements that no other one beats in every objective."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_autotune.selection import JudgedBatch, JudgedTrial, Objective


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
    upward = [_upward(point, objectives) for point in points]
    front: list[tuple[tuple[float, ...], Point]] = []
    # In descending order nothing that comes later can dominate what is kept (Kung, Luccio and Preparata 1975).
    for index in sorted(range(len(points)), key=lambda index: (*(-value for value in upward[index]), index)):
        if not any(_covers(kept, upward[index]) for kept, _ in front):
            front.append((upward[index], points[index]))
    return tuple(point for _, point in front)


def _values(batch: JudgedBatch, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    values = [batch.record.metrics.get(objective.metric) for objective in objectives]
    found = tuple(value for value in values if value is not None and math.isfinite(value))
    return found if len(found) == len(objectives) else None


def _upward(point: Point, objectives: Sequence[Objective]) -> tuple[float, ...]:
    return tuple(
        value if objective.direction == "maximize" else -value
        for value, objective in zip(point.values, objectives, strict=True)
    )


def _covers(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(own >= others for own, others in zip(one, other, strict=True))
