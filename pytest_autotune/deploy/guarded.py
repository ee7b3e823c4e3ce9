"""A server's process tree as its owner sees it: start it under a guard, notice its end at once, leave nothing of it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pytest_autotune.deploy import _guard, leftovers
from pytest_autotune.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

_MARGIN_S = 5.0  # what the guard may take beyond the grace: SIGKILL of a large process takes time to release its memory


class GuardedProcess:
    """One server and everything it starts; a context manager that returns when all of it is gone.

    Leaving it takes up to `grace_s` (SIGTERM to SIGKILL) plus a margin, and raises `DeployError` when something
    survived. An interrupt while leaving turns the rest of the grace into SIGKILL, and is raised afterwards.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        output: int,
        grace_s: float,
        keep: Sequence[int] = (),
        cores: Sequence[int] = (),
    ) -> None:
        """Start `argv` with exactly `env`, stdout and stderr going to the descriptor `output`.

        The guard inherits the descriptors in `keep` and holds them until everything is gone. The server and all that it
        starts run on `cores`, without any on those of this process.
        """
        self.pid: int | None = None  # of the server itself, known as soon as the guard has started it
        self.returncode: int | None = None  # of the server itself; negative for a signal
        self.failure: str | None = None  # why it could not be executed
        self.remarks: tuple[str, ...] = ()  # what was out of the ordinary at the end, one line each
        self._grace_s = grace_s
        self._heard = b""
        owner = _guard.look_up(os.getpid())
        assert owner is not None
        with contextlib.ExitStack() as undo:
            watched, self._watch = os.pipe()
            undo.callback(os.close, self._watch)
            with contextlib.closing(_Descriptor(watched)):
                self._status, reported = os.pipe()
                undo.callback(os.close, self._status)
                with contextlib.closing(_Descriptor(reported)):
                    self._popen = subprocess.Popen(
                        [
                            *(sys.executable, "-I", "-S", str(Path(_guard.__file__))),
                            *(str(watched), str(reported), str(grace_s), str(owner.pid), str(owner.start)),
                            ",".join(map(str, cores)),
                            *("--", *argv),
                        ],
                        env=dict(env),
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        pass_fds=(watched, reported, *keep),
                        start_new_session=True,
                    )
            self._guard_handle = os.pidfd_open(self._popen.pid)
            undo.pop_all()
        os.set_blocking(self._status, False)
        guard = _guard.look_up(self._popen.pid)
        assert guard is not None  # ours to reap, so at least a zombie
        self.guard = guard

    @property
    def guard_status(self) -> int | None:
        """Exit status of the guard; None while it lives, 0 when everything is gone."""
        return self._popen.returncode

    @property
    def ended(self) -> bool:
        """Whether the server is known to be gone, as of the last `wait`."""
        return self.returncode is not None or self.failure is not None or self._popen.returncode is not None

    def wait(self, timeout_s: float) -> bool:
        """Return as soon as the server has ended, at the latest after `timeout_s`; 0 only looks. Say whether it has."""
        deadline = time.monotonic() + timeout_s
        while not self.ended:
            left_s = max(deadline - time.monotonic(), 0)
            ready, _, _ = select.select([self._status, self._guard_handle], [], [], left_s)
            self._listen()
            if self._guard_handle in ready:
                self._popen.wait()
                self._listen()
            if not ready:
                break
        return self.ended

    def pids(self) -> list[int]:
        """Return the living processes of the deployment, the guard not included."""
        return [process.pid for process in _guard.descendants(self.guard.pid)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stop()
        finally:
            for fd in (self._watch, self._status, self._guard_handle):
                os.close(fd)

    def _stop(self) -> None:
        interrupt: KeyboardInterrupt | None = None
        try:
            self._ask(_guard.STOP)
            gone = self._gone_within(self._grace_s + _MARGIN_S)
        except KeyboardInterrupt as error:
            gone, interrupt = False, error
        if not gone:
            self._ask(_guard.KILL)
            _guard.send(self.guard, signal.SIGCONT)
            gone = self._gone_within(_MARGIN_S)
        survivors = [] if gone else self._kill_tree()
        if self._popen.returncode != 0:
            self.remarks = (
                f"the guard of the server (process {self.guard.pid}) was killed or got stuck",
                *leftovers.remove_guarded(self.guard),
            )
        if survivors:
            raise DeployError(f"processes of the server survive SIGKILL: {', '.join(survivors)}") from interrupt
        if interrupt is not None:
            raise interrupt

    def _ask(self, request: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # the guard is gone
            os.write(self._watch, request)

    def _gone_within(self, limit_s: float) -> bool:
        ready, _, _ = select.select([self._guard_handle], [], [], limit_s)
        if ready:
            self._popen.wait()
            self._listen()
        return bool(ready)

    def _kill_tree(self) -> list[str]:
        tree = _guard.descendants(self.guard.pid)
        for process in [*tree, self.guard]:
            _guard.send(process, signal.SIGKILL)
        self._gone_within(_MARGIN_S)
        now = _guard.processes()
        return [
            f"{process.pid} ({process.name})"
            for process in tree
            if (seen := now.get(process.pid)) and seen.start == process.start and not seen.zombie
        ]

    def _listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while said := os.read(self._status, 4096):
                self._heard += said
        *lines, self._heard = self._heard.split(b"\n")
        for line in lines:
            word, _, rest = line.decode(errors="replace").partition(" ")
            if word == "pid":
                self.pid = int(rest)
            elif word == "exit":
                self.returncode = int(rest)
            elif word == "failed":
                self.failure = rest


class _Descriptor:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)
