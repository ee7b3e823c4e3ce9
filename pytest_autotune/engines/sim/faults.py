"""Faults on request, for tests of everything that must cope with a bad server; each is independent of the others.

| spec                          | what the server does                                                         |
|-------------------------------|------------------------------------------------------------------------------|
| die-at-concurrency=N[:STATUS] | crashes when N sequences run at once; exit status 1, or STATUS, or signal -S |
| oom-at-concurrency=N[:STATUS] | the same, with a CUDA out-of-memory traceback                                |
| http-503[=SHARE]              | answers this share of the generations with 503 (likewise http-429, http-500) |
| hang-after-headers[=SHARE]    | sends the head of the answer and nothing more                                |
| cut-stream[=SHARE]            | closes the connection in the middle of the answer                            |
| garbage[=SHARE]               | puts an event into the answer that is neither JSON nor UTF-8                 |
| error-event[=SHARE]           | ends the answer in the middle with an error object                           |
| empty-stream[=SHARE]          | answers without a single token                                               |
| hang-after-accept[=N]         | accepts connections after the first N and never answers them                 |
| slow-start=TIME               | listens this much later (real time)                                          |
| never-ready                   | listens, but /health and everything else answers 503                         |
| wrong-model-name              | serves another model name than it was told                                   |
| ignore-sigterm                | ignores SIGTERM                                                              |
| grandchildren=N               | starts N daemons that ignore SIGTERM and hold on to the log and the port     |
| spam-log=RATE                 | writes this many lines a second to its log                                   |
| wrong-with-fp8[=SHARE]        | with kv-cache-dtype fp8, answers this share of all prompts in other words    |
| stall=AT:FOR                  | AT seconds after start-up, generates nothing for FOR seconds                 |
| dead-engine=N[:STATUS]        | generates nothing after N generations: all hang, or are answered with STATUS |
| compile=TIME                  | the first step of each new batch size, up to powers of 2, takes longer by it |

A share below 1 is spread evenly and never hits the first generation, which is the readiness check. That of
wrong-with-fp8 is of the prompts instead: whatever else is asked, and when, the same ones are answered wrongly.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from pytest_autotune.engines.sim.api import ApiError
from pytest_autotune.spelling import closest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_autotune.engines.sim.api import Answer
    from pytest_autotune.engines.sim.connection import Exchange

STATUSES = {"http-429": 429, "http-500": 500, "http-503": 503}
ANSWERS = (*STATUSES, "hang-after-headers", "cut-stream", "garbage", "error-event", "empty-stream")
CRASHES = ("die-at-concurrency", "oom-at-concurrency")

_SHARE = r"0?\.\d+|1(?:\.0*)?"
_TIME = r"\d+(?:\.\d+)?(?:ms|s)?"
_ARGUMENTS = {  # kind -> (pattern of the argument, whether it may be left out, its form)
    **dict.fromkeys(CRASHES, (r"[1-9]\d*(?::-?\d+)?", False, "N or N:STATUS")),
    **dict.fromkeys(ANSWERS, (_SHARE, True, "a share in (0, 1]")),
    "wrong-with-fp8": (_SHARE, True, "a share in (0, 1]"),
    "hang-after-accept": (r"\d+", True, "a number of connections"),
    "slow-start": (_TIME, False, "a time such as 5s or 200ms"),
    "never-ready": (None, True, "nothing"),
    "wrong-model-name": (None, True, "nothing"),
    "ignore-sigterm": (None, True, "nothing"),
    "grandchildren": (r"[1-9]\d?", False, "a number of processes"),
    "spam-log": (r"[1-9]\d*", False, "lines per second"),
    "dead-engine": (r"\d+(?::5\d\d)?", False, "N or N:STATUS"),
    "stall": (rf"{_TIME}:{_TIME}", False, "AT:FOR, two times such as 1s:500ms"),
    "compile": (_TIME, False, "a time such as 5s or 200ms"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault as given on the command line."""

    kind: str
    argument: str = ""

    def __str__(self) -> str:
        return f"{self.kind}={self.argument}" if self.argument else self.kind


