"""How sure the metrics of a batch are: a confidence interval for each.

An interval is (low, high). None stands for a side on which the data gives no bound at all: the
largest of 100 requests may lie below the true p99, so the p99 of 100 requests has no upper bound,
and no number is put in its place.

Requests that follow each other are not independent: they share a queue. What 1,000 of them say is
what fewer independent ones would, and every interval here takes that from the requests in the order
in which they were sent:

* **Means** by batch means: the series is cut into consecutive batches, whose means are nearly
  independent, and Student's t for that many values makes the interval (Law, "Simulation Modeling and
  Analysis", 5th ed. 2015, section 9.5.3). While neighbouring batch means correlate by von Neumann's
  ratio, they are joined in pairs (Fishman, "Grouping observations in digital simulation", Management
  Science 24, 1978).
* **Percentiles** by order statistics: no distribution is assumed; the number of requests below the
  true percentile is binomial (Hahn and Meeker, "Statistical Intervals", 1991, chapter 5).
* **Shares** by Wilson's score ("Probable inference, the law of succession, and statistical
  inference", Journal of the American Statistical Association 22, 1927).
* Percentiles and shares of correlated requests use the same formulas with the **effective number** of
  requests, p (1 - p) divided by the variance of p by batch means, never more than there are, with the
  correction for the few batches that this variance rests on (Korn and Graubard, "Confidence intervals
  for proportions with small expected number of positive counts estimated from survey data", Survey
  Methodology 24, 1998; Woodruff, "Confidence intervals for medians and other position measures",
  Journal of the American Statistical Association 47, 1952).
* **Rates and requests in flight** by batch means over equal slices of the window.
* **Standard deviations** from the batch means of the squared deviations, whose logarithm is taken for
  normal (Bonett, "Approximate confidence interval for standard deviation of nonnormal distributions",
  Computational Statistics and Data Analysis 50, 2006). The least exact of all: of skewed and strongly
  correlated latencies it covers in 85 to 94 of 100 cases instead of 95.

Counts (`requests`, `failed`) and `delivered` are what was counted, and `in_flight.max` is what was
seen; they have no interval.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pytest_autotune.columns import amounts, times
from pytest_autotune.concurrency import slice_means
from pytest_autotune.distributions import normal_quantile, two_sided
from pytest_autotune.metrics import IN_FLIGHT, PER_GPU, RATES, STATISTICS, TIMES, parse_metric
from pytest_autotune.statistics import measured, percentile

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_autotune.columns import Column
    from pytest_autotune.samples import Sample

Interval = tuple[float | None, float | None]

UNKNOWN: Interval = (None, None)
_SLICES = 32  # of the window, for rates
_MANY = 1024  # values from which on there are 32 batches, else 16: Law advises few large ones rather than many small
_LEAST_BATCHES = 8  # joined no further: Student's t grows too wide
_JOIN = 0.8416  # z of a one-sided test at 20 %: joining without need costs little, not joining costs coverage


def confidence_intervals(
    samples: Sequence[Sample],
    window_s: float,
    *,
    gpus: int,
    request_limits: Mapping[str, float] | None = None,
    also: Sequence[str] = (),
    only: Collection[str] | None = None,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Return the two-sided interval of every metric of a batch that can have one, by its name in `summarise`.

    `also` are further percentiles; `only` are the metrics that are wanted, when not all are: a few of
    them are cheap enough to ask for once a second.
    """
    batch = sorted(measured(samples, window_s), key=lambda sample: sample.start_s)
    succeeded = [sample for sample in batch if sample.error is None]
    statistics: dict[str, list[str]] = {family: [] if only is not None else list(STATISTICS) for family in TIMES}
    for name in also if only is None else only:
        family, statistic = parse_metric(name)
        if family in TIMES and statistic is not None and statistic not in statistics[family]:
            statistics[family].append(statistic)
    intervals: dict[str, Interval] = {}
    for family in TIMES:
        if statistics[family]:
            for values in times(succeeded, (family,)).values():
                for statistic, interval in time_intervals(values, statistics[family], confidence=confidence).items():
                    intervals[f"{family}.{statistic}"] = interval
    if batch:
        failures = np.array([sample.error is not None for sample in batch])
        intervals["error_rate"] = share_interval(failures, confidence=confidence)
        edges = np.linspace(0.0, window_s, _SLICES + 1)
        intervals[f"{IN_FLIGHT}.mean"] = mean_interval(slice_means(samples, edges), confidence=confidence)
        if only is None or any(name.removesuffix(PER_GPU) in RATES for name in only):
            for rate, amount in amounts(samples, edges, request_limits or {}).items():
                low, high = mean_interval(amount / np.diff(edges), confidence=confidence)
                intervals[rate] = (low, high)
                intervals[rate + PER_GPU] = (_divided(low, gpus), _divided(high, gpus))
    return intervals if only is None else {name: intervals[name] for name in only if name in intervals}


