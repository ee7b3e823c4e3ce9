"""A paired comparison: baseline and candidate deployed in turn on the same machine, until they are told apart."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_autotune.bench import Slot
from pytest_autotune.budget import SearchEnded
from pytest_autotune.comparison import Comparison, Looks, Pair, Tolerance, automatic, compare
from pytest_autotune.examining import exam_of_recorded
from pytest_autotune.formatting import count
from pytest_autotune.masking import MASK
from pytest_autotune.metrics import SHARES, worse_when
from pytest_autotune.slo import certified_statistic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_autotune.baseline import Baseline
    from pytest_autotune.bench import Plan
    from pytest_autotune.noise import Noise
    from pytest_autotune.records import TrialRecord
    from pytest_autotune.space import Configuration
    from pytest_autotune.suite import Suite

BASELINE, CANDIDATE = "baseline", "best"
_NAME = re.compile(f"({BASELINE}|{CANDIDATE})-([0-9]+)")


class Place(NamedTuple):
    """Where a trial stands in a paired comparison."""

    side: str
    pair: int  # from 1


def place_of(slot: str) -> Place | None:
    """Return the place of a trial by its name; None for one of a search or a plain verification."""
    found = _NAME.fullmatch(slot)
    return None if found is None else Place(found[1], int(found[2]))


def is_baseline(slot: str) -> bool:
    """Say whether a trial of that name measures the baseline, whose limits nobody asks about."""
    place = place_of(slot)
    return place is not None and place.side == BASELINE


def looks_of(suite: Suite) -> Looks:
    """Return after how many pairs of the suite it is looked whether more are needed."""
    return Looks(budget=suite.gate.pairs)


def compared(plan: Plan, own: Baseline, other: Baseline, make: Callable[[Suite], Plan]) -> Plan:
    """Return the plan of a comparison: both sides at the load levels of the candidate, A B B A A B ...

    `own` is what is recorded of the candidate, `other` the baseline; `make` makes a plan of the suite as the
    baseline's servers were started. Its load is the candidate's. Both sides are one study, which each run begins anew.
    """
    opponent = make(as_served(plan.suite, other))
    study = hashlib.sha256(f"compare {plan.study} {opponent.study}".encode()).hexdigest()[:32]
    looks = looks_of(plan.suite)
    sides = {BASELINE: other.configuration, CANDIDATE: own.configuration}
    choose = partial(_choose, plan.suite, other.noise)
    slots = tuple(
        Slot(f"{side}-{pair}", 2 * (pair - 1) + second, sides[side], partial(choose, pair, sides[side]))
        for pair in range(1, looks.budget + 1)
        for second, side in enumerate((BASELINE, CANDIDATE) if pair % 2 else (CANDIDATE, BASELINE))
    )
    levels = tuple(own.measured)
    opponent = replace(opponent, study=study, slots=slots, levels=levels, first=(), exam=None, baseline=other)
    exam = exam_of_recorded(plan.suite, own)
    return replace(
        plan, study=study, slots=slots, levels=levels, first=(), exam=exam, baseline=other, opponent=opponent
    )


def as_served(suite: Suite, baseline: Baseline) -> Suite:
    """Return the suite with all that a server depends on as the baseline has it; what is masked there is the suite's.

    Load, limits and gate stay the suite's own.
    """
    served = baseline.server
    fields = {name: _unmasked(getattr(served, name), getattr(suite, name)) for name in type(served).model_fields}
    return suite.model_copy(update={"engine": baseline.engine, "model": baseline.model, **fields})


def _unmasked(then: Any, own: Any) -> Any:
    """Return a value of a baseline; what is masked in it is that of the suite at the same place, if it has one."""
    if isinstance(then, Mapping) and isinstance(own, Mapping):
        return {name: _unmasked(value, own.get(name)) for name, value in then.items()}
    if isinstance(then, list | tuple) and isinstance(own, list | tuple) and len(then) == len(own):
        return type(then)(_unmasked(*values) for values in zip(then, own, strict=True))
    return own if isinstance(then, str) and MASK in then and own is not None else then


def counted(history: Iterable[TrialRecord]) -> list[tuple[TrialRecord, TrialRecord]]:
    """Return the pairs that count, in order: baseline and candidate, both of which came up and could be measured.

    A pair in which a batch could not be measured, as by a load generator that was too slow, says nothing of either
    side, and another takes its place. One in which a server died counts: what it has not measured is not compared.
    """
    sides: dict[int, dict[str, TrialRecord]] = {}
    for trial in history:
        place = place_of(trial.slot)
        usable = trial.batches and all(batch.status != "failed" for batch in trial.batches)
        if place is not None and trial.state == "finished" and usable:
            sides.setdefault(place.pair, {})[place.side] = trial
    return [(sides[pair][BASELINE], sides[pair][CANDIDATE]) for pair in sorted(sides) if len(sides[pair]) == 2]


def pairs_of(history: Iterable[TrialRecord]) -> list[Pair]:
    """Return what the pairs that count brought."""
    return [Pair(_measured(baseline), _measured(candidate)) for baseline, candidate in counted(history)]


def comparison_of(suite: Suite, noise: Mapping[str, Noise], history: Iterable[TrialRecord]) -> Comparison:
    """Compare what was measured so far; `noise` is that of the baseline."""
    return compare(pairs_of(history), tolerances_of(suite, noise), looks=looks_of(suite))


def tolerances_of(suite: Suite, noise: Mapping[str, Noise]) -> dict[str, Tolerance]:
    """Return what is compared: the metrics of `gate:`; without any objective, throughput and limited latencies.

    `noise` is what pairs of equal sides have shown, by metric; the tolerances of a suite without any leave room for it.
    """
    if suite.gate.tolerances:
        return {metric: Tolerance(worse) for metric, worse in suite.gate.tolerances.items()}
    looks = looks_of(suite)
    limited = [limit.metric for limit in suite.slo if certified_statistic(limit) is not None]
    names = [suite.objective.metric, *limited]
    if not any("throughput" in name for name in names):
        names.append("output_throughput")
    metrics = (name for name in dict.fromkeys(names) if worse_when(name) is not None and name not in SHARES)
    return {metric: automatic(metric, noise.get(metric), looks=looks) for metric in metrics}


def _measured(trial: TrialRecord) -> dict[str, Mapping[str, float]]:
    return {batch.level.name: batch.metrics for batch in trial.batches if batch.status == "measured"}


def _choose(
    suite: Suite,
    noise: Mapping[str, Noise],
    pair: int,
    configuration: Configuration,
    history: tuple[TrialRecord, ...],
    _bars: object,
    _first: object,
) -> Configuration:
    """Return the configuration of a side; raise `SearchEnded` once the pairs before have settled the comparison."""
    begun = any((place := place_of(trial.slot)) is not None and place.pair == pair for trial in history)
    if not begun and len(pairs := pairs_of(history)) in looks_of(suite).schedule:
        comparison = comparison_of(suite, noise, history)
        if comparison.settled:
            raise SearchEnded(f"the comparison is settled after {count(len(pairs), 'pair')}: {comparison.outcome}")
    return configuration
