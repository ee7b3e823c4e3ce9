"""The verdict of a trial, the ranking of trials, and the best compliant configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from pytest_autotune.confirmation import merge_repeats
from pytest_autotune.formatting import count, quantity, title
from pytest_autotune.slo import Check, Status, Verdict, judge, penalised
from pytest_autotune.slowness import spent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pytest_autotune.records import BatchRecord, TrialRecord
    from pytest_autotune.samples import Level
    from pytest_autotune.slo import Limit
    from pytest_autotune.slowness import Spent

NOISE = 0.01  # relative; vLLM's tune_speculative_k and its tuning recipes also call results within 1 % a tie
_FINDINGS = ("out of memory", "bad argument")  # causes that the configuration is to blame for
_CLASSES = (
    Status.COMPLIANT,
    Status.VIOLATING,
    Status.INCONCLUSIVE,
    Status.SCREENED_OUT,
    Status.INFEASIBLE,
    Status.FAILED,
    Status.NOT_RUN,
)


class Objective(Protocol):
    """What is maximised or minimised among the batches that comply."""

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Whether more or less of the metric is better."""

    @property
    def metric(self) -> str:
        """A metric of a batch, e.g. ``output_throughput_per_gpu``."""


@dataclass(frozen=True, slots=True)
class JudgedBatch:
    """A batch with its verdict; it scores only when it is compliant and has the objective's metric."""

    record: BatchRecord
    verdict: Verdict
    score: float | None  # the objective's metric, in its own unit
    rank_value: float | None  # to maximise: the score, negated when less is better, less the soft penalty

    @property
    def level(self) -> Level:
        """The load level that was measured."""
        return self.record.level

    @property
    def compliant(self) -> bool:
        """Whether every hard limit holds."""
        return self.verdict.status is Status.COMPLIANT


@dataclass(frozen=True, slots=True)
class JudgedTrial:
    """A trial with the verdict of each batch, in the order they ran.

    `score`, `rank_value` and `level` belong to the best compliant batch and to nothing else: no
    aggregate of a trial covers a batch that violates.
    """

    trial: TrialRecord
    metric: str  # of the objective
    batches: tuple[JudgedBatch, ...]
    status: Status
    reason: str  # one line; empty when compliant
    best: JudgedBatch | None  # the compliant batch with the best rank value
    capacity: Level | None  # the highest compliant level
    least_violating: JudgedBatch | None  # when none complies: the one whose worst hard ratio is smallest
    repeats: tuple[JudgedTrial, ...] = ()  # other trials of the configuration, none of them worse
    own_rank_value: float | None = None  # from an objective of the user's own, to maximise; replaces the batch's

    @property
    def score(self) -> float | None:
        """The objective's metric of the best compliant batch, in its own unit."""
        return None if self.best is None else self.best.score

    @property
    def rank_value(self) -> float | None:
        """The value that trials are ranked by, to maximise."""
        if self.best is None:
            return None
        return self.best.rank_value if self.own_rank_value is None else self.own_rank_value

    @property
    def level(self) -> Level | None:
        """The load level that gave the score."""
        return None if self.best is None else self.best.level

    @property
    def compliant(self) -> tuple[JudgedBatch, ...]:
        """The compliant batches: what every aggregate of the trial covers."""
        return tuple(batch for batch in self.batches if batch.compliant)

    @property
    def eligible(self) -> bool:
        """Whether the trial may be selected: finished, and a compliant batch has the objective's metric."""
        return self.trial.state == "finished" and self.best is not None

    @property
    def headline(self) -> str:
        """The score with where it comes from: ``output throughput 231.70 tok/s from concurrency 8 (1 of ...)``."""
        if self.best is None or self.best.score is None:
            return ""
        return (
            f"{title(self.metric)} {quantity(self.metric, self.best.score)} from "
            f"{self.best.level.words} ({self.coverage})"
        )

    @property
    def coverage(self) -> str:
        """How many batches an aggregate of the trial covers: ``1 of 4 batches compliant``."""
        return f"{len(self.compliant)} of {count(len(self.batches), 'batch')} compliant"

    def at(self, level: Level | None) -> JudgedBatch | None:
        """Return the batch of a load level."""
        return next((batch for batch in self.batches if batch.level == level), None)


