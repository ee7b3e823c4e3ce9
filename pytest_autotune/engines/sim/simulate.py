"""A batch in simulated time: the server's scheduler under a closed loop, without sockets and without sleeping."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_autotune.engines.sim.arguments import resolve
from pytest_autotune.engines.sim.hardware import DeviceMemoryError
from pytest_autotune.engines.sim.scheduler import Scheduler, Sequence
from pytest_autotune.samples import Sample

if TYPE_CHECKING:
    from pytest_autotune.engines.sim.arguments import Settings


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a client would have measured, in its own (time-scaled) seconds."""

    samples: tuple[Sample, ...]  # of requests that ended inside the window
    window_s: float
    died: str | None  # why the server did not live to the end of the window
    preemptions: int


class _Request:
    __slots__ = ("sent_s", "times")

    def __init__(self, sent_s: float) -> None:
        self.sent_s = sent_s
        self.times: list[float] = []


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
    """Load a fresh server by `concurrency` clients, each with one request in flight, and return every request.

    A client takes `client_s` to send its next request; `duration_s` and `warmup_s` are in the
    client's seconds, as the result is. Raises `DeviceMemoryError` or `InvalidSettingsError` when the server
    would not have started. Takes milliseconds per simulated second; equal arguments, equal results.
    """
    settings = resolve(settings)
    scheduler = Scheduler(settings)
    arrivals = [client * client_s for client in range(concurrency)]
    end_s = warmup_s + duration_s
    samples: list[Sample] = []
    sent = 0
    now = 0.0
    while now < end_s:
        while arrivals and arrivals[0] <= now:
            sent += 1  # the token ids of no two prompts agree in their first block
            prompt = [sent, *range(prompt_tokens - 1)]
            scheduler.add(Sequence(prompt, output_tokens, owner=_Request(heapq.heappop(arrivals))))
        try:
            step = scheduler.begin()
        except DeviceMemoryError as error:
            return Simulated(tuple(samples), duration_s, str(error), scheduler.preemptions)
        if step is None:
            now = arrivals[0]
            continue
        now += step.duration_s * settings.time_scale
        for sequence in scheduler.complete(step):
            request: _Request = sequence.owner
            request.times.append(now)
            if sequence.state == "finished":
                heapq.heappush(arrivals, now + client_s)
                if warmup_s <= now <= end_s:
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
