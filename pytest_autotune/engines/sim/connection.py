"""HTTP/1.1 on an asyncio transport: requests in, answers out in order, streams with one write per event."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import httptools

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_BODY = 64 << 20
MAX_PIPELINED = 32  # requests read ahead while an answer is being written


@dataclass(slots=True)
class Request:
    """One request, complete with its body."""

    method: str = ""
    path: str = ""
    version: str = "1.1"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    keep_alive: bool = True
    problem: int = 0  # status to refuse it with


class Exchange:
    """One request and the answer to it.

    Either `reply` once, or `open_stream`, any number of `event`, `close_stream`. `gone` is called
    when the client disconnects before the answer is complete; nothing may be sent after that.
    """

    __slots__ = ("_chunked", "_connection", "gone", "request")

    def __init__(self, connection: Connection, request: Request) -> None:
        self.request = request
        self.gone: Callable[[], None] | None = None
        self._connection = connection
        self._chunked = request.version != "1.0"

    def reply(self, status: int, body: bytes, *, kind: str = "application/json", head: str = "") -> None:
        """Send a whole answer."""
        keep = self.request.keep_alive
        self.send(_head(status, f"content-type: {kind}\r\ncontent-length: {len(body)}\r\n{head}", keep=keep) + body)
        self._connection.answered(keep=keep)

    def open_stream(self) -> None:
        """Send the head of a stream of events."""
        keep = self._chunked and self.request.keep_alive
        framing = "transfer-encoding: chunked\r\n" if self._chunked else ""
        self.send(_head(200, f"content-type: text/event-stream; charset=utf-8\r\n{framing}", keep=keep))

    def event(self, payload: bytes) -> None:
        """Send ``data:`` lines; `payload` is what goes between them and the blank line."""
        if self._chunked:
            self.send(b"%x\r\ndata: %b\n\n\r\n" % (len(payload) + 8, payload))
        else:
            self.send(b"data: %b\n\n" % payload)

    def close_stream(self) -> None:
        """End the stream."""
        if self._chunked:
            self.send(b"0\r\n\r\n")
        self._connection.answered(keep=self._chunked and self.request.keep_alive)

    def send(self, raw: bytes) -> None:
        """Send bytes as they are."""
        self._connection.transport.write(raw)

    def cut(self) -> None:
        """Close the connection, whatever was promised to the client."""
        self._connection.transport.close()


class Connection(asyncio.Protocol):
    """One client. Pipelined requests wait until the answers before theirs are complete."""

    transport: asyncio.Transport

    def __init__(self, handle: Callable[[Exchange], None], connections: set[Connection], *, mute: bool = False) -> None:
        self._handle = handle
        self._connections = connections
        self._mute = mute
        self._parser = httptools.HttpRequestParser(self)
        self._incoming = Request()
        self._pending: deque[Request] = deque()
        self._active: Exchange | None = None
        self._paused = False
        self._broken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self.transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio passes it by position
        """Called by asyncio; the answer in progress has nobody to go to."""
        self._connections.discard(self)
        self._pending.clear()
        exchange, self._active = self._active, None
        if exchange is not None and exchange.gone is not None:
            exchange.gone()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if self._mute or self._broken:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._give_up(HTTPStatus.NOT_IMPLEMENTED)
        except httptools.HttpParserError:
            self._give_up(HTTPStatus.BAD_REQUEST)
        if len(self._pending) > MAX_PIPELINED and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def answered(self, *, keep: bool) -> None:
        """Go on to the next request, or close."""
        self._active = None
        if not keep:
            self._pending.clear()
            self.transport.close()
            return
        if self._pending:
            # not at once: the caller is in the middle of an answer, and a long pipeline must not recurse
            asyncio.get_running_loop().call_soon(self._next)
        elif self._paused:
            self._paused = False
            self.transport.resume_reading()

    def on_message_begin(self) -> None:
        """Called by the parser."""
        self._incoming = Request()

    def on_url(self, url: bytes) -> None:
        """Called by the parser, possibly in pieces."""
        self._incoming.path += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self._incoming.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        if self._incoming.headers.get("expect", "").lower() == "100-continue" and self._active is None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Called by the parser for each piece, whatever the transfer encoding."""
        if self._incoming.problem or len(self._incoming.body) + len(body) > MAX_BODY:
            self._incoming.problem = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            self._incoming.body.clear()
        else:
            self._incoming.body += body

    def on_message_complete(self) -> None:
        """Called by the parser."""
        request = self._incoming
        request.method = self._parser.get_method().decode("ascii")
        request.version = self._parser.get_http_version()
        request.keep_alive = self._parser.should_keep_alive()
        request.path = request.path.partition("?")[0]
        self._queue(request)

    def _queue(self, request: Request) -> None:
        self._pending.append(request)
        if self._active is None:
            self._next()

    def _next(self) -> None:
        if self._active is not None or not self._pending or self.transport.is_closing():
            return
        request = self._pending.popleft()
        self._active = Exchange(self, request)
        if request.problem:
            self._active.reply(request.problem, b"")
            return
        self._handle(self._active)

    def _give_up(self, status: HTTPStatus) -> None:
        """Answer what came before, then refuse and close: the rest of the bytes means nothing."""
        self._broken = True
        self._queue(Request(problem=status, keep_alive=False))


def _head(status: int, headers: str, *, keep: bool) -> bytes:
    phrase = HTTPStatus(status).phrase
    closing = "" if keep else "connection: close\r\n"
    return f"HTTP/1.1 {status} {phrase}\r\nserver: autotune-sim\r\n{headers}{closing}\r\n".encode("latin-1")
