"""A batch in simulated time: the server's scheduler under a closed loop, without sockets and without sleeping."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_autotune.engines.sim.arguments import resolve
from pytest_autotune.engines.sim.hardware import DeviceMemoryError
from pytest_autotune.engines.sim.scheduler import Scheduler, Sequence
from pytest_autotune.samples import Sample

if TYPE_CHECKING:
    from pytest_autotune.engines.sim.arguments import Settings


RAMP_S = 1.0  # at most so long, and at most half of the warm-up, the first requests are spread over


@dataclass(frozen=True, slots=True)
class Simulated:
    """What the load generator would have measured, in its own (time-scaled) seconds."""

    samples: tuple[Sample, ...]  # of requests in flight at some time inside the window, each followed to its end
    window_s: float
    died: str | None  # why the server did not live to the end
    preemptions: int


@dataclass(slots=True)
class _Request:
    sent_s: float
    times: list[float] = field(default_factory=list)


def simulate(
    settings: Settings,
    *,
    concurrency: int,
    prompt_tokens: int,
    output_tokens: int,
    duration_s: float,
    warmup_s: float = 0.0,
    client_s: float = 0.001,
) -> Simulated:
    """Load a fresh server as `load.http.HttpLoad` does, by `concurrency` clients with one request in flight each.

    A client takes `client_s` to send its next request. The load goes on until every request that was
    sent before the window closed has ended; `statistics.summarise` makes the batch's metrics of it.
    Raises `DeviceMemoryError` or `InvalidSettingsError` when the server would not have started. Takes
    milliseconds per simulated second; equal arguments, equal results.
    """
    settings = resolve(settings)
    scheduler = Scheduler(settings)
    ramp_s = min(RAMP_S, warmup_s / 2)
    arrivals = [ramp_s * client / concurrency for client in range(concurrency)]
    close_s = warmup_s + duration_s
    samples: list[Sample] = []
    sent = awaited = 0
    now = 0.0
    while now < close_s or awaited:
        while arrivals and arrivals[0] <= now:
            sent += 1
            prompt = [sent, *range(prompt_tokens - 1)]  # no two begin alike: no prefix cache hits
            request = _Request(heapq.heappop(arrivals))
            awaited += request.sent_s < close_s
            scheduler.add(Sequence(prompt, output_tokens, owner=request))
        try:
            step = scheduler.begin()
        except DeviceMemoryError as error:
            return Simulated(tuple(samples), duration_s, str(error), scheduler.preemptions)
        if step is None:
            now = arrivals[0]
            continue
        now += step.duration_s * settings.time_scale
        for sequence in scheduler.complete(step):
            request = sequence.owner
            request.times.append(now)
            if sequence.state == "finished":
                heapq.heappush(arrivals, now + client_s)
                awaited -= request.sent_s < close_s
                if now >= warmup_s and request.sent_s < close_s:
                    samples.append(_sample(request, prompt_tokens, warmup_s))
    return Simulated(tuple(samples), duration_s, None, scheduler.preemptions)


def _sample(request: _Request, prompt_tokens: int, warmup_s: float) -> Sample:
    times = request.times
    return Sample(
        sent_s=request.sent_s - warmup_s,
        first_s=times[0] - warmup_s,
        end_s=times[-1] - warmup_s,
        prompt_tokens=prompt_tokens,
        output_tokens=len(times),
        gaps_s=tuple(after - before for before, after in pairwise(times)),
    )
