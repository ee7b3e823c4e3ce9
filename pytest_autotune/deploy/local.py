"""Deploying a server as processes of this machine: leased port, guard, readiness in phases, nothing left behind."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_autotune.control import Control, ControlError
from pytest_autotune.deploy import leftovers, ports
from pytest_autotune.deploy.guarded import GuardedProcess
from pytest_autotune.deploy.serverlog import ServerLog, open_log
from pytest_autotune.engines.engine import Address, Cause, CauseKind
from pytest_autotune.errors import DeployError, Infeasible
from pytest_autotune.load.plan import headers_of
from pytest_autotune.masking import mask_argv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_autotune.deploy.server import Launch
    from pytest_autotune.engines.engine import Command
    from pytest_autotune.space import Value

_logger = logging.getLogger(__name__)

_PORTS_TRIED = 4
_TELLING_S = 0.5  # a probe with less time than this is cut short by the deadline, and tells nothing else
_PROBE_S = 5.0  # longest wait for one health or model page while a server starts
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.5  # between two probes
_HOPELESS = frozenset({400, 401, 403, 405, 422})  # answers that waiting does not change
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
            yield _start(launch, held)

    def sweep(self) -> tuple[str, ...]:
        """Kill what dead runs left behind; return one line for each process removed."""
        return leftovers.sweep()


class LocalServer:
    """A running server of this machine."""

    def __init__(
        self, launch: Launch, *, address: Address, argv: tuple[str, ...], log: ServerLog, process: GuardedProcess
    ) -> None:
        self.url = address.url
        self.model_name = address.model_name
        self.argv = mask_argv(argv)
        self.started_s = 0.0
        self.effective: Mapping[str, Value] = {}
        self.process = process
        self._launch = launch
        self._address = address
        self._log = log
        self._cause: Cause | None = None
        self._control = Control(self.url, headers=headers_of(launch.suite.load))

    def died(self) -> Cause | None:
        """Return why the server is gone, or None while it lives. Never blocks."""
        if self._cause is None and self.process.wait(0):
            self._cause = self.why_gone()
        return self._cause

    def log_tail(self, lines: int = 40) -> str:
        """Return the last lines of the server's log."""
        return self._log.tail(lines)

    def log_text(self) -> str:
        """Return the server's log, cut in the middle when it is very long."""
        return self._log.text()

    def why_gone(self) -> Cause:
        """Classify the end of a server that has ended."""
        if self.process.failure is not None:
            return Cause(CauseKind.CRASH, f"cannot be executed: {self.process.failure}")
        if self.process.returncode is None:
            guard = f"guard process {self.process.guard.pid} ended with status {self.process.guard_status}"
            return Cause(CauseKind.KILLED, f"the {guard}, and took the server with it")
        return self._launch.engine.classify(self.log_text(), self.process.returncode)

    def await_ready(self) -> None:
        """Return once it has answered one generation; raise `_NotReady` when it will not."""
        began = time.monotonic()
        timeouts = self._launch.suite.timeouts
        self._launch.on_phase("start")
        self._await("health", self._healthy, limit_s=timeouts.start_s, setting="timeouts.start")
        self._launch.on_phase("ready")
        self._await("usable model", self._generating, limit_s=timeouts.ready_s, setting="timeouts.ready")
        self.started_s = time.monotonic() - began
        self.effective = dict(self._launch.engine.effective(self.log_text()))

    def _await(self, what: str, probe: Callable[[float], str | None], *, limit_s: float, setting: str) -> None:
        """Call `probe` with the seconds left until it has nothing to complain about."""
        deadline, pause_s, complaint = time.monotonic() + limit_s, _FIRST_PAUSE_S, ""
        while (left_s := deadline - time.monotonic()) > 0:
            if self.process.wait(min(pause_s, left_s)):
                raise _NotReady(None)
            pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)
            left_s = max(deadline - time.monotonic(), 0.001)
            try:
                found = probe(left_s)
            except ControlError as error:
                if error.status in _HOPELESS:
                    raise _NotReady(Cause(CauseKind.WRONG_SERVER, str(error))) from error
                found = f"{error.operation}: {error.problem}"
            if found is None:
                return
            if left_s >= _TELLING_S or not complaint:
                complaint = found
        if self.process.wait(0):
            raise _NotReady(None)
        message = f"no {what} within {limit_s:g} s ({setting}): {complaint}; see {self._log.path}"
        cause = self._launch.engine.classify(self.log_text(), None)
        if cause.kind is CauseKind.TIMEOUT:
            raise _NotReady(Cause(CauseKind.TIMEOUT, message, cause.lines))
        raise _NotReady(replace(cause, message=f"{cause.message} ({message})"))

    def _healthy(self, left_s: float) -> str | None:
        if not self._listening():
            return f"nothing listens on port {self._address.port}"
        replace(self._control, timeout_s=min(left_s, _PROBE_S)).health(self._launch.engine.abilities.health)
        return None

    def _generating(self, left_s: float) -> str | None:
        names = replace(self._control, timeout_s=min(left_s, _PROBE_S)).models()
        if names and self.model_name not in names:
            raise _NotReady(
                Cause(CauseKind.WRONG_SERVER, f"{self.url} serves {', '.join(names)} and not {self.model_name}")
            )
        if not names:
            return "it lists no model yet"
        self._control.generate(self.model_name, 2, api=self._launch.suite.load.api, timeout_s=left_s)
        return None if self._listening() else f"nothing listens on port {self._address.port} any more"

    def _listening(self) -> bool:
        """Say whether a process of ours listens on our port; a stranger there is not even asked."""
        for _ in range(2):  # a process that is forked while we look may be missed once
            listening = set(ports.listeners(self._address.port))
            strange = listening - ports.sockets_of(self.process.pids()) if listening else listening
            if not strange:
                return bool(listening)
        if self.process.wait(0):
            raise _NotReady(None)
        raise _NotReady(
            Cause(CauseKind.WRONG_SERVER, f"port {self._address.port} is served by a process that we did not start"),
            another_port=True,
        )


