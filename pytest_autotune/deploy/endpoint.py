"""Using a server that is already running: it is checked like any other, and never started or stopped."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pytest_autotune.control import Control, ControlError
from pytest_autotune.engines.engine import Cause, CauseKind
from pytest_autotune.errors import DeployError, SuiteError
from pytest_autotune.load.plan import headers_of
from pytest_autotune.variables import expand

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_autotune.deploy.server import Launch
    from pytest_autotune.space import Value

_ANSWER_S = 10.0  # it is said to be running: no waiting for a start
_NO_HEALTH_PAGE = frozenset({404, 405, 501})  # plain OpenAI-compatible services have none
_CONNECT_S = 5.0  # a connection that takes longer counts as refused
_REST_S = 1.0  # between two looks at whether it is there
_FAILURES = 2  # in a row, before a server counts as gone


class EndpointDeployer:
    """Checks a running server of `suite.url`; every trial of the suite measures the same one."""

    def __init__(self, *, headers: Mapping[str, str] | None = None) -> None:
        """`headers` go with every request, e.g. an authorization."""
        self._headers = dict(headers or {})

    @contextlib.contextmanager
    def deploy(self, launch: Launch) -> Iterator[EndpointServer]:
        """Check that the server is there, serves the model and generates; leaving does nothing to it."""
        suite, began = launch.suite, time.monotonic()
        address = expand(suite.url or "", key="url")
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SuiteError(f"url: {suite.url!r} is not the address of a server (http://host:port)", path=suite.path)
        url = address.rstrip("/").removesuffix("/v1")
        headers = {**self._headers, **headers_of(suite.load)}
        control = Control(url, headers=headers, timeout_s=min(suite.timeouts.start_s, _ANSWER_S))
        try:
            launch.on_phase("start")
            _check_health(control, launch.engine.abilities.health)
            launch.on_phase("ready")
            model_name = _choose_model(control, suite.model_name)
            control.generate(model_name, 2, api=suite.load.api, timeout_s=suite.timeouts.ready_s)
        except ControlError as error:
            kind = CauseKind.CRASH if error.refused else CauseKind.WRONG_SERVER
            raise DeployError(f"no usable server: {error}", cause=Cause(kind, str(error))) from error
        with contextlib.closing(_Watch(url)) as watch:
            yield EndpointServer(url, model_name=model_name, started_s=time.monotonic() - began, watch=watch)

    def sweep(self) -> tuple[str, ...]:
        """Return nothing: an endpoint leaves nothing behind."""
        return ()


class EndpointServer:
    """A server that somebody else runs."""

    def __init__(self, url: str, *, model_name: str, started_s: float, watch: _Watch) -> None:
        self.url = url
        self.model_name = model_name
        self.argv: tuple[str, ...] = ()
        self.started_s = started_s
        self.effective: Mapping[str, Value] = {}
        self._watch = watch

    def died(self) -> Cause | None:
        """Return why the server is gone, or None while it accepts connections. Never blocks."""
        problem = self._watch.look()
        return None if problem is None else Cause(CauseKind.CRASH, f"{self.url} accepts no connections: {problem}")

    def log_tail(self, lines: int = 40) -> str:  # noqa: ARG002 - the contract's signature
        """Return nothing: the log is where the server runs."""
        return ""


class _Watch:
    """Connects now and then without waiting for the answer: each look only collects what has come in by then."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        # Resolved once, because a name server may block.
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        self._family: int = found[0][0]
        self._address: tuple[Any, ...] = found[0][4]
        self._probe: socket.socket | None = None
        self._since = time.monotonic()
        self._failures = 0
        self._problem: str | None = None

    def look(self) -> str | None:
        """Return why nobody is there, once enough connections in a row have failed."""
        now = time.monotonic()
        if self._probe is not None:
            self._collect(self._probe, now)
        elif now - self._since >= _REST_S or self._failures:
            self._connect(now)
        return self._problem

    def close(self) -> None:
        """Drop a connection under way."""
        if self._probe is not None:
            self._probe.close()
            self._probe = None

    def _connect(self, now: float) -> None:
        self._probe, self._since = socket.socket(self._family), now
        self._probe.setblocking(False)
        error = self._probe.connect_ex(self._address)
        if error not in (0, errno.EINPROGRESS):
            self._note(os.strerror(error))

    def _collect(self, probe: socket.socket, now: float) -> None:
        _, connected, _ = select.select([], [probe], [], 0)
        if connected:
            error = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._note(os.strerror(error) if error else None)
        elif now - self._since >= _CONNECT_S:
            self._note(f"no connection within {_CONNECT_S:g} s")

    def _note(self, problem: str | None) -> None:
        self.close()
        self._failures = 0 if problem is None else self._failures + 1
        if problem is None or self._failures >= _FAILURES:
            self._problem = problem


def _check_health(control: Control, path: str) -> None:
    try:
        control.health(path)
    except ControlError as error:
        if error.status not in _NO_HEALTH_PAGE:
            raise


def _choose_model(control: Control, wanted: str | None) -> str:
    names = control.models()
    if wanted in names or (wanted is None and len(names) == 1):
        return wanted or names[0]
    listed = ", ".join(names) or "no model"
    remedy = f" and not {wanted}" if wanted else "; say which one with model_name" if names else ""
    problem = f"{control.url} serves {listed}{remedy}"
    raise DeployError(problem, cause=Cause(CauseKind.WRONG_SERVER, problem))
