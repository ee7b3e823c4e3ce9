"""What a load worker and the process that started it tell each other, over a socket pair."""

from __future__ import annotations

import pickle
import struct
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import socket

_LENGTH = struct.Struct("=Q")
_READ = 1024 * 1024


# To a worker: its `Job`, then


class Begin(NamedTuple):
    """Begin to send at a time, and close the window at another."""

    begins_s: float
    closes_s: float


class Close(NamedTuple):
    """Close the window at this time, which may have passed."""

    closes_s: float
    abandon: bool = False  # what is in flight: its end changes nothing any more


# From a worker


class Ready(NamedTuple):
    """The worker has its connections and waits for the beginning."""


class Finished(NamedTuple):
    """One exchange that has ended; times of `time.monotonic`."""

    id: str
    due_s: float
    ready_s: float
    sent_s: float | None
    end_s: float
    prompt_tokens: int
    output_tokens: int
    arrivals: bytes  # of doubles: when events with tokens arrived
    error: str | None
    client_s: float


class Beat(NamedTuple):
    """A sign of life, with what has ended since the last one."""

    finished: list[Finished]
    running: int
    exhausted: bool  # nothing is left to send or to wait for
    warmed_up: int  # exchanges that ended before the window opened
    logged: list[tuple[int, str]]  # level and text of log records


@dataclass(frozen=True, slots=True)
class Health:
    """How one worker kept up, from the opening of the window to the last answer."""

    lags_s: bytes  # of doubles: how long what arrived lay unread
    cpu_s: float
    elapsed_s: float
    gc_s: float  # longest pause of the garbage collector
    bytes_sent: int
    bytes_received: int
    unsent: int  # arrivals of the window that the limit of concurrency kept from being sent
    clock_set_s: float  # how far the realtime clock was set during the batch


class Done(NamedTuple):
    """All that was sent in the window has ended."""

    health: Health


class Channel:
    """One end of the socket pair: whole messages both ways, never blocking unless asked to."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._incoming = bytearray()
        self._outgoing: deque[memoryview] = deque()

    @property
    def number(self) -> int:
        """The file descriptor."""
        return self._socket.fileno()

    @property
    def pending(self) -> bool:
        """Whether something has still to be sent."""
        return bool(self._outgoing)

    def put(self, message: object) -> None:
        """Send a message, as far as the other end takes it now; `flush` sends the rest."""
        content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._outgoing.append(memoryview(_LENGTH.pack(len(content)) + content))
        self.flush()

    def flush(self) -> None:
        """Send what was left over; raise `OSError` when the other end is gone."""
        while self._outgoing:
            try:
                sent = self._socket.send(self._outgoing[0])
            except BlockingIOError:
                return
            if sent == len(self._outgoing[0]):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = self._outgoing[0][sent:]

    def get(self) -> list[object]:
        """Return the messages that have arrived; raise `EOFError` when the other end is gone."""
        while True:
            try:
                data = self._socket.recv(_READ)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            if not data:
                if self._incoming:
                    break
                raise EOFError
            self._incoming += data
            if len(data) < _READ:
                break
        messages = []
        position = 0
        while len(self._incoming) - position >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._incoming, position)
            begin = position + _LENGTH.size
            if len(self._incoming) < begin + length:
                break
            messages.append(pickle.loads(memoryview(self._incoming)[begin : begin + length]))  # noqa: S301 - our own child
            position = begin + length
        del self._incoming[:position]
        return messages

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
