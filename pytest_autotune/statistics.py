"""Percentiles and the metrics of a batch, each by one documented definition.

Which requests count, and when, with a window of [0, W) seconds:

* **Latencies, `requests`, `failed`, `error_rate`:** the requests *sent* inside the window, each
  followed to its end even when that is after W. Counting those that both began and ended inside
  would favour short requests, and counting those that ended inside would show what was sent during
  warm-up. A request in flight throughout the window counts as well: otherwise one that hangs, or
  outlasts the window, would be in no figure at all. Latencies are those of successful requests.
* **Token throughput:** the tokens of successful requests at the moment each *arrived*, whenever its
  request was sent or ended, so that requests cut by an edge of the window count with exactly the
  part inside it, and a short window is as unbiased as a long one. The tokens of an answer are
  spread evenly over its arrivals. A prompt's tokens count when its first output token arrives: by
  then they have been processed.
* **Request throughput, goodput:** the successful requests that *ended* inside the window.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from itertools import accumulate, chain
from typing import TYPE_CHECKING

from pytest_autotune.spelling import closest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_autotune.samples import Sample

LATENCIES = ("ttft", "tpot", "itl", "e2e")  # seconds; each with a statistic: ttft.p90
RATES = (  # per second, each also with the suffix _per_gpu
    "output_throughput",
    "total_throughput",
    "input_throughput",
    "request_throughput",
    "goodput",
)
COUNTS = ("error_rate", "requests", "failed")
STATISTICS = ("mean", "std", "min", "max", "p25", "p50", "p75", "p90", "p95", "p99", "p99.9")  # of every latency
PER_GPU = "_per_gpu"

_PERCENTILE = re.compile(r"p(100|[1-9]?[0-9](?:\.[0-9]*[1-9])?)")  # one spelling for each: p99, not p99.0 or p099
_PLAIN = (*RATES, *(rate + PER_GPU for rate in RATES), *COUNTS)


def parse_metric(name: str) -> tuple[str, str | None]:
    """Split ``ttft.p90`` into its family and statistic; raise `ValueError` naming what is allowed and the nearest.

    Any percentile from ``p0`` to ``p100`` is a statistic of a latency (``p97``, ``p99.95``). Rates and
    counts have none: ``goodput_per_gpu`` gives ``("goodput_per_gpu", None)``.
    """
    family, dot, statistic = name.partition(".")
    if name in _PLAIN:
        return name, None
    if family in LATENCIES and dot and (statistic in STATISTICS or _PERCENTILE.fullmatch(statistic)):
        return family, statistic
    raise ValueError(f"{name!r} is not a metric{_nearest(name)} (allowed: {_allowed()})")


def percentile(ordered: Sequence[float], q: float) -> float:
    """Return the q-th percentile (0..100) of sorted values by linear interpolation (Hyndman-Fan type 7).

    Type 7 of Hyndman and Fan, "Sample quantiles in statistical packages" (1996): the value at
    position (n - 1) q / 100. It is the default of numpy, R and spreadsheets.
    """
    position = (len(ordered) - 1) * q / 100
    below = min(int(position), len(ordered) - 2)
    if below < 0:
        return ordered[0]
    low, high = ordered[below], ordered[below + 1]
    return min(max(low + (high - low) * (position - below), low), high)  # rounding must not leave [low, high]


def measured(samples: Iterable[Sample], window_s: float) -> list[Sample]:
    """Return the requests of a batch: sent inside its window, or in flight throughout it."""
    return [
        sample
        for sample in samples
        if 0 <= sample.sent_s < window_s or (sample.sent_s < 0 and sample.end_s >= window_s)
    ]


def summarise(
    samples: Sequence[Sample],
    window_s: float,
    *,
    gpus: int,
    request_limits: Mapping[str, float],
    also: Sequence[str] = (),
) -> dict[str, float]:
    """Return every standard metric of a batch, plus the percentiles named in `also`.

    `request_limits` (family -> seconds) are the per-request limits of goodput; that of ``itl`` holds
    for every gap of a request, and a request without a figure (one token has no TPOT) meets its
    limit. A metric without data is absent, never zero or NaN: rates need one request of the batch to
    be there, failed or not. A server without GPUs counts as one in ``_per_gpu``. ``std`` is the
    sample standard deviation (n - 1).
    """
    batch = measured(samples, window_s)
    succeeded = [sample for sample in batch if sample.error is None]
    metrics: dict[str, float] = {"requests": len(batch), "failed": len(batch) - len(succeeded)}
    extra: dict[str, list[str]] = {family: [] for family in LATENCIES}
    for name in also:
        family, statistic = parse_metric(name)
        if statistic is not None and statistic not in STATISTICS:
            extra[family].append(statistic)
    for family, values in _latencies(succeeded).items():
        for statistic, value in _describe(values, extra[family]).items():
            metrics[f"{family}.{statistic}"] = value
    if batch:
        metrics["error_rate"] = metrics["failed"] / len(batch)
        for rate, amount in _amounts(samples, window_s, request_limits).items():
            metrics[rate] = amount / window_s
            metrics[rate + PER_GPU] = metrics[rate] / max(gpus, 1)
    return metrics


def _latencies(samples: Sequence[Sample]) -> dict[str, list[float]]:
    """Return the sorted values of every latency."""
    return {
        "ttft": sorted(value for sample in samples if (value := sample.ttft_s) is not None),
        "tpot": sorted(value for sample in samples if (value := sample.tpot_s) is not None),
        "itl": sorted(chain.from_iterable(sample.gaps_s for sample in samples)),
        "e2e": sorted(sample.e2e_s for sample in samples),
    }


def _describe(ordered: Sequence[float], extra: Sequence[str]) -> dict[str, float]:
    """Return the standard statistics of sorted values and the `extra` percentiles."""
    if not ordered:
        return {}
    count = len(ordered)
    mean = min(max(math.fsum(ordered) / count, ordered[0]), ordered[-1])  # rounding must not leave the range
    statistics = {"mean": mean, "min": ordered[0], "max": ordered[-1]}
    if count > 1:
        statistics["std"] = math.dist(ordered, [mean] * count) / math.sqrt(count - 1)
    for name in (*STATISTICS, *extra):
        if name.startswith("p"):
            statistics[name] = percentile(ordered, float(name[1:]))
    return statistics


def _amounts(samples: Iterable[Sample], window_s: float, limits: Mapping[str, float]) -> dict[str, float]:
    """Return what the window delivered, under the name of the rate that it makes."""
    output = prompt = ended = good = 0.0
    for sample in samples:
        if sample.error is not None:
            continue
        output += _output_inside(sample, window_s)
        if sample.first_s is not None and 0 <= sample.first_s < window_s:
            prompt += sample.prompt_tokens
        if 0 <= sample.end_s < window_s:
            ended += 1
            good += _within(sample, limits)
    amounts = (output, prompt + output, prompt, ended, good)
    return dict(zip(RATES, amounts, strict=True))


def _output_inside(sample: Sample, window_s: float) -> float:
    """Return how many of a request's output tokens arrived inside the window."""
    first, last = sample.first_s, sample.end_s
    if first is None or first >= window_s or last < 0:
        return 0.0
    if first >= 0 and last < window_s:
        return sample.output_tokens
    if sample.gaps_s:
        arrivals = tuple(accumulate(sample.gaps_s, initial=first))
        inside = bisect_left(arrivals, window_s) - bisect_left(arrivals, 0)
        return sample.output_tokens * inside / len(arrivals)
    # Without the gaps (a sample that was stored compactly) the tokens came evenly.
    return sample.output_tokens * (min(last, window_s) - max(first, 0.0)) / (last - first)


def _within(sample: Sample, limits: Mapping[str, float]) -> bool:
    """Say whether a successful request meets every per-request limit."""
    figures = {
        "ttft": sample.ttft_s,
        "tpot": sample.tpot_s,
        "itl": max(sample.gaps_s, default=None),
        "e2e": sample.e2e_s,
    }
    return all((figure := figures[family]) is None or figure <= limit for family, limit in limits.items())


def _allowed() -> str:
    statistics = ", ".join(s for s in STATISTICS if not s.startswith("p"))
    return (
        f"{', '.join(LATENCIES)} with one of {statistics}, p0 ... p100, as in ttft.p90; "
        f"{', '.join(RATES)}, each also with {PER_GPU}; {', '.join(COUNTS)}"
    )


def _nearest(name: str) -> str:
    known = (*(f"{family}.{statistic}" for family in LATENCIES for statistic in STATISTICS), *_PLAIN)
    close = closest(name, known, cutoff=0.5)
    return "" if close is None else f"; did you mean {close!r}?"
