"""Percentiles and the metrics of a batch, each by one documented definition.

Which requests count, and when, with a window of [0, W) seconds:

* **Latencies, `requests`, `failed`, `error_rate`:** the requests that *began* inside the window (were
  sent; of an open loop: were due, whenever they could be sent), each followed to its end even when
  that is after W. Counting those that both began and ended inside would favour short requests, and
  counting those that ended inside would show what was sent during warm-up. A request in flight
  throughout the window counts as well: otherwise one that hangs, or outlasts the window, would be in
  no figure at all. Latencies are those of successful requests. Those of an open loop count from when
  the request was due: a client that waits for a slow server must not hide it. What they are from the
  moment of sending is kept beside them, as `ttft_sent` and `e2e_sent`.
* **Token throughput:** the tokens of successful requests at the moment each *arrived*, whenever its
  request was sent or ended, so that requests cut by an edge of the window count with exactly the
  part inside it, and a short window is as unbiased as a long one. The tokens of an answer are
  spread evenly over its arrivals. A prompt's tokens count when its first output token arrives: by
  then they have been processed.
* **Request throughput, goodput:** the successful requests that *ended* inside the window.
* **In flight:** every request between being sent and its end, weighted by the time inside the window.

How sure these numbers are is in `intervals`, what they are called in `metrics`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_autotune.metrics import IN_FLIGHT, PER_GPU, STATISTICS, TIMES, parse_metric

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_autotune.columns import Column
    from pytest_autotune.samples import Sample


def percentile(ordered: Sequence[float] | Column, q: float) -> float:
    """Return the q-th percentile (0..100) of sorted values by linear interpolation (Hyndman-Fan type 7).

    Type 7 of Hyndman and Fan, "Sample quantiles in statistical packages" (1996): the value at
    position (n - 1) q / 100. It is the default of numpy, R and spreadsheets.
    """
    position = (len(ordered) - 1) * q / 100
    below = min(int(position), len(ordered) - 2)
    if below < 0:
        return float(ordered[0])
    low, high = float(ordered[below]), float(ordered[below + 1])
    return min(max(low + (high - low) * (position - below), low), high)  # rounding must not leave [low, high]


def measured(samples: Iterable[Sample], window_s: float) -> list[Sample]:
    """Return the requests of a batch: begun inside its window, or in flight throughout it."""
    return [
        sample
        for sample in samples
        if 0 <= sample.start_s < window_s or (sample.start_s < 0 and sample.end_s >= window_s)
    ]


def summarise(
    samples: Sequence[Sample],
    window_s: float,
    *,
    gpus: int,
    request_limits: Mapping[str, float],
    also: Sequence[str] = (),
    delivered: float | None = None,
) -> dict[str, float]:
    """Return every standard metric of a batch, plus the percentiles named in `also`.

    `request_limits` (family -> seconds) are the per-request limits of goodput; that of ``itl`` holds
    for every gap of a request, and a request without a figure (one token has no TPOT) meets its
    limit. `delivered` is the load generator's own figure, which samples cannot tell. A metric without
    data is absent, never zero or NaN: rates need one request of the batch to be there, failed or not.
    A server without GPUs counts as one in ``_per_gpu``. ``std`` is the sample standard deviation
    (n - 1).
    """
    # numpy is imported here: what reads a metric's name or a percentile starts fast without it.
    import numpy as np

    from pytest_autotune.columns import amounts, times
    from pytest_autotune.concurrency import in_flight

    batch = measured(samples, window_s)
    succeeded = [sample for sample in batch if sample.error is None]
    metrics: dict[str, float] = {"requests": len(batch), "failed": len(batch) - len(succeeded)}
    extra: dict[str, list[str]] = {family: [] for family in TIMES}
    for name in also:
        family, statistic = parse_metric(name)
        if family in TIMES and statistic is not None and statistic not in STATISTICS:
            extra[family].append(statistic)
    for family in TIMES:  # one at a time: the gaps alone may be hundreds of megabytes
        for values in times(succeeded, (family,)).values():
            for statistic, value in _describe(values, extra[family]).items():
                metrics[f"{family}.{statistic}"] = value
    if batch:
        metrics["error_rate"] = metrics["failed"] / len(batch)
        for rate, amount in amounts(samples, np.array([0.0, window_s]), request_limits).items():
            metrics[rate] = float(amount[0]) / window_s
            metrics[rate + PER_GPU] = metrics[rate] / max(gpus, 1)
        metrics[f"{IN_FLIGHT}.mean"], metrics[f"{IN_FLIGHT}.max"] = in_flight(samples, window_s)
    if delivered is not None:
        metrics["delivered"] = delivered
    return metrics


def _describe(values: Column, extra: Sequence[str]) -> dict[str, float]:
    """Return the standard statistics of values and the `extra` percentiles; uses the values up."""
    values.sort()
    least, most = float(values[0]), float(values[-1])
    mean = min(max(float(values.sum()) / values.size, least), most)  # rounding must not leave the range
    statistics = {"mean": mean, "min": least, "max": most}
    for name in (*STATISTICS, *extra):
        if name.startswith("p"):
            statistics[name] = percentile(values, float(name[1:]))
    if values.size > 1:
        values -= mean
        statistics["std"] = math.sqrt(float(values @ values) / (values.size - 1))
    return statistics
