"""Whether a candidate is worth a whole measurement: its first requests against those of the best so far.

A candidate is first loaded at the level at which the *incumbent*, the best compliant trial so far, has its value, with
the same seed: the same requests, in the same order. So its requests are paired with the incumbent's stored ones, the
k-th that was sent with the k-th, and looked at while they come in.

* **What is compared.** A throughput of a closed loop by Little's law: N streams get W tokens for the E seconds that
  their requests took, N * W / E. A mean latency is the same with one for each request's work. The logarithm of the
  ratio of two such ratios is about normal; what each pair adds to it (its influence function, Cochran, "Sampling
  Techniques", 3rd ed. 1977, section 6.4) gives the standard error. Ratios of sums, unlike means of logarithms, do not
  take a steadier server for a slower one.
* **Correlated requests.** Batch means (see `intervals`) of the pairs say how much less they tell than independent ones.
  The first ones may all be of one round of the server's scheduler, and alike by that alone: the correlation within
  the incumbent's whole batch is therefore taken for that of either server, and the larger error counts.
* **Repeated looks.** The likelihood of what was seen under effects beyond the margin, averaged over a fixed set of
  them, divided by its likelihood at the margin: its chance of *ever* reaching 1 / alpha is at most alpha (Robbins
  1970, see `sequential`); with an estimated standard error asymptotically so (Waudby-Smith and others, "Time-uniform
  central limit theory and asymptotic confidence sequences", Annals of Statistics 52, 2024).
  ``benchmarks/search_screening.py`` measures how often an equal server is dropped.
* **A percentile** has no pairs: the share of the candidate's requests beyond the upper end of the incumbent's interval
  is tested like a limit (`sequential.rule`).

`rules_at` says which findings at one level settle that no other level can make up for them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pytest_autotune.capacity import brings_more_with_load
from pytest_autotune.columns import times
from pytest_autotune.distributions import normal_quantile
from pytest_autotune.formatting import change, duration, quantity, title
from pytest_autotune.intervals import mean_interval
from pytest_autotune.metrics import LATENCIES, PER_GPU, RATES, parse_metric
from pytest_autotune.selection import NOISE
from pytest_autotune.sequential import LEAST, SURE, rule
from pytest_autotune.slo import Certainty, Limit, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_autotune.columns import Column
    from pytest_autotune.samples import Level, Sample
    from pytest_autotune.selection import JudgedTrial, Objective
    from pytest_autotune.slo import Ruling

CONFIDENCE = 0.95
_EFFECTS = np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.8])  # beyond the margin, as logarithms, that are averaged over
_TAIL = 0.998  # two-sided: the confidence at which Student's t replaces the normal, about where decisions are made
_SMALLEST_ERROR = 0.001  # of the logarithm: no two servers are known better
_MARK = re.compile(r"\[trial (\d+), ([^\s\]]+)\]$")


@dataclass(frozen=True, slots=True)
class Rules:
    """Which findings at one level settle that a candidate cannot win."""

    worse: bool = False  # its objective is worse than the incumbent's
    missed: Literal["never", "with no more", "alone"] = "never"  # a limit on a latency is missed


@dataclass(frozen=True, slots=True)
class Incumbent:
    """What a candidate is up against."""

    trial: int  # its id
    words: str  # its configuration
    level: Level  # where it has its value
    score: float  # the objective's metric there
    highest: float | None  # upper end of the interval of that metric
    gpus: int
    samples: tuple[Sample, ...]  # of its batch there


@dataclass(frozen=True, slots=True)
class Paired:
    """What pairs of requests say."""

    pairs: int
    excess: float  # logarithm of how much more the candidate takes for the same; above 0 is worse
    error: float  # its standard error

    def evidence(self, margin: float) -> float:
        """Return the logarithm of the mixture likelihood ratio of effects beyond `margin` against none beyond it."""
        information = max(self.error, _SMALLEST_ERROR) ** -2
        logs = information * (_EFFECTS * (self.excess - margin) - _EFFECTS**2 / 2) - math.log(_EFFECTS.size)
        top = float(logs.max())
        return top + math.log(float(np.exp(logs - top).sum()))


def rules_at(level: Level, levels: Iterable[Level], objective: Objective, *, thinks: bool, more_per_gpu: bool) -> Rules:
    """Return what may be concluded from a candidate's first requests at one of its levels.

    Latencies grow with the load, and a throughput does while the server keeps up: what `capacity.dominated` rests on.

    * A **throughput** that is worse at the *highest* level: lower ones bring less still. At another level it settles
      nothing: the candidate may comply at a higher one, where the incumbent does not.
    * A **latency** to be minimised that is worse at the *lowest* level: higher ones have more of it.
    * A **limit on a latency** that is missed is missed at higher levels too; lower ones bring less throughput than this
      one. So when the candidate brings no more here than the incumbent, nothing is left to it. At the lowest
      level it complies nowhere, whatever the objective.

    In an open loop the throughput is what is asked for: it is never worse, and never more but per GPU, with fewer of
    them (`more_per_gpu`). Pauses between requests (`thinks`) are not the server's: then latencies tell no throughput.
    """
    levels = tuple(levels)
    if level not in levels or level.shape not in ("concurrency", "rate"):
        return Rules()
    lowest, highest = level == min(levels), level == max(levels)
    if brings_more_with_load(objective):
        known = not more_per_gpu if level.open_loop else not thinks
        missed: Literal["never", "with no more"] = "with no more" if known else "never"
        return Rules(worse=highest and known and not level.open_loop, missed="alone" if lowest else missed)
    falls = objective.direction == "minimize" and _tested(objective.metric) is not None
    return Rules(worse=lowest and falls, missed="alone" if lowest else "never")


def pair(candidate: Sequence[Sample], incumbent: Sequence[Sample], metric: str) -> Paired | None:
    """Compare requests, both in the order of sending, by a throughput or a mean latency; None for too few pairs."""
    ours, theirs = _cost(candidate, metric), _cost(incumbent, metric)
    pairs = min(ours.taken.size, theirs.taken.size)
    if pairs < LEAST:
        return None
    first, before = ours.first(pairs), theirs.first(pairs)
    if not first.positive or not before.positive:
        return None
    of_pairs, of_one = first.influences - before.influences, theirs.influences
    spread = _variance(of_pairs) * _design_effect(of_pairs)
    alike = _variance(of_pairs) + 2 * _variance(of_one) * (_design_effect(of_one) - 1)  # of two servers
    return Paired(pairs, first.logarithm - before.logarithm, math.sqrt(max(spread, alike) / pairs))


class Screening:
    """The opening of a candidate's batch: asked about once a second, it ends the batch of one that cannot win.

    It looks until the first moment after `until_s`; what has not been dropped by then is measured in full.
    """

    def __init__(
        self,
        incumbent: Incumbent,
        rules: Rules,
        *,
        objective: Objective,
        limits: Sequence[Limit],
        gpus: int,
        until_s: float,
        spread: float = 0.0,
    ) -> None:
        self.dropped = ""  # the reason, as the trial's record keeps it; empty while the candidate may win
        self._incumbent = incumbent
        self._rules = rules
        self._objective = objective
        self._limits = limits
        self._until_s = until_s
        self._certainty = Certainty(CONFIDENCE, spread)  # of limits: the incumbent is another batch, and no limit
        self._over = False
        per_gpu = objective.metric.endswith(PER_GPU)
        self._shift = math.log(max(gpus, 1) / max(incumbent.gpus, 1)) if per_gpu else 0.0
        self._before = _in_order(incumbent.samples)

    def look(self, samples: Sequence[Sample], elapsed_s: float) -> str:
        """Return why the candidate cannot win; empty while it may. `samples` are its requests that have ended.

        Slow ones are missing among those that began last, so only what began longer ago than the slowest took counts.
        """
        if self._over:
            return ""
        self._over = elapsed_s >= self._until_s
        slowest_s = max((sample.e2e_s for sample in samples), default=0.0)
        settled = _in_order(sample for sample in samples if sample.start_s < elapsed_s - slowest_s)
        level = self._incumbent.level
        if len(settled) < max(LEAST, level.concurrency or 0):  # each stream has sent one
            return ""
        if found := self._finding(settled, elapsed_s):
            self._over = True
            here = f"{level.words}, by {len(settled)} requests in {duration(elapsed_s)}"
            against = f"against {self._incumbent.words} [trial {self._incumbent.trial}, {level.name}]"
            self.dropped = f"{found} at {here}, {against}"
        return self.dropped

    def _finding(self, settled: Sequence[Sample], elapsed_s: float) -> str:
        objective, score = self._objective, self._incumbent.score
        metric, best = objective.metric, quantity(objective.metric, self._incumbent.score)
        if self._rules.worse:
            if _tested(metric) == "percentile":
                if ruling := self._beyond(settled, elapsed_s):
                    return f"{title(metric)} worse than {best} is {_sureness(ruling)}"
            elif (paired := self._paired(settled)) and _sure(paired.evidence(-math.log1p(-NOISE))):
                factor = math.exp(paired.excess if objective.direction == "minimize" else -paired.excess)
                value = quantity(metric, score * factor)
                return f"{title(metric)} {value} instead of {best} ({change(factor - 1)})"
        if self._rules.missed == "never" or not (missed := self._missed(settled, elapsed_s)):
            return ""
        if self._rules.missed == "alone":
            return missed
        paired = None if self._incumbent.level.open_loop else self._paired(settled)
        if self._incumbent.level.open_loop or (paired is not None and _sure(paired.evidence(math.log1p(-NOISE)))):
            return f"{missed}, with no more {title(metric)} than {best}"
        return ""

    def _paired(self, settled: Sequence[Sample]) -> Paired | None:
        paired = pair(settled, self._before, self._objective.metric)
        return None if paired is None else Paired(paired.pairs, paired.excess + self._shift, paired.error)

    def _beyond(self, settled: Sequence[Sample], elapsed_s: float) -> Ruling | None:
        """Return the ruling that shows a percentile of the candidate's to be beyond the incumbent's."""
        if self._incumbent.highest is None:
            return None
        limit = Limit(self._objective.metric, self._incumbent.highest * (1 + NOISE))
        ruling = rule(settled, elapsed_s, [limit], Certainty(CONFIDENCE), sure=SURE).get(limit.metric)
        return ruling if ruling is not None and ruling.decision == "missed" else None

    def _missed(self, settled: Sequence[Sample], elapsed_s: float) -> str:
        """Name a limit on a latency that is missed beyond doubt."""
        for metric, ruling in rule(settled, elapsed_s, self._limits, self._certainty, sure=SURE).items():
            if ruling.decision == "missed":
                bound = next(limit.bound for limit in self._limits if limit.metric == metric)
                return f"{metric} above {quantity(metric, bound)} is {_sureness(ruling)}"
        return ""


def still_stands(reason: str, trials: Iterable[JudgedTrial]) -> bool:
    """Say whether what a trial was dropped against is still there, and complies at the level of the comparison."""
    mark = _MARK.search(reason)
    if mark is None:
        return False
    for judged in trials:
        if judged.trial.id == int(mark[1]) and judged.trial.state == "finished":
            return any(batch.level.name == mark[2] for batch in judged.compliant)
    return False


def incumbent_among(trials: Iterable[JudgedTrial], levels: Sequence[Level]) -> JudgedTrial | None:
    """Return the best compliant trial that was finished, by its value; None without one that can be compared with.

    Soft misses cost score: where its own did, a candidate with less throughput might rank higher.
    """
    best = max(
        (judged for judged in trials if judged.eligible and judged.status is Status.COMPLIANT),
        key=lambda judged: (-math.inf if judged.rank_value is None else judged.rank_value, -judged.trial.id),
        default=None,
    )
    if best is None or best.best is None or best.level not in levels or not best.score:
        return None
    return None if best.best.verdict.penalty else best


def _tested(metric: str) -> Literal["throughput", "mean", "percentile"] | None:
    """Say how a metric is compared; None when it is not."""
    family, statistic = parse_metric(metric)
    if statistic is None:
        return "throughput" if family.removesuffix(PER_GPU) in RATES and not family.startswith("goodput") else None
    if family not in LATENCIES:
        return None
    if statistic == "mean":
        return "mean" if family != "itl" else None  # gaps of requests have no pairs
    return "percentile" if statistic[0] == "p" and 0 < float(statistic[1:]) < 100 else None


def _in_order(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """Return the successful requests that began in the window, in the order of sending."""
    return tuple(sorted((s for s in samples if s.error is None and s.start_s >= 0), key=lambda sample: sample.start_s))


@dataclass(frozen=True, slots=True)
class _Cost:
    """What each request took, and what it brought."""

    taken: Column
    work: Column

    @property
    def positive(self) -> bool:
        return bool(self.taken.sum() > 0 and self.work.sum() > 0)

    @property
    def logarithm(self) -> float:
        """Of the time for one unit of work."""
        return math.log(float(self.taken.sum())) - math.log(float(self.work.sum()))

    @property
    def influences(self) -> Column:
        """How far each request moves the logarithm, times their number; their mean is 0."""
        moved: Column = self.taken / self.taken.mean() - self.work / self.work.mean()
        return moved

    def first(self, requests: int) -> _Cost:
        return _Cost(self.taken[:requests], self.work[:requests])


def _cost(samples: Sequence[Sample], metric: str) -> _Cost:
    rate = metric.removesuffix(PER_GPU)
    family = "e2e" if rate in RATES else metric.partition(".")[0]
    taken = times(samples, (family,)).get(family, np.empty(0))
    if rate not in RATES or rate == "request_throughput":
        return _Cost(taken, np.ones(taken.size))
    prompt = np.array([sample.prompt_tokens for sample in samples], dtype=np.float64)
    output = np.array([sample.output_tokens for sample in samples], dtype=np.float64)
    of_rate: dict[str, Column] = {"input_throughput": prompt, "output_throughput": output}
    return _Cost(taken, of_rate.get(rate, prompt + output))


def _design_effect(influences: Column) -> float:
    """Return how many requests count for one independent one, by batch means, at least 1."""
    variance = _variance(influences)
    _, high = mean_interval(influences, confidence=_TAIL)
    if high is None or variance <= 0:
        return 1.0
    return max(1.0, influences.size * (high / normal_quantile((1 + _TAIL) / 2)) ** 2 / variance)


def _variance(influences: Column) -> float:
    return float(influences @ influences) / (influences.size - 1)


def _sure(evidence: float) -> bool:
    return evidence >= -math.log((1 - CONFIDENCE) / SURE)


def _sureness(ruling: Ruling) -> str:
    return f"{min(100 * ruling.confidence, 99.99):.4g} % sure"
