"""What a load generator is: the contract between a batch and whatever sends its requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_autotune.samples import Level, Measurement


@dataclass(frozen=True, slots=True)
class Target:
    """A server to load."""

    url: str  # base URL without trailing slash and without /v1
    model: str
    api: Literal["completions", "chat"] = "completions"
    token_ids: bool = False  # prompts go as token ids: exact lengths
    ignore_eos: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Workload:
    """What every request of a batch looks like, and how long the batch runs."""

    prompt_tokens: int
    output_tokens: int
    duration_s: float  # measurement window, after the warm-up
    warmup_s: float
    request_timeout_s: float
    max_requests: int | None = None  # end the window early after so many finished requests
    seed: int = 0  # equal seeds send equal prompts; differs per batch so that no prefix cache is warm


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known while a batch runs, about once a second."""

    phase: Literal["warm-up", "measure", "drain"]
    elapsed_s: float  # since the batch began, warm-up included
    total_s: float  # planned length of the batch, warm-up included
    finished: int
    failed: int
    ttft_s: float | None  # median of the last requests


class LoadGenerator(Protocol):
    """Sends one batch of load to a server and measures it.

    `run` returns within the planned duration plus the request timeout, however the server
    behaves, and never raises for what the server does: failed requests are samples with an error
    kind. It raises `BenchmarkError` when `died()` says that the server is gone (with the samples
    collected so far in nothing: the batch did not happen). Prompts are distinct within and
    between batches.
    """

    def run(
        self,
        target: Target,
        level: Level,
        workload: Workload,
        *,
        died: Callable[[], object | None],
        on_progress: Callable[[Progress], None],
    ) -> Measurement:
        """Load `target` at `level` and return every request that was in flight inside the window."""
