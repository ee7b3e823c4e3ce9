"""What verifications of a suite have measured over time: each metric at each load level, and where it changed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from pytest_autotune.baseline import workload
from pytest_autotune.beginning import VERIFIES
from pytest_autotune.changepoints import change_points
from pytest_autotune.pairing import is_baseline

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from pytest_autotune.records import MeasuredRecord
    from pytest_autotune.samples import Level
    from pytest_autotune.store import Store


@dataclass(frozen=True, slots=True)
class Point:
    """One verification: of several deployments the median."""

    run_id: str
    at: datetime  # UTC
    commit: str  # git revision of the suite's repository; empty where it has none
    engine_version: str
    value: float


@dataclass(frozen=True, slots=True)
class Change:
    """A level that begins at a point: by how much it differs from the one before, relative to that."""

    at: Point
    by: float


@dataclass(frozen=True, slots=True)
class Series:
    """One metric at one load level, oldest first; what the server was is not always the same."""

    level: str
    metric: str
    points: tuple[Point, ...]
    changes: tuple[Change, ...] = ()


def verified_suites(store: Store) -> tuple[str, ...]:
    """Return the names of the suites that were verified, sorted."""
    studies = (covered.document for covered in store.studies())
    return tuple(sorted({str(document["name"]) for document in studies if VERIFIES in document}))


def history_of(store: Store, suite: str, metrics: Sequence[str] = ()) -> tuple[Series, ...]:
    """Return the series of a suite, by its name; without `metrics` those of its newest baseline.

    What was measured under another load, or on other hardware, than its newest verification is left out.
    """
    verifications = [(run, covered) for run, covered in store.covered(suite) if VERIFIES in covered.document]
    if not verifications:
        return ()
    newest = verifications[-1][1].document
    if not metrics:
        levels = newest[VERIFIES]["levels"].values()
        metrics = tuple(dict.fromkeys(metric for level in levels for metric in level))
    alike = [(run, covered) for run, covered in verifications if _conditions(covered.document) == _conditions(newest)]
    measured: dict[tuple[str, str], list[MeasuredRecord]] = {}
    for record in store.measured({covered.study for _, covered in alike}):
        if not is_baseline(record.slot):
            measured.setdefault((record.run_id, record.study), []).append(record)
    found: dict[tuple[Level, str], list[Point]] = {}
    for run, covered in alike:
        commit = str(run.environment.get("git", {}).get("revision", ""))
        version = str(covered.document.get("engine_version", ""))
        for level, metric, value in _medians(measured.get((run.id, covered.study), ()), metrics):
            found.setdefault((level, metric), []).append(Point(run.id, run.started_at, commit, version, value))
    order = {metric: place for place, metric in enumerate(metrics)}
    ordered = sorted(found.items(), key=lambda item: (order[item[0][1]], item[0][0]))
    return tuple(Series(level.name, metric, tuple(points), changes_of(points)) for (level, metric), points in ordered)


def changes_of(points: Sequence[Point]) -> tuple[Change, ...]:
    """Return where the level of the logarithms changed; nothing where a value is not above 0."""
    values = [point.value for point in points]
    if min(values) <= 0:
        return ()
    logarithms = [math.log(value) for value in values]
    starts = change_points(logarithms)
    bounds = (0, *starts, len(values))
    means = [fmean(logarithms[start:end]) for start, end in pairwise(bounds)]
    return tuple(
        Change(points[start], math.expm1(means[number + 1] - means[number])) for number, start in enumerate(starts)
    )


def _conditions(document: Mapping[str, Any]) -> tuple[object, ...]:
    return workload(document["load"]), document.get("hardware")


def _medians(records: Iterable[MeasuredRecord], metrics: Sequence[str]) -> Iterator[tuple[Level, str, float]]:
    values: dict[tuple[Level, str], list[float]] = {}
    for record in records:
        for metric in metrics:
            if math.isfinite(record.metrics.get(metric, math.nan)):
                values.setdefault((record.level, metric), []).append(record.metrics[metric])
    for (level, metric), measured in values.items():
        yield level, metric, median(measured)
