"""The client of one worker process: its share of the streams or arrivals of a batch.

Closed loop: each stream keeps one request in flight; stream s of S sends the requests s, s + S, s + 2S, ...
Open loop: worker i of n sends the arrivals i, i + n, ..., each at its intended time whatever the server
does. Either way the requests of a batch are the same however many processes send them.

The load goes on after the window has closed until every request that was sent in it has ended: the
last ones are measured under the same load as the first.
"""

from __future__ import annotations

import math
import ssl
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING

from pytest_autotune.load.answer import Answer
from pytest_autotune.load.arrivals import most_streams, schedule, sent_by_clock, streams_at
from pytest_autotune.load.link import Address, Link
from pytest_autotune.load.requests import Requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_autotune.load.generator import Target, Workload
    from pytest_autotune.load.loop import Loop
    from pytest_autotune.load.requests import Request
    from pytest_autotune.samples import Level

RAMP_S = 1.0  # at most this long, and at most half of the warm-up, are the first requests spread over
BACKOFF_S = (0.05, 1.0)  # a stream pauses after a failure, twice as long after each further one, up to a limit
LONGEST_RETRY_AFTER_S = 30.0  # that a stream obeys
CONNECT_TIMEOUT_S = 10.0  # TLS included
PREPARE_S = 15.0  # for the connections of a closed loop, before the batch begins
_PARKED_S = 0.05  # between two looks of a stream at whether its stage has come


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

    def __init__(self, request: Request, due_s: float, stream: _Stream | None) -> None:
        self.request = request
        self.due_s = due_s  # when it should be sent
        self.ready_s = due_s  # when nothing but this client kept it from being sent
        self.sent_s: float | None = None  # when its last byte was handed to the kernel
        self.end_s = math.inf
        self.error: str | None = None
        self.stream = stream  # None in an open loop
        self.link: Link | None = None
        self.answer: Answer | None = None


class _Stream:
    """One client of a closed loop."""

    __slots__ = ("index", "link", "number", "pause_s", "request")

    def __init__(self, index: int) -> None:
        self.index = index
        self.number = index  # of its next request
        self.request: Request | None = None  # its next one, built while the server was at work
        self.link: Link | None = None
        self.pause_s = 0.0  # after the last failure