@dataclass(frozen=True, slots=True)
class Closest:
    """How close the best violating trial came to keeping the limits."""

    trial: JudgedTrial
    batch: JudgedBatch
    check: Check  # the limit that binds, with what was measured and by how much


@dataclass(frozen=True, slots=True)
class Selection:
    """The outcome of a search over one suite's trials."""

    best: JudgedTrial | None
    ranking: tuple[JudgedTrial, ...]  # every trial, best first: all eligible ones before all others
    tied: tuple[JudgedTrial, ...]  # eligible trials within noise of the highest value, `best` first
    reference: JudgedTrial | None  # the empty configuration: the engine's defaults
    closest: Closest | None  # when nothing is selected and some batch was measured

    @property
    def binding(self) -> Check | None:
        """The limit that keeps every configuration from complying."""
        return None if self.closest is None else self.closest.check


def judge_trial(
    trial: TrialRecord,
    *,
    limits: Sequence[Limit],
    objective: Objective,
    steepness: float = 0.1,
    score: Callable[[Sequence[JudgedBatch]], float | None] = lambda _: None,
) -> JudgedTrial:
    """Judge every batch of a trial, and the trial by its batches; the trial may still be running.

    A trial is compliant with at least one compliant batch, violating when batches were measured
    and none complies, else infeasible or failed by what stopped it. `score` may rank the trial by
    something of its own, in the direction of the objective, from the compliant batches. Where answers are
    not accurate enough no batch complies: nothing that is fast counts.
    """
    batches = judge_batches(trial.batches, limits, objective, steepness=steepness)
    if trial.inaccurate:
        batches = tuple(_spoilt(batch, trial.inaccurate) for batch in batches)
    scored = [batch for batch in batches if batch.rank_value is not None]
    compliant = [batch for batch in batches if batch.compliant]
    violating = [batch for batch in batches if batch.verdict.binding is not None]
    least = min(violating, key=_excess, default=None) if not compliant else None
    status, reason = _judge_by_batches(trial, batches, least)
    own = score(compliant) if compliant else None
    return JudgedTrial(
        trial=trial,
        metric=objective.metric,
        batches=batches,
        status=status,
        reason=reason,
        best=max(scored, key=lambda batch: (batch.rank_value or 0.0, batch.level), default=None),
        capacity=max((batch.level for batch in compliant), default=None),
        least_violating=least,
        own_rank_value=own if own is None or objective.direction == "maximize" else -own,
    )


def judge_batches(
    records: Iterable[BatchRecord], limits: Sequence[Limit], objective: Objective, *, steepness: float
) -> tuple[JudgedBatch, ...]:
    """Judge batches by themselves, in their order."""
    return tuple(_judge_batch(record, limits, objective, steepness) for record in records)


def slo_lines(judged: JudgedTrial) -> list[str]:
    """Return the log lines of a trial: how many batches comply, what each other one misses, the best of them."""
    lines = [f"[slo] {len(judged.compliant)}/{len(judged.batches)} batches compliant"]
    if judged.trial.inaccurate:
        lines.append(f"[slo] no batch counts: {judged.trial.inaccurate}")
    for batch in judged.batches:
        if not judged.trial.inaccurate or batch.verdict.reason != judged.trial.inaccurate:
            lines.extend(_batch_lines(batch))
    if judged.headline:
        lines.append(f"[slo] best {judged.headline}")
    elif judged.compliant:
        lines.append(f"[slo] no compliant batch has {judged.metric}: the trial has no score ({judged.coverage})")
    elif judged.least_violating is not None:
        lines.append(
            f"[slo] no batch complies; {judged.least_violating.level} violates least: "
            f"{judged.least_violating.verdict.binding}"
        )
    return lines


