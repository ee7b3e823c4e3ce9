"""The engines that come with this package, by the name that suites give them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_autotune.engines.engine import Engine

BUILTIN = {
    "vllm": ("pytest_autotune.engines.vllm", "VllmEngine"),
    "sglang": ("pytest_autotune.engines.sglang", "SglangEngine"),
    "llamacpp": ("pytest_autotune.engines.llamacpp", "LlamaCppEngine"),
    "llama-cpp-python": ("pytest_autotune.engines.llama_cpp_python", "LlamaCppPythonEngine"),
    "tgi": ("pytest_autotune.engines.tgi", "TgiEngine"),
    "trtllm": ("pytest_autotune.engines.trtllm", "TrtllmEngine"),
    "ollama": ("pytest_autotune.engines.ollama", "OllamaEngine"),
    "transformers": ("pytest_autotune.engines.transformers", "TransformersEngine"),
    "sim": ("pytest_autotune.engines.sim.engine", "SimEngine"),
    "command": ("pytest_autotune.engines.command", "CommandEngine"),
    "endpoint": ("pytest_autotune.engines.endpoint", "EndpointEngine"),
}


def builtin(name: str) -> Engine | None:
    """Return the built-in engine of that name, or None; its module is imported only now."""
    if name not in BUILTIN:
        return None
    module, engine = BUILTIN[name]
    found: Engine = getattr(importlib.import_module(module), engine)()
    return found
