"""Whether a limit on a latency holds, decided while requests come in: sequential tests with their error rates.

``ttft.p99 <= 500 ms`` says that at least 99 % of all requests have a TTFT of at most 500 ms. The test
is of that share p against the p0 that is asked for, in both directions:

* **Mixture likelihood ratios.** For each direction, M is the likelihood of what was seen under shares beyond p0,
  averaged over a fixed set of them, divided by its likelihood under p0. When p is not beyond p0, M is a
  supermartingale that starts at 1, and the chance that it *ever* reaches 1 / alpha is at most alpha (Ville 1939;
  Robbins, "Statistical methods related to the law of the iterated logarithm", Annals of Mathematical Statistics
  41, 1970). So it may be looked at as often as one likes, and stored requests may be judged again by other limits.
* **Means**, ``tpot.mean <= 50 ms``, in the same way with the likelihoods of a normal variable, averaged over means
  beyond the bound by a half-normal density. After n requests, whose excesses add up to S standard deviations,

      M = 2 / sqrt(v) * exp(x^2 / 2) * Phi(x)    with v = n rho^2 + 1 and x = rho S / sqrt(v)

  (Robbins 1970). Latencies are not normal, but their sums become so: an asymptotic confidence sequence (Waudby-Smith,
  Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of
  Statistics 52, 2024), one-sided in each direction; their boundary x^2 / 2 = log(1 + sqrt(v) / (2 alpha)) is a closed
  form that lies a little outside. rho^2 = (-2 log a + log(-2 log a) + 1) / n with a = 2 alpha makes it tightest
  around n. The standard deviation is taken about the bound, as it is when the mean lies there: latencies are skewed,
  and a stretch without slow ones has a small mean with a small deviation. The mean is that of `statistics`: of ``itl``
  over all gaps, so that a request counts with the sum of its own.
* **Error rates.** A limit that does not hold passes with a chance of at most alpha = 1 - confidence. A batch complies
  when all limits hold, so the same is true of the batch (an intersection-union test, Berger 1982). It violates as
  soon as one is missed; of k limits each is therefore tested at alpha / k in that direction (Bonferroni).
* **Correlated requests** share a queue, and count for fewer: the numbers of requests and of misses are divided by the
  design effect, from batch means (`intervals.effective_size`). With no miss or nothing else so far, that of a nearby
  percentile of the same latencies stands in. Of a mean, the part of the squares that is the variance is multiplied
  by the design effect. This makes the guarantee approximate; ``benchmarks/search_verdicts.py`` measures the error
  rates.
* **Batches of one server** differ by more than their requests tell (`Certainty.spread`). A limit holds when it would at
  bound / (1 + z spread), and is missed beyond bound * (1 + z spread), z being the normal quantile of the confidence:
  further than that a batch is from the server's mean with a chance of at most 1 - confidence, beside that of the test.
* **The beginning** decides nothing: below `LEAST` requests the design effect is not known, and below as many effective
  ones a sum is not about normal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pytest_autotune.columns import times
from pytest_autotune.distributions import normal_quantile
from pytest_autotune.intervals import effective_size
from pytest_autotune.slo import Ruling, certified_statistic
from pytest_autotune.statistics import measured, percentile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from pytest_autotune.columns import Column
    from pytest_autotune.samples import Sample
    from pytest_autotune.slo import Certainty, Limit

LEAST = 30  # requests
SURE = 2.0  # times the evidence is asked for to end a batch: the design effect is an estimate
_NEARBY = 90.0  # percentile that stands in for higher ones when the design effect is looked for

# Shares of misses beyond the limit that are averaged over, relative to the one that is allowed. Half of
# the weight is on a server without misses, which should be recognised soonest.
_FEWER = np.array([0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
_FEWER_WEIGHTS = np.array([0.5, *[0.5 / 11] * 11])
_MORE = np.geomspace(1.1, 20.0, 12)
_TIGHTEST = 300  # requests
_RHO2 = (-2 * math.log(0.05) + math.log(-2 * math.log(0.05)) + 1) / _TIGHTEST  # for 95 %, twice as sure
_TAIL = 0.998  # two-sided: the confidence at which Student's t replaces the normal, about where decisions are made


def rule(
    samples: Sequence[Sample], window_s: float, limits: Iterable[Limit], certainty: Certainty, *, sure: float = 1.0
) -> dict[str, Ruling]:
    """Return a ruling for each hard limit on a percentile or mean of a latency, by its metric; none for other limits.

    A limit is tested at its bound with its `fail_ratio`, beyond which it is a hard miss. `sure` is how many times the
    evidence is asked for.
    """
    tested = [(limit, of) for limit in limits if (of := certified_statistic(limit)) is not None]
    succeeded = sorted((s for s in measured(samples, window_s) if s.error is None), key=lambda sample: sample.start_s)
    margin = 1 + normal_quantile(certainty.confidence) * certainty.spread
    alpha = (1 - certainty.confidence) / sure
    rulings = {}
    for limit, of in tested:
        family = limit.metric.partition(".")[0]
        bound = limit.bound * (1 + limit.fail_ratio)
        found = (
            _of_mean(succeeded, family, bound, margin)
            if of == "mean"
            else _of_percentile(succeeded, family, of / 100, bound, margin)
        )
        rulings[limit.metric] = found.ruling(alpha, len(tested))
    return rulings


def resolved(
    samples: Sequence[Sample], elapsed_s: float, limits: Sequence[Limit], *, certainty: Certainty, least_s: float
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
    rulings = rule(settled, elapsed_s, limits, certainty, sure=SURE)
    if missed := {metric: ruling for metric, ruling in rulings.items() if ruling.decision == "missed"}:
        return missed
    return rulings if all(ruling.decision == "holds" for ruling in rulings.values()) else {}


def ending(rulings: Mapping[str, Ruling]) -> str:
    """Return why a batch ends, for rulings that end it; empty for none."""
    for metric, ruling in rulings.items():
        if ruling.decision == "missed":
            return f"{metric} is {ruling}"
    least = min(rulings.values(), key=lambda ruling: ruling.confidence, default=None)
    return "" if least is None else f"every limit that is tested {least}"


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What requests say of one limit: logarithms of the mixture likelihood ratios in both directions."""

    requests: int
    share: float | None
    within: float = -math.inf
    beyond: float = -math.inf

    def ruling(self, alpha: float, limits: int) -> Ruling:
        """Return what is decided of this limit as one of several."""
        if self.within >= -math.log(alpha):
            return Ruling("holds", -math.expm1(-self.within), self.share, self.requests)
        if self.beyond >= -math.log(alpha / limits):
            return Ruling("missed", 1 - limits * math.exp(-self.beyond), self.share, self.requests)
        surest = max(self.within, self.beyond - math.log(limits), 0.0)
        return Ruling("open", -math.expm1(-surest), self.share, self.requests)


