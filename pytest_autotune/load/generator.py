"""What a load generator is: the contract between a batch and whatever sends its requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from pytest_autotune.load.lengths import Fixed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_autotune.load.lengths import Lengths
    from pytest_autotune.samples import Level, Measurement, Sample

ONE_TURN = Fixed(1)

Api = Literal["completions", "chat", "embeddings", "rerank"]


@dataclass(frozen=True, slots=True)
class Target:
    """A server to load."""

    url: str  # base URL: http://, https:// or unix:///path/to/socket, without trailing slash and without /v1
    model: str
    api: Api = "completions"
    token_ids: bool = False  # prompts go as token ids: exact lengths
    ignore_eos: bool = False
    uuids: bool = False  # each request's id is a UUID, from which nothing can be read
    keeps_connections: bool = True  # False: each request has a connection of its own
    headers: Mapping[str, str] = field(default_factory=dict)  # also an API key: {"authorization": "Bearer ..."}
    verify_tls: bool = True
    template_tokens: int = 0  # what the server adds to each prompt (a chat template); prompts are shorter by as many


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a dataset or a trace.

    Has a `text`, or `turns` of a conversation (the user's), or neither: then a prompt of
    `prompt_tokens` is made up, from `blocks` if there are any, so that rows which share their first
    blocks share that part of their prompts.
    """

    text: str | None = None
    turns: tuple[str, ...] = ()
    prompt_tokens: int | None = None
    output_tokens: int | None = None  # None: the workload's
    blocks: tuple[int, ...] = ()  # Mooncake's hash_ids, of `Workload.block_tokens` tokens each


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How an open loop spreads its requests in time, at the rate of its level.

    `burstiness` is the shape parameter of the gaps' gamma distribution: 1 is Poisson, less is burstier,
    more is more regular; infinity is constant. As in ``vllm bench serve --burstiness``.
    """

    burstiness: float = 1.0


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a staged load: from `start` to `end`, changing evenly, during `duration_s`."""

    duration_s: float
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Workload:
    """What the requests of a batch look like, when they are sent, and when the batch ends."""

    prompt_tokens: Lengths
    output_tokens: Lengths
    duration_s: float  # measurement window, after the warm-up
    warmup_s: float
    request_timeout_s: float
    max_requests: int | None = None  # end the window early after so many finished requests
    max_errors: int | None = None  # ... after so many failed ones
    max_error_share: float | None = None  # ... when more than this share of at least 20 requests has failed
    seed: int = 0  # equal seeds send equal requests; differs per batch so that no prefix cache is warm
    rows: tuple[Row, ...] = ()  # of a dataset or trace, taken in order, again from the start after the last
    shuffle: bool = False  # rows in an order by the seed
    prefix_tokens: int = 0  # first tokens of a prompt that are the same within a group, part of its length
    prefix_groups: int = 1
    block_tokens: int = 512  # of a row's blocks
    turns: Lengths = ONE_TURN  # requests of a conversation, each with all earlier ones and their answers
    think_s: float = 0.0  # between an answer and the next turn
    documents: int = 10  # of a rerank request
    query_tokens: Lengths | None = None  # of a rerank request: `prompt_tokens` are then one document's alone
    arrivals: Arrivals = Arrivals()  # of a rate, or of stages by rate
    stages: tuple[Stage, ...] = ()
    stages_of: Literal["rate", "concurrency"] = "rate"
    times_s: tuple[float, ...] = ()  # of a replay: when each row is sent, from the start of the trace
    max_concurrency: int | None = None  # of an open loop: what is due beyond it waits for an end
    stop_oversaturated: bool = True  # end an open loop early when its queue grows without bound
    workers: int | None = None  # processes; None: as many as the load is likely to need


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known while a batch runs, about once a second."""

    phase: Literal["warm-up", "measure", "drain"]
    elapsed_s: float  # since the batch began, warm-up included
    total_s: float  # planned length of the batch, warm-up included
    finished: int
    failed: int
    ttft_s: float | None  # median of the last requests
    running: int = 0  # requests in flight
    output_rate: float = 0.0  # output tokens per second since the last report


def never(_samples: Sequence[Sample], _elapsed_s: float) -> str:
    """Never end a window early."""
    return ""


class LoadGenerator(Protocol):
    """Sends one batch of load to a server and measures it.

    `run` returns within the planned duration plus the request timeout, however the server
    behaves, and never raises for what the server does: failed requests are samples with an error
    kind. It raises `BenchmarkError` when `died()` says that the server is gone (with the samples
    collected so far in nothing: the batch did not happen), or when a part of the generator itself
    failed. Prompts are distinct within and between batches, but for what the workload shares.

    `enough` is asked about once a second with the requests of the window that have ended and the
    seconds since it opened; a reason, not empty, closes the window.
    """

    def run(
        self,
        target: Target,
        level: Level,
        workload: Workload,
        *,
        died: Callable[[], object | None],
        on_progress: Callable[[Progress], None],
        enough: Callable[[Sequence[Sample], float], str] = never,
    ) -> Measurement:
        """Load `target` at `level` and return every request that was in flight inside the window."""
