"""One HTTP/1.1 answer, recorded as it arrives and read afterwards: its framing, and when its tokens came.

While bytes arrive, the client only keeps them (`parts`) with the times of each (`stamps`, `reads`):
three list appends and no look inside. `digest` reads what has been kept; it is called when an answer
may have ended, and every few hundred parts of a long one, so that what is kept stays small. It is
exact: however a stream is cut into parts, the same tokens are found, each at the time of the part
that completed its event.
"""

from __future__ import annotations

import re
import struct
from array import array
from itertools import accumulate
from typing import Literal

from pytest_autotune.load.events import PLAIN, EventStream

MANY_PARTS = 256  # after which an answer is digested although it has not ended
END = b"\r\n\r\n"  # what a chunked answer ends with: other parts of one need no look

_LONGEST_HEAD = 64 * 1024  # bytes, the limit of common proxies; of trailers too
_LONGEST_LINE = 4096  # bytes of a chunk's size with its extensions
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: |$)")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")
_KNOWN_SIZES = 4096  # size lines that are remembered: most chunks of a stream have one of a few
_STAMP = struct.Struct("=qq")  # struct timespec: seconds and nanoseconds of the realtime clock

Step = Literal["head", "size", "chunk", "chunk end", "trailer", "length", "close", "done", "malformed"]
_CHUNKED: frozenset[Step] = frozenset({"size", "chunk", "chunk end", "trailer"})


def pack_stamp(realtime_ns: int) -> bytes:
    """Return a moment as the kernel stamps what arrives."""
    return _STAMP.pack(*divmod(realtime_ns, 1_000_000_000))


def unpack_stamp(stamp: bytes) -> int:
    """Return the realtime nanoseconds of a stamp."""
    seconds, nanoseconds = _STAMP.unpack(stamp)
    return int(seconds * 1_000_000_000 + nanoseconds)


