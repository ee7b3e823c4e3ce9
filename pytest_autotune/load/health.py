"""How well the load generator kept up, and when it did not: the thresholds are here and nowhere else.

A batch is invalid when the client rather than the server made the numbers:

* The event loop, or the sending of due requests, was late by more than a tenth of the median time to
  first token, but at least 25 ms and at most 100 ms. Time stamps are then wrong by that much. Held
  against the limit is the p99, or what remains when the worst 100 ms of the measurement are
  forgiven, because a machine that runs the server beside the client has hiccups: a single one
  does not spoil a batch, however short, but one core too few does.
* The event loop was late most of the time (p50) by more than half the time between two tokens, but
  at least 2 ms: it could not have read faster, so the throughput is its own, whether it used a whole
  core or had to share one. A loop that is late less than that keeps its streams apart, however
  busy it is. (An idle loop is up to 1 ms late: timers wait in whole milliseconds.)
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
FORGIVEN_S = 0.1  # of a measurement, at least one percent of it
BEHIND_SHARE = 0.5  # of the median time per output token
BEHIND_FLOOR_S = 0.002


class Pulse:
    """A timer on an absolute schedule that measures how late the running event loop is.

    A beat that was missed is made up for with its own delay, so that a loop which stood still for
    100 ms shows ten late beats, not one.
    """

    def __init__(self) -> None:
        self._lags: list[float] = []
        self._handle: asyncio.TimerHandle | None = None
        self._due_s = self._began_s = self._cpu_s = self._elapsed_s = 0.0

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
        self._elapsed_s = time.monotonic() - self._began_s

    def read(
        self, level: Level, *, send_delays_s: Iterable[float], ttft_s: float | None, tpot_s: float | None
    ) -> ClientHealth:
        """Return what was measured, judged by the batch's median TTFT and TPOT."""
        lags = sorted(self._lags) or [0.0]
        delays = sorted(send_delays_s) or [0.0]
        cpu_share = self._cpu_s / self._elapsed_s if self._elapsed_s else 0.0
        tail = 100 * (1 - max(0.01, min(FORGIVEN_S / self._elapsed_s, 0.5))) if self._elapsed_s else 99.0
        cause = bottleneck(
            lag_p50_s=percentile(lags, 50),
            lag_tail_s=percentile(lags, tail),
            send_tail_s=percentile(delays, tail),
            ttft_s=ttft_s,
            tpot_s=tpot_s,
            tail=tail,
        )
        saturated = cause and (
            f"client saturated: {cause} at {level}, using {cpu_share:.2f} of a core; "
            "use fewer streams per process, leave it a core of its own, or take a faster machine"
        )
        return ClientHealth(
            lag_p99_s=percentile(lags, 99),
            lag_max_s=lags[-1],
            send_p99_s=percentile(delays, 99),
            cpu_share=cpu_share,
            saturated=saturated,
        )

    def _beat(self) -> None:
        now_s = time.monotonic()
        while self._due_s <= now_s:
            self._lags.append(now_s - self._due_s)
            self._due_s += BEAT_S
        self._handle = asyncio.get_running_loop().call_at(self._due_s, self._beat)


def bottleneck(
    *,
    lag_p50_s: float,
    lag_tail_s: float,
    send_tail_s: float,
    ttft_s: float | None,
    tpot_s: float | None,
    tail: float = 99.0,
) -> str | None:
    """Say how the client was too slow for a batch with these median TTFT and TPOT; None when it was not.

    `tail` is the percentile that the tail figures are.
    """
    limit_s = min(max(LATE_SHARE * (ttft_s or 0.0), LATE_FLOOR_S), LATE_CEILING_S)
    behind_s = max(BEHIND_SHARE * (tpot_s or 0.0), BEHIND_FLOOR_S)
    if lag_tail_s > limit_s:
        return f"its event loop ran {_ms(lag_tail_s)} late (p{tail:.3g}, limit {_ms(limit_s)})"
    if send_tail_s > limit_s:
        return f"it sent requests {_ms(send_tail_s)} late (p{tail:.3g}, limit {_ms(limit_s)})"
    if tpot_s is not None and lag_p50_s > behind_s:
        return f"its event loop ran {_ms(lag_p50_s)} late (p50, limit {_ms(behind_s)})"
    return None


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"