@dataclass(frozen=True, slots=True)
class Crash:
    """Die when so many sequences run."""

    concurrency: int
    status: int  # negative: by that signal
    out_of_memory: bool


def parse_fault(text: str) -> Fault:
    """Read one spec; raise `ValueError` naming what is allowed."""
    kind, equals, argument = text.partition("=")
    if kind not in _ARGUMENTS:
        near = closest(kind, _ARGUMENTS)
        hint = f", did you mean {near}?" if near else f" (known: {', '.join(_ARGUMENTS)})"
        raise ValueError(f"{kind!r} is not a fault{hint}")
    pattern, optional, form = _ARGUMENTS[kind]
    if not equals and optional:
        return Fault(kind)
    if pattern is None or not re.fullmatch(pattern, argument):
        raise ValueError(f"{text!r}: {kind} takes {form}")
    return Fault(kind, argument)


class Faults:
    """The faults of one server, as the questions that its parts ask."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        given = {fault.kind: fault.argument for fault in faults}
        self.never_ready = "never-ready" in given
        self.ignore_sigterm = "ignore-sigterm" in given
        self.slow_start_s = _seconds(given.get("slow-start", "0"))
        self.grandchildren = int(given.get("grandchildren", "0"))
        self.spam_rate = int(given.get("spam-log", "0"))
        self._wrong_name = "wrong-model-name" in given
        self._answered = int(given["hang-after-accept"] or "0") if "hang-after-accept" in given else None
        self._shares = {kind: float(given[kind] or "1") for kind in ANSWERS if kind in given}
        self._crashes = tuple(_crash(kind, given[kind]) for kind in CRASHES if kind in given)
        self._wrong_with_fp8 = float(given["wrong-with-fp8"] or "1") if "wrong-with-fp8" in given else 0.0
        self._generations = 0
        self._connections = 0
        lasts, _, status = given.get("dead-engine", "").partition(":")
        self._lasts = int(lasts) if lasts else None
        self._dead_status = int(status) if status else None
        at, _, duration = given.get("stall", "0:0").partition(":")
        self._stall_at_s, self._stall_for_s = _seconds(at), _seconds(duration)
        self._compile_s = _seconds(given.get("compile", "0"))
        self._compiled: set[int] = set()

    def served_name(self, name: str) -> str:
        """Return the model name to serve."""
        return "another-model" if self._wrong_name else name

    def accepts(self) -> bool:
        """Count a new connection, and say whether it gets answers."""
        self._connections += 1
        return self._answered is None or self._connections <= self._answered

    def next_answer(self) -> str | None:
        """Count a generation, and name what goes wrong with it."""
        self._generations += 1
        count = self._generations
        for kind, share in self._shares.items():
            if int(count * share + 1e-9) > int((count - 1) * share + 1e-9):
                return kind
        return None

    def answers_wrongly(self, mark: int, *, kept_in: str) -> bool:
        """Say whether a prompt with this fingerprint is answered in other words by a cache of this precision."""
        return kept_in == "fp8" and zlib.crc32(mark.to_bytes(4, "big")) < self._wrong_with_fp8 * 2**32

    @property
    def dead(self) -> bool:
        """Whether the engine has generated for the last time; the HTTP front lives on."""
        return self._lasts is not None and self._generations > self._lasts

    def refuse_dead(self, exchange: Exchange) -> None:
        """Answer a generation of a dead engine, if it is to be answered at all."""
        if self._dead_status is not None:
            error = ApiError(self._dead_status, "the engine is dead, on request", kind="EngineDeadError")
            exchange.reply(error.status, error.payload)

    def crash(self, running: int) -> Crash | None:
        """Return the crash that `running` sequences cause."""
        return next((crash for crash in self._crashes if running >= crash.concurrency), None)

    def stall_s(self, elapsed_s: float) -> float:
        """Return for how much longer nothing is generated, `elapsed_s` seconds after start-up."""
        if not self._stall_at_s <= elapsed_s < self._stall_at_s + self._stall_for_s:
            return 0.0
        return self._stall_at_s + self._stall_for_s - elapsed_s

    def compile_s(self, sequences: int) -> float:
        """Return for how long a step of so many sequences is compiled: the first time, for sizes up to a power of 2."""
        size = (sequences - 1).bit_length()
        if size in self._compiled:
            return 0.0
        self._compiled.add(size)
        return self._compile_s


def refuse(kind: str | None, exchange: Exchange, answer: Answer, *, stream: bool) -> bool:
    """Answer a generation in the way of `kind`, and return True; False when it is to be served (for now)."""
    if kind in STATUSES:
        error = ApiError(STATUSES[kind], "refused on request", kind="InjectedFault")
        exchange.reply(error.status, error.payload, head="retry-after: 1\r\n")
    elif kind == "hang-after-headers":
        if stream:
            exchange.open_stream()
        else:
            exchange.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n")
    elif kind == "empty-stream":
        if stream:
            exchange.open_stream()
            exchange.event(b"[DONE]")
            exchange.close_stream()
        else:
            exchange.reply(200, answer.body([("", "stop")], answer.usage(0)))
    else:
        return False
    return True


def spoil_stream(kind: str | None, exchange: Exchange, *, written: int, planned: int) -> bool:
    """Do what `kind` does to a stream before its next token; return True when that was its end.

    Called with the number of tokens `written` so far, of those `planned`; faults strike halfway.
    """
    if kind is None or written != planned // 2:
        return False
    if kind == "garbage":
        exchange.event(b'\xff\xfe{"not json')
    elif kind == "error-event":
        exchange.event(ApiError(500, "the engine failed on request", kind="InternalServerError").payload)
        exchange.event(b"[DONE]")
        exchange.close_stream()
    elif kind == "cut-stream":
        exchange.cut()
    return kind in ("error-event", "cut-stream")


def spoil_body(kind: str | None, exchange: Exchange, body: bytes) -> bool:
    """Send the body of an answer in the way of `kind`, and return True; False when it is to be sent as it is."""
    if kind == "garbage":
        exchange.reply(200, b"\xff\xfe" + body[: len(body) // 2])
    elif kind == "error-event":
        error = ApiError(500, "the engine failed on request", kind="InternalServerError")
        exchange.reply(error.status, error.payload)
    elif kind == "cut-stream":
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body))
        exchange.send(body[: len(body) // 2])
        exchange.cut()
    else:
        return False
    return True


def daemonise_grandchildren(count: int) -> list[int]:
    """Start daemons (double fork, own session) that ignore SIGTERM and hold on to log and port; return their ids."""
    pids = []
    for _ in range(count):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.setsid()
            grandchild = os.fork()
            if grandchild:
                os.write(writer, str(grandchild).encode())
                os._exit(0)
            os.close(reader)
            os.close(writer)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            while True:
                signal.pause()
        os.close(writer)
        os.waitpid(child, 0)
        with os.fdopen(reader, "rb") as pipe:
            pids.append(int(pipe.read(32)))
    return pids


def die(text: str, status: int) -> NoReturn:
    """End the process at once, connections and all, after a last message on stderr."""
    sys.stdout.flush()
    sys.stderr.write(text.rstrip("\n") + "\n")
    sys.stderr.flush()
    if status < 0:
        os.kill(os.getpid(), -status)
        signal.pause()
    os._exit(status)


def _crash(kind: str, argument: str) -> Crash:
    concurrency, _, status = argument.partition(":")
    return Crash(int(concurrency), int(status or "1"), out_of_memory=kind == "oom-at-concurrency")


def _seconds(text: str) -> float:
    if text.endswith("ms"):
        return float(text[:-2]) / 1000
    return float(text.removesuffix("s"))