class Answer:
    """What came back for one request.

    `offset_ns` is what is taken from a stamp of the realtime clock to get the monotonic one. It is
    constant for as long as nobody sets the clock, which the client watches.
    """

    __slots__ = (
        "_body",
        "_left",
        "_offset_ns",
        "_sizes",
        "_streamed",
        "_tail",
        "chunked",
        "client_s",
        "keep_alive",
        "lag_s",
        "last_s",
        "parts",
        "reads",
        "retry_after_s",
        "stamps",
        "status",
        "step",
        "stream",
    )

    def __init__(
        self, *, offset_ns: int, sizes: dict[bytes, int], streamed: bool = True, keep_text: bool = False
    ) -> None:
        self.parts: list[bytes] = []  # what has arrived and was not digested yet
        self.stamps: list[bytes] = []  # when each part arrived, as the kernel says it
        self.reads: list[float] = []  # when each part was read; seconds of the monotonic clock
        self.step: Step = "head"
        self.chunked = False  # the end can only come with `END`
        self.status = 0  # 0: the head has not arrived
        self.keep_alive = False
        self.retry_after_s: float | None = None  # of a 429 or 503
        self.lag_s = 0.0  # how long the first part of the last digest lay in the kernel
        self.last_s = 0.0  # when the last part arrived
        self.client_s = 0.0  # from the first token's arrival until it was read
        self.stream = EventStream(keep_text=keep_text)
        self._offset_ns = offset_ns
        self._sizes = sizes  # size lines of chunks that are known, shared by all answers
        self._streamed = streamed
        self._tail = b""  # begin of a head, a size line or a trailer; never a part of the body
        self._left = 0  # bytes that are still to come of the body, or of the chunk
        self._body: list[bytes] = []  # of an answer that is no event stream

    @property
    def ended(self) -> bool:
        """Whether the answer is complete, or cannot become so; after `digest`."""
        return self.step == "done" or self.step == "malformed"  # noqa: PLR1714 - a set would cost more

    def digest(self) -> None:
        """Read what has been kept since the last time."""
        if not self.parts:
            return
        moments = _Moments(self, before=len(self._tail), offset_ns=self._offset_ns)
        raw = b"".join((self._tail, *self.parts))
        self.lag_s = self.reads[0] - moments.ats[0]
        self.last_s = moments.ats[-1]
        position = 0
        while True:
            step, before = self.step, position
            position = self._advance(raw, position, moments)
            if position == before and self.step == step:
                break
        self._tail = raw[position:]
        self.chunked = self.step in _CHUNKED
        self.parts.clear()
        self.stamps.clear()
        self.reads.clear()

    def close(self) -> None:
        """Say that the connection has ended, without an error; after `digest`."""
        if self.step == "close":
            self._finish()

    @property
    def verdict(self) -> str | None:
        """What is wrong with an answer that has ended; None when it is a good one."""
        if self.step == "malformed":
            return "malformed"
        if self.status != 200:
            return f"http-{self.status}"
        return self.stream.verdict

    def _advance(self, raw: bytes, position: int, moments: _Moments) -> int:
        """Read one step as far as it goes; return where the next one begins."""
        step = self.step
        if step == "size":
            return self._chunks(raw, position, moments)
        if step in ("chunk", "length", "close"):
            return self._piece(raw, position, moments)
        if step == "chunk end":
            return self._chunk_end(raw, position)
        if step == "head":
            return self._head(raw, position)
        if step == "trailer":
            return self._trailer(raw, position)
        if position < len(raw):
            self.keep_alive = False  # more than the answer: the next one could not be told from it
        return len(raw)

    def _head(self, raw: bytes, position: int) -> int:
        end = raw.find(END, position)
        if end < 0:
            start = raw[position : position + 7]
            if len(raw) - position > _LONGEST_HEAD or not b"HTTP/1.".startswith(start):
                self.step = "malformed"
            return position
        first, *lines = raw[position:end].split(b"\r\n")
        match = _STATUS.match(first)
        if match is None or not all(b":" in line for line in lines):
            self.step = "malformed"
            return position
        status = int(match[2])
        if status >= 200:
            pairs = (line.partition(b":") for line in lines)
            fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
            self._take_head(status, fields, persistent=match[1] == b"1")
        elif status == 101:
            self.step = "malformed"  # nobody asked for another protocol
        return end + len(END)  # an interim answer (100 Continue) is followed by another head

    def _take_head(self, status: int, fields: dict[bytes, bytes], *, persistent: bool) -> None:
        """Find out from the head where the body ends (RFC 9112, section 6.3)."""
        self.status = status
        connection = fields.get(b"connection", b"").lower()
        self.keep_alive = b"close" not in connection if persistent else b"keep-alive" in connection
        if status in (429, 503):
            self.retry_after_s = _seconds(fields.get(b"retry-after", b""))
        length = fields.get(b"content-length")
        if status in (204, 304):
            self._finish()
        elif (encoding := fields.get(b"transfer-encoding")) is not None:
            self.step = "size" if encoding.lower() == b"chunked" else "malformed"
        elif length is None:
            self.keep_alive = False
            self.step = "close"
        elif not length.isdigit() or len(length) > 15:
            self.step = "malformed"
        else:
            self.step, self._left = "length", int(length)
            if not self._left:
                self._finish()

    def _chunks(self, raw: bytes, position: int, moments: _Moments) -> int:
        """Read chunks; nearly all of them came whole, in one part, and hold one event like the last one."""
        sizes, find, startswith, endswith, length = self._sizes, raw.find, raw.startswith, raw.endswith, len(raw)
        ends, ats, index, plain = moments.ends, moments.ats, moments.index, PLAIN.fullmatch
        stream = self.stream
        like = stream.likeness()
        try:
            while True:
                eol = find(b"\r\n", position)
                if eol < 0:
                    if length - position > _LONGEST_LINE:
                        self.step = "malformed"
                    return position
                line = raw[position:eol]
                size = sizes.get(line)
                if size is None:
                    size = self._learn_size(line)
                    if size is None:
                        self.step = "malformed"
                        return position
                begin = eol + 2
                if not size:
                    self.step = "trailer"
                    return begin
                end = begin + size
                if raw[end : end + 2] != b"\r\n":
                    self.step, self._left = "chunk", size
                    return begin
                while ends[index] <= begin:
                    index += 1
                if (
                    like is not None
                    and end <= ends[index]
                    and startswith(like[0], begin)
                    and endswith(like[1], begin, end)
                    and plain(raw, begin + like[2], end - like[3]) is not None
                ):
                    stream.arrivals.append(ats[index])
                else:
                    moments.index = index
                    self._take(raw, begin, end, moments)
                    like = stream.likeness()
                position = end + 2
        finally:
            moments.index = index

    def _learn_size(self, line: bytes) -> int | None:
        match = _SIZE.fullmatch(line)
        if match is None:
            return None
        if len(self._sizes) < _KNOWN_SIZES:
            self._sizes[line] = int(match[1], 16)
        return int(match[1], 16)

    def _piece(self, raw: bytes, position: int, moments: _Moments) -> int:
        """Read a part of a body, or of a chunk that did not come whole."""
        end = len(raw) if self.step == "close" else min(len(raw), position + self._left)
        if end > position:
            self._take(raw, position, end, moments)
            self._left -= end - position
        if self.step != "close" and self._left == 0:
            if self.step == "chunk":
                self.step = "chunk end"
            else:
                self._finish()
        return end

    def _chunk_end(self, raw: bytes, position: int) -> int:
        rest = raw[position : position + 2]
        if rest == b"\r\n":
            self.step = "size"
            return position + 2
        if not b"\r\n".startswith(rest):
            self.step = "malformed"
        return position

    def _trailer(self, raw: bytes, position: int) -> int:
        eol = raw.find(b"\r\n", position)
        if eol < 0:
            if len(raw) - position > _LONGEST_HEAD:
                self.step = "malformed"
            return position
        if eol == position:
            self._finish()
        return eol + 2

    def _take(self, raw: bytes, begin: int, end: int, moments: _Moments) -> None:
        """Take a piece of the body, at the times of the parts it came in."""
        if self.status != 200:
            return
        if not self._streamed:
            self._body.append(raw[begin:end])
            return
        stream = self.stream
        while begin < end:
            index, upto = moments.seek(begin, end)
            before = len(stream.arrivals)
            stream.feed(raw[begin:upto], moments.ats[index])
            if not before and stream.arrivals:
                self.client_s = max(self.reads[index] - stream.arrivals[0], 0.0)
            begin = upto

    def _finish(self) -> None:
        self.step = "done"
        if self.status != 200:
            return
        if self._streamed:
            self.stream.end(self.last_s)
        else:
            self.stream.take_whole(b"".join(self._body), self.last_s)
            self._body.clear()


class _Moments:
    """When the bytes of what is digested came; asked in their order."""

    __slots__ = ("ats", "ends", "index")

    def __init__(self, answer: Answer, *, before: int, offset_ns: int) -> None:
        self.ends = list(accumulate(map(len, answer.parts), initial=before))[1:]  # where each part ends
        stamps = array("q", b"".join(answer.stamps))
        seconds, rest_ns = divmod(offset_ns, 1_000_000_000)
        # Of whole seconds and nanoseconds apart: a double holds no realtime clock to the nanosecond.
        self.ats = [
            (at_s - seconds) + (ns - rest_ns) * 1e-9 for at_s, ns in zip(stamps[::2], stamps[1::2], strict=True)
        ]
        self.index = 0  # of the part that was asked for last

    def seek(self, begin: int, end: int) -> tuple[int, int]:
        """Return the part that the byte at `begin` came in, and where it ends, `end` at the latest."""
        while self.ends[self.index] <= begin:
            self.index += 1
        return self.index, min(self.ends[self.index], end)


def _seconds(text: bytes) -> float | None:
    """Return the seconds of a Retry-After; its other form, a date, is for clients with a calendar."""
    return float(text) if text.isdigit() and len(text) < 10 else None
