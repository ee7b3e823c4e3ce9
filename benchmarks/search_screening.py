"""How often an equal server is screened out, and a slower one: python -m benchmarks.search_screening [--quick].

Simulated servers under a closed loop, whose latencies follow each other (a log-normal autoregression) or come in
rounds that a scheduler answers together. Requests have lengths of their own, the same in both batches of a pair. Each
candidate is looked at once a second for `SCREEN` of a batch, as `search: {screen: 20%}` does. It prints, and asserts
nothing.
"""

from __future__ import annotations

import argparse
import heapq
import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.load import machine
from benchmarks.search_verdicts import errors
from benchmarks.tables import Printer
from pytest_autotune.samples import Level, Sample
from pytest_autotune.screening import CONFIDENCE, Incumbent, Rules, Screening
from pytest_autotune.suite import Objective

if TYPE_CHECKING:
    from numpy.typing import NDArray

DURATION_S = 30.0
SCREEN = 0.2
LATENCY_S = 0.5
SLOWER = (1.0, 1.05, 1.1, 1.2, 1.5)


@dataclass(frozen=True, slots=True)
class Kind:
    """How the latencies of a simulated server vary."""

    name: str
    likeness: float  # of a latency to the one before, or of a round to the one before
    deviation: float  # of logarithms
    lengths: float  # deviation of the logarithms of the requests' own lengths
    rounds: bool = False


KINDS = (
    Kind("independent", 0.0, 0.1, 0.3),
    Kind("correlation 0.5", 0.5, 0.1, 0.3),
    Kind("correlation 0.9", 0.9, 0.1, 0.3),
    Kind("rounds", 0.5, 0.05, 0.3, rounds=True),
)


def main() -> None:
    """Try all pairs of servers and print how many candidates were dropped."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_screening", description="Errors of screening.")
    parser.add_argument("--pairs", type=int, default=500, help="of servers, for each cell")
    parser.add_argument("--quick", action="store_true", help="few pairs: to see that it works")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    asked = parser.parse_args()
    out = Printer(markdown=asked.markdown)
    out.note(machine())
    pairs = 40 if asked.quick else asked.pairs
    out.title(
        "Screening",
        f"{pairs} pairs of servers for each cell, a look each second of {SCREEN:.0%} of {DURATION_S:g} s, latencies of "
        f"about {LATENCY_S:g} s, confidence {CONFIDENCE:.0%}. Dropped, with the 95 % interval, of candidates slower by",
    )
    rows = []
    equal: list[bool] = []
    clear: list[float] = []
    for kind in KINDS:
        for streams in (8, 32):
            cells = []
            for slower in SLOWER:
                found = [dropped_s(number, kind, streams=streams, slower=slower) for number in range(pairs)]
                events = [moment is not None for moment in found]
                cells.append(errors(events))
                if slower == 1.0:
                    equal += events
                if slower == SLOWER[-1]:
                    clear += [moment for moment in found if moment is not None]
            rows.append([kind.name, str(streams), *cells])
    out.table(("latencies", "streams", *(f"{slower - 1:.0%}" for slower in SLOWER)), rows)
    out.verdict("equal servers that were dropped, of all", float(np.mean(equal)), 1 - CONFIDENCE, "")
    out.verdict(
        f"seconds until one that takes {SLOWER[-1]:g} times as long is dropped, median", median(clear), 6.0, "s"
    )


def dropped_s(number: int, kind: Kind, *, streams: int, slower: float, screen: float = SCREEN) -> float | None:
    """Return when a candidate was dropped that takes `slower` times as long as the incumbent; None when it was not."""
    chance = np.random.default_rng([number, streams])
    count = int(2 * DURATION_S / LATENCY_S) * streams
    lengths = np.exp(kind.lengths * chance.normal(size=count))
    before, now = (served(lengths, vary(chance, kind, count, streams) * LATENCY_S, streams) for _ in range(2))
    incumbent = Incumbent(
        trial=1,
        words="incumbent",
        level=Level(streams),
        score=100.0,
        highest=None,
        gpus=1,
        samples=tuple(sample for sample in before if sample.start_s < DURATION_S),
    )
    candidate = [stretched(sample, slower) for sample in now]
    until_s = screen * DURATION_S
    screening = Screening(incumbent, Rules(worse=True), objective=Objective(), limits=(), gpus=1, until_s=until_s)
    for second in range(1, math.ceil(until_s) + 1):
        if screening.look([sample for sample in candidate if sample.end_s <= second], second):
            return float(second)
    return None


def vary(chance: np.random.Generator, kind: Kind, count: int, streams: int) -> NDArray[np.float64]:
    """Return by what each of so many latencies differs from the usual one."""
    each = streams if kind.rounds else 1
    steps = chance.normal(size=count // each + 1) * math.sqrt(1 - kind.likeness**2)
    values = np.empty(steps.size)
    values[0] = chance.normal()
    for index in range(1, steps.size):
        values[index] = kind.likeness * values[index - 1] + steps[index]
    return np.exp(kind.deviation * np.repeat(values, each)[:count])


def served(lengths: NDArray[np.float64], latencies: NDArray[np.float64], streams: int) -> list[Sample]:
    """Return the requests of a closed loop."""
    free = [0.0] * streams
    samples = []
    for length, latency_s in zip(lengths.tolist(), latencies.tolist(), strict=True):
        sent_s = heapq.heappop(free)
        heapq.heappush(free, sent_s + length * latency_s)
        samples.append(_sample(sent_s, sent_s + length * latency_s, round(100 * length)))
    return samples


def stretched(sample: Sample, factor: float) -> Sample:
    """Return a request of a server for which everything takes so much longer."""
    return _sample(sample.sent_s * factor, sample.end_s * factor, sample.output_tokens)


def _sample(sent_s: float, end_s: float, tokens: int) -> Sample:
    return Sample(sent_s=sent_s, first_s=sent_s, end_s=end_s, prompt_tokens=100, output_tokens=tokens)


if __name__ == "__main__":
    main()
