"""What tokens cost: the price of a server's GPUs by what it was measured to bring."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_autotune.metrics import COSTS

if TYPE_CHECKING:
    from pytest_autotune.records import BatchRecord, Interval, TrialRecord

_SECONDS = 3600.0  # of an hour, which prices are of
_TOKENS = 1e6  # that costs are of


def priced(trial: TrialRecord, price: float | None) -> TrialRecord:
    """Return a trial with the costs of its batches at the price of one GPU for one hour; without a price, with none.

    Costs follow from the recorded rates and from nothing else, so that a new price needs no new measurement.
    """
    batches = tuple(with_costs(batch, price, gpus=trial.gpus) for batch in trial.batches)
    return trial if batches == trial.batches else replace(trial, batches=batches)


def with_costs(batch: BatchRecord, price: float | None, *, gpus: int) -> BatchRecord:
    """Return a batch with its costs, and how sure they are; a server without known GPUs is paid for as one.

    A batch without tokens has no cost: there is no number for what nothing costs by the token.
    """
    if price is None and not any(cost in batch.metrics for cost in COSTS):
        return batch
    metrics = {name: value for name, value in batch.metrics.items() if name not in COSTS}
    intervals = {name: interval for name, interval in batch.intervals.items() if name not in COSTS}
    if price is not None:
        per_second = price * max(gpus, 1) / _SECONDS * _TOKENS
        for cost, rate in COSTS.items():
            if metrics.get(rate) and math.isfinite(amount := per_second / metrics[rate]):
                metrics[cost] = amount
                if rate in intervals:
                    intervals[cost] = _inverted(intervals[rate], per_second)
    return replace(batch, metrics=metrics, intervals=intervals)


def _inverted(rate: Interval, per_second: float) -> Interval:
    """Return the interval of a cost from that of its rate: the most tokens are the least cost."""
    low, high = rate
    return per_second / high if high else None, per_second / low if low else None
