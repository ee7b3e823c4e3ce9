"""One keep-alive connection to the server: TCP, TLS or a Unix socket, without ever blocking.

Everything that arrives carries the kernel's own time of its arrival (SO_TIMESTAMPNS, socket(7)), so a
time does not depend on how soon this process gets to read. What comes over a Unix socket has no such
stamp and is stamped when it is read.
"""

from __future__ import annotations

import socket
import ssl
import time
from errno import EADDRNOTAVAIL, EINPROGRESS
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT
from time import monotonic
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from pytest_autotune.load.answer import END, MANY_PARTS, pack_stamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_autotune.load.answer import Answer

SO_TIMESTAMPNS = 35  # asm-generic/socket.h; Python does not name it
_READ = 64 * 1024  # bytes at a time; twice as many and each read would map memory of its own
_ANCILLARY = 64  # bytes: one stamp
_REFUSED = (ConnectionRefusedError, FileNotFoundError)  # the latter: of a Unix socket

State = Literal["connecting", "securing", "ready", "busy", "closed"]


class Address(NamedTuple):
    """Where to connect to, as the socket module takes it."""

    family: int
    place: tuple[str, int] | tuple[str, int, int, int] | str


class Owner(Protocol):
    """Who hears of a link; called from within its methods."""

    def watch(self, link: Link, mask: int) -> None:
        """Wait for what `mask` says (EPOLLIN, EPOLLOUT), from now on."""

    def opened(self, link: Link) -> None:
        """Take a link that is ready to send."""

    def written(self, link: Link, when_s: float) -> None:
        """Note when the last byte of the request was handed to the kernel."""

    def arrived(self, link: Link) -> None:
        """Look at the answer: it may have ended."""

    def lost(self, link: Link, kind: str) -> None:
        """Note that the link is closed; `kind` says how: an error kind, or ``closed``, ``reset``."""


