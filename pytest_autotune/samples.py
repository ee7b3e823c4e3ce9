"""What a batch measured: load level, requests, and the load generator's own health."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Shape = Literal["concurrency", "rate", "burst", "stages", "replay"]

_NAMES: dict[Shape, str] = {
    "concurrency": "c{}",
    "rate": "r{}",
    "burst": "burst{}",
    "stages": "stages",
    "replay": "replay-{}x",
}
_TEXTS = {
    "concurrency": "concurrency={}",
    "rate": "rate={}/s",
    "burst": "burst={}",
    "stages": "stages",
    "replay": "replay={}x",
}


@dataclass(frozen=True, slots=True, order=True)
class Level:
    """One load level: how much is asked of the server at once, in the unit of its shape.

    * ``concurrency``: requests in flight at any time (closed loop)
    * ``rate``: requests per second that are sent whether or not the server keeps up (open loop)
    * ``burst``: requests that are all sent at the same moment
    * ``stages``: the stages that the workload lists, one after the other; the value says nothing
    * ``replay``: the trace of the workload, so many times as fast as it was recorded
    """

    value: float
    shape: Shape = "concurrency"

    @property
    def concurrency(self) -> int | None:
        """Requests in flight at any time; None when the level is of another shape."""
        return int(self.value) if self.shape == "concurrency" else None

    @property
    def number(self) -> float:
        """The value, as an `int` when it is whole."""
        return int(self.value) if self.value == int(self.value) else self.value

    @property
    def words(self) -> str:
        """The level in a sentence: ``concurrency 8``, ``rate 5/s``."""
        return str(self).replace("=", " ")

    @property
    def open_loop(self) -> bool:
        """Whether requests are sent by the clock, not by the end of earlier ones."""
        return self.shape in ("rate", "burst", "replay")

    @property
    def name(self) -> str:
        """The name of the level's pytest item, e.g. ``c8`` or ``r2.5``."""
        return _NAMES[self.shape].format(f"{self.value:.12g}")

    @classmethod
    def named(cls, name: str) -> Level:
        """Return the level of a name such as ``c8``; raise `ValueError` for anything else."""
        for shape, text in _NAMES.items():
            pattern = re.escape(text).replace(re.escape("{}"), r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
            if found := re.fullmatch(pattern, name):
                level = cls(float(found[1]) if found.groups() else 1.0, shape)
                whole = shape in ("rate", "replay") or level.value.is_integer()
                if level.name == name and level.value > 0 and whole:
                    return level
        raise ValueError(f"{name!r} is not the name of a load level, as c8, r2.5, burst64, stages and replay-2x are")

    def __str__(self) -> str:
        return _TEXTS[self.shape].format(f"{self.value:.12g}")


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
    gaps_s: Sequence[float] = ()  # between arrivals that carried tokens: inter-token latencies
    error: str | None = None  # kind of failure ("timeout", "http-503", "reset", ...); None when it succeeded
    id: str = ""  # the x-request-id it carried: finds the request in the server's log
    due_s: float | None = None  # open loop: when it should have been sent; latencies count from here
    client_s: float = 0.0  # how long the first token lay in the kernel before the client read it; in no latency

    @property
    def start_s(self) -> float:
        """Where latencies count from: the intended time of an open loop, else when the request was written."""
        return self.sent_s if self.due_s is None else self.due_s

    @property
    def ttft_s(self) -> float | None:
        """Time to first token."""
        return None if self.first_s is None else self.first_s - self.start_s

    @property
    def e2e_s(self) -> float:
        """End-to-end latency."""
        return self.end_s - self.start_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first: (e2e - TTFT) / (output tokens - 1)."""
        if self.first_s is None or self.output_tokens < 2:
            return None
        return (self.end_s - self.first_s) / (self.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class ClientHealth:
    """How well the load generator kept up, from the opening of the window to the last measured answer.

    `lag_*` is how long what had arrived lay unread; `send_*` the time from a request being due (and
    its connection open) to its last byte being handed to the kernel.
    """

    lag_p99_s: float
    lag_max_s: float
    send_p99_s: float
    cpu_share: float  # CPU seconds used per second of wall time, of one core; of the busiest worker
    saturated: str | None = None  # why the batch is invalid, with what to do; None when the client kept up
    lag_p50_s: float = 0.0
    send_max_s: float = 0.0
    gc_s: float = 0.0  # longest pause of the garbage collector
    bytes_sent: int = 0
    bytes_received: int = 0
    workers: int = 1  # processes that sent the load


@dataclass(frozen=True, slots=True)
class Measurement:
    """Everything a load generator hands back for one batch.

    `samples` are all requests that were in flight at some time inside the window: those sent
    during warm-up carry tokens that arrived inside it, those that ended after it were waited for.
    `statistics.measured` says which of them count as requests of the batch.
    """

    level: Level
    samples: Sequence[Sample]  # in flight at some time inside the window, failed ones included
    window_s: float  # length of the measurement window
    warmup_requests: int  # ended before the window opened; in no other figure
    client: ClientHealth
    errors: Mapping[str, int]  # kind -> count among the measured requests
    delivered: float = 1.0  # share of the load asked for that reached the server, at most 1
    oversaturated: str = ""  # how the server fell behind an open loop without bound; empty when it did not
    stopped: str = ""  # why the window closed before its time; empty when it did not
    opened_s: float | None = None  # when the window did, on this machine's monotonic clock; None where nobody noted it
