"""Leasing a TCP port without a race between processes, and finding out who listens on one."""

from __future__ import annotations

import contextlib
import random
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_autotune.deploy import locks
from pytest_autotune.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

LOOPBACK = "127.0.0.1"

_FIRST, _LAST = 20000, 60000  # above the ports that services are commonly configured to
_LISTEN = "0A"  # the state column of /proc/net/tcp
_FEWEST = 64  # fewer candidates than this outside the ephemeral range, and the whole range is used


@dataclass(frozen=True, slots=True)
class Lease:
    """A port that no other deployment of this user takes while `fd`, or a copy of it in another process, is open."""

    port: int
    fd: int


@contextlib.contextmanager
def lease(avoid: Collection[int] = ()) -> Iterator[Lease]:
    """Hold a free port that is not in `avoid`.

    The lease is an advisory lock on a file, so the kernel ends it with its last holder. It keeps our own processes
    apart; a stranger can still take the port before the server does, which readiness notices. Ports of the kernel's
    ephemeral range are left out: any outgoing connection may take one of those.
    """
    directory = locks.runtime_directory()
    candidates = [port for port in _candidates() if port not in avoid]
    random.SystemRandom().shuffle(candidates)
    for port in candidates:
        with locks.opened(directory / f"port-{port}.lock") as fd:
            if locks.lock(fd) and _bindable(port):
                yield Lease(port, fd)
                return
    raise DeployError(f"no free port among {len(candidates)} candidates between {_FIRST} and {_LAST}")


def listeners(port: int) -> dict[int, str]:
    """Return the sockets that listen on the port, as inode -> local address, whoever owns them."""
    found: dict[int, str] = {}
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with contextlib.suppress(FileNotFoundError):  # IPv6 is switched off
            for line in table.read_text().splitlines()[1:]:
                fields = line.split()
                address, _, number = fields[1].rpartition(":")
                if fields[3] == _LISTEN and int(number, 16) == port:
                    found[int(fields[9])] = address
    return found


def sockets_of(pids: Iterable[int]) -> set[int]:
    """Return the inodes of all sockets that these processes have open."""
    found: set[int] = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # it is gone, or closed the descriptor meanwhile
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = str(entry.readlink())
                    if target.startswith("socket:["):
                        found.add(int(target[8:-1]))
    return found


def _candidates() -> list[int]:
    low, high = (int(number) for number in _setting("ip_local_port_range", "32768 60999").split())
    reserved = set(_ranges(_setting("ip_local_reserved_ports", "")))
    usable = [port for port in range(_FIRST, _LAST + 1) if port not in reserved]
    outside = [port for port in usable if not low <= port <= high]
    return outside if len(outside) >= _FEWEST else usable


def _setting(name: str, default: str) -> str:
    try:
        return Path(f"/proc/sys/net/ipv4/{name}").read_text().strip()
    except OSError:
        return default


def _ranges(text: str) -> Iterator[int]:
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _bindable(port: int) -> bool:
    for host in (LOOPBACK, "0.0.0.0"):  # noqa: S104 - a listener on any address would be in the way
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True
