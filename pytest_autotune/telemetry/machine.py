"""What this machine's processors and memory do while a server is loaded, and how much of it is the server's."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from time import monotonic
from typing import TYPE_CHECKING

import psutil

from pytest_autotune.hardware import cores, usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Reading:
    """What was used at a moment of the monotonic clock; CPU seconds count up from some beginning."""

    at_s: float
    busy_s: float  # of all processors that this process may run on, by whomever
    memory_bytes: int  # that is not available
    ours_s: Mapping[int, float]  # by each process that this one started, itself included
    server_s: Mapping[int, float]  # by each of the server's; none where they are not known
    server_bytes: int  # resident, so that what its processes share counts for each


class Machine:
    """Reads this machine; `server` returns the server's processes, or is None where they are not known."""

    def __init__(self, server: Callable[[], Iterable[int]] | None = None) -> None:
        self._server = server
        self._known: dict[int, psutil.Process] = {}

    def read(self) -> Reading:
        """Return what is used now; a process that ends meanwhile is left out."""
        ours = self._processes([os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))])
        server = {} if self._server is None else self._processes(self._server())
        self._known = ours | server
        per_cpu = psutil.cpu_times(percpu=True)
        allowed = [per_cpu[index] for index in usable_cores() if index < len(per_cpu)]
        memory = psutil.virtual_memory()
        return Reading(
            at_s=monotonic(),
            # Time of guests is in `user` and `nice` already.
            busy_s=sum(cpu.user + cpu.nice + cpu.system + cpu.irq + cpu.softirq for cpu in allowed),
            memory_bytes=memory.total - memory.available,
            ours_s={pid: spent for pid, process in ours.items() if (spent := _cpu_s(process)) is not None},
            server_s={pid: spent for pid, process in server.items() if (spent := _cpu_s(process)) is not None},
            server_bytes=sum(map(_resident_bytes, server.values())),
        )

    def _processes(self, pids: Iterable[int]) -> dict[int, psutil.Process]:
        found = {}
        for pid in pids:
            try:
                found[pid] = self._known.get(pid) or psutil.Process(pid)
            except psutil.Error:  # it has ended
                continue
        return found


def machine_figures(readings: Sequence[Reading], *, told: bool) -> dict[str, float]:
    """Return what the readings of a window come to, in cores and bytes; `told`: the server's processes are known.

    `host.other_cpu` is what neither this process and all it started nor the server used. Of one reading there is only
    memory: CPU time is a difference.
    """
    if not readings:
        return {}
    figures: dict[str, float] = {
        "host.cores": cores(),
        "host.memory.max": max(reading.memory_bytes for reading in readings),
    }
    if told:
        figures["server.memory.max"] = max(reading.server_bytes for reading in readings)
    span_s = readings[-1].at_s - readings[0].at_s
    if span_s <= 0:
        return figures
    figures["host.cpu.mean"] = max(readings[-1].busy_s - readings[0].busy_s, 0.0) / span_s
    if told:
        spent_s = sum(_spent_s({**a.ours_s, **a.server_s}, {**b.ours_s, **b.server_s}) for a, b in pairwise(readings))
        figures["server.cpu.mean"] = sum(_spent_s(a.server_s, b.server_s) for a, b in pairwise(readings)) / span_s
        figures["host.other_cpu.mean"] = max(figures["host.cpu.mean"] - spent_s / span_s, 0.0)
    return figures


def _spent_s(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    return sum(max(spent - before.get(pid, 0.0), 0.0) for pid, spent in after.items())


def _cpu_s(process: psutil.Process) -> float | None:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return None
    return float(times.user + times.system)


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