class Link:
    """A connection that carries one request and its answer at a time."""

    __slots__ = (
        "_encrypted",
        "_encrypting",
        "_out",
        "_owner",
        "_place",
        "_receive",
        "_socket",
        "_tls",
        "answer",
        "holder",
        "number",
        "stamped",
        "state",
    )

    def __init__(self, owner: Owner, address: Address, *, context: ssl.SSLContext | None, host: str) -> None:
        """Make a socket; raise `OSError` when there is none to be had."""
        self.answer: Answer | None = None  # to the request that is under way
        self.holder: object = None  # whatever the owner keeps with a link
        self.state: State = "connecting"
        self._owner = owner
        self._out: memoryview | None = None  # what the kernel did not take yet
        self._tls: ssl.SSLObject | None = None
        self._socket = socket.socket(address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.number = self._socket.fileno()
        self._receive: Callable[..., tuple[bytes, list[tuple[int, int, bytes]], int, object]] = self._socket.recvmsg
        self.stamped = address.family != socket.AF_UNIX
        if self.stamped:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        if context is not None:
            self._encrypted, self._encrypting = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = context.wrap_bio(self._encrypted, self._encrypting, server_hostname=host)
        self._place = address.place

    @property
    def usable(self) -> bool:
        """Whether a request can be sent over it now."""
        return self.state == "ready"

    def connect(self) -> None:
        """Begin to connect."""
        self._owner.watch(self, EPOLLIN | EPOLLOUT)
        error = self._socket.connect_ex(self._place)
        if error not in (0, EINPROGRESS):  # a Unix socket connects or fails at once
            self._owner.lost(self, _connect_failure(OSError(error, "")))

    def send(self, payload: bytes, answer: Answer) -> None:
        """Send a request; what comes back goes into `answer`."""
        assert self.state == "ready", self.state
        self.state = "busy"
        self.answer = answer
        if self._tls is None:
            self._write(payload)
            return
        self._tls.write(payload)
        self._write(self._encrypting.read())

    def finish(self) -> None:
        """Say that the answer has ended, and that another request may be sent."""
        self.state = "ready"
        self.answer = None

    def close(self) -> None:
        """Drop the connection at once."""
        if self.state != "closed":
            self.state = "closed"
            self._socket.close()

    def happened(self, mask: int) -> None:
        """Act on what epoll says of the socket."""
        if mask != EPOLLIN or self._tls is not None or self.state != "busy":
            self._unusual(mask)
            return
        answer = self.answer
        try:
            data, ancillary, _, _ = self._receive(_READ, _ANCILLARY)
        except OSError as error:
            self._broken(error)
            return
        if not data:
            self._owner.lost(self, "closed")
            return
        parts = answer.parts  # type: ignore[union-attr] # a busy link has one
        parts.append(data)
        answer.stamps.append(ancillary[0][2] if ancillary else pack_stamp(time.time_ns()))  # type: ignore[union-attr]
        answer.reads.append(monotonic())  # type: ignore[union-attr]
        if answer.chunked and not data.endswith(END) and len(data) > 3 and len(parts) < MANY_PARTS:  # type: ignore[union-attr]
            return
        self._owner.arrived(self)

    def _unusual(self, mask: int) -> None:
        """Act on anything but a plain answer's next part."""
        if self.state == "connecting" and mask & (EPOLLOUT | EPOLLERR | EPOLLHUP):
            self._connected()
        elif mask & EPOLLOUT and self._out is not None:
            self._write(self._out)
        if self.state in ("securing", "ready", "busy") and mask & (EPOLLIN | EPOLLERR | EPOLLHUP):
            self._read_any()

    def _connected(self) -> None:
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._owner.lost(self, _connect_failure(OSError(error, "")))
            return
        self._owner.watch(self, EPOLLIN)
        if self._tls is None:
            self.state = "ready"
            self._owner.opened(self)
            return
        self.state = "securing"
        self._secure()

    def _secure(self) -> None:
        """Go on with the TLS handshake."""
        assert self._tls is not None
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._write(self._encrypting.read())
            return
        except ssl.SSLError:
            self._write(self._encrypting.read())  # the alert tells the server why
            self._owner.lost(self, "tls")
            return
        self._write(self._encrypting.read())
        self.state = "ready"
        self._owner.opened(self)

    def _read_any(self) -> None:
        try:
            data, ancillary, _, _ = self._receive(_READ, _ANCILLARY)
        except BlockingIOError:
            return
        except OSError as error:
            self._broken(error)
            return
        if not data:
            self._owner.lost(self, "tls" if self.state == "securing" else "closed")
            return
        stamp = ancillary[0][2] if ancillary else pack_stamp(time.time_ns())
        if self._tls is None:
            self._take(data, stamp)
            return
        self._encrypted.write(data)
        if self.state == "securing":
            self._secure()
        if self.state in ("ready", "busy"):
            self._decrypt(stamp)

    def _decrypt(self, stamp: bytes) -> None:
        assert self._tls is not None
        while self.state in ("ready", "busy"):
            try:
                data = self._tls.read(_READ)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLError:
                self._owner.lost(self, "tls")
                return
            if not data:
                self._owner.lost(self, "closed")
                return
            self._take(data, stamp)

    def _take(self, data: bytes, stamp: bytes) -> None:
        answer = self.answer
        if answer is None:
            self._owner.lost(self, "closed")  # nobody asked: what follows could not be told from an answer
            return
        answer.parts.append(data)
        answer.stamps.append(stamp)
        answer.reads.append(monotonic())
        self._owner.arrived(self)

    def _write(self, data: bytes | memoryview) -> None:
        """Hand bytes to the kernel, and what it does not take when it can."""
        if self._out is not None and data is not self._out:
            data = memoryview(bytes(self._out) + bytes(data))
        waited = self._out is not None
        when_s = monotonic()  # before: the answer may have arrived by the time that `send` returns
        try:
            count = self._socket.send(data) if data else 0
        except BlockingIOError:
            count = 0
        except OSError as error:
            self._out = None
            self._broken(error)
            return
        if count < len(data):
            self._out = memoryview(data)[count:]
            if not waited:
                self._owner.watch(self, EPOLLIN | EPOLLOUT)
            return
        self._out = None
        if waited:
            self._owner.watch(self, EPOLLIN)
        if self.state == "busy":
            self._owner.written(self, when_s)

    def _broken(self, error: OSError) -> None:
        if isinstance(error, BlockingIOError):
            return
        self._owner.lost(self, "reset")


def _connect_failure(error: OSError) -> str:
    if isinstance(error, _REFUSED):
        return "connect-refused"
    if error.errno == EADDRNOTAVAIL:  # every port towards that address is taken
        return "no-socket"
    return "connect-timeout" if isinstance(error, TimeoutError) else "connect-failed"