def select(trials: Iterable[JudgedTrial], *, noise: float = NOISE, confirmed_first: bool = True) -> Selection:
    """Choose the best compliant trial and rank them all; the order of `trials` does not matter.

    Compliance comes first, the objective second, and they are never mixed. All trials within
    `noise` (relative) of the highest value are tied, and the tie goes to fewer overrides, then
    fewer GPUs, then the earlier trial. Measuring from the highest value, and not from neighbour
    to neighbour, keeps a chain of small steps from selecting something clearly worse.

    A configuration that was measured again counts by its worst trial, and before those that were not unless
    `confirmed_first` is false: where others were measured again than would have been the best here.
    """
    everything = sorted(merge_repeats(trials, rank=_rank), key=_rank)
    eligible = [judged for judged in everything if judged.eligible]
    # What was measured once owes its place to luck as well: it comes after what was confirmed.
    confirmed = [judged for judged in eligible if judged.repeats and confirmed_first]
    once = [judged for judged in eligible if not judged.repeats] if confirmed else []
    eligible = confirmed or eligible
    others = [judged for judged in everything if not judged.eligible]
    top = max((_value(judged) for judged in eligible), default=0.0)
    tied = sorted((judged for judged in eligible if _value(judged) >= top - noise * abs(top)), key=_frugality)
    behind = eligible[len(tied) :]
    best = tied[0] if tied else None
    defaults = (judged for judged in everything if not judged.trial.configuration)
    return Selection(
        best=best,
        ranking=(*tied, *behind, *once, *others),
        tied=tuple(tied),
        reference=min(defaults, key=lambda judged: (judged.trial.state != "finished", _rank(judged)), default=None),
        closest=_closest(everything) if best is None else None,
    )


def why_not_measured(record: BatchRecord) -> str:
    """Say why a batch that failed or died has no numbers: ``out of memory: ...``."""
    cause, reason = record.cause, record.reason
    if cause and not reason.startswith(cause):
        return f"{cause}: {reason}" if reason else cause
    return reason or record.status


def judge_record(record: BatchRecord, limits: Sequence[Limit], *, steepness: float) -> Verdict:
    """Return the verdict of a batch: by its limits, and by what else makes it not compliant."""
    if record.status != "measured":
        return Verdict(
            Status.INFEASIBLE if record.cause in _FINDINGS else Status.FAILED, reason=why_not_measured(record)
        )
    verdict = judge(record.metrics, limits, steepness=steepness, no_data=_no_data(record), rulings=record.rulings)
    if any(check.limit.metric == "delivered" and check.breach == "hard" for check in verdict.checks):
        verdict = replace(verdict, reason=f"{verdict.reason} ({_shortfall(record)})")
    if slow := next(_slow(verdict, record), None):
        verdict = replace(verdict, reason=f"{verdict.reason}; {slow}")
    if record.oversaturated and record.requests:
        # A queue that grows without bound has no latency: what was measured is that of its beginning.
        others = f"; {verdict.reason}" if verdict.reason else ""
        verdict = replace(verdict, status=Status.VIOLATING, reason=f"over-saturated: {record.oversaturated}{others}")
    if record.failed_checks and verdict.status in (Status.COMPLIANT, Status.INCONCLUSIVE):
        verdict = replace(verdict, status=Status.VIOLATING, reason="; ".join(record.failed_checks))
    return verdict


def _slow(verdict: Verdict, record: BatchRecord) -> Iterator[Spent]:
    """Yield where the time went of each latency that misses its limit, of that which misses it most first."""
    missed = [check for check in verdict.checks if check.breach == "hard" and not check.limit.floor]
    for check in sorted(missed, key=lambda check: -check.ratio):
        if (went := spent(check.limit.metric.partition(".")[0], record.server)) is not None:
            yield went


def _shortfall(record: BatchRecord) -> str:
    level, share = record.level, record.delivered
    if level.shape == "rate":
        return f"asked for {level.number:g} requests/s, {share * level.value:.3g} reached the server"
    return f"of the {level.words} that was asked for, {share:.1%} reached the server in time"


def _judge_batch(record: BatchRecord, limits: Sequence[Limit], objective: Objective, steepness: float) -> JudgedBatch:
    verdict = judge_record(record, limits, steepness=steepness)
    score = record.metrics.get(objective.metric)
    if verdict.status is not Status.COMPLIANT or score is None or not math.isfinite(score):
        return JudgedBatch(record, verdict, None, None)
    upward = score if objective.direction == "maximize" else -score
    return JudgedBatch(record, verdict, score, penalised(upward, verdict.penalty))


