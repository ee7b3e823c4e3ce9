"""When requests are sent: the intended times of an open loop, and the streams of a staged closed loop.

All times are seconds from the start of the batch, warm-up included: stages and traces begin with
it, so that a first stage can be the warm-up, and only a burst waits for the window to open.
"""

from __future__ import annotations

import itertools
import math
import random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_autotune.load.generator import Arrivals, Workload
    from pytest_autotune.samples import Level


def sent_by_clock(level: Level, workload: Workload) -> bool:
    """Whether requests have times of their own, rather than following the end of earlier ones."""
    return level.open_loop or (level.shape == "stages" and workload.stages_of == "rate")


def schedule(level: Level, workload: Workload) -> Iterator[float]:
    """Yield when each request of a batch is to be sent, in order; endless unless the load itself ends.

    Equal seeds give equal times in every process, so that each of n workers takes every n-th.

    * a rate: gaps as `Arrivals` says. The process is stationary from the start: the first gap is what
      an observer who comes at random has to wait, so every interval holds what the rate asks for,
      however bursty. Constant gaps begin half a gap in.
    * stages by rate: the process of a rate of 1, on a clock that runs at the rate of the moment, so
      that gaps keep their burstiness. The last stage's end holds on.
    * a burst: all requests when the window opens
    * a replay: the trace's times over the level's speed, once
    """
    match level.shape:
        case "rate":
            return (time / level.value for time in _unit_process(workload))
        case "stages" if workload.stages_of == "rate":
            return _staged(_unit_process(workload), _ramps(workload))
        case "burst":
            return itertools.repeat(workload.warmup_s, int(level.value))
        case "replay":
            return (time_s / level.value for time_s in workload.times_s)
        case _:
            raise ValueError(f"{level} is a closed loop, which has no times of its own")


def requests_due(level: Level, workload: Workload, from_s: float, to_s: float) -> int:
    """Return how many requests of the schedule lie in [from_s, to_s): what a client that keeps up has sent."""
    before_end = itertools.takewhile(lambda time: time < to_s, schedule(level, workload))
    return sum(time >= from_s for time in before_end)


def planned_rate(level: Level, workload: Workload, from_s: float, to_s: float) -> float:
    """Return the requests per second that the load asks for in an interval, on average over all seeds.

    One batch of random gaps is above or below it by chance; delivery is judged against `requests_due`.
    """
    assert to_s > from_s
    match level.shape:
        case "rate":
            return level.value
        case "stages" if workload.stages_of == "rate":
            ramps = _ramps(workload)
            return (_integral(ramps, to_s) - _integral(ramps, from_s)) / (to_s - from_s)
        case _:  # nothing is left to chance
            return requests_due(level, workload, from_s, to_s) / (to_s - from_s)


def streams_at(workload: Workload, time_s: float) -> int:
    """Return how many streams stages by concurrency keep open at a time; the last stage's end holds on."""
    ramp = _ramp_at(_ramps(workload), time_s)
    return math.floor(ramp.value_at(max(0.0, time_s)) + 0.5)


def most_streams(workload: Workload) -> int:
    """Return how many streams stages by concurrency open at most."""
    return math.floor(max(max(stage.start, stage.end) for stage in workload.stages) + 0.5)


class _Ramp(NamedTuple):
    """A stage with what came before it: a rate that changes evenly from a time on."""

    begin_s: float
    duration_s: float  # infinite behind the last stage
    start: float
    slope: float  # per second
    before: float  # integral of all earlier ramps

    def value_at(self, time_s: float) -> float:
        return self.start + self.slope * (time_s - self.begin_s)

    def integral_at(self, time_s: float) -> float:
        elapsed_s = time_s - self.begin_s
        return self.before + elapsed_s * (self.start + self.slope * elapsed_s / 2)

    def time_of(self, integral: float) -> float:
        """Return when the integral reaches a value that lies in this ramp."""
        area = integral - self.before
        if area <= 0:
            return self.begin_s
        # The root of slope/2 * x**2 + start * x = area, in the form that loses no digits at small slopes.
        root = math.sqrt(max(0.0, self.start**2 + 2 * self.slope * area))
        return self.begin_s + min(self.duration_s, 2 * area / (self.start + root))


def _ramps(workload: Workload) -> list[_Ramp]:
    """Return the stages one after the other, and the last one's end for ever."""
    assert workload.stages
    ramps = []
    begin_s = before = 0.0
    for stage in workload.stages:
        if stage.duration_s > 0:
            slope = (stage.end - stage.start) / stage.duration_s
            ramps.append(_Ramp(begin_s, stage.duration_s, stage.start, slope, before))
            begin_s += stage.duration_s
            before += stage.duration_s * (stage.start + stage.end) / 2
    return [*ramps, _Ramp(begin_s, math.inf, workload.stages[-1].end, 0.0, before)]


def _ramp_at(ramps: list[_Ramp], time_s: float) -> _Ramp:
    return next(ramp for ramp in reversed(ramps) if ramp.begin_s <= max(0.0, time_s))


def _integral(ramps: list[_Ramp], time_s: float) -> float:
    return _ramp_at(ramps, time_s).integral_at(max(0.0, time_s))


def _staged(unit_process: Iterator[float], ramps: list[_Ramp]) -> Iterator[float]:
    """Yield when the integral of the rate reaches each time of a process of rate 1."""
    place, last = 0, len(ramps) - 1
    for integral in unit_process:
        while place < last and integral > ramps[place + 1].before:
            place += 1
        if place == last and ramps[last].start == 0:
            return  # the load has faded out
        yield ramps[place].time_of(integral)


def _unit_process(workload: Workload) -> Iterator[float]:
    """Yield the times of a stationary process of one request per second."""
    shape = workload.arrivals.burstiness
    if math.isinf(shape):
        return (number + 0.5 for number in itertools.count())
    # Text, so that the same seed gives the builders of prompts other numbers.
    generator = random.Random(f"arrivals {workload.seed}")  # noqa: S311 -- times are no secrets
    return itertools.accumulate(_gaps(generator, workload.arrivals))


def _gaps(generator: random.Random, arrivals: Arrivals) -> Iterator[float]:
    shape = arrivals.burstiness
    if shape == 1:  # the exponential distribution, which does not remember how long one has waited
        while True:
            yield generator.expovariate(1.0)
    # An observer who comes at random meets a gap in proportion to its length, which makes its shape one
    # more, and comes at any place in it alike.
    yield generator.gammavariate(shape + 1, 1 / shape) * generator.random()
    while True:
        yield generator.gammavariate(shape, 1 / shape)
