"""Runs a tool as a child process: watched, reported on, killed with its whole tree, its output in a log file."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import psutil

from pytest_autotune.deploy.guarded import GuardedProcess
from pytest_autotune.errors import BenchmarkError, DeployError
from pytest_autotune.load.generator import Progress
from pytest_autotune.load.others.documents import skipped_text
from pytest_autotune.masking import mask_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

POLL_S = 0.2  # between two looks at whether the server lives
REPORT_S = 1.0  # between two progress reports
GRACE_S = 2.0  # from SIGTERM to SIGKILL
START_S = 180.0  # what a tool may take to import its packages and to write its results, beside its load
_TAIL_BYTES = 32 * 2**10
_MOST = 800  # characters of a log that go into an error
_NOISE = re.compile(r"[\^~]+$|File \"|raise ")  # of tracebacks, whose last line is what counts
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a tool is to load the server."""

    warmup_s: float
    total_s: float  # warm-up included
    limit_s: float  # after which the tool is killed, its start and end included


@dataclass(frozen=True, slots=True)
class Command:
    """What is run, and how its log tells what it does."""

    tool: str
    argv: Sequence[str]
    env: Mapping[str, str]
    begins: str = ""  # text of the log when the load begins; empty: it does not tell
    ends: str = ""  # ... and when it has ended
    finished: re.Pattern[str] | None = None  # its last match's first group is the number of ended requests
    secrets: Sequence[str] = ()


@dataclass(slots=True)
class Outcome:
    """How a tool's run ended, and what it used meanwhile; times are seconds of `time.monotonic`."""

    tool: str
    log: Path
    started_s: float
    secrets: Sequence[str] = ()
    begun_s: float | None = None  # when the log told that the load began
    ended_s: float = 0.0  # when the log told that it ended, else when the process had ended
    returncode: int | None = None  # None: it was killed at its limit
    cpu: dict[int, list[tuple[float, float]]] = field(default_factory=dict)  # pid -> (when, CPU seconds so far)
    trouble: str = ""  # how it ended otherwise than well, with its last words; empty when it did not

    def tail(self, lines: int = 8) -> str:
        """Return the last lines of the log as one, without secrets, escape sequences and progress bars."""
        with self.log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _TAIL_BYTES, 0))
            text = _ANSI.sub("", file.read().decode(errors="replace"))
        shown = [line.rstrip("\r").rpartition("\r")[2].strip() for line in text.splitlines()]
        said = " | ".join([line for line in shown if line and not _NOISE.match(line)][-lines:])
        return mask_text(said[-_MOST:], self.secrets) or "nothing"

    def how(self) -> str:
        """Return how the run ended, in words."""
        if self.returncode is None:
            return f"{self.tool} did not end in time"
        return f"{self.tool} ended with status {self.returncode}"

    def without_result(self, skipped: list[str]) -> BenchmarkError:
        """Return the error for a run that left no result that could be read."""
        why = f" ({skipped_text(skipped)})" if skipped else ""
        return BenchmarkError(f"{self.how()} without a result{why}: {self.tail()}")

    def cpu_share(self, begin_s: float, end_s: float) -> float:
        """Return the CPU seconds per second of its busiest process, between two moments; 0 when unknown."""
        shares = [0.0]
        for readings in self.cpu.values():
            inside = [reading for reading in readings if begin_s <= reading[0] <= end_s]
            if len(inside) > 1:
                (first_s, first), (last_s, last) = inside[0], inside[-1]
                shares.append((last - first) / (last_s - first_s))
        return max(shares)


@contextmanager
def fresh_directory(tool: str) -> Iterator[Path]:
    """Make an empty directory for one run, and remove it: what an earlier run wrote is never in it."""
    directory = Path(tempfile.mkdtemp(prefix=f"autotune-{tool}-"))  # readable by its owner only
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def environment(url: str, **more: str) -> dict[str, str]:
    """Return this process's environment for a tool: unbuffered, and never through a proxy to the server."""
    env, host = dict(os.environ), urlsplit(url).hostname
    for name in ("NO_PROXY", "no_proxy"):
        env[name] = ",".join(filter(None, (env.get(name, ""), host)))
    # Nothing that lies in the working directory, or beside this file, is taken for a package of the tool.
    return env | {"PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"} | more


