"""TensorRT-LLM: settings to the flags of ``trtllm-serve``, what is installed, what it needs.

Its flags are those of the command that is installed. The table in ``known/`` was read in the options of
``tensorrt_llm/commands/serve.py`` of the 1.3 line (commit 00209af, with ``--kv_cache_dtype`` of 1.3), and answers where
it cannot be imported.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_autotune.engines import requirements
from pytest_autotune.engines.dialects import TRTLLM as DIALECT
from pytest_autotune.engines.engine import Abilities, Command
from pytest_autotune.engines.flags import to_argv
from pytest_autotune.engines.installation import Package
from pytest_autotune.engines.neutral import told
from pytest_autotune.engines.packaged import Packaged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.engines.engine import Address, Knob
    from pytest_autotune.space import Configuration
    from pytest_autotune.suite import Suite

TRTLLM = Package("tensorrt-llm", "TensorRT-LLM", "tensorrt-llm")
RESERVED = {
    **dict.fromkeys(("host", "port"), "the deployment says where the server listens"),
    **dict.fromkeys(("config", "extra-llm-api-options"), "settings belong into the suite, where they are recorded"),
    **dict.fromkeys(
        ("server-role", "metadata-server-config-file", "disagg-cluster-uri"), "a server is started on one machine"
    ),
}


def _served_name(suite: Suite) -> str:
    """Return the model as the server lists it: a directory by its last part, a hub model by its name."""
    model = requirements.model_of(suite)
    return Path(model).name if model.startswith("/") else model


class TrtllmEngine(Packaged):
    """TensorRT-LLM's OpenAI-compatible server, run by an interpreter that has TensorRT-LLM installed."""

    name = "trtllm"
    package = TRTLLM
    reserved = RESERVED
    abilities = Abilities(token_ids=True, ignore_eos=True, own_name=_served_name)
    # What the engine allocates for a step grows with these two; the share of free memory is given from what is left.
    memory_knobs: Mapping[str, Knob] = MappingProxyType({"max-batch-size": "more", "max-num-tokens": "more"})

    def command(self, suite: Suite, configuration: Configuration, address: Address) -> Command:
        """Return how to start a server; raise `MissingRequirement` where `inspect` would tell the same."""
        argv = [
            *(requirements.interpreter_of(suite), "-m", "tensorrt_llm.commands.serve", "serve"),
            *(requirements.model_of(suite), "--host", address.host, "--port", str(address.port)),
            *to_argv(told(suite, configuration, DIALECT), self._inquiry.answer(suite).flags),
        ]
        return Command(tuple(argv), requirements.environment_of(suite))
