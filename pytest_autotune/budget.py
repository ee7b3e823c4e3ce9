"""How much a search may cost, what it has cost, and what measuring everything would have cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_autotune.formatting import count, duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from pytest_autotune.records import TrialRecord


class SearchEnded(LookupError):  # an ending, not an error
    """Nothing more is to be measured: the budget is spent, or there is nothing to confirm. A normal end."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What ends a search before its last trial; None sets no end.

    A trial that has begun is finished, so a search costs up to one trial per worker more than this.
    """

    time_s: float | None = None  # of all its runs, from the start of a run's first trial to the end of its last
    gpu_time_s: float | None = None  # GPU-seconds
    patience: int | None = None  # trials in a row that bring nothing better


@dataclass(frozen=True, slots=True)
class Cost:
    """What trials have cost, or would."""

    deployments: int  # servers started, those that did not come up included
    gpu_time_s: float  # seconds of each trial, from when it has its GPUs, times those; without any it counts as one
    time_s: float  # of the wall clock


def cost_of(trials: Sequence[TrialRecord], now: datetime) -> Cost:
    """Return what a search has cost so far; a trial that is still running counts until `now`."""
    spans: dict[str, tuple[datetime, datetime]] = {}
    gpu_time_s = 0.0
    for trial in trials:
        end = now if trial.state == "running" else trial.ended_at or trial.started_at
        first, last = spans.get(trial.run_id, (trial.started_at, end))
        spans[trial.run_id] = min(first, trial.started_at), max(last, end)
        held_s = (end - trial.started_at).total_seconds() - trial.waited_s
        gpu_time_s += max(0.0, held_s) * max(trial.gpus, 1)
    return Cost(
        deployments=sum(trial.launched for trial in trials),
        gpu_time_s=gpu_time_s,
        time_s=sum(max(0.0, (last - first).total_seconds()) for first, last in spans.values()),
    )


def ending(budget: Budget, cost: Cost, values: Iterable[float | None]) -> str:
    """Return why a search ends now; empty when it goes on.

    `values` are what its finished trials are ranked by, in the order in which they ended; None for one
    without a compliant batch. As long as nothing complies there is nothing to be better than, and
    patience does not end the search.
    """
    if budget.time_s is not None and cost.time_s >= budget.time_s:
        return f"its time is spent: {duration(cost.time_s)} of {duration(budget.time_s)}"
    if budget.gpu_time_s is not None and cost.gpu_time_s >= budget.gpu_time_s:
        return f"its GPU time is spent: {duration(cost.gpu_time_s)} of {duration(budget.gpu_time_s)}"
    if budget.patience is not None:
        since = _since_best(values)
        if since >= budget.patience:
            return f"{count(since, 'trial')} in a row brought nothing better"
    return ""


def _since_best(values: Iterable[float | None]) -> int:
    """Return how many values have followed the first of the largest."""
    best: float | None = None
    since = 0
    for value in values:
        if value is not None and (best is None or value > best):
            best, since = value, 0
        elif best is not None:
            since += 1
    return since


def saved_line(spent: Cost, everything: Cost) -> str:
    """Say what a search saved against measuring everything; empty when it saved no deployment and no GPU time."""
    deployments = everything.deployments - spent.deployments
    gpu_time_s = everything.gpu_time_s - spent.gpu_time_s
    if deployments <= 0 or gpu_time_s <= 0:
        return ""
    return (
        f"saved {deployments:,} of {count(everything.deployments, 'deployment')} and about "
        f"{duration(gpu_time_s)} of {duration(everything.gpu_time_s)} GPU time, "
        "against the full grid with fixed durations"
    )
