"""The event stream of one answer: when tokens arrived, how it ended, what the server counted."""

from __future__ import annotations

import json
import re
from array import array
from typing import Any

_EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_TEXT = re.compile(rb'"(?:text|content|reasoning_content|reasoning)"\s*:\s*"((?:[^"\\]|\\.)+)"')
PLAIN = re.compile(rb'(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))+')  # inside of a JSON string
_TEXT_FIELDS = ("content", "text", "reasoning_content", "reasoning")
_ANSWER_FIELDS = frozenset({"content", "text"})
_FIELDS = (b":", b"data", b"event", b"id", b"retry")
_LONGEST_EVENT = 4 * 1024 * 1024  # bytes; what is longer without an end is no event stream


class EventStream:
    """Server-sent events of a completion, fed with the bytes of the body in the order they arrived.

    An event carries tokens when a choice of it holds text, reasoning or a tool call: the chunk that
    only announces the role, empty deltas, comments and usage do not. Its time is that of the
    fragment which completed it.

    Nearly all events of a stream differ in their text alone. After one of them was parsed as JSON,
    an event with the same bytes around a plain text is taken to carry tokens too, unparsed; all others
    are parsed. So the cost per token is a few comparisons, and no byte of an answer is kept.
    """

    __slots__ = (
        "_after_text",
        "_buffer",
        "_keep_text",
        "_prefix",
        "_strange",
        "_suffix",
        "_text_at",
        "arrivals",
        "done",
        "error",
        "finished",
        "output_tokens",
        "prompt_tokens",
        "texts",
    )

    def __init__(self, *, keep_text: bool = False) -> None:
        self.arrivals: array[float] = array("d")  # times of the events that carried tokens
        self.done = False  # [DONE] came
        self.finished = False  # a choice came with a finish_reason
        self.error: str | None = None  # "malformed", "error-event": the first thing wrong
        self.prompt_tokens: int | None = None  # as the server counted; None when it did not say
        self.output_tokens: int | None = None
        self.texts: list[str] = []  # of the answer, when they are kept; without reasoning
        self._keep_text = keep_text
        self._strange = False  # lines came that are no part of an event stream
        self._buffer = b""  # begin of an event that is not complete yet
        self._prefix = self._suffix = b"\0"  # of events that carry tokens; nothing matches yet
        self._text_at = self._after_text = 0  # where the text begins, from the front, and ends, from the back

    def feed(self, fragment: bytes, now_s: float) -> None:
        """Take the next bytes of the body, which arrived at `now_s`."""
        if not self._buffer and self._carries_tokens(fragment):
            self.arrivals.append(now_s)
            return
        searched = max(len(self._buffer) - 3, 0)
        stream = self._buffer + fragment if self._buffer else fragment
        begin = 0
        while found := _EVENT_END.search(stream, max(begin, searched)):
            event = stream[begin : found.end()].lstrip(b"\r\n")  # the rest of a line end that was split
            begin = found.end()
            if self._carries_tokens(event):
                self.arrivals.append(now_s)
            else:
                self._parse(event, now_s)
        self._buffer = stream[begin:]
        if len(self._buffer) > _LONGEST_EVENT:
            self._fail("malformed")
            self._buffer = b""

    def end(self, now_s: float) -> None:
        """Say that the body is complete: a last event may lack its blank line."""
        rest, self._buffer = self._buffer, b""
        if rest.strip():
            self._parse(rest, now_s)

    def take_whole(self, body: bytes, now_s: float) -> None:
        """Take the body of an answer that is one JSON document: embeddings, a ranking.

        Its first token, so that it has a time, is the document itself.
        """
        try:
            message = json.loads(body)
            self._read(message)
        except (ValueError, TypeError, AttributeError, RecursionError):
            self._fail("malformed")
            return
        if message.get("data") or message.get("results"):
            self.arrivals.append(now_s)
            self.done = True

    @property
    def complete(self) -> bool:
        """Whether the server said that the answer has ended."""
        return self.done or self.finished

    @property
    def verdict(self) -> str | None:
        """What is wrong with the answer as it stands; None when it is a good one."""
        if self.error is not None:
            return self.error
        if not self.arrivals:
            return "malformed" if self._strange else "empty"
        return None if self.complete else "cut"

    def likeness(self) -> tuple[bytes, bytes, int, int] | None:
        """Return what events that carry tokens have around their text, and its lengths; None when each is to be fed.

        An event of those bytes whose text is `PLAIN` carries tokens.
        """
        if self._buffer or not self._text_at:
            return None
        return self._prefix, self._suffix, self._text_at, self._after_text

    def _carries_tokens(self, event: bytes) -> bool:
        """Say whether an event is like the last one that was parsed and carried tokens, but for its text."""
        return (
            event.startswith(self._prefix)
            and event.endswith(self._suffix)
            and PLAIN.fullmatch(event, self._text_at, len(event) - self._after_text) is not None
        )

    def _parse(self, event: bytes, now_s: float) -> None:
        lines = event.splitlines()
        payload = b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
        if payload == b"[DONE]":
            self.done = True
            return
        if not payload:
            self._strange |= any(line and not line.startswith(_FIELDS) for line in lines)
            return
        try:
            message = json.loads(payload)
            text = self._read(message)
        except (ValueError, TypeError, AttributeError, RecursionError):  # anything but the shape of a chunk
            self._fail("malformed")
            return
        if b"event: error" in lines or b"event:error" in lines:
            self._fail("error-event")
        if text is not None:
            self.arrivals.append(now_s)
            if not self._keep_text:
                self._learn(event, text)

    def _read(self, message: Any) -> str | None:
        """Note what one message says and return the text of its tokens; None when it carries none."""
        if message.get("error") or message.get("object") == "error":
            self._fail("error-event")
            return None
        if usage := message.get("usage"):
            self.prompt_tokens = _count(usage.get("prompt_tokens"), self.prompt_tokens)
            self.output_tokens = _count(usage.get("completion_tokens"), self.output_tokens)
        text: str | None = None
        for choice in message.get("choices") or ():
            if reason := choice.get("finish_reason"):
                self.finished = True
                if reason in ("error", "abort"):  # the engine gave the request up after it had begun to answer
                    self._fail("error-event")
            delta = choice.get("delta") or choice
            for field in _TEXT_FIELDS:
                if isinstance(value := delta.get(field), str) and value:
                    text = (text or "") + value
                    if self._keep_text and field in _ANSWER_FIELDS:
                        self.texts.append(value)
            if text is None and delta.get("tool_calls"):
                text = ""
        return text

    def _learn(self, event: bytes, text: str) -> None:
        """Remember the bytes around the text of an event that carried tokens, when they are plain."""
        texts = list(_TEXT.finditer(event))
        if len(texts) != 1 or event.count(b"\n") != 2 or not event.endswith(b"\n\n"):
            return
        match = texts[0]
        if json.loads(b'"' + match[1] + b'"') != text:
            return
        self._prefix, self._suffix = event[: match.start(1)], event[match.end(1) :]
        self._text_at = len(self._prefix)
        self._after_text = len(self._suffix)

    def _fail(self, kind: str) -> None:
        if self.error is None:
            self.error = kind


def _count(value: object, before: int | None) -> int | None:
    """Return a token count of a usage block, or the one known before when it has none."""
    return value if isinstance(value, int) and value > 0 else before
