"""Whether a limit on a percentile holds, decided while requests come in: a sequential test with its error rates.

``ttft.p99 <= 500 ms`` says that at least 99 % of all requests have a TTFT of at most 500 ms. The test
is of that share p against the p0 that is asked for, in both directions:

* **Mixture likelihood ratios.** For each direction, M is the likelihood of what was seen under shares beyond p0,
  averaged over a fixed set of them, divided by its likelihood under p0. When p is not beyond p0, M is a
  supermartingale that starts at 1, and the chance that it *ever* reaches 1 / alpha is at most alpha (Ville 1939;
  Robbins, "Statistical methods related to the law of the iterated logarithm", Annals of Mathematical Statistics
  41, 1970). So it may be looked at as often as one likes, and stored requests may be judged again by other limits.
* **Error rates.** A limit that does not hold passes with a chance of at most alpha = 1 - confidence. A batch complies
  when all limits hold, so the same is true of the batch (an intersection-union test, Berger 1982). It violates as
  soon as one is missed; of k limits each is therefore tested at alpha / k in that direction (Bonferroni).
* **Correlated requests** share a queue, and count for fewer: the numbers of requests and of misses are divided by the
  design effect, from batch means (`intervals.effective_size`). With no miss or nothing else so far, that of a nearby
  percentile of the same latencies stands in. This makes the guarantee approximate;
  ``benchmarks/search_verdicts.py`` measures the error rates.
* **The beginning** decides nothing: below `LEAST` requests the design effect is not known.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pytest_autotune.columns import times
from pytest_autotune.intervals import effective_size
from pytest_autotune.slo import Ruling, certified_percentile
from pytest_autotune.statistics import measured, percentile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_autotune.columns import Column
    from pytest_autotune.samples import Sample
    from pytest_autotune.slo import Limit

LEAST = 30  # requests
SURE = 2.0  # times the evidence is asked for to end a batch: the design effect is an estimate
_NEARBY = 90.0  # percentile that stands in for higher ones when the design effect is looked for

# Shares of misses beyond the limit that are averaged over, relative to the one that is allowed. A quarter
# of the weight is on a server without misses, which should be recognised soonest.
_FEWER = np.array([0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
_FEWER_WEIGHTS = np.array([0.25, *[0.75 / 11] * 11])
_MORE = np.geomspace(1.1, 20.0, 12)


def rule(samples: Sequence[Sample], window_s: float, limits: Iterable[Limit], confidence: float) -> dict[str, Ruling]:
    """Return a ruling for each hard limit on a percentile of a latency, by its metric; none for other limits.

    A limit is tested at its bound with its `fail_ratio`, beyond which it is a hard miss.
    """
    tested = [(limit, q) for limit in limits if (q := certified_percentile(limit)) is not None]
    succeeded = sorted((s for s in measured(samples, window_s) if s.error is None), key=lambda sample: sample.start_s)
    rulings = {}
    for limit, q in tested:
        family = limit.metric.partition(".")[0]
        values = times(succeeded, (family,)).get(family, np.empty(0))
        bound = limit.bound * (1 + limit.fail_ratio)
        rulings[limit.metric] = _ruling(values, bound, q / 100, confidence, len(tested))
    return rulings


def resolved(
    samples: Sequence[Sample], elapsed_s: float, limits: Sequence[Limit], *, confidence: float, least_s: float
) -> dict[str, Ruling]:
    """Return the rulings that end a batch, `elapsed_s` after its window opened; none when it should go on.

    They stand, whatever the answers still on their way make of the same test: that it was reached at all is what the
    error rates are about. `samples` are the requests that have ended. Slow ones are missing among those that
    began last, so only what began longer ago than the slowest request took is looked at.
    """
    if elapsed_s < least_s or not samples:
        return {}
    slowest_s = max(sample.e2e_s for sample in samples)
    settled = [sample for sample in samples if sample.start_s < elapsed_s - slowest_s]
    rulings = rule(settled, elapsed_s, limits, 1 - (1 - confidence) / SURE)
    if missed := {metric: ruling for metric, ruling in rulings.items() if ruling.decision == "missed"}:
        return missed
    return rulings if all(ruling.decision == "holds" for ruling in rulings.values()) else {}


def ending(rulings: Mapping[str, Ruling]) -> str:
    """Return why a batch ends, for rulings that end it; empty for none."""
    for metric, ruling in rulings.items():
        if ruling.decision == "missed":
            return f"{metric} is {ruling}"
    least = min(rulings.values(), key=lambda ruling: ruling.confidence, default=None)
    return "" if least is None else f"every limit on a percentile {least}"


def _ruling(values: Column, bound: float, asked: float, confidence: float, limits: int) -> Ruling:
    count = values.size
    kept = values <= bound
    share = float(kept.mean()) if count else 0.0
    if count < LEAST:
        return Ruling("open", 0.0, share, count)
    effect = _design_effect(values, kept, asked)
    requests, misses = count / effect, (count - int(kept.sum())) / effect
    allowed = 1 - asked
    fewer = _evidence(requests, misses, allowed, allowed * _FEWER, _FEWER_WEIGHTS)
    ratios = np.minimum(allowed * _MORE, (1 + allowed * (_MORE - 1)) / _MORE)  # never beyond 1
    more = _evidence(requests, misses, allowed, ratios, np.full(_MORE.size, 1 / _MORE.size))
    alpha = 1 - confidence
    if fewer >= -math.log(alpha):
        return Ruling("holds", -math.expm1(-fewer), share, count)
    if more >= -math.log(alpha / limits):
        return Ruling("missed", 1 - limits * math.exp(-more), share, count)
    likelier = min(math.exp(-fewer), limits * math.exp(-more), 1.0)
    return Ruling("open", 1 - likelier, share, count)


def _evidence(requests: float, misses: float, allowed: float, shares: Column, weights: Column) -> float:
    """Return the logarithm of the mixture likelihood ratio of shares of misses against the one allowed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        missing = misses * np.log(shares / allowed) if misses else np.zeros(shares.size)
    logs = np.log(weights) + missing + (requests - misses) * np.log((1 - shares) / (1 - allowed))
    top = float(logs.max())
    return top + math.log(float(np.exp(logs - top).sum()))


def _design_effect(values: Column, kept: NDArray[np.bool_], asked: float) -> float:
    """Return how many requests count for one independent one, at least 1."""
    nearby = min(100 * asked, _NEARBY)
    likeness = effective_size(values <= percentile(np.sort(values), nearby))
    return max(1.0, values.size / min(likeness, effective_size(kept)))
