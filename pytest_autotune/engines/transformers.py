"""Transformers: settings to the flags of ``transformers serve``, and what is installed.

Read in release 5.24, and tuned with it on a CPU: it serves one model, under the name of its checkpoint, answers 422 to
``ignore_eos`` and 400 to prompts of token ids, and has no metrics. Its flags are those of its own command.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_autotune.engines import requirements
from pytest_autotune.engines.engine import Abilities, Command
from pytest_autotune.engines.flags import to_argv
from pytest_autotune.engines.installation import Package
from pytest_autotune.engines.neutral import told
from pytest_autotune.engines.packaged import Packaged, settings_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.engines.engine import Address, Knob
    from pytest_autotune.engines.installation import Installation
    from pytest_autotune.engines.requirements import Check
    from pytest_autotune.space import Configuration
    from pytest_autotune.suite import Suite

TRANSFORMERS = Package("transformers", "Transformers", "'transformers[serving]'")
RESERVED = {
    **dict.fromkeys(("host", "port", "enable-cors"), "the deployment says where the server listens"),
    "non-blocking": "the server is a process of its own",
    "force-model": "say model: at the top of the suite",
}


class TransformersEngine(Packaged):
    """Transformers' OpenAI-compatible server, run by an interpreter that has it with its extra ``serving``."""

    name = "transformers"
    package = TRANSFORMERS
    reserved = RESERVED
    abilities = Abilities(own_name=str)
    memory_knobs: Mapping[str, Knob] = MappingProxyType({})

    def command(self, suite: Suite, configuration: Configuration, address: Address) -> Command:
        """Return how to start a server; raise `MissingRequirement` where `inspect` would tell the same."""
        argv = [
            *(requirements.interpreter_of(suite), "-m", "transformers.cli.transformers", "serve"),
            requirements.model_of(suite),
            *("--host", address.host, "--port", str(address.port)),
            *to_argv(told(suite, configuration, None), self._inquiry.answer(suite).flags),
        ]
        return Command(tuple(argv), requirements.environment_of(suite))

    def checks(self, suite: Suite, installation: Installation | None) -> tuple[Check, ...]:  # noqa: ARG002
        """Return what looks for the model, and for GPUs where the suite says that it takes some."""
        return (requirements.missing_model, *((requirements.missing_gpus,) if suite.gpus else ()))

    def gpus(self, suite: Suite, configuration: Configuration) -> int:
        """Return `suite.gpus`, else one if there is one: without any it computes on the processor."""
        if suite.gpus is not None:
            return suite.gpus
        on_processor = settings_of(suite, configuration).get("device") == "cpu"
        return 0 if on_processor else min(1, requirements.gpus_in_pool(suite))
