"""What the client keeps of one request, and of one stream of a closed loop; and what a worker is told to do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_autotune.load.answer import Answer
    from pytest_autotune.load.generator import Target, Workload
    from pytest_autotune.load.link import Address, Link
    from pytest_autotune.load.requests import Request
    from pytest_autotune.samples import Level


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is told to do."""

    target: Target
    level: Level
    workload: Workload
    addresses: tuple[Address, ...]
    host: str  # as certificates name it
    name: str  # of the batch: begins the ids of its requests
    index: int  # of this worker
    count: int  # of workers


class Exchange:
    """One request and what became of it. Times are seconds of `time.monotonic`.

    It has ended when `end_s` is finite; `error` is then None or the kind of failure:

    * ``connect-refused``, ``connect-timeout``, ``connect-failed``, ``tls``: no connection
    * ``closed``: the connection was closed before an answer began; ``reset``: it was reset
    * ``timeout``: no complete answer within the request timeout
    * ``http-503``: any status but 200
    * ``cut``: the answer stopped without ``[DONE]`` and without a finish_reason
    * ``malformed``: not HTTP, or an event that is not JSON of the right shape
    * ``error-event``: the stream told of an error
    * ``empty``: a complete answer without a single token
    * ``no-socket``: this machine had none left
    """

    __slots__ = ("answer", "due_s", "end_s", "error", "link", "ready_s", "request", "sent_s", "stream")

    def __init__(self, request: Request, due_s: float, stream: Stream | None) -> None:
        self.request = request
        self.due_s = due_s  # when it should be sent
        self.ready_s = due_s  # when nothing but this client kept it from being sent
        self.sent_s: float | None = None  # when its last byte was handed to the kernel
        self.end_s = math.inf
        self.error: str | None = None
        self.stream = stream  # None in an open loop
        self.link: Link | None = None
        self.answer: Answer | None = None


class Stream:
    """One client of a closed loop."""

    __slots__ = ("index", "link", "number", "pause_s", "request")

    def __init__(self, index: int) -> None:
        self.index = index
        self.number = index  # of its next request
        self.request: Request | None = None  # its next one, built while the server was at work
        self.link: Link | None = None
        self.pause_s = 0.0  # after the last failure
