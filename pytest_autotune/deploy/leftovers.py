"""Finding and killing what dead runs left behind, by the owner that every server process carries in its environment."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import select
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytest_autotune.deploy import _guard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_autotune.deploy._guard import Process

OWNER = "PYTEST_AUTOTUNE_OWNER"  # who started the server: see `owner_id`
GUARD = "PYTEST_AUTOTUNE_GUARD"  # "<pid>.<start>" of the guard; the guard itself has only OWNER

_BOOT_ID, _MACHINE_ID = Path("/proc/sys/kernel/random/boot_id"), Path("/etc/machine-id")
_INITIAL_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO of the kernel

_PATIENCE_S = 10.0  # for processes to disappear after SIGKILL
_GUARD_HEAD_START_S = 1.0  # a guard whose server was killed ends by itself, and reaps what carries no tag


class Place(NamedTuple):
    """Where a pid and a start mean one process, and no other."""

    pid_namespace: int  # inode; that of the initial namespace is the same on every machine
    boot: int  # of the kernel's random boot id; 0 when it cannot be read
    machine: int  # stays over boots; 0 when the machine has no name of its own

    def shares_pids_with(self, other: Place) -> bool:
        """Say whether a pid means the same process in both; a machine may change its name meanwhile."""
        return self.pid_namespace == other.pid_namespace and self.boot == other.boot != 0

    def reboots_into(self, later: Place) -> bool:
        """Say whether `later` is this very machine after another boot, so that nothing of this place lives.

        Only outside containers: in one, machine id and host name are the image's, and other machines run it too.
        """
        outside = self.pid_namespace == later.pid_namespace == _INITIAL_NAMESPACE
        return outside and self.machine == later.machine != 0 and 0 != self.boot != later.boot != 0


class Owner(NamedTuple):
    """A process that deploys servers, recognisable after its death: pids and clock ticks alone are used again."""

    run_id: str
    pid: int
    start: int  # clock ticks since boot
    place: Place

    def __str__(self) -> str:
        return f"{self.run_id}/{'.'.join(map(str, (self.pid, self.start, *self.place)))}"


def owner_id(run_id: str) -> str:
    """Return the owner string of this process: ``<run id>/<pid>.<start>.<pid namespace>.<boot>.<machine>``."""
    process = _guard.look_up(os.getpid())
    assert process is not None
    return str(Owner(run_id, process.pid, process.start, this_place()))


def parse_owner(text: str) -> Owner | None:
    """Read an owner string; None when it is not one."""
    run_id, slash, process = text.rpartition("/")
    fields = process.split(".")
    if not slash or len(fields) != 5 or not all(field.isascii() and field.isdigit() for field in fields):
        return None
    pid, start, *place = map(int, fields)
    return Owner(run_id, pid, start, Place(*place))


def owner_alive(text: str, *, here: Place | None = None) -> bool | None:
    """Say whether the owner's process lives; None when that cannot be known (other machine, container or format).

    An owner of an earlier boot of this machine is dead. `here` is where we are, if not in `this_place`.
    """
    owner, here = parse_owner(text), here or this_place()
    if owner is None:
        return None
    if owner.place.reboots_into(here):
        return False
    if not owner.place.shares_pids_with(here):
        return None
    process = _guard.look_up(owner.pid)
    return process is not None and process.start == owner.start and not process.zombie


def interrupt_owner(text: str) -> None:
    """Send SIGINT to an owner, if it lives here."""
    owner = parse_owner(text)
    if owner is None or not owner.place.shares_pids_with(this_place()):
        return
    process = _guard.look_up(owner.pid)
    if process is not None and process.start == owner.start:
        _guard.send(process, signal.SIGINT)


def await_end_of_any(owners: Iterable[str], *, timeout_s: float) -> None:
    """Return once one of these owners is dead, at the latest after `timeout_s`."""
    with ExitStack() as opened:
        handles = []
        for text in owners:
            if owner_alive(text) is False:
                return
            if (owner := parse_owner(text)) is None or not owner.place.shares_pids_with(this_place()):
                continue
            try:
                handles.append(os.pidfd_open(owner.pid))
            except ProcessLookupError:
                return
            opened.callback(os.close, handles[-1])
        if handles:
            select.select(handles, [], [], timeout_s)


def sweep() -> tuple[str, ...]:
    """Kill every process of this user whose owner is dead, and all their descendants; return one line for each.

    Processes of living owners, of owners on other machines or in other containers and of other users are not touched,
    nor is this process or any that it descends from.
    """
    return _remove(lambda owner, _: owner_alive(owner) is False)


def remove_guarded(guard: Process) -> tuple[str, ...]:
    """Kill what is left of one deployment whose guard was killed; return one line for each process."""
    tag = f"{guard.pid}.{guard.start}"
    return _remove(lambda _, tagged: tagged == tag)


def _remove(wanted: Callable[[str, str], bool]) -> tuple[str, ...]:
    killed: dict[tuple[int, int], str] = {}
    began, pause_s, calm = time.monotonic(), 0.01, 0
    while (elapsed_s := time.monotonic() - began) < _PATIENCE_S:
        found = _find(wanted)
        calm = 0 if found else calm + 1
        if calm > bool(killed):  # a process that is being executed shows no environment for an instant: look twice
            break
        for process, owner, guard in found:
            if guard and elapsed_s < _GUARD_HEAD_START_S:
                continue
            if _guard.send(process, signal.SIGKILL):
                run = owner.rpartition("/")[0] or owner
                line = f"killed process {process.pid} ({process.name}), left behind by the dead run {run}"
                killed.setdefault((process.pid, process.start), line)
        time.sleep(pause_s)  # the loop's condition is the process table, read anew each time
        pause_s = min(2 * pause_s, 0.2)
    return tuple(killed.values())


def _find(wanted: Callable[[str, str], bool]) -> list[tuple[Process, str, bool]]:
    """Return (process, owner, whether it is a guard) for tagged processes and everything below them."""
    table = _guard.processes()
    spared = _line_of_ancestors(table)
    found: dict[int, tuple[Process, str, bool]] = {}
    for process in table.values():
        environment = _environment(process.pid)
        owner = environment.get(OWNER)
        if owner is None or process.zombie or not wanted(owner, environment.get(GUARD, "")):
            continue
        found[process.pid] = (process, owner, GUARD not in environment)
        for below in _guard.descendants(process.pid, table):
            if OWNER not in _environment(below.pid):
                found.setdefault(below.pid, (below, owner, False))
    return [entry for pid, entry in found.items() if pid not in spared]


def _environment(pid: int) -> dict[str, str]:
    """Return the environment a process of this user was started with; empty when it is not ours to read."""
    directory = Path(f"/proc/{pid}")
    try:
        if directory.stat().st_uid != os.getuid():
            return {}
        entries = (directory / "environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if entry.startswith(b"PYTEST_AUTOTUNE_"))
    return {name: value for name, _, value in pairs}


def _line_of_ancestors(table: dict[int, Process]) -> set[int]:
    line: set[int] = set()
    pid = os.getpid()
    while pid in table and pid not in line:
        line.add(pid)
        pid = table[pid].parent
    return line


@functools.cache
def this_place() -> Place:
    """Return the place of this process, which it cannot leave."""
    boot, machine = _hexadecimal(_BOOT_ID), _hexadecimal(_MACHINE_ID)
    return Place(
        pid_namespace=Path("/proc/self/ns/pid").stat().st_ino,
        boot=_short(boot),
        # The id alone is confidential, and clones of an installation share it.
        machine=_short(machine and f"pytest-autotune {machine} {socket.gethostname()}"),
    )


def _hexadecimal(file: Path) -> str:
    """Return the 128-bit id in a file; empty without one ("uninitialized" is none)."""
    try:
        text = file.read_text(encoding="ascii").strip().replace("-", "")
    except (OSError, UnicodeError):
        return ""
    return text if re.fullmatch("[0-9a-f]{32}", text) else ""


def _short(text: str) -> int:
    """Return a number for a text, 0 for none."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=6).digest()) if text else 0
