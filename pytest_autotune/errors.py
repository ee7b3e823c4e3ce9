"""What can go wrong, as one tree; the class decides how pytest reports it.

* AutotuneError
  x SuiteError            the user's suite file or option: a collection or usage error
  x MissingRequirement    this machine lacks something the suite needs: the suite is skipped
  x DeployError           no usable server, and not because of the configuration: an error
    + Infeasible          the server refused this configuration: a finding
  x BenchmarkError        a batch could not be measured: an error
    + ClientSaturated     the load generator was the bottleneck: an error, never a slow server
  x StoreError            results cannot be read or written: an error
* SloViolation            (AssertionError) a measured batch misses a limit: a finding
  x Inconclusive          ... or it could not be told whether it does: a finding, too
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from enum import StrEnum
    from pathlib import Path


class ClassifiedCause(Protocol):
    """What a deployment error tells about its cause: the engines' `Cause`, seen from below them."""

    @property
    def kind(self) -> StrEnum:
        """The kind of failure; its value is what the store keeps."""

    @property
    def message(self) -> str:
        """One line about it."""


class AutotuneError(Exception):
    """Base of every error that this package raises on purpose."""


class SuiteError(AutotuneError):
    """A suite file, option or setting is wrong; the message says where, what and what is allowed.

    `str()` is one line: ``chat.yaml:7: slo.ttft.p90: '50 parsecs' is not a duration (...)``.
    """

    def __init__(self, problem: str, *, path: Path | str | None = None, line: int | None = None) -> None:
        where = "" if path is None else f"{path}: " if line is None else f"{path}:{line}: "
        super().__init__(f"{where}{problem}")
        self.problem = problem
        self.path = path
        self.line = line


class MissingRequirement(AutotuneError):
    """This machine lacks something that a suite needs (engine, model, GPUs, disk)."""


class DeployError(AutotuneError):
    """A server did not become usable, or died, for a reason that is not its configuration.

    `cause` is None when no server was ever started.
    """

    def __init__(self, reason: str, *, log_tail: str = "", cause: ClassifiedCause | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.log_tail = log_tail
        self.cause = cause


class Infeasible(DeployError):
    """The server refused its configuration: out of memory, or an invalid combination of settings."""


class BenchmarkError(AutotuneError):
    """A batch could not be measured."""


class ClientSaturated(BenchmarkError):
    """The load generator itself was too slow for the load that was asked of it."""


class StoreError(AutotuneError):
    """The results store cannot be opened, is too new for this version, or refused a write."""


class SloViolation(AssertionError):
    """A measured batch misses at least one service-level objective."""


class Inconclusive(SloViolation):
    """It is not resolved whether a measured batch keeps its limits, which does not count as keeping them."""