def run_child(
    command: Command,
    directory: Path,
    plan: Plan,
    *,
    died: Callable[[], object | None],
    on_progress: Callable[[Progress], None],
) -> Outcome:
    """Run a tool in `directory` until it ends, or its limit is over; return how that went.

    Raises `BenchmarkError` when `died` says that the server is gone, or when the tool cannot be
    started. Whatever ends this call, an interrupt included, nothing of the tool is left after it.
    """
    log = directory / "tool.log"
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = GuardedProcess(command.argv, env=command.env, output=fd, grace_s=GRACE_S)
    finally:
        os.close(fd)
    watch = _Watch(command, log, plan, process)
    try:
        with process:
            gone = watch.until_ended(died, on_progress)
    except DeployError as error:
        raise BenchmarkError(f"{command.tool}: {error}") from error
    if gone is not None:
        raise BenchmarkError(f"the server is gone while {command.tool} loaded it: {gone}")
    if process.failure is not None:
        raise BenchmarkError(f"{command.tool} could not be started: {process.failure}")
    outcome = watch.outcome
    if outcome.returncode != 0:
        outcome.trouble = f"{outcome.how()}: {outcome.tail()}"
    return outcome


class _Watch:
    """Follows one process: its log, its CPU seconds, its server, and its limit."""

    def __init__(self, command: Command, log: Path, plan: Plan, process: GuardedProcess) -> None:
        self._command = command
        self._plan = plan
        self._process = process
        self._read = 0  # bytes of the log
        self._last = b""  # of the log, in case that a marker is cut
        self._finished = 0
        self._readers: dict[int, psutil.Process] = {}
        self._ended = False
        self.outcome = Outcome(command.tool, log, time.monotonic(), command.secrets)

    def until_ended(self, died: Callable[[], object | None], on_progress: Callable[[Progress], None]) -> object | None:
        """Return when the process has ended or its limit is over; at once with the reason when the server is gone."""
        outcome, report_s = self.outcome, self.outcome.started_s
        while True:
            ended = self._process.wait(POLL_S)
            now_s = time.monotonic()
            gone = died()
            if gone is not None:
                return gone
            self._follow_log(now_s)
            self._note_cpu(now_s)
            if ended or now_s - outcome.started_s > self._plan.limit_s:
                outcome.returncode = self._process.returncode if ended else None
                outcome.ended_s = outcome.ended_s if self._ended else now_s
                return None
            if now_s >= report_s:
                on_progress(self._progress(now_s))
                report_s = now_s + REPORT_S

    def _follow_log(self, now_s: float) -> None:
        with self.outcome.log.open("rb") as file:
            file.seek(self._read)
            text = self._last + file.read()
            self._read = file.tell()
        self._last = text[-256:]
        command, outcome = self._command, self.outcome
        if outcome.begun_s is None and command.begins and command.begins.encode() in text:
            outcome.begun_s = now_s
        if not self._ended and command.ends and command.ends.encode() in text:
            self._ended, outcome.ended_s = True, now_s
        if command.finished is not None and (counts := command.finished.findall(text.decode(errors="replace"))):
            self._finished = int(counts[-1])

    def _note_cpu(self, now_s: float) -> None:
        for pid in self._process.pids():
            try:
                if pid not in self._readers:
                    self._readers[pid] = psutil.Process(pid)
                times = self._readers[pid].cpu_times()
            except psutil.Error:  # it ended meanwhile
                continue
            self.outcome.cpu.setdefault(pid, []).append((now_s, times.user + times.system))

    def _progress(self, now_s: float) -> Progress:
        outcome, plan = self.outcome, self._plan
        begun_s = outcome.begun_s if outcome.begun_s is not None or self._command.begins else outcome.started_s
        elapsed_s = 0.0 if begun_s is None else min(now_s - begun_s, plan.total_s)
        phase: Literal["warm-up", "measure", "drain"] = "measure"
        if begun_s is None or elapsed_s < plan.warmup_s:
            phase = "warm-up"
        elif elapsed_s >= plan.total_s or self._ended:
            phase = "drain"
        return Progress(phase, elapsed_s, plan.total_s, finished=self._finished, failed=0, ttft_s=None)
