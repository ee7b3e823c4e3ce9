"""The guard: a process of its own that starts one server and outlives pytest by just enough to kill all of it.

Run as ``python -I -S _guard.py <watch fd> <status fd> <grace s> <owner pid> <owner start> <cores> -- argv...``;
standard library only, and no import of this package, because it must start in milliseconds whatever happens to the
owner.

* The server runs on the cores that are named, separated by commas; where none are, on those of its owner.

* The guard is the *subreaper* of the server: whatever daemonises below it is re-parented to it, so
  "no children left" means that no process of the deployment is left anywhere.
* It ends the deployment when the watch pipe says so or closes (the owner asked, or is gone), when the owner's process
  is gone (a forked copy of it may hold the pipe open), or when the server itself exits.
* Should the guard be killed, the kernel kills the server (PDEATHSIG); what had daemonised is found by its environment
  (`leftovers`).

On the status pipe it writes lines: ``pid N`` (the server's), ``failed TEXT`` (it could not be executed),
``exit N`` (its exit status, negative for a signal). The guard's own exit status is 0 when everything is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

STOP = b"T"  # on the watch pipe: SIGTERM, grace, SIGKILL
KILL = b"K"  # on the watch pipe: SIGKILL now

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Process(NamedTuple):
    """One line of the process table; `start` (clock ticks since boot) tells it from a later one of the same pid."""

    pid: int
    parent: int
    group: int
    start: int
    name: str
    zombie: bool


def look_up(pid: int) -> Process | None:
    """Return the process, or None when there is none of that pid."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - pathlib would double the start-up time
            line = file.read()
    except OSError:
        return None
    name, _, rest = line.partition(b"(")[2].rpartition(b")")
    fields = rest.split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        start=int(fields[19]),
        name=name.decode(errors="replace"),
        zombie=fields[0] in (b"Z", b"X"),
    )


def processes() -> dict[int, Process]:
    """Return every process there is, by pid."""
    found = (look_up(int(entry)) for entry in os.listdir("/proc") if entry.isdigit())  # noqa: PTH208 - see `look_up`
    return {process.pid: process for process in found if process is not None}


def descendants(root: int, table: dict[int, Process] | None = None) -> list[Process]:
    """Return the living processes below `root`, parents first.

    One scan of a moving table: what was forked meanwhile is found by the next one.
    """
    children: dict[int, list[Process]] = {}
    for process in (processes() if table is None else table).values():
        children.setdefault(process.parent, []).append(process)
    found, queue, seen = [], [root], {root}
    while queue:
        for child in children.get(queue.pop(0), ()):
            if child.pid not in seen:
                seen.add(child.pid)
                queue.append(child.pid)
                found.append(child)
    return [process for process in found if not process.zombie]


