"""llama-cpp-python: settings to the flags of its server, ``python -m llama_cpp.server``, and what is installed.

Its server answers one request at a time. `pytest_autotune.engines.llamacpp` is llama.cpp's own, which batches.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_autotune.engines import gguf, requirements
from pytest_autotune.engines.engine import Abilities, Command
from pytest_autotune.engines.flags import flag_name, merged, to_argv
from pytest_autotune.engines.installation import Package
from pytest_autotune.engines.packaged import Packaged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.engines.engine import Address, Knob
    from pytest_autotune.engines.installation import Installation
    from pytest_autotune.engines.requirements import Check
    from pytest_autotune.space import Configuration, Value
    from pytest_autotune.suite import Suite

RESERVED = {
    **dict.fromkeys(("model", "hf-model-repo-id"), "say model: at the top of the suite, a .gguf file"),
    "model-alias": "every deployment has a name of its own",
    **dict.fromkeys(("host", "port", "root-path"), "the deployment says where the server listens"),
    "api-key": "the load generator sends none",
    **dict.fromkeys(("ssl-keyfile", "ssl-certfile"), "the load is sent to http://"),
    "config-file": "settings belong into the suite, where they are recorded",
}
_LOGGED = re.compile(r"^llama_context: (n_ctx|n_batch|n_ubatch) += (\d+)$", re.MULTILINE)


class LlamaCppPythonEngine(Packaged):
    """llama-cpp-python's OpenAI-compatible server, run by an interpreter that has it with its extra ``server``."""

    name = "llama-cpp-python"
    package = Package(name, "llama-cpp-python", "'llama-cpp-python[server]'")
    reserved = RESERVED
    abilities = Abilities(health="/v1/models", uuids=True)  # it has no page of health, and no prompts of token ids
    # A context of 0 is the model's, so that its size is none.
    memory_knobs: Mapping[str, Knob] = MappingProxyType({"n-batch": "more", "n-ubatch": "more"})

    def command(self, suite: Suite, configuration: Configuration, address: Address) -> Command:
        """Return how to start a server; raise `MissingRequirement` where `inspect` would tell the same."""
        installation = self._inquiry.answer(suite)
        argv = [
            *(requirements.interpreter_of(suite), "-m", "llama_cpp.server"),
            *("--model", requirements.model_of(suite), "--model_alias", address.model_name),
            *("--host", address.host, "--port", str(address.port)),
            *to_argv(merged(suite.fixed, configuration), installation.flags),
        ]
        return Command(tuple(argv), requirements.environment_of(suite))

    def checks(self, suite: Suite, installation: Installation | None) -> tuple[Check, ...]:
        """Return what looks for the model's file, and for GPUs where the suite says that it takes some."""
        needs_gpus = suite.gpus is not None and installation is not None and installation.device != "cpu"
        return (gguf.missing_file, requirements.missing_gpus) if needs_gpus else (gguf.missing_file,)

    def gpus(self, suite: Suite, configuration: Configuration) -> int:
        """Return `suite.gpus`, else 1 where layers are given to one; 0 on a build for CPUs."""
        if super().gpus(suite, configuration) == 0:
            return 0
        layers = merged(suite.fixed, configuration).get("n-gpu-layers", 0)
        return suite.gpus if suite.gpus is not None else int(layers != 0)

    def effective(self, log: str) -> Mapping[str, Value]:
        """Read back the sizes that llama.cpp reports; the server does not log other settings."""
        return {flag_name(name): int(value) for name, value in _LOGGED.findall(log)}
