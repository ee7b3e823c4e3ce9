"""An engine that is a Python package: what its interpreter has of it, and what is not known of its servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_autotune.engines import requirements
from pytest_autotune.engines.engine import Cause, CauseKind, Engine, Installed
from pytest_autotune.engines.flags import with_reserved
from pytest_autotune.engines.inquiry import Inquiry
from pytest_autotune.engines.neutral import contradiction, dialect_of, told
from pytest_autotune.errors import MissingRequirement

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_autotune.engines.installation import Installation, Package
    from pytest_autotune.engines.requirements import Check
    from pytest_autotune.space import Configuration, Value
    from pytest_autotune.suite import Suite

_ON_THIS_MACHINE = ("local", "docker")


class Packaged(Engine):
    """What engines have in common that are asked by `Inquiry`; one of them adds its name, abilities and command.

    A subclass says which flags are reserved and why, and looks for what a suite needs beside the package.
    """

    package: Package
    reserved: Mapping[str, str]

    def __init__(self, *, cache_dir: Path | None = None) -> None:
        self._inquiry = Inquiry(self.package, cache_dir=cache_dir)

    def inspect(self, suite: Suite) -> Installed:
        """Look for the package in the suite's interpreter, for its model and for GPUs; the answer is kept on disk."""
        missing: list[str] = []
        installation: Installation | None = None
        try:
            installation = self._inquiry.answer(suite)
        except MissingRequirement as error:
            missing.append(str(error))
        missing += requirements.lacking(suite, self.checks(suite, installation))
        lacks = tuple(dict.fromkeys(missing))
        if installation is None:
            return Installed(missing=lacks)
        return Installed(installation.version, with_reserved(installation.flags, self.reserved), lacks)

    def checks(self, suite: Suite, installation: Installation | None) -> tuple[Check, ...]:
        """Return what looks for the model and for GPUs."""
        few = installation is None and requirements.most_gpus(suite) == 1  # it may turn out not to be needed
        without = few or (installation is not None and installation.device == "cpu")
        return (requirements.missing_model,) if without else (requirements.missing_model, requirements.missing_gpus)

    def refuses(self, suite: Suite, configuration: Configuration) -> Cause | None:
        """Say that a server takes more GPUs than there are, or which rule of the engine's a configuration breaks."""
        if suite.deploy not in _ON_THIS_MACHINE:
            return None
        settings, dialect = settings_of(suite, configuration), dialect_of(suite)
        problem = self.contradiction(settings)
        if not problem and dialect is not None:
            problem = contradiction(settings, suite, dialect)
        if not problem and (needed := self.gpus(suite, configuration)):
            problem = requirements.too_few_for(suite, needed) or ""
        return Cause(CauseKind.BAD_ARGUMENT, problem) if problem else None

    def contradiction(self, settings: Mapping[str, Value]) -> str:  # noqa: ARG002 - a subclass's
        """Return which rule of the engine's `settings` break, or an empty text."""
        return ""

    def gpus(self, suite: Suite, configuration: Configuration) -> int:
        """Return the product of the parallel sizes; 0 on a build for CPUs."""
        try:
            device = self._inquiry.answer(suite).device
        except MissingRequirement:
            device = ""
        if device == "cpu":
            return 0
        return requirements.gpus_taken(suite, settings_of(suite, configuration))


def settings_of(suite: Suite, configuration: Configuration) -> dict[str, Value]:
    """Return what a server is told, by the names of the flags; what is left to the engine is not in it."""
    settings = told(suite, configuration, dialect_of(suite))
    return {name: value for name, value in settings.items() if value is not None}
