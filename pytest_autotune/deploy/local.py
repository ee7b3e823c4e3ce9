"""Deploying a server as processes of this machine: port, GPUs and cores leased, a guard, phases, nothing left over."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import sys
from typing import TYPE_CHECKING, Any

from pytest_autotune.deploy import cgroup, cores, gpus, leftovers, ports
from pytest_autotune.deploy.guarded import GuardedProcess
from pytest_autotune.deploy.guarded_server import GuardedServer, NotReady
from pytest_autotune.deploy.serverlog import open_log
from pytest_autotune.engines.engine import Address, Cause, CauseKind
from pytest_autotune.engines.requirements import model_of
from pytest_autotune.errors import DeployError, Infeasible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_autotune.deploy.server import Launch
    from pytest_autotune.engines.engine import Command

_logger = logging.getLogger(__name__)

_PORTS_TRIED = 4
_LOOPBACK_NAMES = (ports.LOOPBACK, "localhost", "::1")
_LEAKING = re.compile(r"PYTEST_|COV_CORE_|COVERAGE_PROCESS_")  # would make the server behave as a part of our test run


class LocalDeployer:
    """Runs each server on this machine, on a port of its own, under a guard that kills all of it when we are gone."""

    @contextlib.contextmanager
    def deploy(self, launch: Launch) -> Iterator[LocalServer]:
        """Start a server, wait until it is ready, and tear it down on exit."""
        if not sys.platform.startswith("linux") or not hasattr(os, "pidfd_open"):
            raise DeployError(
                f"local deployment needs Linux 5.3 or newer, and this is {sys.platform}; "
                "start the server yourself and use deploy: endpoint"
            )
        with contextlib.ExitStack() as held:
            taken = held.enter_context(gpus.leased(launch)), held.enter_context(cores.leased(launch))
            yield _start(launch, taken, held)

    def sweep(self) -> tuple[str, ...]:
        """Kill what dead runs left behind; return one line for each process removed."""
        return leftovers.sweep()


class LocalServer(GuardedServer):
    """A running server of this machine."""

    def __init__(self, launch: Launch, address: Address, *, oom_kills: int | None, **started: Any) -> None:
        """`oom_kills` is the count before it was started."""
        super().__init__(launch, url=address.url, model_name=address.model_name, **started)
        self._port = address.port
        self._oom_kills = oom_kills

    def why_gone(self) -> Cause:
        """Classify the end; who sent a SIGKILL, the kernel's own count tells."""
        cause = super().why_gone()
        before, now = self._oom_kills, cgroup.oom_kills()
        if (
            cause.kind is CauseKind.KILLED
            and "SIGKILL" in cause.message
            and None not in (before, now)
            and now != before
        ):
            message = "killed by SIGKILL while the kernel counted an oom-kill in our control group"
            return Cause(CauseKind.OUT_OF_MEMORY, message, cause.lines, of="host")
        return cause

    def pids(self) -> list[int]:
        """Return the living processes of the server."""
        return self.process.pids()

    def absent(self) -> str | None:
        """Say that nothing listens on our port; a stranger there is not even asked."""
        for _ in range(2):  # a process that is forked while we look may be missed once
            listening = set(ports.listeners(self._port))
            strange = listening - ports.sockets_of(self.process.pids()) if listening else listening
            if not strange:
                return None if listening else f"nothing listens on port {self._port}"
        if self.process.wait(0):
            raise NotReady(None)
        raise NotReady(
            Cause(CauseKind.WRONG_SERVER, f"port {self._port} is served by a process that we did not start"),
            another_port=True,
        )


def _start(launch: Launch, taken: tuple[gpus.Lease, cores.Lease], held: contextlib.ExitStack) -> LocalServer:
    """Return a ready server whose teardown is pushed to `held`; try other ports when one turns out to be taken."""
    tried: list[int] = []
    note = ""
    while True:
        server: LocalServer | None = None
        try:
            with contextlib.ExitStack() as attempt:
                lease = attempt.enter_context(_free_afterwards(tried))
                server = _launch_on(lease, launch, taken, note=note, held=attempt)
                server.await_ready()
                held.push(attempt.pop_all())
                return server
        except NotReady as failure:
            assert server is not None
            cause = failure.cause or server.why_gone()
            tried.append(lease.port)
            if (failure.another_port or cause.kind is CauseKind.PORT) and len(tried) < _PORTS_TRIED:
                note = f"attempt {len(tried) + 1}: port {lease.port} was taken ({cause}); the earlier log is kept aside"
                continue
            error = Infeasible if cause.kind.finding else DeployError
            raise error(str(cause), log_tail=server.log_tail(), cause=cause) from failure.__cause__


def _launch_on(
    lease: ports.Lease,
    launch: Launch,
    taken: tuple[gpus.Lease, cores.Lease],
    *,
    note: str,
    held: contextlib.ExitStack,
) -> LocalServer:
    devices, processors = taken
    suite, engine = launch.suite, launch.engine
    own_name = engine.abilities.own_name
    name = own_name(model_of(suite)) if own_name else suite.model_name or f"{suite.name}-{secrets.token_hex(4)}"
    address = Address(ports.LOOPBACK, lease.port, name)
    command = engine.command(suite, launch.configuration, address)
    log = open_log(launch.log, note)
    oom_kills = cgroup.oom_kills()
    try:
        process = GuardedProcess(
            command.argv,
            env=_environment(command, launch, devices, processors),
            output=log.fd,
            grace_s=suite.timeouts.stop_s,
            keep=(lease.fd, *devices.fds, *processors.fds),
            cores=processors.cores,
        )
    finally:
        os.close(log.fd)
    held.callback(_tell_remarks, process)
    held.enter_context(process)
    started = {"argv": command.argv, "log": log, "process": process, "gpus": devices.real}
    return LocalServer(launch, address, oom_kills=oom_kills, **started)


@contextlib.contextmanager
def _free_afterwards(tried: Sequence[int]) -> Iterator[ports.Lease]:
    """Lease a port, and make sure that nothing listens on it when an undisturbed deployment has ended."""
    with ports.lease(tried) as lease:
        yield lease
        if ports.listeners(lease.port):
            raise DeployError(f"something still listens on port {lease.port} after its server was stopped")


def _tell_remarks(process: GuardedProcess) -> None:
    for remark in process.remarks:
        _logger.warning("%s", remark)


def _environment(command: Command, launch: Launch, devices: gpus.Lease, processors: cores.Lease) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not _LEAKING.match(name)}
    env = {
        "PYTHONUNBUFFERED": "1",  # the last lines before a crash are the ones that tell
        # setproctitle, as vLLM uses it, would overwrite the environment that `leftovers` reads
        "SPT_NOENV": "1",
        **processors.variables,
        **inherited,
        **launch.suite.env,
        **command.env,  # where the engine has filled in what the suite writes as ${NAME}
        **devices.variables,
        leftovers.OWNER: launch.owner,
    }
    for name in ("NO_PROXY", "no_proxy"):
        env[name] = ",".join(dict.fromkeys([*filter(None, env.get(name, "").split(",")), *_LOOPBACK_NAMES]))
    return env
