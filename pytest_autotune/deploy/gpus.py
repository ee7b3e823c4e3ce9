"""Leasing GPUs: all that a server takes or none, in turn, for as long as anything of the server lives."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_autotune import hardware
from pytest_autotune.deploy.turns import NotNow, Shared
from pytest_autotune.engines.requirements import gpus_here
from pytest_autotune.errors import DeployError
from pytest_autotune.formatting import count
from pytest_autotune.hardware import Gpu, GpuState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_autotune.deploy.server import Launch
    from pytest_autotune.suite import Suite
    from pytest_autotune.suite_gpus import GpuPool

_logger = logging.getLogger(__name__)

IDS = "PYTEST_AUTOTUNE_GPUS"  # in the server's environment: indices of what it was given, pretended ones too
_KIND = "gpu"
_MEMORY_BACK_S = 30.0  # after a server's end, for the driver to have its memory back
_BACK = 0.02  # of a GPU's memory, that may be missing then: other processes come and go
_IDLE = GpuState(free_bytes=1, total_bytes=1, utilization=0.0)  # what a pretended GPU always is
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Lease:
    """The GPUs that one server was given; none of them where it takes none, or nobody keeps count."""

    gpus: tuple[Gpu, ...] = ()
    fds: tuple[int, ...] = ()  # to be inherited by what outlives us together with the server
    pretended: bool = False

    @property
    def uuids(self) -> tuple[str, ...]:
        """The real ones, as Docker takes them."""
        return () if self.pretended else tuple(gpu.uuid for gpu in self.gpus)

    @property
    def real(self) -> tuple[int, ...]:
        """The indices of the real ones."""
        return () if self.pretended else tuple(gpu.index for gpu in self.gpus)

    @property
    def note(self) -> dict[str, str]:
        """What tells a server's environment about it."""
        return {IDS: self.indices} if self.gpus else {}

    @property
    def variables(self) -> dict[str, str]:
        """What makes a process see these GPUs only.

        By index: there are versions of vLLM that UUIDs bring down (vllm-project/vllm#13815, #20939). CUDA counts as
        the driver does only where it is told to go by the order of the bus.
        """
        if not self.uuids:
            return self.note
        return {**self.note, "CUDA_VISIBLE_DEVICES": self.indices, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}

    @property
    def indices(self) -> str:
        """Their indices, separated by commas."""
        return ",".join(str(gpu.index) for gpu in self.gpus)

    def __str__(self) -> str:
        named = f"GPU{'' if len(self.gpus) == 1 else 's'} {self.indices.replace(',', ', ')}"
        return f"pretended {named}" if self.pretended else named


@contextlib.contextmanager
def leased(launch: Launch) -> Iterator[Lease]:
    """Give a server its GPUs, waiting for them in turn; the memory of real ones is back when they go to the next.

    Raises `DeployError` when there will never be enough, or not within the time that the suite allows.
    """
    needed, pool = launch.gpus, launch.suite.pool
    if not needed or not pool.leased:
        yield Lease()
        return
    members = members_of(launch.suite)
    if len(members) < needed:
        raise DeployError(
            f"takes {count(needed, 'GPU')}, and {len(members) or 'none'} may be taken; allow more by gpus: pool, "
            "or keep no count of them: gpus: {pool: none}"
        )
    named = {gpu.uuid: gpu for gpu in members}

    def chosen(free: tuple[str, ...]) -> tuple[str, ...]:
        gpus = [named[uuid] for uuid in free]
        return tuple(gpu.uuid for gpu in choose(gpus, states_of(gpus, pool), needed, pool))

    def tell(reason: str) -> None:
        launch.on_phase(f"waiting for {count(needed, 'GPU')}: {reason}")

    with contextlib.ExitStack() as held:
        try:
            taken = held.enter_context(Shared(_KIND, tuple(named)).held(chosen, wait_s=pool.wait_s, tell=tell))
        except DeployError as error:
            launch.on_waited(())
            raise DeployError(f"no {count(needed, 'GPU')} (gpus: wait): {error}") from error
        lease = Lease(tuple(named[uuid] for uuid in taken.names), taken.fds, pretended=pool.pretended > 0)
        before = states_of(lease.gpus, pool)
        launch.on_waited(())
        launch.on_phase(f"on {lease}")
        try:
            yield lease
        finally:
            if not lease.pretended:
                _await_memory(lease.gpus, before)
            _logger.info("%s gives back %s", launch.suite.name, lease)