def requests_to_certify(q: float, *, confidence: float = 0.95) -> int:
    """Return how many independent requests, all below a limit, show that their q-th percentile is: 299 for p99.

    One-sided, with n requests: were the percentile above the limit, all n would lie below it with
    probability (q / 100) ** n (Hahn and Meeker 1991, chapter 5). `confidence_intervals` are
    two-sided, so that their upper bounds take more: 368 at the least for p99 at 95 %.
    """
    return math.ceil(math.log(1 - confidence) / math.log(q / 100) - 1e-9)


def time_intervals(series: Column, statistics: Collection[str], *, confidence: float = 0.95) -> dict[str, Interval]:
    """Return the intervals of `statistics` of values in the order in which their requests were sent."""
    ordered = np.sort(series)
    intervals: dict[str, Interval] = {}
    for statistic in statistics:
        if statistic == "mean":
            intervals[statistic] = mean_interval(series, confidence=confidence)
        elif statistic == "std":
            if series.size > 1:  # as in `summarise`: one value has no deviation
                intervals[statistic] = _deviation_interval(series, confidence)
        elif statistic == "min":
            intervals[statistic] = (None, float(ordered[0]))
        elif statistic == "max":
            intervals[statistic] = (float(ordered[-1]), None)
        else:
            q = float(statistic.removeprefix("p"))
            effective = effective_size(series <= percentile(ordered, q), confidence=confidence)
            intervals[statistic] = percentile_interval(ordered, q, effective=effective, confidence=confidence)
    return intervals


def mean_interval(series: Column, *, confidence: float = 0.95) -> Interval:
    """Return the interval of the mean of a series of values that are not negative, by batch means and Student's t."""
    if series.size < 2:
        return UNKNOWN
    mean, error, freedom = _batch_means(series)
    reach = two_sided(confidence, freedom) * error
    return max(mean - reach, 0.0), mean + reach