def send(process: Process, *signals: signal.Signals) -> bool:
    """Send signals to exactly this process, never to a later one of the same pid; say whether it was there."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        now = look_up(process.pid)
        if now is None or now.start != process.start:
            return False
        for number in signals:
            signal.pidfd_send_signal(handle, number)
    except OSError:  # gone, or it changed its user: nothing that we can do about it
        return False
    finally:
        os.close(handle)
    return True


class _Guard:
    def __init__(
        self, *, watch: int, status: int, grace_s: float, owner: tuple[int, int], cores: tuple[int, ...]
    ) -> None:
        self.watch, self.status, self.grace_s, self.owner, self.cores = watch, status, grace_s, owner, cores
        self.me = os.getpid()
        self.server = 0
        self.exited = False
        self.kill_now = False

    def run(self, argv: list[str]) -> None:
        wake = self._prepare()
        owner = self._open_owner()
        if owner is None:
            return
        self._start(argv)
        self._let_go_of_the_log()
        while not self._reap() and not self.exited:
            ready, _, _ = select.select([self.watch, owner, wake], [], [])
            _drain(wake)
            if owner in ready or (self.watch in ready and self._asked()):
                break
        self._end_everything(wake)

    def _prepare(self) -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - see `look_up`
            with contextlib.suppress(OSError):  # the listing's own descriptor is closed again
                if int(entry) > 2:  # a port's lease, for one, ends with the guard and not with a daemon below it
                    os.set_inheritable(int(entry), False)
        os.set_blocking(self.watch, False)
        wake, wakeup = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(wakeup, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler of our own makes the wake-up descriptor work
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        return wake

    def _open_owner(self) -> int | None:
        pid, start = self.owner
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return None
        process = look_up(pid)
        return handle if process is not None and process.start == start else None

    def _start(self, argv: list[str]) -> None:
        started = look_up(self.me)
        assert started is not None
        environment = os.environ | {"PYTEST_AUTOTUNE_GUARD": f"{self.me}.{started.start}"}
        self.server = os.fork()
        if self.server == 0:
            self._become(argv, environment)
        self._report(f"pid {self.server}")

    def _become(self, argv: list[str], environment: dict[str, str]) -> None:
        try:
            signal.set_wakeup_fd(-1)
            for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
                with contextlib.suppress(OSError):  # the C library keeps two for itself
                    signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.setsid()
            if self.cores:
                os.sched_setaffinity(0, self.cores)
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() == self.me:  # else the guard died before the line above took effect
                os.execvpe(argv[0], argv, environment)  # noqa: S606 - an argv list, never a shell
        except OSError as error:
            self._report(f"failed {argv[0]}: {error.strerror}")
        finally:
            os._exit(127)

    def _let_go_of_the_log(self) -> None:
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nothing, fd)
        os.close(nothing)

    def _asked(self) -> bool:
        """Read the watch pipe; True when it holds a request or is at its end."""
        try:
            said = os.read(self.watch, 16)
        except BlockingIOError:
            return False
        self.kill_now = self.kill_now or KILL in said
        if not said:
            os.close(self.watch)
            self.watch = -1
        return True

    def _reap(self) -> bool:
        """Collect the dead; True when no process is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self.server:
                self.exited = True
                self._report(f"exit {os.waitstatus_to_exitcode(status)}")

    def _end_everything(self, wake: int) -> None:
        deadline = time.monotonic() + self.grace_s
        told: set[tuple[int, int]] = set()
        pause_s = 0.01
        while not self._reap():
            alive = descendants(self.me)
            if self.kill_now or time.monotonic() >= deadline:
                self._kill(alive)
            else:
                fresh = [process for process in alive if (process.pid, process.start) not in told]
                told.update((process.pid, process.start) for process in fresh)
                for process in fresh:
                    send(process, signal.SIGTERM, signal.SIGCONT)  # a stopped process cannot act on SIGTERM
            pause_s = min(2 * pause_s, 0.2)
            until_deadline_s = deadline - time.monotonic()
            wait_s = min(pause_s, until_deadline_s) if until_deadline_s > 0 else pause_s
            ready, _, _ = select.select([wake] if self.watch < 0 else [wake, self.watch], [], [], wait_s)
            _drain(wake)
            if self.watch in ready:
                self._asked()

    def _kill(self, alive: Iterable[Process]) -> None:
        """SIGKILL whole process groups first: no member can fork its way out between two signals of a group."""
        alive = list(alive)
        for group in {process.group for process in alive} - {os.getpgid(0)}:
            with contextlib.suppress(OSError):  # gone, or its members changed their user
                os.killpg(group, signal.SIGKILL)
        for process in alive:
            send(process, signal.SIGKILL)

    def _report(self, line: str) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(self.status, line.encode(errors="replace") + b"\n")


def _drain(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.read(fd, 4096)


def _main(arguments: list[str]) -> None:
    watch, status, grace_s, owner_pid, owner_start, cores, _, *argv = arguments
    guard = _Guard(
        watch=int(watch),
        status=int(status),
        grace_s=float(grace_s),
        owner=(int(owner_pid), int(owner_start)),
        cores=tuple(int(core) for core in cores.split(",") if core),
    )
    guard.run(argv)


if __name__ == "__main__":
    _main(sys.argv[1:])
