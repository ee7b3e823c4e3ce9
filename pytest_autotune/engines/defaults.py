"""What holds of an engine's servers unless the engine says more: nothing is known of them but their logs."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_autotune.engines import causes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.engines.engine import Cause, Knob
    from pytest_autotune.engines.roofline import Layout, Served
    from pytest_autotune.space import Configuration, Value
    from pytest_autotune.suite import Suite


class EngineDefaults:
    """The part of `pytest_autotune.engines.engine.Engine` that an engine may leave as it is."""

    memory_knobs: Mapping[str, Knob] = MappingProxyType({})

    def refuses(self, suite: Suite, configuration: Configuration) -> Cause | None:  # noqa: ARG002 - the contract's names
        """Return None: no configuration is known not to start."""
        return None

    def served(self, suite: Suite) -> Served | None:  # noqa: ARG002 - the contract's names
        """Return None: what such a server can do at best is not known."""
        return None

    def layout(self, suite: Suite, configuration: Configuration) -> Layout | None:  # noqa: ARG002
        """Return None, as of what it serves."""
        return None

    def classify(self, log: str, returncode: int | None) -> Cause:
        """Say why a server died or never became ready."""
        return causes.classify(log, returncode)

    def effective(self, log: str) -> Mapping[str, Value]:  # noqa: ARG002 - the contract's name
        """Return nothing: such a server does not log its settings."""
        return {}
