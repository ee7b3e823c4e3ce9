"""What a deployment is: the contract between a trial and a running model server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pytest_autotune.engines.engine import Cause, Engine
    from pytest_autotune.space import Configuration, Value
    from pytest_autotune.suite import Suite


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything a deployer needs to start one server."""

    suite: Suite
    engine: Engine
    configuration: Configuration
    log: Path  # the server's whole output goes here; the parent directory exists
    owner: str  # of `leftovers.owner_id(run_id)`: how leftovers of a dead run are recognised
    on_phase: Callable[[str], None]  # called with "start", "ready" and the like as the deployment enters each
    gpus: int = 0  # of the suite's pool, that the server takes; a simulated one takes none of the machine's
    # Called each time that a wait for what is shared with others is over, in vain or not, with the cores that are held.
    on_waited: Callable[[tuple[int, ...]], None] = lambda _cores: None


class Server(Protocol):
    """A running model server. It lives until the context manager that made it exits."""

    url: str  # base URL without trailing slash and without /v1
    model_name: str  # the served name, unique to this deployment
    argv: tuple[str, ...]  # as started; secrets are not in it
    started_s: float  # seconds from launch to readiness
    effective: Mapping[str, Value]  # settings the server reported

    def died(self) -> Cause | None:
        """Return why the server is gone, or None while it lives. Never blocks."""

    def log_tail(self, lines: int = 40) -> str:
        """Return the last lines of the server's log."""


@runtime_checkable
class Preflight(Protocol):
    """A deployer that can say beforehand what it lacks."""

    def missing(self, suite: Suite) -> tuple[str, ...]:
        """Return one sentence for each thing that servers of `suite` need and that is not here; start nothing."""


class Deployer(Protocol):
    """One way to run a server. `deploy` yields a server that has answered one generation.

    Entering raises `Infeasible` when the server refused its configuration, `DeployError` for
    anything else; both carry the end of the log. Exiting returns only when every process (or
    container) of the deployment is gone, whatever happened inside. One that runs servers on this
    machine takes their GPUs by `pytest_autotune.deploy.gpus.leased`, and then their cores by that of `cores`.
    """

    def deploy(self, launch: Launch) -> AbstractContextManager[Server]:
        """Start a server, wait until it is ready, and tear it down on exit."""

    def sweep(self) -> tuple[str, ...]:
        """Kill what dead runs left behind; return one line for each thing removed."""
