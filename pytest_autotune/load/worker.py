"""A load worker: a process that sends its share of a batch, and does nothing else.

Started by `fleet` with one end of a socket pair; standard library only, so that it starts in a few
tens of milliseconds. It ends when it is told to, when its parent closes the pair, and, by the
kernel, when its parent dies.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import time
from array import array
from select import EPOLLIN, EPOLLOUT
from time import monotonic
from typing import TYPE_CHECKING

from pytest_autotune.load.client import Client, clock_offset_ns
from pytest_autotune.load.loop import Loop
from pytest_autotune.load.wire import Beat, Begin, Channel, Close, Done, Finished, Health, Ready

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.load.exchange import Exchange, Job

BEAT_S = 0.2  # between two signs of life
LOG_AGE_S = 5.0  # a log record waits at most this long, ...
LOG_SIZE = 50  # ... or until there are so many
_TICK_S = 0.02  # between two looks at whether all is done
_PR_SET_PDEATHSIG, _PR_SET_TIMERSLACK = 1, 29
_SLACK_NS = 1000  # sleeps end within a microsecond of their time, not 50

log = logging.getLogger(__name__)


def main(number: int) -> None:
    """Be the worker at the other end of the socket with this file descriptor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then says what to do
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_TIMERSLACK, _SLACK_NS, 0, 0, 0)
    channel = Channel(socket.socket(fileno=number))
    (job,) = _await_job(channel)
    Worker(job, channel).run(precedence=_take_precedence())


def _await_job(channel: Channel) -> list[Job]:
    while not (messages := channel.get()):  # the socket blocks until a message is whole
        continue
    os.set_blocking(channel.number, False)
    return messages  # type: ignore[return-value] # the first message is the job


class Worker:
    """The worker between its first and its last message."""

    def __init__(self, job: Job, channel: Channel) -> None:
        self._channel = channel
        self._loop = Loop()
        self._records = _Records()
        logging.basicConfig(level=logging.INFO, handlers=[self._records])
        self._client = Client(job, self._loop, self._record)
        self._warmup_s = job.workload.warmup_s
        self._finished: list[Finished] = []
        self._warmed_up = 0
        self._opens_s = 0.0
        self._beaten_s = 0.0
        self._cpu_s = self._lags_before = 0.0
        self._gc_s = self._gc_began_s = 0.0
        self._told = False

    def run(self, *, precedence: str) -> None:
        """Run until the parent has had enough."""
        log.info("pid %d, %s: %d connections to open", os.getpid(), precedence, self._client.sockets)
        _allow_files(self._client.sockets)
        self._loop.watch(self._channel.number, EPOLLIN, self._hear)
        self._client.prepare(lambda: self._channel.put(Ready()))
        gc.callbacks.append(self._note_collection)
        gc.collect()
        gc.freeze()
        gc.disable()  # nothing cyclic is made per token
        self._tick()
        self._loop.run()
        self._client.leave()

    def _hear(self, mask: int) -> None:
        if mask & EPOLLOUT:
            self._channel.flush()
        try:
            messages = self._channel.get()
        except EOFError:
            self._loop.stop()
            return
        for message in messages:
            if isinstance(message, Begin):
                self._opens_s = message.begins_s + self._warmup_s
                self._loop.at(self._opens_s, self._open)
                self._client.begin(message.begins_s, message.closes_s)
            elif isinstance(message, Close):
                self._client.close(message.closes_s, abandon=message.abandon)
        self._await_room()

    def _await_room(self) -> None:
        """Wait for the parent to take what it did not take at once."""
        self._loop.watch(self._channel.number, EPOLLIN | (EPOLLOUT if self._channel.pending else 0), self._hear)

    def _open(self) -> None:
        self._cpu_s = time.process_time()
        self._client.lags_s.clear()

    def _tick(self) -> None:
        now_s = monotonic()
        done = self._client.done and not self._told
        try:
            if done or now_s >= self._beaten_s + BEAT_S:
                self._beat(now_s, last=done)
            if done:
                self._told = True
                self._channel.put(Done(self._health(now_s)))
        except OSError:  # the parent is gone
            self._loop.stop()
            return
        self._await_room()
        self._loop.at(now_s + _TICK_S, self._tick)

    def _beat(self, now_s: float, *, last: bool) -> None:
        self._beaten_s = now_s
        finished, self._finished = self._finished, []
        client = self._client
        self._channel.put(
            Beat(finished, client.running, client.exhausted, self._warmed_up, self._records.take(now_s, rest=last))
        )

    def _health(self, now_s: float) -> Health:
        client = self._client
        return Health(
            lags_s=array("d", client.lags_s).tobytes(),
            cpu_s=time.process_time() - self._cpu_s,
            elapsed_s=now_s - self._opens_s,
            gc_s=self._gc_s,
            bytes_sent=client.bytes_sent,
            bytes_received=client.bytes_received,
            unsent=client.unsent,
            clock_set_s=abs(clock_offset_ns() - client.offset_ns) / 1e9,
        )

    def _record(self, exchange: Exchange) -> None:
        """Keep what the parent must know of an exchange that has ended."""
        if exchange.end_s < self._opens_s:
            self._warmed_up += 1
            return
        request, answer = exchange.request, exchange.answer
        stream = None if answer is None else answer.stream
        arrivals = b"" if stream is None else stream.arrivals.tobytes()
        counted = 0 if stream is None else stream.output_tokens or (len(stream.arrivals) if request.streamed else 0)
        self._finished.append(
            Finished(
                id=request.id,
                due_s=exchange.due_s,
                ready_s=exchange.ready_s,
                sent_s=exchange.sent_s,
                end_s=exchange.end_s,
                prompt_tokens=(stream is not None and stream.prompt_tokens) or request.prompt_tokens,
                output_tokens=counted,
                arrivals=arrivals,
                error=exchange.error,
                client_s=0.0 if answer is None else answer.client_s,
            )
        )

    def _note_collection(self, phase: str, _info: Mapping[str, int]) -> None:
        if phase == "start":
            self._gc_began_s = monotonic()
        elif self._opens_s and self._gc_began_s > self._opens_s:
            self._gc_s = max(self._gc_s, monotonic() - self._gc_began_s)


class _Records(logging.Handler):
    """Log records on their way to the run's log: handed over by number or by age."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[tuple[int, str]] = []
        self._oldest_s = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        if not self._kept:
            self._oldest_s = monotonic()
        self._kept.append((record.levelno, record.getMessage()))

    def take(self, now_s: float, *, rest: bool = False) -> list[tuple[int, str]]:
        """Return what is to be handed over now; `rest`: all there is, because nothing will ask again."""
        if not self._kept or (not rest and len(self._kept) < LOG_SIZE and now_s - self._oldest_s < LOG_AGE_S):
            return []
        kept, self._kept = self._kept, []
        return kept


def _take_precedence() -> str:
    """Run before everybody else's processes where that is permitted, and say whether it is.

    A measuring process needs little of a core, but at once: beside a server that keeps all cores busy, an
    ordinary process is read tens of milliseconds late. The kernel keeps a twentieth of each core for the others.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except OSError:
        return "with ordinary priority"
    return "with real-time priority"


def _allow_files(needed: int) -> None:
    """Allow this process all the open files it may have, and say when they are too few."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < needed:
        log.warning("%d connections are needed and %d files may be open: raise the limit (ulimit -n)", needed, hard)
