"""Whether a latency was spent waiting in the engine's queue, computing, or outside the engine."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from pytest_autotune.formatting import seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_autotune.samples import Sample

_COMPUTING = {"ttft": ("prefill", "computing the prompt"), "e2e": ("inference", "computing")}


@dataclass(frozen=True, slots=True)
class Spent:
    """A mean latency of the client's in three parts, in seconds; they add up to it.

    `queue_s` and `compute_s` are the engine's own figures; `outside_s` is what is left: HTTP, tokenizing, the network,
    and an open loop's sending.
    """

    family: str  # ttft or e2e
    queue_s: float
    compute_s: float
    outside_s: float

    @property
    def total_s(self) -> float:
        """The client's mean latency."""
        return self.queue_s + self.compute_s + self.outside_s

    @property
    def cause(self) -> str:
        """The largest part: ``queueing``, ``compute`` or ``what is outside the engine``."""
        parts = {"queueing": self.queue_s, "compute": self.compute_s, "what is outside the engine": self.outside_s}
        return max(parts, key=lambda name: parts[name])

    def __str__(self) -> str:
        """Return it as part of a sentence about a missed limit."""
        queue, compute, outside = (
            f"{100 * part / self.total_s:.0f} %" for part in (self.queue_s, self.compute_s, self.outside_s)
        )
        return (
            f"because of {self.cause}: {queue} of a mean {self.family} of {seconds(self.total_s)} in the engine's "
            f"queue, {compute} {_COMPUTING[self.family][1]}, {outside} outside the engine"
        )


def client_figures(samples: Iterable[Sample], window_s: float) -> dict[str, float]:
    """Return the client's mean latencies of the requests that ended within the window, warm-up's or not.

    An engine counts a request when it ends: these are the ones that its figures are of. None without such a request.
    """
    ended = [sample for sample in samples if sample.error is None and 0 <= sample.end_s < window_s]
    latencies = {
        "ttft": [ttft_s for sample in ended if (ttft_s := sample.ttft_s) is not None],
        "e2e": [sample.e2e_s for sample in ended],
    }
    return {f"client.{family}.mean": fmean(values) for family, values in latencies.items() if values}


def spent(family: str, server: Mapping[str, float]) -> Spent | None:
    """Return where a latency went, from what was seen of the server in a batch; None where that does not tell.

    Means are compared, because they add up, and percentiles do not. An engine without a time for the prompt has one
    from arrival to first token, of which the queue's is a part. Where the engine's parts are more than the client saw
    (the two count some requests at other moments), nothing was outside, and the parts are scaled to the client's.
    """
    if family not in _COMPUTING:
        return None
    total_s, queue_s = server.get(f"client.{family}.mean"), server.get("engine.queue.mean")
    if not total_s or queue_s is None:
        return None
    compute_s = server.get(f"engine.{_COMPUTING[family][0]}.mean")
    if compute_s is None and (engines_s := server.get(f"engine.{family}.mean")) is not None:
        compute_s = max(engines_s - queue_s, 0.0)
    if compute_s is None:
        return None
    scale = min(total_s / (queue_s + compute_s), 1.0) if queue_s + compute_s > 0 else 1.0
    queue_s, compute_s = queue_s * scale, compute_s * scale
    return Spent(family, queue_s, compute_s, max(total_s - queue_s - compute_s, 0.0))