def members_of(suite: Suite) -> tuple[Gpu, ...]:
    """Return the GPUs that servers of `suite` may be given, whoever has them now."""
    if suite.pool.pretended:
        return tuple(Gpu(index, f"pretended-{index}", "", 0, "") for index in range(suite.pool.pretended))
    return gpus_here(suite)


def states_of(gpus: Sequence[Gpu], pool: GpuPool) -> Mapping[str, GpuState]:
    """Return what these GPUs are like now, by UUID."""
    return dict.fromkeys((gpu.uuid for gpu in gpus), _IDLE) if pool.pretended else hardware.states(gpus)


def choose(free: Sequence[Gpu], states: Mapping[str, GpuState], needed: int, pool: GpuPool) -> tuple[Gpu, ...]:
    """Return the best set among GPUs that nobody has leased, in the order of their indices; raise `NotNow` for none.

    The best are those with the most free memory and the least to do. Together they must be balanced: a server
    divides its model evenly, so that the fullest of them decides what fits.
    """
    if len(free) < needed:
        raise NotNow(f"{len(free)} free")
    refused = {gpu.uuid: refusal(states.get(gpu.uuid), pool) for gpu in free}
    usable = [gpu for gpu in free if not refused[gpu.uuid]]
    if len(usable) < needed:
        reasons = "; ".join(f"GPU {gpu.index} {refused[gpu.uuid]}" for gpu in free if refused[gpu.uuid])
        raise NotNow(f"{len(usable)} free: {reasons}")
    sets = []
    for least in {states[gpu.uuid].free_bytes for gpu in usable}:
        alike = [gpu for gpu in usable if least <= states[gpu.uuid].free_bytes <= least / (pool.balance or 1e-9)]
        ranked = sorted(alike, key=lambda gpu: (-score(states[gpu.uuid], pool), gpu.index))[:needed]
        if len(ranked) == needed:
            sets.append((sum(score(states[gpu.uuid], pool) for gpu in ranked), ranked))
    if not sets:
        free_gib = ", ".join(f"{states[gpu.uuid].free_bytes / _GIB:.1f}" for gpu in usable)
        raise NotNow(f"no {needed} of {len(usable)} free ones have about equal memory (gpus: balance): {free_gib} GiB")
    best = max(sets, key=lambda each: each[0])[1]
    return tuple(sorted(best, key=lambda gpu: gpu.index))


def score(state: GpuState, pool: GpuPool) -> float:
    """Return how well a GPU is suited, from 0 to 1: by the share of its memory that is free, and by its idleness."""
    free = state.free_bytes / state.total_bytes if state.total_bytes else 1.0
    return pool.weight * free + (1 - pool.weight) * (1 - state.utilization)


def refusal(state: GpuState | None, pool: GpuPool) -> str:
    """Say why a GPU that nobody has leased cannot be given away now; empty when it can."""
    if state is None:
        return "has no driver"
    if state.processes and not pool.shared:
        return f"is used by process {state.processes[0]} (gpus: shared)"
    if state.utilization > pool.utilization:
        return f"is busy for {state.utilization:.0%} of the time (gpus: utilization)"
    if state.total_bytes and state.free_bytes < max(pool.memory_bytes, pool.memory_share * state.total_bytes):
        free, total = state.free_bytes / _GIB, state.total_bytes / _GIB
        return f"has {free:.1f} of {total:.1f} GiB free (gpus: memory)"
    return ""


def _await_memory(gpus: Sequence[Gpu], before: Mapping[str, GpuState]) -> None:
    """Return once these GPUs have as much free memory as before their server, at the latest after a while."""
    deadline = time.monotonic() + _MEMORY_BACK_S
    while True:
        now = hardware.states(gpus)
        lacking = [gpu for gpu in gpus if gpu.uuid in now and not _is_back(now[gpu.uuid], before.get(gpu.uuid))]
        if not lacking:
            return
        if time.monotonic() >= deadline:
            where = ", ".join(str(gpu.index) for gpu in lacking)
            _logger.warning("memory of GPUs %s is not free %g s after the end of their server", where, _MEMORY_BACK_S)
            return
        time.sleep(0.1)  # what ends the loop is what the driver says


def _is_back(now: GpuState, before: GpuState | None) -> bool:
    return before is None or now.free_bytes >= before.free_bytes - _BACK * before.total_bytes
