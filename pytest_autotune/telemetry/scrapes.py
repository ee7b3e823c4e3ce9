"""What an engine said of itself in a span of time, from its Prometheus pages before, within and after it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_autotune.engines.metric_names import COUNTERS, GAUGES, HISTOGRAMS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_autotune.engines.metric_names import MetricNames
    from pytest_autotune.telemetry.exposition import Labels

FARTHEST_S = 1.5  # from an edge of the window to the page that stands for it; pages come once a second
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_LARGEST = ("kv_use", "draft_acceptance")  # of several engines the largest counts; numbers of requests are added


@dataclass(frozen=True, slots=True)
class Scrape:
    """A Prometheus page as it was at a moment of the monotonic clock."""

    at_s: float
    values: Mapping[str, Mapping[Labels, float]]  # by the name and the labels of a line


def engine_figures(
    scrapes: Sequence[Scrape], names: MetricNames, *, opened_s: float, closed_s: float
) -> dict[str, float]:
    """Return what the pages say of a window: gauges within it, counters and histograms from its begin to its end.

    Counters are differences between the pages nearest to the window's edges, which are of `from_s` and `to_s`, counted
    from its begin. Without a page near both edges there are none, and none of a counter that went back, as it does
    when a server starts anew.
    """
    if not scrapes:
        return {}
    first, last = (min(scrapes, key=lambda scrape: abs(scrape.at_s - edge_s)) for edge_s in (opened_s, closed_s))
    figures = _gauges([scrape for scrape in scrapes if first.at_s <= scrape.at_s <= last.at_s], names)
    near = abs(first.at_s - opened_s) <= FARTHEST_S and abs(last.at_s - closed_s) <= FARTHEST_S
    if near and first.at_s < last.at_s:
        figures |= _differences(first, last, names)
        figures |= {"from_s": first.at_s - opened_s, "to_s": last.at_s - opened_s}
    return figures


def quantile(buckets: Mapping[float, float], q: float) -> float | None:
    """Return a quantile of a histogram by Prometheus' interpolation; `buckets` are cumulative, by upper bound.

    Values are taken to lie evenly within their bucket. One beyond the last finite bound is given as that bound. None
    without a value, or without a finite bucket.
    """
    bounds = sorted(buckets)
    finite = [bound for bound in bounds if math.isfinite(bound)]
    total = buckets[bounds[-1]] if bounds else 0.0
    if not finite or total <= 0:
        return None
    rank = q * total
    below, lower = 0.0, min(finite[0], 0.0)
    for bound in finite:
        if buckets[bound] >= rank:
            inside = buckets[bound] - below
            return lower + (bound - lower) * ((rank - below) / inside if inside > 0 else 0.0)
        below, lower = buckets[bound], bound
    return finite[-1]


def _gauges(scrapes: Sequence[Scrape], names: MetricNames) -> dict[str, float]:
    figures: dict[str, float] = {}
    for kind in GAUGES:
        told = [list(scrape.values.get(getattr(names, kind), {}).values()) for scrape in scrapes]
        combine = max if kind in _LARGEST else sum
        if values := [float(combine(engines)) for engines in told if engines]:
            figures[f"{kind}.mean"] = sum(values) / len(values)
            figures[f"{kind}.max"] = max(values)
    return figures


def _differences(first: Scrape, last: Scrape, names: MetricNames) -> dict[str, float]:
    figures: dict[str, float] = {}
    for kind in COUNTERS:
        grown = _grown(first, last, getattr(names, kind))
        if grown is not None:
            figures[kind] = sum(grown.values())
    for share, part, whole in (
        ("prefix_hit_rate", "prefix_hits", "prefix_queries"),
        ("draft_acceptance", "accepted", "drafted"),
    ):
        if part in figures and figures.get(whole, 0.0) > 0:
            figures[share] = figures[part] / figures[whole]
    for kind in HISTOGRAMS:
        for statistic, value in _statistics(first, last, getattr(names, kind)).items():
            figures[f"{kind}.{statistic}"] = value
    return figures


def _statistics(first: Scrape, last: Scrape, name: str) -> dict[str, float]:
    parts = [_grown(first, last, f"{name}_{part}") for part in ("count", "sum", "bucket")]
    counts, sums, grown = parts
    count = sum((counts or {}).values())
    if not name or count <= 0:
        return {}
    figures = {"count": count}
    if sums is not None:
        figures["mean"] = sum(sums.values()) / count
    buckets: dict[float, float] = {}
    for labels, value in (grown or {}).items():
        bound = float(dict(labels).get("le", "nan"))
        buckets[bound] = buckets.get(bound, 0.0) + value
    for statistic, q in QUANTILES.items():
        if (interpolated := quantile(buckets, q)) is not None:
            figures[statistic] = interpolated
    return figures


def _grown(first: Scrape, last: Scrape, name: str) -> dict[Labels, float] | None:
    """Return by how much each line of a counter grew; None where one went back, or there is none.

    A line that was not there before has counted from 0: clients write it when it first counts.
    """
    before, after = first.values.get(name, {}), last.values.get(name, {})
    grown = {labels: value - before.get(labels, 0.0) for labels, value in after.items()}
    return grown if grown and min(grown.values()) >= 0 and before.keys() <= after.keys() else None
