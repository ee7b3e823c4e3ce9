"""Whether a server was in a steady state, and whether it falls behind an open loop while a batch runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_autotune.distributions import student_quantile, two_sided
from pytest_autotune.formatting import change, quantity
from pytest_autotune.metrics import IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_autotune.samples import Sample

_SLICES = 20  # batch means that a trend is fitted to
_LEAST_REQUESTS = 60  # three a slice; below, no trend is told from chance
_LEAST_EFFECTIVE = 5.0  # slices: fewer, and no growth of a queue would be told from its wandering
_CONFIDENCE = 0.99  # of each trend: three are tested
_PRACTICAL = 0.1  # a change over the window, relative to the mean, that is worth telling

_WINDOW_S = 60.0  # of the past that counts while a batch runs
_LEAST_S = 5.0
_LEAST_STEPS = 5
_CERTAINTY = 0.9999  # one-sided: the question is asked every second of every batch
_TREND_CERTAINTY = 0.99
_BEHIND = 0.05  # share of the time, and of the requests, by which a server must fall behind for it to matter


@dataclass(frozen=True, slots=True)
class Drift:
    """How one figure changed from the beginning of the window to its end, relative to its mean."""

    figure: str  # "ttft", "e2e" or "in_flight"
    change: float
    low: float  # 99 % interval of the change
    high: float
    mean: float

    @property
    def matters(self) -> bool:
        """Whether the change is both beyond chance and large enough to spoil a measurement."""
        return abs(self.change) >= _PRACTICAL and (self.low > 0 or self.high < 0)

    def __str__(self) -> str:
        name = self.figure.replace("_", " ")
        return f"{name} changed by {change(self.change)} ({change(self.low)} to {change(self.high)})"


@dataclass(frozen=True, slots=True)
class Steadiness:
    """What the test of a window found."""

    drifts: tuple[Drift, ...]  # of every figure that could be tested, whether or not it matters
    untested: str = ""  # why nothing could be tested

    @property
    def steady(self) -> bool:
        """Whether nothing drifted; False when nothing could be tested."""
        return not self.untested and not any(drift.matters for drift in self.drifts)

    def __str__(self) -> str:
        """Return the finding in words: ``steady``, ``drifting: ttft changed by +45 % (+31 % to +59 %)``."""
        if self.untested:
            return f"not tested: {self.untested}"
        if self.steady:
            return "steady"
        return "drifting: " + ", ".join(str(drift) for drift in self.drifts if drift.matters)


def steady(samples: Sequence[Sample], window_s: float) -> Steadiness:
    """Test whether TTFT, e2e latency and the number in flight were level along the window.

    Each is averaged over 20 slices (latencies over 20 equal numbers of requests, in the order in which
    they began), and a straight line is fitted to the averages. Neighbouring slices are alike, which
    makes lines look surer than they are: the number of slices counts as n (1 - r) / (1 + r), r being
    the correlation of neighbouring residuals, both in the error of the slope and in the degrees of
    freedom of its Student t (Santer et al., "Statistical significance of trends and trend differences
    in layer-average atmospheric temperature time series", Journal of Geophysical Research 105, 2000).
    A figure drifts when its 99 % interval excludes zero and the line changes by at least 10 % of the
    mean from one end of the window to the other: a large batch makes tiny changes significant.

    It is a test for loads that are level themselves: stages and bursts are meant to change.
    """
    import numpy as np

    from pytest_autotune.concurrency import slice_means
    from pytest_autotune.statistics import measured

    batch = sorted((s for s in measured(samples, window_s) if s.error is None), key=lambda sample: sample.start_s)
    if len(batch) < _LEAST_REQUESTS:
        return Steadiness((), f"{len(batch)} successful requests are too few, at least {_LEAST_REQUESTS} are needed")
    starts = np.array([sample.start_s for sample in batch])
    columns = {
        "ttft": np.array([math.nan if sample.ttft_s is None else sample.ttft_s for sample in batch]),
        "e2e": np.array([sample.e2e_s for sample in batch]),
    }
    drifts = []
    for figure, column in columns.items():
        there = ~np.isnan(column)
        if there.sum() < _LEAST_REQUESTS:
            continue
        means = [part.mean() for part in np.array_split(column[there], _SLICES)]
        moments = [part.mean() for part in np.array_split(starts[there], _SLICES)]
        drifts.append(_drift(figure, moments, means, window_s))
    edges = np.linspace(0.0, window_s, _SLICES + 1)
    drifts.append(_drift(IN_FLIGHT, edges[:-1].tolist(), slice_means(samples, edges).tolist(), window_s))
    return Steadiness(tuple(drift for drift in drifts if drift is not None))


def oversaturation(
    in_flight: Sequence[tuple[float, float]],
    ttfts: Sequence[tuple[float, float]],
    now_s: float,
    *,
    rate: float,
    filled_s: float = 0.0,
) -> str:
    """Say how a server falls behind an open loop without bound, in words; empty while it need not be so.

    `in_flight` are (time, requests in flight), about once a second; `ttfts` are (time it began, TTFT) of
    requests whose first token has come; `rate` is what is asked for, in requests per second; `filled_s`
    is when the first request ended: until then the number in flight grows whatever the server does.
    Meant to be asked once a second while a batch runs, so that a load that cannot be measured is not
    paid for.
    As in GuideLLM's `OverSaturationConstraint` both the number in flight and TTFT must grow, beyond a
    Student t margin, for a least time and by a least amount:

    * **In flight:** its steps from point to point average above zero, one-sided at 99.99 %, and at least
      5 % of the requests stay behind. A queue is a sum of what came and went, so its points are no
      independent readings, but its steps nearly are: a regression line through the points has a margin
      that is far too narrow (Granger and Newbold, "Spurious regressions in econometrics", Journal of
      Econometrics 2, 1974) and reports queues that only wander. In the later half of the time it must
      grow at least half as fast as in all of it: a server that has just filled up does not fall behind.
    * **TTFT:** the slope of its regression line is above zero, by a margin at 99 %, and at least 0.05
      seconds per second: a server that serves a share s of what comes lets TTFT grow by 1 - s seconds
      in every second.

    The last 60 seconds count, and at least 5.
    """
    since_s = max(now_s - _WINDOW_S, filled_s)
    points = [point for point in in_flight if since_s <= point[0] <= now_s]
    if len(points) <= _LEAST_STEPS or points[-1][0] - points[0][0] < _LEAST_S:
        return ""
    steps = [(later[1] - earlier[1]) / (later[0] - earlier[0]) for earlier, later in pairwise(points)]
    growth = (points[-1][1] - points[0][1]) / (points[-1][0] - points[0][0])
    error = math.sqrt(_long_run_variance([step - growth for step in steps], least=rate) / len(steps))
    margin = student_quantile(_CERTAINTY, len(steps) - 1) * error
    later = steps[len(steps) // 2 :]
    if growth < max(_BEHIND * rate, margin) or math.fsum(later) / len(later) < growth / 2:
        return ""
    recent = [(began, ttft) for began, ttft in ttfts if points[0][0] <= began <= now_s]
    if len(recent) <= _LEAST_STEPS:
        return ""
    slope, level, error = _line([began for began, _ in recent], [ttft for _, ttft in recent])
    if slope < _BEHIND or slope <= student_quantile(_TREND_CERTAINTY, len(recent) - 2) * error:
        return ""
    first, last = min(began for began, _ in recent), max(began for began, _ in recent)
    from_s, to_s = (max(level + slope * moment, 0.0) for moment in (first, last))
    return (
        f"requests in flight grew from {points[0][1]:.0f} to {points[-1][1]:.0f} "
        f"in {quantity('e2e', points[-1][0] - points[0][0])}, by {growth:.3g}/s of the {rate:.3g}/s sent, "
        f"and ttft from {quantity('ttft', from_s)} to {quantity('ttft', to_s)}"
    )


def _long_run_variance(steps: Sequence[float], *, least: float) -> float:
    """Return the variance that makes the error of the mean of steps around 0; requests make at least `least` of it.

    Requests of one length that began together end together, again and again: such waves swing far more
    than their mean can be wrong. Newey and West, "A simple, positive semi-definite, heteroskedasticity
    and autocorrelation consistent covariance matrix", Econometrica 55 (1987), with three lags, where it
    is below the plain variance.
    """
    count = len(steps)
    products = [math.fsum(a * b for a, b in zip(steps, steps[lag:], strict=False)) / (count - 1) for lag in range(4)]
    waves = products[0] + 2 * math.fsum((1 - lag / 4) * products[lag] for lag in (1, 2, 3))
    return min(products[0], max(waves, least)) if products[0] > least else products[0]


def _drift(figure: str, moments: Sequence[float], means: Sequence[float], window_s: float) -> Drift | None:
    mean = math.fsum(means) / len(means)
    if mean <= 0:
        return None
    slope, level, error = _line(moments, means)
    residuals = [value - level - slope * moment for moment, value in zip(moments, means, strict=True)]
    squares = math.fsum(residual**2 for residual in residuals)
    likeness = math.fsum(a * b for a, b in pairwise(residuals)) / squares if squares > 0 else 0.0
    count = len(means)
    effective = min(max(count * (1 - likeness) / (1 + likeness), _LEAST_EFFECTIVE), float(count))
    error *= math.sqrt((count - 2) / (effective - 2))
    reach = two_sided(_CONFIDENCE, max(1, math.floor(effective) - 2)) * error
    scale = window_s / mean
    return Drift(figure, slope * scale, (slope - reach) * scale, (slope + reach) * scale, mean)


def _line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float, float]:
    """Return slope, value at 0 and standard error of the slope of the least-squares line."""
    count = len(xs)
    x_mean, y_mean = math.fsum(xs) / count, math.fsum(ys) / count
    xx = math.fsum((x - x_mean) ** 2 for x in xs)
    if xx == 0:
        return 0.0, y_mean, math.inf
    slope = math.fsum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / xx
    level = y_mean - slope * x_mean
    rest = math.fsum((y - level - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    return slope, level, math.sqrt(rest / (count - 2) / xx)
