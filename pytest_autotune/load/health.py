"""How well the load generator kept up, and when it did not: the thresholds are here and nowhere else.

A batch is invalid when the client rather than the server made the numbers:

* What had arrived lay unread, or requests that were due were not sent, for longer than a tenth of the
  median time to first token, but at least 25 ms and at most 100 ms. Held against the limit is the
  p99, or what remains when the worst 100 ms of the measurement are forgiven, because a machine that
  runs the server beside the client has hiccups: a single one does not spoil a batch, however short,
  but one core too few does.
* What had arrived lay unread most of the time (p50) for longer than half the time between two tokens,
  but at least 2 ms: the client could not have read faster, so the throughput is its own.
* A closed loop held less than 98 % of its streams busy although no request failed, and took more than
  a millisecond on average from one request to the next.
* Requests found no socket on this machine: too few open files or ports.
* The system's clock was set during the batch, by more than 5 ms: arrivals are stamped with it.

Times of arrival are the kernel's, so a client that is late by less does not falsify them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_autotune.samples import ClientHealth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_autotune.load.wire import Health
    from pytest_autotune.samples import Level

LATE_SHARE = 0.1  # of the median time to first token
LATE_FLOOR_S = 0.025
LATE_CEILING_S = 0.1
FORGIVEN_S = 0.1  # of a measurement, at least one percent of it
BEHIND_SHARE = 0.5  # of the median time per output token
BEHIND_FLOOR_S = 0.002
HELD_SHARE = 0.98  # of the streams of a closed loop, in flight on average
TURN_FLOOR_S = 0.001  # from an answer to the stream's next request: below, it is the server that is quick
CLOCK_SET_S = 0.005


def judge_client(
    workers: Sequence[Health],
    level: Level,
    *,
    send_delays_s: Sequence[float],
    ttft_s: float | None,
    tpot_s: float | None,
    held: float = 1.0,
    turn_s: float = 0.0,
    without_socket: int = 0,
) -> ClientHealth:
    """Return how the workers of a batch with these median TTFT and TPOT kept up together.

    `held` is the share of its streams that a closed loop kept busy, 1 when something else explains
    that it is less; `turn_s` is how long it took from one request to the next, on average.
    """
    lags = np.concatenate([np.frombuffer(worker.lags_s) for worker in workers])
    lags = lags if lags.size else np.zeros(1)
    delays = np.asarray(send_delays_s if len(send_delays_s) else [0.0])
    elapsed_s = max(worker.elapsed_s for worker in workers)
    cpu_share = max(worker.cpu_s / worker.elapsed_s if worker.elapsed_s > 0 else 0.0 for worker in workers)
    tail = 100 * (1 - max(0.01, min(FORGIVEN_S / elapsed_s, 0.5))) if elapsed_s > 0 else 99.0
    lag_p50_s, lag_p99_s, lag_tail_s = (float(value) for value in np.percentile(lags, (50, 99, tail)))
    cause = bottleneck(
        lag_p50_s=lag_p50_s,
        lag_tail_s=lag_tail_s,
        send_tail_s=float(np.percentile(delays, tail)),
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        tail=tail,
        held=held,
        turn_s=turn_s,
        without_socket=without_socket,
    )
    saturated = cause and (
        f"client saturated: {cause} at {level}, with {len(workers)} worker{'s' if len(workers) > 1 else ''} "
        f"of which the busiest used {cpu_share:.2f} of a core; "
        "use more workers, leave them cores of their own, or lower the load"
    )
    set_s = max(worker.clock_set_s for worker in workers)
    if set_s > CLOCK_SET_S:
        saturated = f"the system's clock was set by {_ms(set_s)} during {level}; measure it again"
    return ClientHealth(
        lag_p50_s=lag_p50_s,
        lag_p99_s=lag_p99_s,
        lag_max_s=float(lags.max()),
        send_p99_s=float(np.percentile(delays, 99)),
        send_max_s=float(delays.max()),
        cpu_share=cpu_share,
        saturated=saturated,
        gc_s=max(worker.gc_s for worker in workers),
        bytes_sent=sum(worker.bytes_sent for worker in workers),
        bytes_received=sum(worker.bytes_received for worker in workers),
        workers=len(workers),
    )


def bottleneck(
    *,
    lag_p50_s: float,
    lag_tail_s: float,
    send_tail_s: float,
    ttft_s: float | None,
    tpot_s: float | None,
    tail: float = 99.0,
    held: float = 1.0,
    turn_s: float = 0.0,
    without_socket: int = 0,
) -> str | None:
    """Say how the client was too slow for a batch with these median TTFT and TPOT; None when it was not.

    `tail` is the percentile that the tail figures are.
    """
    limit_s = min(max(LATE_SHARE * (ttft_s or 0.0), LATE_FLOOR_S), LATE_CEILING_S)
    behind_s = max(BEHIND_SHARE * (tpot_s or 0.0), BEHIND_FLOOR_S)
    if lag_tail_s > limit_s:
        return f"it read what had arrived {_ms(lag_tail_s)} late (p{tail:.3g}, limit {_ms(limit_s)})"
    if send_tail_s > limit_s:
        return f"it sent requests {_ms(send_tail_s)} late (p{tail:.3g}, limit {_ms(limit_s)})"
    if tpot_s is not None and lag_p50_s > behind_s:
        return f"it read what had arrived {_ms(lag_p50_s)} late (p50, limit {_ms(behind_s)})"
    if held < HELD_SHARE and turn_s > TURN_FLOOR_S:
        return (
            f"it kept {held:.1%} of its streams busy, with {_ms(turn_s)} between two requests (limit {HELD_SHARE:.0%})"
        )
    if without_socket:
        return f"it had no socket for {without_socket} requests (raise ulimit -n, or net.ipv4.ip_local_port_range)"
    return None


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"
