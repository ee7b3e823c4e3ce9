"""What this machine is made of: GPUs, processor, memory; for preflight, cache keys and environment records."""

from __future__ import annotations

import contextlib
import importlib
import os
import platform
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_autotune.formatting import count

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_CPUS = Path("/sys/devices/system/cpu")
_before: list[frozenset[int]] = []  # the cores of this process before each `confined` that has not ended


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU as its driver reports it."""

    index: int
    uuid: str
    name: str
    memory_bytes: int
    driver: str

    def is_named(self, name: int | str) -> bool:
        """Say whether it is the one of an index, or of a UUID or its beginning."""
        return name == self.index if isinstance(name, int) else name.startswith("GPU-") and self.uuid.startswith(name)


@dataclass(frozen=True, slots=True)
class GpuState:
    """What a GPU is like at a moment."""

    free_bytes: int
    total_bytes: int
    utilization: float  # the share of the last second or less in which it computed
    processes: tuple[int, ...] = ()  # that compute on it, by the process ids of the machine


def gpus(*, visible: str | None = None) -> tuple[Gpu, ...]:
    """Return this machine's GPUs, in the driver's order; empty without a driver.

    `visible` selects as ``CUDA_VISIBLE_DEVICES`` does; None selects all.
    """
    return select(_all_gpus(), visible)


def select(found: tuple[Gpu, ...], visible: str | None) -> tuple[Gpu, ...]:
    """Choose GPUs by indices or beginnings of UUIDs, up to the first that does not exist, as CUDA does."""
    if visible is None:
        return found
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in visible.split(",")):
        gpu = next((gpu for gpu in found if entry == str(gpu.index) or gpu.is_named(entry)), None)
        if gpu is None:
            break
        chosen.append(gpu)
    return tuple(chosen)


def states(found: Iterable[Gpu]) -> dict[str, GpuState]:
    """Return what these GPUs are like now, by UUID; without those that have no driver any more."""
    with _nvml() as nvml:
        if nvml is None:
            return {}
        return {gpu.uuid: _state(nvml, nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)) for gpu in found}


def cpu_model() -> str:
    """Return the processor's marketing name, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model\t")))
    return next((name for name in named if name), platform.machine())


def cores() -> int:
    """Return how many cores this process may use."""
    return len(usable_cores())


def usable_cores() -> frozenset[int]:
    """Return the cores that this process may use, those included that it leaves to others while it is `confined`."""
    return _before[0] if _before else frozenset(os.sched_getaffinity(0))


@contextlib.contextmanager
def confined(to: Collection[int]) -> Iterator[None]:
    """Keep this process, all its threads and what they start from now on, on some of its cores until the end."""
    _before.append(usable_cores())
    _move(to)
    try:
        yield
    finally:
        before = _before.pop()
        if not _before:
            _move(before)


def _move(to: Collection[int]) -> None:
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(int(thread.name), to)


def physical_cores(among: Iterable[int]) -> tuple[tuple[int, ...], ...]:
    """Return the hyper-threads of each physical core that are among some, socket by socket; alone without ``/sys``."""
    groups: dict[tuple[int, str], list[int]] = {}
    for core in sorted(among):
        socket = _topology(core, "physical_package_id")
        siblings = _topology(core, "thread_siblings_list") or str(core)
        groups.setdefault((int(socket or 0), siblings), []).append(core)
    ordered = sorted(groups.items(), key=lambda each: (each[0][0], each[1]))
    return tuple(tuple(group) for _, group in ordered)


def _topology(core: int, name: str) -> str:
    try:
        return (_CPUS / f"cpu{core}" / "topology" / name).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def cpu_quota() -> float | None:
    """Return how many cores' time the control group allows processes here; None when all that there is."""
    for path in ("/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"):
        try:
            quota, *period = Path(path).read_text(encoding="ascii").split()
            period_us = period[0] if period else Path(path).with_name("cpu.cfs_period_us").read_text(encoding="ascii")
        except OSError:
            continue
        return int(quota) / int(period_us) if quota.isdigit() else None
    return None


def memory_bytes() -> int:
    """Return how much memory processes here may use: the machine's, or the control group's when that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = Path(path).read_text(encoding="ascii").strip()
        except OSError:
            continue
        return min(total, int(limit)) if limit.isdigit() else total
    return total


def describe() -> dict[str, Any]:
    """Return everything above as JSON values, for environment records."""
    return {
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "gpus": [asdict(gpu) for gpu in gpus()],
        "kernel": platform.release(),
    }


def fingerprint(*, per_server: int | None = None) -> str:
    """Return a short description that is equal on equal hardware, e.g. ``8x NVIDIA H100 80GB HBM3, 96 cores ...``.

    `per_server` are the cores that one server was given; None where it had all of them.
    Serial numbers and driver versions are not in it: results may be compared across equal machines.
    """
    names = [gpu.name for gpu in gpus()]
    counted = [f"{names.count(name)}x {name}" for name in dict.fromkeys(names)]
    given = [] if per_server is None else [f"{count(per_server, 'core')} for each server"]
    return ", ".join([*counted, f"{cores()} cores {cpu_model()}", f"{memory_bytes() / 2**30:.0f} GiB", *given])


def drivers() -> tuple[str, ...]:
    """Return the versions of this machine's GPU drivers; none without GPUs."""
    return tuple(sorted({gpu.driver for gpu in gpus()}))


@cache
def _all_gpus() -> tuple[Gpu, ...]:
    with _nvml() as nvml:
        return () if nvml is None else tuple(_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))


@contextlib.contextmanager
def _nvml() -> Iterator[Any]:
    """Give access to NVIDIA's management library; None where there is none, or no driver that is running."""
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except ImportError:
        yield None
        return
    except nvml.NVMLError:
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    try:
        memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError_NotSupported:  # GPUs that share the host's memory have none of their own
        memory = 0
    return Gpu(
        index=index,
        uuid=nvml.nvmlDeviceGetUUID(handle),
        name=nvml.nvmlDeviceGetName(handle),
        memory_bytes=memory,
        driver=nvml.nvmlSystemGetDriverVersion(),
    )


def _state(nvml: Any, handle: Any) -> GpuState:
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        free, total = int(memory.free), int(memory.total)
    except nvml.NVMLError_NotSupported:  # see `_gpu`
        free = total = 0
    try:
        busy = int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
    except nvml.NVMLError_NotSupported:  # a virtual GPU, or one that is divided
        busy = 0.0
    try:
        processes = tuple(int(process.pid) for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    except (nvml.NVMLError_NotSupported, nvml.NVMLError_NoPermission):
        processes = ()
    return GpuState(free, total, busy, processes)
