"""A simulated queue: random arrivals, so many servers, a fixed time of service."""

from __future__ import annotations

import heapq
import random
from bisect import bisect_right
from dataclasses import dataclass

PREFILL_S = 0.05


@dataclass(frozen=True)
class Served:
    """A request of the queue."""

    start_s: float
    ttft_s: float
    end_s: float


def queue(seed, *, load, servers, service_s, duration_s, burstiness=1.0):
    """Requests that came in `duration_s` to an M/D/c queue (G/D/c with a burstiness other than 1)."""
    chance, now, served = random.Random(seed), 0.0, []
    free = [0.0] * servers
    gap = service_s / servers / load
    while (now := now + chance.gammavariate(burstiness, gap / burstiness)) < duration_s:
        begins = max(now, heapq.heappop(free))
        heapq.heappush(free, begins + service_s)
        served.append(Served(now, begins - now + PREFILL_S, begins + service_s))
    return served


def seconds_of(served, duration_s):
    """At each second: (now, points of requests in flight so far, (start, TTFT) of the first tokens so far)."""
    starts, ends = [request.start_s for request in served], sorted(request.end_s for request in served)
    firsts = sorted((request.start_s + request.ttft_s, request.start_s, request.ttft_s) for request in served)
    points = []
    for now in range(duration_s + 1):
        points.append((float(now), bisect_right(starts, now) - bisect_right(ends, now)))
        come = [(start, ttft) for _, start, ttft in firsts[: bisect_right(firsts, (now, 0.0, 0.0))]]
        yield float(now), points, come
