"""Runs a client on cores of its own and says what its whole process tree used."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_SAMPLE_S = 0.1  # between two looks at the memory


class ClientError(Exception):
    """A client that did not end well."""


class Finished(NamedTuple):
    """A client that has ended, and what it and its children used."""

    output: str
    cpu_s: float
    wall_s: float
    peak_rss: int  # bytes, of all its processes at one moment; 0 when nobody looked


def pinned(cores: Sequence[int]) -> list[str]:
    """Return the words before a command that keep it on these cores."""
    if shutil.which("taskset") is None:
        raise ClientError("taskset is not there to keep server and clients apart; install util-linux")
    return ["taskset", "-c", ",".join(map(str, cores))]


def run(
    command: Sequence[str],
    *,
    cores: Sequence[int],
    directory: Path,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    watch_memory: bool = False,
) -> Finished:
    """Run a command to its end; raise `ClientError` with the end of its output when it fails.

    CPU time is that of the process and of all descendants that were waited for, start-up included.
    """
    log = directory / "client.log"
    began = time.monotonic()
    with (
        (directory / "client.out").open("w+") as output,
        log.open("w") as errors,
        subprocess.Popen(
            [*pinned(cores), *command],
            stdout=output,
            stderr=errors,
            cwd=directory,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        ) as process,
    ):
        memory = _Memory(process.pid) if watch_memory else None
        timer = threading.Timer(timeout_s, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        finally:
            timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        peak = memory.stop() if memory else 0
        output.seek(0)
        text = output.read()
    wall_s = time.monotonic() - began
    if process.returncode:
        ending = "\n".join((log.read_text() + text).splitlines()[-5:])
        raise ClientError(f"exit status {process.returncode} after {wall_s:.0f} s (limit {timeout_s:.0f} s)\n{ending}")
    return Finished(text, used.ru_utime + used.ru_stime, wall_s, peak)


class _Memory(threading.Thread):
    """Looks at the resident memory of a process tree again and again."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._done = threading.Event()
        self._peak = 0
        self.start()

    def run(self) -> None:
        while not self._done.wait(_SAMPLE_S):
            self._peak = max(self._peak, self._resident())

    def stop(self) -> int:
        """Return the peak."""
        self._done.set()
        self.join()
        return self._peak

    def _resident(self) -> int:
        total = 0
        try:
            tree = [self._root, *self._root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0
        for process in tree:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total