def percentile_interval(
    ordered: Column, q: float, *, effective: float | None = None, confidence: float = 0.95
) -> Interval:
    """Return the interval of the q-th percentile of sorted values, which count for `effective` independent ones.

    The bounds are the l-th and u-th smallest value with P(B < l) and P(B >= u) at most half of the
    rest, B being binomial: how many of n values lie below the true percentile (Hahn and Meeker 1991,
    chapter 5). Ranks among the effective values become those of the n that there are, outwards.
    """
    count = ordered.size
    trials = max(1, math.floor(min(count, count if effective is None else effective)))
    low, high = _binomial_ranks(trials, q / 100, (1 - confidence) / 2)
    first = (low - 1) * count // trials + 1
    last = -(-high * count // trials)
    return (
        None if low < 1 else float(ordered[first - 1]),
        None if high > trials else float(ordered[last - 1]),
    )


def share_interval(events: NDArray[np.bool_], *, confidence: float = 0.95) -> Interval:
    """Return the interval of the share of requests of which something is true, by Wilson's score."""
    count = effective_size(events, confidence=confidence)
    share = float(events.mean())
    z = normal_quantile((1 + confidence) / 2)
    centre = share + z * z / (2 * count)
    reach = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    low = 0.0 if share == 0 else max((centre - reach) / scale, 0.0)
    return low, 1.0 if share == 1 else min((centre + reach) / scale, 1.0)


def effective_size(series: Column | NDArray[np.bool_], *, confidence: float = 0.95) -> float:
    """Return how many independent requests say as much about a mean or a share as these do, in the order of sending.

    Korn and Graubard 1998: the variance, of a share p (1 - p), / that of the mean, times
    (t of n - 1 / t of the batches - 1) ** 2.
    """
    variance = float(series.var())
    if variance == 0 or series.size < 2:
        return float(series.size)
    _, error, freedom = _batch_means(series)
    if error == 0:
        return float(series.size)
    correction = two_sided(confidence, series.size - 1) / two_sided(confidence, freedom)
    return min(variance / error**2 * correction**2, float(series.size))


def _batch_means(series: Column | NDArray[np.bool_]) -> tuple[float, float, int]:
    """Return the mean of a series, its standard error, and the degrees of freedom that the error has."""
    count = series.size
    batches = 32 if count >= _MANY else min(count, 16)
    starts = np.arange(batches) * count // batches
    numbers = series.view(np.uint8) if series.dtype == np.bool_ else series
    sums = np.add.reduceat(numbers, starts, dtype=np.float64)
    sizes = np.diff(np.append(starts, count)).astype(np.float64)
    while sums.size >= 2 * _LEAST_BATCHES and _correlated(sums / sizes):
        sums, sizes = _joined(sums), _joined(sizes)
    mean = float(sums.sum()) / count
    deviations = sums - mean * sizes  # of totals: batches of one more or one less value weigh as they should
    variance = float(deviations @ deviations) / (sums.size - 1)
    return mean, math.sqrt(variance * sums.size) / count, sums.size - 1


def _correlated(means: Column) -> bool:
    """Say whether neighbours are alike: 1 - von Neumann's ratio / 2 is about normal when they are not."""
    centred = means - means.mean()
    spread = float(centred @ centred)
    if spread == 0:
        return False
    steps = np.diff(means)
    likeness = 1 - float(steps @ steps) / (2 * spread)
    return likeness > _JOIN * math.sqrt((means.size - 2) / (means.size**2 - 1))


def _joined(numbers: Column) -> Column:
    return np.add.reduceat(numbers, np.arange(0, numbers.size - 1, 2))  # the last joins the pair before it


def _deviation_interval(series: Column, confidence: float) -> Interval:
    """Return the interval of the standard deviation: that of the variance, on a logarithmic scale (Bonett 2006)."""
    variance, error, freedom = _batch_means((series - series.mean()) ** 2)
    if variance == 0:
        return 0.0, 0.0
    deviation = math.sqrt(variance * series.size / (series.size - 1))
    factor = math.exp(two_sided(confidence, freedom) * error / variance / 2)
    return deviation / factor, deviation * factor


def _binomial_ranks(trials: int, share: float, rest: float) -> tuple[int, int]:
    """Return the largest l with P(B < l) <= rest and the smallest u with P(B >= u) <= rest, of B ~ (trials, share)."""
    if share in (0.0, 1.0):
        return (0, 1) if share == 0 else (trials, trials + 1)
    centre, reach = trials * share, 12 * math.sqrt(trials * share * (1 - share)) + 12  # beyond: below 1e-30
    least, most = max(0, math.floor(centre - reach)), min(trials, math.ceil(centre + reach))
    values = np.arange(least, most + 1, dtype=np.float64)
    # Each probability by its ratio to the one before, (n - k + 1) / k * p / (1 - p), as logarithms.
    ratios = np.log((trials - values[1:] + 1) / values[1:]) + math.log(share / (1 - share))
    logarithms = np.concatenate(([0.0], np.cumsum(ratios)))
    chances = np.exp(logarithms - logarithms.max())
    chances /= chances.sum()
    below = np.concatenate(([0.0], np.cumsum(chances)))  # P(B < least + i)
    above = np.concatenate((np.cumsum(chances[::-1])[::-1], [0.0]))  # P(B >= least + i)
    low = least + int(np.searchsorted(below, rest, side="right")) - 1
    return low, least + int(np.argmax(above <= rest))


def _divided(side: float | None, gpus: int) -> float | None:
    return None if side is None else side / max(gpus, 1)
