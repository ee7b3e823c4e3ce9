"""TensorRT-LLM: settings to the flags of ``trtllm-serve``, and what is installed.

Its flags are those of the click command that the installed package has. Where that cannot be imported, as on a machine
without a driver, the table in ``known/`` answers for a release 1.2: it was read in the source of the command
(tensorrt_llm/commands/serve.py of NVIDIA/TensorRT-LLM, commit 00209af); the package itself was not run for it.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_autotune.engines import metric_names, requirements
from pytest_autotune.engines.dialects import TRTLLM as DIALECT
from pytest_autotune.engines.engine import Abilities, Command
from pytest_autotune.engines.flags import to_argv
from pytest_autotune.engines.installation import Package
from pytest_autotune.engines.neutral import told
from pytest_autotune.engines.packaged import Packaged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.engines.engine import Address, Knob
    from pytest_autotune.space import Configuration, Value
    from pytest_autotune.suite import Suite

TRTLLM = Package("trtllm", "TensorRT-LLM", "tensorrt-llm")
KNOWN = "1.2"  # the release of the table
RESERVED = {
    **dict.fromkeys(("host", "port"), "the deployment says where the server listens"),
    "served-model-name": "it answers to its model's own name",
    **dict.fromkeys(("config", "extra-llm-api-options"), "settings belong into the suite, where they are recorded"),
    **dict.fromkeys(
        ("server-role", "disagg-cluster-uri", "metadata-server-config-file"), "a server is measured on its own"
    ),
    "grpc": "the load is sent over HTTP",
}


def listed_as(model: str) -> str:
    """Return a model as `OpenAIServer` lists it: a directory by its last part."""
    return Path(model).name if Path(model).is_dir() else model


class TrtllmEngine(Packaged):
    """TensorRT-LLM's OpenAI-compatible server, run by an interpreter that has TensorRT-LLM installed."""

    name = "trtllm"
    package = TRTLLM
    reserved = RESERVED
    abilities = Abilities(token_ids=True, ignore_eos=True, metrics=metric_names.TRTLLM, own_name=listed_as)
    # Buffers grow with each of them, whatever is left for the cache.
    memory_knobs: Mapping[str, Knob] = MappingProxyType({"max-batch-size": "more", "max-num-tokens": "more"})

    def command(self, suite: Suite, configuration: Configuration, address: Address) -> Command:
        """Return how to start a server; raise `MissingRequirement` where `inspect` would tell the same."""
        flags = self._inquiry.answer(suite).flags
        argv = [
            *(requirements.interpreter_of(suite), "-m", "tensorrt_llm.commands.serve", "serve"),
            requirements.model_of(suite),
            *("--host", address.host, "--port", str(address.port)),
            *to_argv(told(suite, configuration, DIALECT), flags),
        ]
        return Command(tuple(argv), requirements.environment_of(suite))

    def contradiction(self, settings: Mapping[str, Value]) -> str:
        """Return that experts cannot be spread over the GPUs, or an empty text."""
        tp, ep = (
            next((size for name in names if isinstance(size := settings.get(name), int)), 1)
            for names in (("tp-size", "tensor-parallel-size"), ("ep-size", "moe-expert-parallel-size"))
        )
        return f"tensor parallelism of {tp} cannot be shared by expert parallelism of {ep}" if ep and tp % ep else ""