class _NotReady(Exception):
    """A server will not become ready; without a cause it has exited, and is classified once all its output is there."""

    def __init__(self, cause: Cause | None, *, another_port: bool = False) -> None:
        super().__init__(cause)
        self.cause = cause
        self.another_port = another_port


def _start(launch: Launch, held: contextlib.ExitStack) -> LocalServer:
    """Return a ready server whose teardown is pushed to `held`; try other ports when one turns out to be taken."""
    tried: list[int] = []
    note = ""
    while True:
        server: LocalServer | None = None
        try:
            with contextlib.ExitStack() as attempt:
                lease = attempt.enter_context(_free_afterwards(tried))
                server = _launch_on(lease, launch, note=note, held=attempt)
                server.await_ready()
                held.push(attempt.pop_all())
                return server
        except _NotReady as failure:
            assert server is not None
            cause = failure.cause or server.why_gone()
            tried.append(lease.port)
            if (failure.another_port or cause.kind is CauseKind.PORT) and len(tried) < _PORTS_TRIED:
                note = f"attempt {len(tried) + 1}: port {lease.port} was taken ({cause}); the earlier log is kept aside"
                continue
            error = Infeasible if cause.kind.finding else DeployError
            raise error(str(cause), log_tail=server.log_tail(), cause=cause) from failure.__cause__


def _launch_on(lease: ports.Lease, launch: Launch, *, note: str, held: contextlib.ExitStack) -> LocalServer:
    suite, engine = launch.suite, launch.engine
    name = suite.model_name or f"{suite.name}-{secrets.token_hex(4)}"
    address = Address(ports.LOOPBACK, lease.port, name)
    command = engine.command(suite, launch.configuration, address)
    log = open_log(launch.log, note)
    try:
        process = GuardedProcess(
            command.argv,
            env=_environment(command, launch),
            output=log.fd,
            grace_s=suite.timeouts.stop_s,
            keep=(lease.fd,),
        )
    finally:
        os.close(log.fd)
    held.callback(_tell_remarks, process)
    held.enter_context(process)
    return LocalServer(launch, address=address, argv=command.argv, log=log, process=process)


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


def _environment(command: Command, launch: Launch) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not _LEAKING.match(name)}
    env = {
        "PYTHONUNBUFFERED": "1",  # the last lines before a crash are the ones that tell
        # setproctitle, as vLLM uses it, would overwrite the environment that `leftovers` reads
        "SPT_NOENV": "1",
        **inherited,
        **launch.suite.env,
        **command.env,  # where the engine has filled in what the suite writes as ${NAME}
        leftovers.OWNER: launch.owner,
    }
    for name in ("NO_PROXY", "no_proxy"):
        env[name] = ",".join(dict.fromkeys([*filter(None, env.get(name, "").split(",")), *_LOOPBACK_NAMES]))
    return env
