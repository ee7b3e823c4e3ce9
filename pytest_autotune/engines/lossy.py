"""Which settings make a server less exact than the checkpoint that it serves: weights or cache in fewer bits."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_autotune.engines.flags import merged
from pytest_autotune.engines.neutral import checkpoint_of, dialect_of, expand
from pytest_autotune.space import Choice

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_autotune.space import Configuration, Value
    from pytest_autotune.suite import Suite

# What a KV cache may be kept in without loss, by the names that engines have for it; of llama-cpp-python the numbers of
# ggml's types (GGML_TYPE_F32, F16 and BF16 in ggml.h).
_EXACT = ("auto", "bfloat16", "float16", "float32", "half", "float", "bf16", "fp16", "fp32", "f16", "f32")
_EXACT_TYPES = ("0", "1", "30")
_CACHE = ("kv-cache-dtype",)
_CACHE_FLAGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **dict.fromkeys(("vllm", "sglang", "trtllm", "tgi"), _CACHE),
        "llamacpp": ("cache-type-k", "cache-type-v"),
        "llama-cpp-python": ("type-k", "type-v"),
    }
)
_WEIGHT_FLAGS: Mapping[str, str] = MappingProxyType(
    {"vllm": "quantization", "sglang": "quantization", "tgi": "quantize"}
)
# Methods that only say how a checkpoint is stored; any other quantizes what is stored in more bits while it is loaded.
# Of `QuantizationMethods` in vLLM 0.32, the choices of SGLang 0.5.23, and ``text-generation-launcher --help`` of 3.
_STORED = frozenset(
    (
        *(
            "awq",
            "auto_awq",
            "awq_marlin",
            "cpu_awq",
            "gptq",
            "auto_gptq",
            "gptq_marlin",
            "moe_wna16",
            "marlin",
            "exl2",
        ),
        *("compressed-tensors", "auto-round", "auto-round-int8", "inc", "gguf", "petit_nvfp4", "gpt_oss_mxfp4"),
        *("modelopt", "modelopt_fp8", "modelopt_fp4", "modelopt_mixed", "modelslim", "quark", "quark_int4fp8_moe"),
        *("quark_mxfp4", "unquant"),
    )
)
_METHODS = {"online": "as they are loaded", "bitsandbytes": "by bitsandbytes", "eetq": "by eetq"}


def losses(suite: Suite, configuration: Configuration) -> tuple[str, ...]:
    """Return what a server with `suite.fixed` and `configuration` is less exact by, in words; nothing when by nothing.

    Of a command without `dialect`, and of engines whose flags are not known, nothing is known either.
    """
    dialect = dialect_of(suite)
    name = suite.engine if dialect is None else dialect.name
    if name not in _CACHE_FLAGS:
        return ()
    try:
        settings = expand(merged(suite.fixed, configuration), dialect)
    except ValueError:  # what the engine does not have, which `validation` tells
        return ()
    spellings = {} if dialect is None else dialect.spellings
    settings = {spellings.get(flag, flag): value for flag, value in settings.items()}
    weights = _of_weights(settings.get(_WEIGHT_FLAGS.get(name, "")), suite)
    return tuple(dict.fromkeys((*weights, *_of_cache(name, settings))))


def may_lose(suite: Suite) -> bool:
    """Say whether some configuration of a suite is less exact than its checkpoint."""
    if losses(suite, {}):
        return True
    choices = (each for each in suite.space.parameters if isinstance(each, Choice))
    return any(losses(suite, {each.name: value}) for each in choices for value in each.values)


def _of_weights(method: Value, suite: Suite) -> Iterator[str]:
    if method is None or str(method) in _STORED or checkpoint_of(suite).config.get("quantization_config"):
        return
    yield f"weights are quantized {_METHODS.get(str(method), f'to {method}')}"


def _of_cache(name: str, settings: Mapping[str, Value]) -> Iterator[str]:
    exact = _EXACT_TYPES if name == "llama-cpp-python" else _EXACT
    parts = {"k": "keys are", "v": "values are"}
    for flag in _CACHE_FLAGS[name]:
        kept = settings.get(flag)
        if kept is not None and str(kept) not in exact:
            of = parts.get(flag.rpartition("-")[2])
            typed = f"ggml type {kept}" if name == "llama-cpp-python" else kept
            yield f"{'the KV cache is' if of is None else f'cached {of}'} kept in {typed}"
