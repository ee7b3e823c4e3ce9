"""What a batch measured: load level, requests, and the load generator's own health."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, order=True)
class Level:
    """One load level: so many requests in flight at any time (closed loop)."""

    concurrency: int

    @property
    def name(self) -> str:
        """The name of the level's pytest item, e.g. ``c8``."""
        return f"c{self.concurrency}"

    def __str__(self) -> str:
        return f"concurrency={self.concurrency}"


@dataclass(frozen=True, slots=True)
class Sample:
    """One request of a batch.

    Times are seconds on the load generator's monotonic clock, counted from the start of the
    measurement window (a request sent during warm-up has a negative `sent_s`).
    """

    sent_s: float  # the request was fully written
    first_s: float | None  # first output token arrived; None when none did
    end_s: float  # last byte of the answer arrived, or the failure was noticed
    prompt_tokens: int  # as the server counted them, else as they were sent
    output_tokens: int
    gaps_s: tuple[float, ...] = ()  # between arrivals that carried tokens: inter-token latencies
    error: str | None = None  # kind of failure ("timeout", "http-503", "reset", ...); None when it succeeded
    id: str = ""  # the x-request-id it carried: finds the request in the server's log

    @property
    def ttft_s(self) -> float | None:
        """Time to first token."""
        return None if self.first_s is None else self.first_s - self.sent_s

    @property
    def e2e_s(self) -> float:
        """End-to-end latency."""
        return self.end_s - self.sent_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first: (e2e - TTFT) / (output tokens - 1)."""
        if self.first_s is None or self.output_tokens < 2:
            return None
        return (self.end_s - self.first_s) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class ClientHealth:
    """How well the load generator kept up, from the opening of the window to the last measured answer.

    `lag_*` is how late its event loop ran a timer; `send_*` the time from a request being due (and
    its connection open) to its last byte being handed to the kernel.
    """

    lag_p99_s: float
    lag_max_s: float
    send_p99_s: float
    cpu_share: float  # CPU seconds used per second of wall time, of one core
    saturated: str | None = None  # why the batch is invalid, with what to do; None when the client kept up


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything a load generator hands back for one batch.

    `samples` are all requests that were in flight at some time inside the window: those sent
    during warm-up carry tokens that arrived inside it, those that ended after it were waited for.
    `statistics.measured` says which of them count as requests of the batch.
    """

    level: Level
    samples: tuple[Sample, ...]  # in flight at some time inside the window, failed ones included
    window_s: float  # length of the measurement window
    warmup_requests: int  # ended before the window opened; in no other figure
    client: ClientHealth
    errors: Mapping[str, int]  # kind -> count among the measured requests
