"""Finding and killing what dead runs left behind, by the owner that every server process carries in its environment."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pytest_autotune.deploy import _guard

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_autotune.deploy._guard import Process

OWNER = "PYTEST_AUTOTUNE_OWNER"  # who started the server: see `owner_id`
GUARD = "PYTEST_AUTOTUNE_GUARD"  # "<pid>.<start>" of the guard; the guard itself has only OWNER

_PATIENCE_S = 10.0  # for processes to disappear after SIGKILL
_GUARD_HEAD_START_S = 1.0  # a guard whose server was killed ends by itself, and reaps what carries no tag


class Owner(NamedTuple):
    """A process that deploys servers, recognisable after its death: pids and clock ticks alone are used again."""

    run_id: str
    pid: int
    start: int  # clock ticks since boot
    pid_namespace: int

    def __str__(self) -> str:
        return f"{self.run_id}/{self.pid}.{self.start}.{self.pid_namespace}"


def owner_id(run_id: str) -> str:
    """Return the owner string of this process: ``<run id>/<pid>.<start>.<pid namespace>``."""
    process = _guard.look_up(os.getpid())
    assert process is not None
    return str(Owner(run_id, process.pid, process.start, _pid_namespace()))


def parse_owner(text: str) -> Owner | None:
    """Read an owner string; None when it is not one."""
    run_id, slash, process = text.rpartition("/")
    fields = process.split(".")
    if not slash or len(fields) != 3 or not all(field.isascii() and field.isdigit() for field in fields):
        return None
    return Owner(run_id, int(fields[0]), int(fields[1]), int(fields[2]))


def owner_alive(text: str) -> bool | None:
    """Say whether the owner's process lives; None when that cannot be known (another container, or format)."""
    owner = parse_owner(text)
    if owner is None or owner.pid_namespace != _pid_namespace():
        return None
    process = _guard.look_up(owner.pid)
    return process is not None and process.start == owner.start and not process.zombie


def sweep() -> tuple[str, ...]:
    """Kill every process of this user whose owner is dead, and all their descendants; return one line for each.

    Processes of living owners, of owners in other containers and of other users are not touched, nor is this process or
    any that it descends from.
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


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino
