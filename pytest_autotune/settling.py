"""A new server is loaded until it is as fast as it stays: what it compiles or captures falls in no measured window."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import median, quantiles
from typing import TYPE_CHECKING

from pytest_autotune.formatting import count, quantity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_autotune.load.generator import Workload
    from pytest_autotune.samples import Level, Sample
    from pytest_autotune.suite import Suite

ROUNDS = 3  # in a row that must agree: two may by chance
ROUND_S = 1.0  # that a round takes at least
LEAST_REQUESTS = 8  # of a round: below, its quartiles are no measure of anything
TOLERANCE = 0.1  # relative; as much as a drift within a batch must have to be told (steadiness.py)
NOTCH = 1.57  # times the interquartile range / sqrt(n), on either side of a median
_RAMP_S = 1.0  # before the first round: streams do not begin as one burst
_SHOWN = 4  # rounds that a message names


@dataclass(frozen=True, slots=True)
class Round:
    """Some requests that ended one after the other, as many for each stream."""

    ended_s: float  # since the first round began
    throughput: float  # successful requests per second
    e2e_s: float  # median
    notch_s: float  # half of the interval around it

    def agrees(self, other: Round) -> bool:
        """Say whether two rounds are as fast as each other, as far as that can be told."""
        apart_s = abs(self.e2e_s - other.e2e_s)
        alike = apart_s <= max(TOLERANCE * min(self.e2e_s, other.e2e_s), self.notch_s + other.notch_s)
        slow, fast = sorted((self.throughput, other.throughput))
        return alike and fast <= slow * (1 + TOLERANCE)

    def __str__(self) -> str:
        return f"{self.throughput:.3g}/s with e2e {quantity('e2e', self.e2e_s)}"


def rounds_of(samples: Sequence[Sample], streams: int) -> list[Round]:
    """Return the rounds of a closed loop, from its requests that have ended; the last ones may make no whole round.

    A round ends with the request that makes it `ROUND_S` long, `LEAST_REQUESTS` large and a multiple
    of `streams`: streams that go in step end together, and each counts equally often in each round.
    """
    rounds: list[Round] = []
    latencies: list[float] = []
    began_s = 0.0
    for sample in sorted((s for s in samples if s.error is None), key=lambda sample: sample.end_s):
        latencies.append(sample.e2e_s)
        spent_s = sample.end_s - began_s
        if len(latencies) % streams or len(latencies) < LEAST_REQUESTS or spent_s < ROUND_S:
            continue
        low, _, high = quantiles(latencies, n=4, method="inclusive")
        notch_s = NOTCH * (high - low) / len(latencies) ** 0.5
        rounds.append(Round(sample.end_s, len(latencies) / spent_s, median(latencies), notch_s))
        latencies, began_s = [], sample.end_s
    return rounds


def settled(rounds: Sequence[Round]) -> bool:
    """Say whether a server has become as fast as it stays: its last three rounds agree, each with each.

    Two agree when their throughputs, and their median e2e latencies, are within 10 % of each other.
    Lengths that vary make medians vary: they also agree where the notches around them overlap
    (McGill, Tukey and Larsen, "Variations of box plots", The American Statistician 32, 1978).
    """
    last = rounds[-ROUNDS:]
    return len(last) == ROUNDS and all(one.agrees(other) for one in last for other in last)


def settling_workload(suite: Suite, *, repetition: str) -> tuple[Level, Workload]:
    """Return the largest load level, and what is sent to a new server: requests of its shape, none of a batch's own.

    Raises what `workload_of` raises.
    """
    from pytest_autotune.load.plan import batch_seed, levels_of, workload_of

    load, searched = suite.load, suite.load.searched
    levels = levels_of(load) if searched is None else (searched.level(searched.high),)
    level = max(levels, key=lambda level: level.value)
    seed = batch_seed(load.seed, level, repetition=f"settle {repetition}")
    workload = workload_of(load, level, directory=suite.path.parent, seed=seed)
    return level, replace(
        workload,
        duration_s=load.settle_s or 0.0,
        warmup_s=_RAMP_S,
        max_requests=None,
        max_errors=None,
        max_error_share=None,
    )


class Settling:
    """What is known of a server while it settles; `enough` ends its load."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.rounds: list[Round] = []
        self._began_s = time.monotonic()

    def enough(self, samples: Sequence[Sample], _elapsed_s: float) -> str:
        """Look at the requests that have ended; return why the load may end, empty while the server has not settled."""
        self.rounds = rounds_of(samples, int(self.level.value))
        return f"settled after {count(len(self.rounds), 'round')}" if settled(self.rounds) else ""

    @property
    def remark(self) -> str:
        """What readers of the first batch should know: how long it took, and how fast the server was then."""
        spent = quantity("e2e", time.monotonic() - self._began_s)
        return f"settled at {self.level}: {count(len(self.rounds), 'round')} in {spent}, at last {self.rounds[-1]}"

    def problem(self, limit_s: float, errors: int) -> str:
        """Say that the server has not settled, with the figures of its last rounds and what to do."""
        if self.rounds:
            last = ", ".join(map(str, self.rounds[-_SHOWN:]))
            seen = f"the last of {count(len(self.rounds), 'round')} were {last}"
        else:
            size = max(LEAST_REQUESTS, int(self.level.value))
            seen = f"not even {size} requests were answered"
        failed = f", and {count(errors, 'request')} failed" if errors else ""
        return (
            f"the server did not settle at {self.level} within {limit_s:g} s (load.settle): {seen}{failed}; "
            "give it more time, or remove settle"
        )
