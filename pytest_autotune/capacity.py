"""The largest load that a running server carries within its limits, found in a few probes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_autotune.metrics import COSTS, LATENCIES, PER_GPU, RATES
from pytest_autotune.samples import Level
from pytest_autotune.slo import Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_autotune.records import BatchRecord
    from pytest_autotune.selection import JudgedBatch, JudgedTrial, Objective

Outcome = Literal["holds", "missed", "unsure", "open", "died"]

TOLERANCE = 0.05  # AIPerf's monotonic search stops at the same share, GuideLLM's goodput profile at 0.1
PROBES = 12  # more than nine octaves to 5 % need
ABOVE = frozenset({"missed", "unsure", "died"})  # outcomes of loads that the capacity lies below


@dataclass(frozen=True, slots=True)
class LoadSearch:
    """Between which loads the capacity is looked for, and how closely."""

    low: float
    high: float
    shape: Literal["concurrency", "rate"] = "concurrency"
    tolerance: float = TOLERANCE  # of the bracket around the capacity, relative to its lower end
    probes: int = PROBES  # at most

    def level(self, value: float) -> Level:
        """Return the level at a load, within the bounds; a concurrency is whole."""
        inside = min(max(value, self.low), self.high)
        return Level(round(inside) if self.shape == "concurrency" else float(f"{inside:.4g}"), self.shape)


@dataclass(frozen=True, slots=True)
class Probe:
    """One load that was tried.

    * ``holds``: every limit is kept
    * ``missed``: a limit is not, or the server fell behind without bound
    * ``unsure``: it was too close to tell, and is no load that is shown to be carried
    * ``open``: nothing is known, the batch could not be measured: it bounds nothing
    * ``died``: the server did, and nothing can be tried any more
    """

    level: Level
    outcome: Outcome
    value: float | None = None  # of the objective, to maximise, also where limits are missed


@dataclass(frozen=True, slots=True)
class Incumbent:
    """The best configuration so far: the load that it carries, and what it brings there."""

    load: float
    value: float | None  # to maximise; None where no probe rejects


@dataclass(frozen=True, slots=True)
class Found:
    """The end of a search."""

    capacity: Level | None  # the largest load that holds; None when none was found
    reason: str  # why the search ended
    bounded: bool = False  # the capacity may be larger: the search was cut off


def next_probe(search: LoadSearch, probes: Sequence[Probe], incumbent: Incumbent | None = None) -> Level | Found:
    """Return the load to try next, or what was found.

    The first probe is at the incumbent's load. When it is not shown to keep the limits there and does not even bring
    more, it cannot win: a smaller load brings less, and the search ends at once. Otherwise loads double while they
    hold, and the bracket is halved on a logarithmic scale until it is within the tolerance. A load that holds
    above one that does not is luck, and no bound.
    """
    if not probes:
        return search.level(math.sqrt(search.low * search.high) if incumbent is None else incumbent.load)
    missed = [probe.level.value for probe in probes if probe.outcome in ABOVE]
    upper = min(missed, default=math.inf)
    holding = [probe.level.value for probe in probes if probe.outcome == "holds" and probe.level.value < upper]
    lower = max(holding, default=None)
    capacity = None if lower is None else Level(lower, search.shape)
    if probes[-1].outcome == "died":
        return Found(capacity, f"the server died at {probes[-1].level.words}", bounded=True)
    if _rejected(search, probes[0], incumbent):
        carries = "does not carry" if probes[0].outcome == "missed" else "is not shown to carry"
        return Found(None, f"it {carries} {probes[0].level.words}, the load of the best so far", bounded=True)
    if reason := _settled(search, lower, upper):
        return Found(capacity, reason, bounded=math.isinf(upper))
    if len(probes) >= search.probes:
        return Found(capacity, f"{search.probes} loads were tried", bounded=True)
    tried = {probe.level.value for probe in probes}
    level = _nearest_untried(search, _between(search, lower, upper), lower, upper, tried)
    return level or Found(capacity, "no load is left to try between those that gave no answer", bounded=True)


def brings_more_with_load(objective: Objective) -> bool:
    """Say whether a larger load brings more of what is wanted, as it does of every throughput but goodput.

    A cost is the price of a GPU by a throughput: it falls as that rises.
    """
    if objective.metric in COSTS:
        return objective.direction == "minimize"
    family = objective.metric.removesuffix(PER_GPU)
    return objective.direction == "maximize" and family in RATES and family != "goodput"


def per_gpu(objective: Objective) -> bool:
    """Say whether the objective counts what each GPU of a server brings, or costs, and not the whole server."""
    return objective.metric.endswith(PER_GPU) or objective.metric in COSTS


def dominated(level: Level, batches: Sequence[JudgedBatch], objective: Objective, to_beat: float | None = None) -> str:
    """Return why a load of a list cannot change what its trial comes to; empty when it can.

    Latencies grow with the load, and a throughput does as long as the server keeps up: a load above one that
    misses a latency misses it too, and one below a compliant one brings less. `to_beat` is what the best so far brings,
    to maximise: one below a load that brings no more than that cannot win.
    """
    if level.shape not in ("concurrency", "rate"):
        return ""
    rises = brings_more_with_load(objective)
    less = "costs more" if objective.metric in COSTS else "brings less"
    for batch in batches:
        if batch.level.shape != level.shape:
            continue
        if batch.level < level and (batch.record.oversaturated or _misses_a_latency(batch)):
            return f"{batch.level} violates already: {batch.verdict.reason}"
        if level < batch.level and batch.compliant and rises:
            return f"{batch.level} complies, and less load {less}"
        if level < batch.level and rises and to_beat is not None:
            brought = value_of(batch.record, objective)
            if brought is not None and brought <= to_beat:
                return f"{batch.level} is no better than the best so far, and less load {less}"
    return ""


def value_of(record: BatchRecord, objective: Objective) -> float | None:
    """Return what a load brings, to maximise, also where limits are missed; None of a server that fell behind."""
    value = None if record.oversaturated else record.metrics.get(objective.metric)
    return value if value is None or objective.direction == "maximize" else -value


def estimated(judged: JudgedTrial, objective: Objective, lowest: Level | None) -> float | None:
    """Return what a trial that was given up would bring at the load it carries, to maximise; None: not known.

    What its least violating load brings, less by as much as that misses its limit. Of a trial that misses limits at the
    `lowest` load too there is none: it carries no load. Nor is there for objectives that do not rise with the load.
    """
    least = judged.least_violating
    if least is None or not brings_more_with_load(objective):
        return None
    if any(lowest is None or batch.level <= lowest for batch in judged.batches):
        return None
    value = value_of(least.record, objective)
    if value is None:
        return None
    beyond = 1 + least.verdict.excess
    return value / beyond if value > 0 else value * beyond


def _misses_a_latency(batch: JudgedBatch) -> bool:
    if batch.verdict.status is not Status.VIOLATING:
        return False
    return any(
        check.breach == "hard" and check.actual is not None and check.limit.metric.partition(".")[0] in LATENCIES
        for check in batch.verdict.checks
    )


def _rejected(search: LoadSearch, first: Probe, incumbent: Incumbent | None) -> bool:
    if incumbent is None or incumbent.value is None or first.outcome not in ("missed", "unsure"):
        return False
    at_incumbent = first.level == search.level(incumbent.load)
    return at_incumbent and (first.value is None or first.value <= incumbent.value)


def _settled(search: LoadSearch, lower: float | None, upper: float) -> str:
    """Say why the capacity is known well enough."""
    low, high = search.level(search.low), search.level(search.high)
    if lower == high.value:
        return f"the largest load of the search, {high.words}, complies"
    if upper <= low.value:
        return f"the smallest load of the search, {low.words}, does not comply"
    if lower is None or math.isinf(upper):
        return ""
    if upper <= lower * (1 + search.tolerance) or (search.shape == "concurrency" and upper <= lower + 1):
        return f"the next load, {Level(upper, search.shape).words}, does not comply"
    return ""


def _between(search: LoadSearch, lower: float | None, upper: float) -> float:
    """Return the load that the bracket asks for: twice the lower end, or the middle of both."""
    if lower is None:
        below = min(upper, search.high)
        return math.sqrt(search.low * below) if below > 2 * search.low else search.low
    return 2 * lower if math.isinf(upper) else math.sqrt(lower * upper)


def _nearest_untried(
    search: LoadSearch, wanted: float, lower: float | None, upper: float, tried: set[float]
) -> Level | None:
    """Return the untried level strictly inside the bracket that is nearest to a load; None when there is none."""
    step = 1.0 if search.shape == "concurrency" else search.tolerance / 2
    for distance in range(search.probes + 1):
        for sign in (1, -1):
            value = wanted + sign * distance * step * (1.0 if search.shape == "concurrency" else wanted)
            if value <= 0:
                continue
            level = search.level(value)
            if level.value not in tried and (lower is None or level.value > lower) and level.value < upper:
                return level
    return None