def _of_percentile(samples: Sequence[Sample], family: str, asked: float, bound: float, margin: float) -> _Evidence:
    values = times(samples, (family,)).get(family, np.empty(0))
    count = values.size
    share = float((values <= bound).mean()) if count else 0.0
    if count < LEAST:
        return _Evidence(count, share)
    nearby = effective_size(values <= percentile(np.sort(values), min(100 * asked, _NEARBY)))
    allowed = 1 - asked
    more = np.minimum(allowed * _MORE, (1 + allowed * (_MORE - 1)) / _MORE)  # never beyond 1
    return _Evidence(
        count,
        share,
        within=_of_misses(values > bound / margin, nearby, allowed, allowed * _FEWER, _FEWER_WEIGHTS),
        beyond=_of_misses(values > bound * margin, nearby, allowed, more, np.full(_MORE.size, 1 / _MORE.size)),
    )


def _of_misses(missed: NDArray[np.bool_], nearby: float, allowed: float, shares: Column, weights: Column) -> float:
    """Return the logarithm of the mixture likelihood ratio of shares of misses against the one allowed.

    `nearby` is the effective number of requests where more of them miss.
    """
    effect = max(1.0, missed.size / min(nearby, effective_size(missed)))
    requests, misses = missed.size / effect, int(missed.sum()) / effect
    with np.errstate(divide="ignore", invalid="ignore"):
        missing = misses * np.log(shares / allowed) if misses else np.zeros(shares.size)
    logs = np.log(weights) + missing + (requests - misses) * np.log((1 - shares) / (1 - allowed))
    top = float(logs.max())
    return top + math.log(float(np.exp(logs - top).sum()))


def _of_mean(samples: Sequence[Sample], family: str, bound: float, margin: float) -> _Evidence:
    totals, counts = _parts(samples, family)
    if totals.size < LEAST:
        return _Evidence(totals.size, None)
    return _Evidence(
        totals.size,
        None,
        within=_of_excesses(counts * (bound / margin) - totals),
        beyond=_of_excesses(totals - counts * (bound * margin)),
    )


def _parts(samples: Sequence[Sample], family: str) -> tuple[Column, Column]:
    """Return what each request adds to the mean, and how many values that is: the sums' ratio is the mean."""
    if family != "itl":
        values = times(samples, (family,)).get(family, np.empty(0))
        return values, np.ones(values.size)
    gaps = [sample.gaps_s for sample in samples if len(sample.gaps_s)]
    return np.array([float(np.sum(of)) for of in gaps]), np.array([len(of) for of in gaps], dtype=np.float64)


def _of_excesses(excesses: Column) -> float:
    """Return the logarithm of the mixture likelihood ratio of means above 0 against 0."""
    count, mean = excesses.size, float(excesses.mean())
    # Requests that follow each other vary together; how far they all are from the bound is not of that kind.
    correlated = float(excesses.var()) * count / effective_size(excesses, confidence=_TAIL) + mean**2
    square = float(excesses @ excesses) / count
    if square == 0 or count * square < LEAST * correlated:
        return -math.inf
    effective = count * square / correlated
    variance = effective * _RHO2 + 1
    x = math.sqrt(_RHO2 / variance) * effective * mean / math.sqrt(square)
    x = max(x, -20.0)  # far below any decision, where Phi would vanish
    return math.log(2 / math.sqrt(variance)) + x * x / 2 + math.log(math.erfc(-x / math.sqrt(2)) / 2)