class Client:
    """Sends a worker's share of a batch; tells `record` of each exchange that has ended."""

    def __init__(self, job: Job, loop: Loop, record: Callable[[Exchange], None]) -> None:
        self.running = 0  # requests in flight
        self.done = False  # the window has closed, and all that was sent in it has ended
        self.exhausted = False  # nothing is left to send, and all that was has ended
        self.unsent = 0  # arrivals of the window that a full house kept from being sent
        self.bytes_sent = self.bytes_received = 0
        self.lags_s: list[float] = []
        self.offset_ns = clock_offset_ns()
        self._job = job
        self._loop = loop
        self._record = record
        self._workload = job.workload
        self._requests = Requests(job.target, job.workload, name=job.name)
        self._keep_text = self._requests.conversational
        self._context = _tls_context(job.target)
        self._sizes: dict[bytes, int] = {}
        self._flight: set[Exchange] = set()
        self._awaited: set[Exchange] | None = None  # once the window has closed: what was sent in it and goes on
        self._deadlines: deque[tuple[float, Exchange]] = deque()  # in order: all requests have the same timeout
        self._begins_s = 0.0
        self._closes_s = math.inf
        self._abandons = False
        self._streams: list[_Stream] = []
        self._idle: list[Link] = []
        self._waiting: deque[Exchange] = deque()
        self._arrivals: Iterator[tuple[int, float]] = iter(())
        self._upcoming: tuple[float, Request] | None = None
        self._most_running = math.inf
        if sent_by_clock(job.level, job.workload):
            self._prepare_arrivals()
        else:
            self._total_streams = most_streams(job.workload) if job.level.shape == "stages" else int(job.level.value)
            self._streams = [_Stream(index) for index in range(job.index, self._total_streams, job.count)]
        self.sockets = len(self._streams)

    def prepare(self, ready: Callable[[], None]) -> None:
        """Open the connections of a closed loop and build its first requests.

        Then, or when that takes too long, call `ready`.
        """
        opening: set[Link] = set()
        for stream in self._streams:
            stream.request = self._requests.build(stream.number)
            link = self._connect(None)
            if link is not None and link.state != "closed":
                stream.link = link
                opening.add(link)
        give_up_s = monotonic() + min(PREPARE_S, self._workload.request_timeout_s)

        def look() -> None:
            if monotonic() >= give_up_s or all(link.state in ("ready", "closed") for link in opening):
                ready()
            else:
                self._loop.at(monotonic() + 0.005, look)

        look()

    def begin(self, begins_s: float, closes_s: float) -> None:
        """Send, from `begins_s` on; the window closes at `closes_s` unless `close` says otherwise."""
        self._begins_s = begins_s
        ramp_s = min(RAMP_S, self._workload.warmup_s / 2)
        for stream in self._streams:
            when_s = begins_s + ramp_s * stream.index / self._total_streams
            self._loop.at(when_s, lambda stream=stream: self._go_on(stream))  # type: ignore[misc]
        if self._upcoming is not None:
            self._loop.at(begins_s + self._upcoming[0], self._arrive)
        self._loop.at(begins_s, self._check_deadlines)
        self.close(closes_s)

    def close(self, closes_s: float, *, abandon: bool = False) -> None:
        """Close the window at a time, which may have passed; `abandon` what is in flight then."""
        if closes_s < self._closes_s:
            self._closes_s = closes_s
            self._abandons = abandon
            self._loop.at(closes_s, self._closed)

    def leave(self) -> None:
        """Drop every connection at once."""
        for exchange in tuple(self._flight):
            if exchange.link is not None:
                self._drop(exchange.link)
        for link in (*self._idle, *(stream.link for stream in self._streams if stream.link is not None)):
            self._drop(link)

    def watch(self, link: Link, mask: int) -> None:
        """Wait for what `mask` says."""
        self._loop.watch(link.number, mask, link.happened)

    def opened(self, link: Link) -> None:
        """Send the request that waited for the connection."""
        exchange = link.holder
        if isinstance(exchange, Exchange):
            exchange.ready_s = max(exchange.ready_s, monotonic())
            self._send(exchange, link)

    def written(self, link: Link, when_s: float) -> None:
        """Note when the request went out."""
        exchange = link.holder
        assert isinstance(exchange, Exchange)
        exchange.sent_s = when_s
        self.bytes_sent += len(exchange.request.payload)

    def arrived(self, link: Link) -> None:
        """Read what came of an answer, and end it when it is complete."""
        answer = link.answer
        assert answer is not None
        self._digest(answer, link)
        if not answer.ended:
            return
        exchange = link.holder
        assert isinstance(exchange, Exchange)
        keep = answer.keep_alive and answer.step == "done"
        if keep:
            link.finish()
            link.holder = None
        else:
            self._drop(link)
        self._end(exchange, answer.verdict, answer.last_s, link if keep else None)

    def lost(self, link: Link, kind: str) -> None:
        """End the exchange that was under way on a link that is no more, by what is known of its answer."""
        now_s = monotonic()
        exchange, answer = link.holder, link.answer
        self._drop(link)
        if not isinstance(exchange, Exchange):
            if link in self._idle:
                self._idle.remove(link)
            return
        error: str | None = kind
        if answer is not None:
            self._digest(answer, link)
            answer.close()
            if answer.ended or (answer.status == 200 and (answer.stream.complete or answer.stream.error is not None)):
                error = answer.verdict  # an answer without a length ends with its connection
                if error == "empty" and not answer.stream.complete:
                    error = "cut"  # it may have been meant to go on
            elif answer.status not in (0, 200):
                error = f"http-{answer.status}"
            elif answer.status == 200 and kind == "closed":
                error = "cut"
        self._end(exchange, error, now_s if answer is None or error is not None else answer.last_s, None)

    # One exchange

    def _dispatch(self, exchange: Exchange, link: Link | None) -> None:
        """Send a request over a link that is ready, or over a new one."""
        self.running += 1
        self._flight.add(exchange)
        self._deadlines.append((monotonic() + self._workload.request_timeout_s, exchange))
        if link is not None:
            self._send(exchange, link)
            return
        link = self._connect(exchange)
        if link is None:
            self._end(exchange, "no-socket", monotonic(), None)
            return
        limit_s = monotonic() + min(CONNECT_TIMEOUT_S, self._workload.request_timeout_s)
        self._loop.at(limit_s, lambda: self._give_up_connecting(link))

    def _send(self, exchange: Exchange, link: Link) -> None:
        request = exchange.request
        link.holder = exchange
        exchange.link = link
        exchange.answer = Answer(
            offset_ns=self.offset_ns, sizes=self._sizes, streamed=request.streamed, keep_text=self._keep_text
        )
        link.send(request.payload, exchange.answer)

    def _connect(self, exchange: Exchange | None) -> Link | None:
        """Begin a connection to the server; None when this machine has no socket left."""
        job = self._job
        try:
            link = Link(self, job.addresses[0], context=self._context, host=job.host)
        except OSError:
            return None
        link.holder = exchange
        if exchange is not None:
            exchange.link = link
        link.connect()
        return link

    def _give_up_connecting(self, link: Link) -> None:
        if link.state in ("connecting", "securing"):
            self.lost(link, "connect-timeout")

    def _digest(self, answer: Answer, link: Link) -> None:
        if answer.parts:
            self.bytes_received += sum(map(len, answer.parts))
            answer.digest()
            # The kernel keeps the time of the last piece alone when several lie there: then the loop's own delay tells.
            self.lags_s.append(max(answer.lag_s, self._loop.period_s) if link.stamped else self._loop.period_s)

    def _drop(self, link: Link) -> None:
        self._loop.forget(link.number)
        link.close()

    def _end(self, exchange: Exchange, error: str | None, now_s: float, link: Link | None) -> None:
        """Note the end of an exchange; `link` can be used again."""
        if exchange.end_s != math.inf:
            return
        exchange.end_s, exchange.error, exchange.link = now_s, error, None
        self._flight.discard(exchange)
        self.running -= 1
        self._record(exchange)
        if exchange.stream is not None:
            self._after_stream(exchange, exchange.stream, link)
        else:
            self._after_arrival(exchange, link)
        if self._awaited is not None:
            self._awaited.discard(exchange)
            self.done = not self._awaited

    def _check_deadlines(self) -> None:
        now_s, deadlines = monotonic(), self._deadlines
        while deadlines and (deadlines[0][0] <= now_s or deadlines[0][1].end_s != math.inf):
            _, exchange = deadlines.popleft()
            if exchange.end_s == math.inf:
                link = exchange.link
                if link is not None:
                    self._drop(link)
                    if link.answer is not None:
                        self._digest(link.answer, link)
                self._end(exchange, "timeout", now_s, None)
        when_s = now_s + 0.02 if not deadlines else min(max(deadlines[0][0], now_s + 0.001), now_s + 0.02)
        self._loop.at(when_s, self._check_deadlines)

    def _closed(self) -> None:
        """Drop what a full house kept from being sent, and wait for what was sent."""
        self.unsent += sum(exchange.due_s < self._closes_s for exchange in self._waiting)
        self._waiting.clear()
        self._awaited = {x for x in self._flight if x.due_s < self._closes_s and not self._abandons}
        self.done = not self._awaited

    # Closed loop

    def _go_on(self, stream: _Stream) -> None:
        """Send the next request of a stream."""
        now_s = monotonic()
        if self._workload.stages and streams_at(self._workload, now_s - self._begins_s) <= stream.index:
            self._loop.at(now_s + _PARKED_S, lambda: self._go_on(stream))
            return
        request = stream.request or self._requests.build(stream.number)
        stream.request = None
        exchange = Exchange(request, now_s, stream)
        link, stream.link = stream.link, None
        self._dispatch(exchange, link if link is not None and link.usable else None)
        if not self._keep_text and exchange.end_s == math.inf:
            stream.number += self._total_streams
            stream.request = self._requests.build(stream.number)  # while the server is at work

    def _after_stream(self, exchange: Exchange, stream: _Stream, link: Link | None) -> None:
        stream.link = link
        answer, pause_s = exchange.answer, 0.0
        if exchange.error is None:
            stream.pause_s = 0.0
        else:
            stream.pause_s = min(max(2 * stream.pause_s, BACKOFF_S[0]), BACKOFF_S[1])
            asked_s = 0.0 if answer is None else answer.retry_after_s or 0.0
            pause_s = max(stream.pause_s, min(asked_s, LONGEST_RETRY_AFTER_S))
        if stream.request is None:
            follow = None if answer is None or exchange.error is not None else self._follow(exchange, answer)
            if follow is None:
                stream.number += self._total_streams
                follow = self._requests.build(stream.number)
            stream.request = follow
            pause_s = max(pause_s, follow.pause_s)
        if pause_s:
            self._loop.at(monotonic() + pause_s, lambda: self._go_on(stream))
        else:
            self._go_on(stream)

    def _follow(self, exchange: Exchange, answer: Answer) -> Request | None:
        """Return the next turn of a conversation."""
        if not self._keep_text:
            return None
        return self._requests.follow(exchange.request, "".join(answer.stream.texts))

    # Open loop

    def _prepare_arrivals(self) -> None:
        job = self._job
        arrivals = enumerate(schedule(job.level, job.workload))
        self._arrivals = islice(arrivals, job.index, None, job.count)
        if job.workload.max_concurrency is not None:
            share = job.workload.max_concurrency // job.count
            self._most_running = share + (job.index < job.workload.max_concurrency % job.count)
        self._look_ahead()

    def _look_ahead(self) -> None:
        arrival = next(self._arrivals, None)
        self._upcoming = None if arrival is None else (arrival[1], self._requests.build(arrival[0]))

    def _arrive(self) -> None:
        """Send every request that is due."""
        while self._upcoming is not None:
            due_s = self._begins_s + self._upcoming[0]
            if due_s > monotonic():
                self._loop.at(due_s, self._arrive)
                return
            exchange = Exchange(self._upcoming[1], due_s, None)
            self._offer(exchange)
            self._look_ahead()
        self._note_exhausted()

    def _offer(self, exchange: Exchange) -> None:
        if self.running >= self._most_running:
            self._waiting.append(exchange)
        else:
            self._dispatch(exchange, self._idle_link())

    def _idle_link(self) -> Link | None:
        while self._idle:
            link = self._idle.pop()
            if link.usable:
                return link
        return None

    def _after_arrival(self, exchange: Exchange, link: Link | None) -> None:
        if link is not None:
            self._idle.append(link)
        answer = exchange.answer
        follow = None if answer is None or exchange.error is not None else self._follow(exchange, answer)
        if follow is not None:
            when_s = monotonic() + follow.pause_s
            self._loop.at(when_s, lambda: self._offer(Exchange(follow, when_s, None)))
        if self._waiting and self.running < self._most_running:
            waiting = self._waiting.popleft()
            waiting.ready_s = monotonic()
            self._dispatch(waiting, self._idle_link())
        self._note_exhausted()

    def _note_exhausted(self) -> None:
        self.exhausted = self._upcoming is None and not self._flight and not self._waiting and not self._keep_text


def clock_offset_ns() -> int:
    """Return the realtime clock less the monotonic one, from the quickest of a few readings."""
    readings = []
    for _ in range(5):
        before = time.monotonic_ns()
        realtime = time.time_ns()
        after = time.monotonic_ns()
        readings.append((after - before, realtime - (before + after) // 2))
    return min(readings)[1]


def _tls_context(target: Target) -> ssl.SSLContext | None:
    if not target.url.startswith("https:"):
        return None
    context = ssl.create_default_context()
    if not target.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