def _spoilt(batch: JudgedBatch, reason: str) -> JudgedBatch:
    """Return a batch that complies with nothing, however fast it is; one that fails by itself as it is."""
    if batch.verdict.status not in (Status.COMPLIANT, Status.INCONCLUSIVE):
        return batch
    return JudgedBatch(batch.record, replace(batch.verdict, status=Status.VIOLATING, reason=reason), None, None)


def _no_data(record: BatchRecord) -> str | None:
    if record.client is not None and record.client.saturated is not None:
        return record.client.saturated
    return None if record.requests else "no request ended inside the measurement window"


def _judge_by_batches(
    trial: TrialRecord, batches: Sequence[JudgedBatch], least: JudgedBatch | None
) -> tuple[Status, str]:
    if any(batch.compliant for batch in batches):
        return Status.COMPLIANT, ""
    if trial.inaccurate and any(batch.record.status == "measured" for batch in batches):
        return Status.VIOLATING, trial.inaccurate
    undecided = next((batch for batch in batches if batch.verdict.status is Status.INCONCLUSIVE), None)
    if undecided is not None:
        return Status.INCONCLUSIVE, f"{undecided.level}: {undecided.verdict.reason}"
    missed = least or next((batch for batch in batches if batch.verdict.status is Status.VIOLATING), None)
    if missed is not None:
        return Status.VIOLATING, f"{missed.level} violates {missed.verdict.reason}"
    for status in (Status.INFEASIBLE, Status.FAILED):
        if stopped := [batch for batch in batches if batch.verdict.status is status]:
            return status, f"{stopped[0].level}: {stopped[0].verdict.reason}"
    return _judge_unmeasured(trial)


def _judge_unmeasured(trial: TrialRecord) -> tuple[Status, str]:
    if trial.status is Status.SCREENED_OUT and trial.state == "finished":
        return Status.SCREENED_OUT, trial.reason
    if trial.cause or trial.status in (Status.INFEASIBLE, Status.FAILED):
        infeasible = trial.status is Status.INFEASIBLE or trial.cause in _FINDINGS
        return Status.INFEASIBLE if infeasible else Status.FAILED, trial.reason or trial.cause
    if trial.state == "finished":
        return Status.FAILED, trial.reason or "no batch was measured"
    return Status.NOT_RUN, trial.reason or "no batch was measured yet"


def _batch_lines(batch: JudgedBatch) -> list[str]:
    if batch.record.status != "measured":
        return [f"[slo] {batch.level} not measured: {batch.verdict.reason}"]
    if batch.verdict.status is Status.VIOLATING:
        return [f"[slo] {batch.level} violates {batch.verdict.reason}"]
    if not batch.compliant:
        return [f"[slo] {batch.level} has no verdict: {batch.verdict.reason}"]
    return [f"[slo] {batch.level} misses soft {check}" for check in batch.verdict.checks if check.breach == "soft"]


def _excess(batch: JudgedBatch) -> tuple[float, Level]:
    return batch.verdict.excess, batch.level


def _closest(ranked: Iterable[JudgedTrial]) -> Closest | None:
    for judged in ranked:
        batch = judged.least_violating
        if judged.trial.state == "finished" and batch is not None and batch.verdict.binding is not None:
            return Closest(judged, batch, batch.verdict.binding)
    return None


def _value(judged: JudgedTrial) -> float:
    return 0.0 if judged.rank_value is None else judged.rank_value


def _frugality(judged: JudgedTrial) -> tuple[object, ...]:
    trial = judged.trial
    return len(trial.configuration), trial.gpus, trial.started_at, trial.id


def _rank(judged: JudgedTrial) -> tuple[object, ...]:
    """Return a total order: eligible trials by value, then the finished ones by how much is wrong with them."""
    least = judged.least_violating
    return (
        not judged.eligible,
        judged.trial.state != "finished",
        _CLASSES.index(judged.status),
        -_value(judged),
        0.0 if least is None else least.verdict.excess,
        *_frugality(judged),
    )
