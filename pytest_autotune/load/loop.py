"""The event loop of a load worker: epoll, timers, and a pace that bounds what waking up costs.

Why not asyncio or uvloop: at 512 streams a token costs them 20 to 25 microseconds of CPU, most of it
for waking up once per token. This loop, when much arrives, sleeps for `QUANTUM_S` after it has read what
there was, and then finds many tokens for the price of one wake-up. No time stamp suffers, because the
kernel's are used (`link`); only what follows from an answer, the next request, is late by half of a
quantum on average. When little arrives it sleeps less or not at all. `benchmarks/load.py` has the figures.
"""

from __future__ import annotations

import heapq
import itertools
import select
from time import monotonic, sleep
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

QUANTUM_S = 0.001  # at `BUSY` events per second and above; in proportion below
BUSY = 20000.0
_COUNTED_S = 0.01  # over which events are counted
_IDLE_S = 0.05  # longest wait
_COARSE_S = 0.002  # epoll counts whole milliseconds: shorter waits are slept
_MOST_EVENTS = 4096


class Loop:
    """Calls handlers of file descriptors and timers, in one thread, until `stop`."""

    def __init__(self) -> None:
        self.period_s = 0.0  # how long what arrived may have waited before the handlers that run now were called
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._fresh: set[int] = set()  # registered since the last look: what it found was not theirs
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._stopped = False

    def at(self, when_s: float, action: Callable[[], None]) -> None:
        """Call `action` at a time of the monotonic clock."""
        heapq.heappush(self._timers, (when_s, next(self._order), action))

    def watch(self, number: int, mask: int, handler: Callable[[int], None]) -> None:
        """Call `handler` with the events of a file descriptor, which are level-triggered."""
        if number in self._handlers:
            self._epoll.modify(number, mask)
            return
        self._epoll.register(number, mask)
        self._handlers[number] = handler
        self._fresh.add(number)

    def forget(self, number: int) -> None:
        """Stop watching a file descriptor, before it is closed."""
        if self._handlers.pop(number, None) is not None:
            self._epoll.unregister(number)

    def stop(self) -> None:
        """Make `run` return when the handlers that are due have been called."""
        self._stopped = True

    def run(self) -> None:
        """Run until `stop`."""
        self._stopped = False
        poll, handlers, timers, fresh = self._epoll.poll, self._handlers, self._timers, self._fresh
        polled_s, busy = monotonic(), False
        counted_s, counted, quantum_s = polled_s, 0, 0.0
        while not self._stopped:
            now_s = monotonic()
            while timers and timers[0][0] <= now_s:
                heapq.heappop(timers)[2]()
                now_s = monotonic()
            wait_s = min(timers[0][0] - now_s, _IDLE_S) if timers else _IDLE_S
            if busy or wait_s < _COARSE_S:
                pause_s = min(polled_s + quantum_s - now_s if busy else QUANTUM_S, wait_s)
                if pause_s > 0:
                    sleep(pause_s)
                events = poll(0, _MOST_EVENTS)
            else:
                polled_s = now_s
                events = poll(int(wait_s * 1000) / 1000, _MOST_EVENTS)
            now_s = monotonic()
            self.period_s = now_s - polled_s if busy else 0.0
            polled_s, busy = now_s, bool(events)
            counted += len(events)
            if now_s - counted_s >= _COUNTED_S:
                quantum_s = QUANTUM_S * min(counted / (now_s - counted_s) / BUSY, 1.0)
                counted_s, counted = now_s, 0
            fresh.clear()
            for number, mask in events:
                handler = handlers.get(number)
                if handler is not None and (not fresh or number not in fresh):
                    handler(mask)

    def close(self) -> None:
        """Release the epoll instance; the descriptors are their owners'."""
        self._epoll.close()
