"""The load workers of one batch: started together, heard, watched, and gone before the batch ends."""

from __future__ import annotations

import logging
import selectors
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, BinaryIO

import pytest_autotune
from pytest_autotune.errors import BenchmarkError
from pytest_autotune.load.wire import Beat, Channel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from pytest_autotune.load.exchange import Job

SILENCE_S = 10.0  # after which a worker, which beats five times a second, is taken for dead
STOP_S = 1.0  # for a worker to end by itself before it is killed
LOG_S = 5.0  # between two lines about each worker in the run's log
_START = "import sys; sys.path[:] = {path!r}; from pytest_autotune.load.worker import main; main(int(sys.argv[1]))"

log = logging.getLogger(__name__)


class Fleet:
    """Workers as a context manager: one process for each job; all are gone when the block ends, however it ends."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._crew: list[_Member] = []
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        try:
            for job in self._jobs:
                member = _Member(job, len(self._jobs))
                self._crew.append(member)
                self._selector.register(member.channel.number, selectors.EVENT_READ, member)
        except BaseException:  # Ctrl-C too: without `__enter__` there is no `__exit__`, and workers would stay
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def size(self) -> int:
        """How many workers there are."""
        return len(self._jobs)

    @property
    def pids(self) -> tuple[int, ...]:
        """The workers' process ids."""
        return tuple(member.process.pid for member in self._crew)

    def tell(self, message: object) -> None:
        """Send a message to every worker; one that is gone is found by `hear`."""
        for member in self._crew:
            member.tell(message)

    def hear(self, timeout_s: float) -> Iterator[tuple[int, object]]:
        """Yield what workers say within a time, with their numbers; beats are logged on the way.

        Raises `BenchmarkError` for a worker that is dead or silent: what is left is another load
        than was asked for.
        """
        for key, _ in self._selector.select(timeout_s):
            member: _Member = key.data
            for message in member.hear():
                if isinstance(message, Beat):
                    member.note(message)
                yield member.job.index, message
        now_s = monotonic()
        for member in self._crew:
            member.check(now_s)

    def _stop(self) -> None:
        """End every worker: at first politely, then by force; return when they are gone."""
        for member in self._crew:
            member.channel.close()  # which ends it
        deadline_s = monotonic() + STOP_S
        for member in self._crew:
            member.end(deadline_s)
        self._selector.close()


class _Member:
    """One worker process."""

    def __init__(self, job: Job, count: int) -> None:
        self.job = job
        self.name = f"load worker {job.index + 1} of {count}"
        self._errors: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        root = str(Path(pytest_autotune.__file__).parents[1])
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _START.format(path=[root, *sys.path]), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a Ctrl-C is for pytest, which then stops the worker
            )
        ours.setblocking(False)
        self.channel = Channel(ours)
        self._heard_s = monotonic()
        self._logged_s = self._heard_s
        self._waiting: list[object] = []
        self.tell(job)

    def tell(self, message: object) -> None:
        """Send a message, unless the worker is gone."""
        try:
            self.channel.put(message)
        except OSError:
            log.warning("%s does not listen", self.name)

    def hear(self) -> list[object]:
        """Return what it said."""
        try:
            messages = self.channel.get()
        except EOFError:
            self.process.wait(STOP_S)
            raise self._lost(f"ended with status {self.process.returncode}") from None
        self._heard_s = monotonic()
        return messages

    def note(self, beat: Beat) -> None:
        """Pass its log on, and now and then how it goes."""
        for level, text in beat.logged:
            log.log(level, "%s: %s", self.name, text)
        if self._heard_s >= self._logged_s + LOG_S:
            self._logged_s = self._heard_s
            log.info("%s: %d requests in flight, %d ended just now", self.name, beat.running, len(beat.finished))

    def check(self, now_s: float) -> None:
        """Raise when it is dead or silent, and send what is left to send."""
        if self.channel.pending:
            self.channel.flush()
        if self.process.poll() is not None:
            raise self._lost(f"ended with status {self.process.returncode}")
        if now_s - self._heard_s > SILENCE_S:
            raise self._lost(f"has been silent for {SILENCE_S:g} s")

    def end(self, deadline_s: float) -> None:
        """Wait for its end, and kill it at the deadline."""
        try:
            self.process.wait(max(deadline_s - monotonic(), 0))
        except subprocess.TimeoutExpired:
            log.warning("%s did not end by itself and is killed", self.name)
            self.process.kill()
            self.process.wait()
        self._errors.close()

    def _lost(self, how: str) -> BenchmarkError:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        said = f": {lines[-1]}" if lines else ""
        who = f"{self.name} (pid {self.process.pid})"
        return BenchmarkError(f"{who} {how}{said}; the batch is invalid, measure it again")
