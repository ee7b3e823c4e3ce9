"""Leasing CPU cores: each server has its own, and this process, which loads it, keeps to those set aside for that."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_autotune import hardware
from pytest_autotune.deploy.turns import NotNow, Shared
from pytest_autotune.errors import DeployError
from pytest_autotune.formatting import count

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_autotune.deploy.server import Launch
    from pytest_autotune.suite import Suite

_logger = logging.getLogger(__name__)

CORES = "PYTEST_AUTOTUNE_CORES"  # in the server's environment: numbers of those that it was given
_KIND = "core"


@dataclass(frozen=True, slots=True)
class Lease:
    """The cores that one server was given; none of them where nobody keeps count."""

    cores: tuple[int, ...] = ()
    fds: tuple[int, ...] = ()  # to be inherited by what outlives us together with the server

    @property
    def listed(self) -> str:
        """Their numbers, separated by commas, as Docker and taskset take them."""
        return ",".join(map(str, self.cores))

    @property
    def variables(self) -> dict[str, str]:
        """What tells a server of them, unless its environment says otherwise.

        llama-server counts the machine's cores, not those that it may use.
        """
        return {CORES: self.listed, "LLAMA_ARG_THREADS": str(len(self.cores))} if self.cores else {}

    @property
    def options(self) -> dict[str, str]:
        """What makes a container run on them, as keywords of docker-py's ``containers.create``."""
        return {"cpuset_cpus": self.listed} if self.cores else {}

    def __str__(self) -> str:
        return f"core{'' if len(self.cores) == 1 else 's'} {self.listed.replace(',', ', ')}"


@dataclass(frozen=True, slots=True)
class Division:
    """Which cores there are to take, and who may have them."""

    physical: tuple[tuple[int, ...], ...]  # the hyper-threads of each
    generator: tuple[int, ...]
    servers: tuple[int, ...]


@contextlib.contextmanager
def leased(launch: Launch) -> Iterator[Lease]:
    """Give a server its cores, waiting for them in turn; meanwhile this process keeps to those of the load generator.

    Raises `DeployError` when there will never be enough, or not within the time that the suite allows.
    """
    terms = launch.suite.cores
    if not terms.leased:
        yield Lease()
        return
    if missing := missing_cores(launch.suite, servers=1):
        raise DeployError(missing)
    assert terms.per_server is not None  # as `settled` has left it, where it is not missing
    needed, division = terms.per_server, division_of(launch.suite)
    names = tuple(map(str, division.servers))

    def chosen(free: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(str, choose(tuple(map(int, free)), needed, division.physical)))

    def tell(reason: str) -> None:
        launch.on_phase(f"waiting for {count(needed, 'core')}: {reason}")

    with contextlib.ExitStack() as held:
        try:
            taken = held.enter_context(Shared(_KIND, names).held(chosen, wait_s=terms.wait_s, tell=tell))
        except DeployError as error:
            launch.on_waited(())
            raise DeployError(f"no {count(needed, 'core')} (cores: wait): {error}") from error
        held.enter_context(hardware.confined(division.generator))
        lease = Lease(tuple(map(int, taken.names)), taken.fds)
        launch.on_waited(lease.cores)
        launch.on_phase(f"on {lease}")
        yield lease
        _logger.info("%s gives back %s", launch.suite.name, lease)


def settled(suite: Suite, servers: int) -> Suite:
    """Return the suite with the number of cores that each of its servers takes, when so many run at a time.

    Left open where there is not even one for each, which `missing_cores` tells.
    """
    terms = suite.cores
    if not terms.leased or terms.per_server is not None:
        return suite
    share = (len(_members(suite)) - terms.generator) // servers
    return suite.model_copy(update={"cores": replace(terms, per_server=share if share > 0 else None)})


def missing_cores(suite: Suite, *, servers: int) -> str | None:
    """Say that there are fewer cores than so many servers and the load generator take, or return None."""
    terms = suite.cores
    if not terms.leased:
        return None
    usable, members = hardware.usable_cores(), _members(suite)
    absent = sorted(set(terms.members or ()) - usable)
    if absent:
        return f"cores: pool: there is no core {absent[0]} for this process, only {ranges(sorted(usable))}"
    each = terms.per_server or 1
    needed = servers * each + terms.generator
    if needed <= len(members):
        return None
    few = "servers at a time (-n)" if servers > 1 else "cores"
    return (
        f"cores: {count(servers, 'server')} of {count(each, 'core')} and {terms.generator} for the load generator need "
        f"{needed} of {count(len(members), 'core')}; let there be fewer {few}, or write cores: none"
    )


def servers_at_a_time(suite: Suite) -> int:
    """Return how many servers the cores of a suite suffice for; one, which has all of them, where it shares them."""
    terms = suite.cores
    if terms.per_server is None:
        return 1
    return max(len(_members(suite)) - terms.generator, 0) // terms.per_server


def division_of(suite: Suite) -> Division:
    """Return which cores are the load generator's, the same ones for every process of this machine, and the rest."""
    members = _members(suite)
    physical = hardware.physical_cores(members)
    generator = choose(members, suite.cores.generator, physical)
    return Division(physical, generator, tuple(core for core in members if core not in generator))


def choose(free: Sequence[int], needed: int, physical: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return so many of the free cores, whole physical ones as far as they go; raise `NotNow` for none.

    What is left over comes from a physical core that is in use already, where there is one.
    """
    if len(free) < needed:
        raise NotNow(f"{len(free)} free")
    of_group = [[core for core in group if core in free] for group in physical]
    taken: list[int] = []
    broken, whole = [], []
    for group, left in zip(physical, of_group, strict=True):
        if len(left) < len(group):
            broken.append(left)
        elif len(left) <= needed - len(taken):
            taken += left
        else:
            whole.append(left)
    for core in (core for left in (*broken, *whole) for core in left):
        if len(taken) < needed:
            taken.append(core)
    return tuple(sorted(taken))


def ranges(cores: Sequence[int]) -> str:
    """Return sorted numbers as Linux lists them: ``0-3, 8``."""
    parts: list[list[int]] = []
    for core in cores:
        if parts and parts[-1][-1] == core - 1:
            parts[-1].append(core)
        else:
            parts.append([core])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def _members(suite: Suite) -> tuple[int, ...]:
    """Return the cores that there are to take: no more than this process's control group has time for."""
    usable = sorted(hardware.usable_cores())
    listed = suite.cores.members
    members = usable if listed is None else [core for core in usable if core in listed]
    ordered = [core for group in hardware.physical_cores(members) for core in group]
    quota = hardware.cpu_quota()
    return tuple(ordered if quota is None else ordered[: max(int(quota), 1)])
