"""How many requests were in flight: over the window, and along it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_autotune.columns import Column
    from pytest_autotune.samples import Sample


def in_flight(samples: Sequence[Sample], window_s: float) -> tuple[float, float]:
    """Return the mean over the time of the window and the maximum of the requests in flight.

    A request is in flight from being sent to its end, [sent, end): one that begins at the moment
    another ends is never there beside it. Failed requests count, they hold a place too.
    """
    sent, end = _spans(samples, window_s)
    if not sent.size:
        return 0.0, 0.0
    mean = float(np.sum(end - sent)) / window_s
    most = np.arange(1, sent.size + 1) - np.searchsorted(np.sort(end), np.sort(sent), side="right")
    return mean, float(max(most.max(), 0))


def concurrency_over_time(samples: Sequence[Sample], window_s: float, points: int) -> tuple[tuple[float, float], ...]:
    """Return (middle of a slice in seconds, mean number in flight during it) for `points` equal slices."""
    edges = np.linspace(0.0, window_s, points + 1)
    means = slice_means(samples, edges)
    return tuple(zip(((edges[:-1] + edges[1:]) / 2).tolist(), means.tolist(), strict=True))


def slice_means(samples: Sequence[Sample], edges: Column) -> Column:
    """Return the mean number in flight over the time of each slice [edges[k], edges[k + 1])."""
    sent, end = _spans(samples, float(edges[-1]))
    return np.diff(_time_above(sent, edges) - _time_above(end, edges)) / np.diff(edges)


def _spans(samples: Sequence[Sample], window_s: float) -> tuple[Column, Column]:
    """Return when the requests that were in flight inside the window began and ended, cut to the window."""
    inside = [sample for sample in samples if sample.sent_s < window_s and sample.end_s > 0]
    sent = np.fromiter((sample.sent_s for sample in inside), dtype=np.float64)
    end = np.fromiter((sample.end_s for sample in inside), dtype=np.float64)
    return np.maximum(sent, 0.0), np.minimum(end, window_s)


def _time_above(moments: Column, edges: Column) -> Column:
    """Return, at each edge, how much time had passed since all the earlier moments, added up."""
    ordered = np.sort(moments)
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    passed = np.searchsorted(ordered, edges)
    return edges * passed - sums[passed]
