"""A server under a guard: what its deployers have in common, from the first probe to the reason of its end."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_autotune.control import Control, ControlError
from pytest_autotune.engines.engine import Cause, CauseKind
from pytest_autotune.load.plan import headers_of
from pytest_autotune.masking import mask_argv

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_autotune.deploy.guarded import GuardedProcess
    from pytest_autotune.deploy.server import Launch
    from pytest_autotune.deploy.serverlog import ServerLog
    from pytest_autotune.space import Value

_TELLING_S = 0.5  # a probe with less time than this is cut short by the deadline, and tells nothing else
_PROBE_S = 5.0  # longest wait for one health or model page while a server starts
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.5  # between two probes
_HOPELESS = frozenset({400, 401, 403, 405, 422})  # answers that waiting does not change


class NotReady(Exception):
    """A server will not become ready; without a cause it has exited, and is classified once all its output is there."""

    def __init__(self, cause: Cause | None, *, another_port: bool = False) -> None:
        super().__init__(cause)
        self.cause = cause
        self.another_port = another_port


class GuardedServer:
    """A server that a guard started; see `pytest_autotune.deploy.server.Server`."""

    def __init__(
        self,
        launch: Launch,
        *,
        url: str,
        model_name: str,
        argv: tuple[str, ...],
        log: ServerLog,
        process: GuardedProcess,
        gpus: tuple[int, ...] = (),
    ) -> None:
        """`gpus` are the indices of those of this machine that it was given."""
        self.url = url
        self.model_name = model_name
        self.argv = mask_argv(argv)
        self.started_s = 0.0
        self.effective: Mapping[str, Value] = {}
        self.process = process
        self.gpus = gpus
        self._launch = launch
        self._log = log
        self._cause: Cause | None = None
        self._headers = headers_of(launch.suite.load)

    def absent(self) -> str | None:
        """Say what is missing for our server to be reached at `url`, if anything; it is asked nothing before.

        Raises `NotReady` when somebody else is there.
        """
        return None

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
        """Return once it has answered one generation; raise `NotReady` when it will not."""
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
                raise NotReady(None)
            pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)
            left_s = max(deadline - time.monotonic(), 0.001)
            try:
                found = probe(left_s)
            except ControlError as error:
                if error.status in _HOPELESS:
                    raise NotReady(Cause(CauseKind.WRONG_SERVER, str(error))) from error
                found = f"{error.operation}: {error.problem}"
            if found is None:
                return
            if left_s >= _TELLING_S or not complaint:
                complaint = found
        if self.process.wait(0):
            raise NotReady(None)
        message = f"no {what} within {limit_s:g} s ({setting}): {complaint}; see {self._log.path}"
        cause = self._launch.engine.classify(self.log_text(), None)
        if cause.kind is CauseKind.TIMEOUT:
            raise NotReady(Cause(CauseKind.TIMEOUT, message, cause.lines))
        raise NotReady(replace(cause, message=f"{cause.message} ({message})"))

    def _healthy(self, left_s: float) -> str | None:
        if problem := self.absent():
            return problem
        self._control(min(left_s, _PROBE_S)).health(self._launch.engine.abilities.health)
        return None

    def _generating(self, left_s: float) -> str | None:
        names = self._control(min(left_s, _PROBE_S)).models()
        if names and self.model_name not in names:
            raise NotReady(
                Cause(CauseKind.WRONG_SERVER, f"{self.url} serves {', '.join(names)} and not {self.model_name}")
            )
        if not names:
            return "it lists no model yet"
        self._control(left_s).generate(self.model_name, 2, api=self._launch.suite.load.api, timeout_s=left_s)
        return self.absent()

    def _control(self, timeout_s: float) -> Control:
        return Control(self.url, headers=self._headers, timeout_s=timeout_s)
