"""One keep-alive HTTP/1.1 connection that stamps what arrives at the first moment it is in the process."""

from __future__ import annotations

import asyncio
import math
from time import monotonic
from typing import TYPE_CHECKING

import httptools

from pytest_autotune.load.events import EventStream

if TYPE_CHECKING:
    from pytest_autotune.load.workload import Request


class Exchange:
    """One request and what came back, as it is recorded while a batch runs.

    Times are seconds of `time.monotonic`. It has ended when `end_s` is finite; `error` is then
    None or the kind of failure:

    * ``connect-refused``, ``connect-timeout``, ``connect-failed``: no connection
    * ``closed``: the connection was closed before an answer began; ``reset``: it was reset
    * ``timeout``: no complete answer within the request timeout
    * ``http-503``: any status but 200
    * ``cut``: the answer stopped without ``[DONE]`` and without a finish_reason
    * ``malformed``: not HTTP, or an event that is not JSON of the right shape
    * ``error-event``: the stream told of an error
    * ``empty``: a complete answer without a single token
    """

    __slots__ = ("counted", "due_s", "end_s", "error", "request", "sent_s", "stream")

    def __init__(self, request: Request, due_s: float, *, counted: bool) -> None:
        self.request = request
        self.due_s = due_s  # when it could have been sent
        self.sent_s: float | None = None  # when its last byte went to the kernel
        self.end_s = math.inf
        self.error: str | None = None
        self.stream = EventStream()
        self.counted = counted  # began before the window closed

    def end(self, error: str | None, now_s: float) -> None:
        """Note the end; the first one counts."""
        if self.end_s == math.inf:
            self.error = error
            self.end_s = now_s


class Connection(asyncio.Protocol):
    """The client's end of a connection, which carries one exchange at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._exchange: Exchange | None = None
        self._ended: asyncio.Future[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._answering = False  # the head of the answer has arrived
        self._now_s = 0.0  # when the bytes in hand arrived

    @property
    def usable(self) -> bool:
        """Whether another exchange can go over it."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, exchange: Exchange, deadline_s: float) -> asyncio.Future[None]:
        """Send an exchange's request; the result comes when the exchange has ended, at `deadline_s` at the latest."""
        assert self._transport is not None and self._exchange is None  # noqa: PT018 -- one at a time
        loop = asyncio.get_running_loop()
        self._exchange = exchange
        self._answering = False
        self._ended = loop.create_future()
        self._deadline = loop.call_at(deadline_s, self._expire)
        self._transport.write(exchange.request.payload)
        if self._transport.get_write_buffer_size() == 0:
            exchange.sent_s = monotonic()
        return self._ended

    def abort(self) -> None:
        """Drop the connection at once; an exchange on it stays without an end."""
        self._exchange = None
        if self._deadline is not None:
            self._deadline.cancel()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport; whatever it cannot hand to the kernel at once is then told by `resume_writing`."""
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=0)
        self._transport = transport

    def resume_writing(self) -> None:
        """Note that the last byte of a long request went out."""
        if self._exchange is not None:
            self._exchange.sent_s = monotonic()

    def data_received(self, data: bytes) -> None:
        """Take what arrived; nothing comes before the time stamp."""
        self._now_s = monotonic()
        if self._exchange is None:
            self.abort()  # nobody asked
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from None  # ours (or a signal's), not the server's
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._end("malformed", keep=False)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._answering = True

    def on_body(self, body: bytes) -> None:
        """Called by the parser with each piece of a body."""
        if self._exchange is not None:
            self._exchange.stream.feed(body, self._now_s)

    def on_message_complete(self) -> None:
        """Called by the parser at the end of an answer."""
        status = self._parser.get_status_code()
        if status < 200 or self._exchange is None:
            return
        if status != 200:
            self._end(f"http-{status}", keep=self._parser.should_keep_alive())
            return
        stream = self._exchange.stream
        stream.end(self._now_s)
        self._end(stream.verdict, keep=self._parser.should_keep_alive())

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange that was under way, if any, by what is known of its answer."""
        exchange, ended = self._exchange, self._ended
        if exchange is None or ended is None or ended.done():
            return
        self._now_s = monotonic()
        if exc is not None and not isinstance(exc, OSError):
            ended.set_exception(exc)  # a defect of ours: it must not count as a failed request
            return
        stream = exchange.stream
        if not self._answering:
            self._end("closed" if exc is None else "reset", keep=False)
        elif (status := self._parser.get_status_code()) != 200:
            self._end(f"http-{status}", keep=False)
        elif stream.complete or stream.error is not None:
            self._end(stream.verdict, keep=False)  # an answer without a length ends with its connection
        else:
            self._end("cut" if exc is None else "reset", keep=False)

    def _expire(self) -> None:
        self._now_s = monotonic()
        self._end("timeout", keep=False)

    def _end(self, error: str | None, *, keep: bool) -> None:
        """Finish the exchange, and the connection with it unless it is to be kept."""
        exchange, ended = self._exchange, self._ended
        if exchange is None or ended is None:
            return
        exchange.end(error, self._now_s)
        if keep:
            self._exchange = None
            if self._deadline is not None:
                self._deadline.cancel()
        else:
            self.abort()
        if not ended.done():
            ended.set_result(None)
