"""How well the load generator kept up, and when it did not: the thresholds are here and nowhere else.

A batch is invalid when the client rather than the server made the numbers:

* The event loop, or the sending of due requests, was late (p99) by more than a tenth of the median
  time to first token, but at least 25 ms and at most 100 ms. Time stamps are then wrong by that much. A
  p99 and a floor, because a machine that runs the server beside the client has hiccups: one of
  70 ms in a window of five seconds does not count, one core too few does.
* The client used a whole core (0.95) and its loop was late by more than half the time between two
  tokens: it could not have read faster, so the throughput is its own. A loop that is late less
  than that still keeps its streams apart, however busy it is.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from pytest_autotune.samples import ClientHealth
from pytest_autotune.statistics import percentile

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_autotune.samples import Level

BEAT_S = 0.01  # between two measurements of the loop's lag
LATE_SHARE = 0.1  # of the median time to first token
LATE_FLOOR_S = 0.025
LATE_CEILING_S = 0.1
BUSY_SHARE = 0.95  # of one core
BUSY_LATE_SHARE = 0.5  # of the median time per output token


class Pulse:
    """A timer on an absolute schedule that measures how late the running event loop is.

    A beat that was missed is made up for with its own delay, so that a loop which stood still for
    100 ms shows ten late beats, not one.
    """

    def __init__(self) -> None:
        self._lags: list[float] = []
        self._handle: asyncio.TimerHandle | None = None
        self._due_s = self._began_s = self._cpu_s = 0.0

    def start(self) -> None:
        """Begin to measure, in the running loop."""
        self._began_s = time.monotonic()
        self._cpu_s = time.process_time()
        self._due_s = self._began_s + BEAT_S
        self._handle = asyncio.get_running_loop().call_at(self._due_s, self._beat)

    def stop(self) -> None:
        """End the measurement; it can be read afterwards, and not be started again."""
        if self._handle is None:
            return
        self._handle.cancel()
        self._handle = None
        self._cpu_s = time.process_time() - self._cpu_s
        self._began_s = time.monotonic() - self._began_s

    def read(
        self, level: Level, *, send_delays_s: Iterable[float], ttft_s: float | None, tpot_s: float | None
    ) -> ClientHealth:
        """Return what was measured, judged by the batch's median TTFT and TPOT."""
        lags = sorted(self._lags) or [0.0]
        delays = sorted(send_delays_s) or [0.0]
        cpu_share = self._cpu_s / self._began_s if self._began_s else 0.0
        lag_p99_s, send_p99_s = percentile(lags, 99), percentile(delays, 99)
        saturated = _saturated(
            level, lag_s=lag_p99_s, send_s=send_p99_s, cpu_share=cpu_share, ttft_s=ttft_s, tpot_s=tpot_s
        )
        return ClientHealth(lag_p99_s, lags[-1], send_p99_s, cpu_share, saturated)

    def _beat(self) -> None:
        self._lags.append(time.monotonic() - self._due_s)
        self._due_s += BEAT_S
        self._handle = asyncio.get_running_loop().call_at(self._due_s, self._beat)


def _saturated(
    level: Level, *, lag_s: float, send_s: float, cpu_share: float, ttft_s: float | None, tpot_s: float | None
) -> str | None:
    """Say why the client was the bottleneck and what to do; None when it was not."""
    limit_s = min(max(LATE_SHARE * (ttft_s or 0.0), LATE_FLOOR_S), LATE_CEILING_S)
    if lag_s > limit_s:
        what = f"its event loop ran {lag_s * 1000:.0f} ms late (p99, limit {limit_s * 1000:.0f} ms)"
    elif send_s > limit_s:
        what = f"it sent requests {send_s * 1000:.0f} ms late (p99, limit {limit_s * 1000:.0f} ms)"
    elif cpu_share > BUSY_SHARE and tpot_s is not None and lag_s > BUSY_LATE_SHARE * tpot_s:
        what = f"its event loop ran {lag_s * 1000:.1f} ms late (p99) with {tpot_s * 1000:.1f} ms between tokens"
    else:
        return None
    return (
        f"client saturated: {what} at {level}, using {cpu_share:.2f} of a core; "
        "use fewer streams per process, leave it a core of its own, or take a faster machine"
    )
