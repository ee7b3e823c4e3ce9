"""What vLLM refuses before it does any work, and what certainly does not fit: told without starting it.

Only what is certain: a setting or a kind of model that is not known here makes no refusal. Every rule
says where it is from; they were read in vLLM 0.32, and hold for older releases where nothing else is said.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.engines.engine import Flag
    from pytest_autotune.space import Value

GIB = 2**30

# Architectures of which all layers have full attention and all weights are the language model's.
_PLAIN = frozenset({"llama", "mistral", "qwen2", "qwen3"})
# Settings that a memory estimate understands, or that make a server need no less; with any other there is none.
_UNDERSTOOD = frozenset(
    (
        *("tensor-parallel-size", "pipeline-parallel-size", "gpu-memory-utilization", "dtype", "kv-cache-dtype"),
        *("max-model-len", "max-num-seqs", "max-num-batched-tokens", "enable-chunked-prefill", "block-size"),
        *("enable-prefix-caching", "enforce-eager", "seed", "scheduling-policy", "generation-config"),
        *("disable-log-stats", "tokenizer", "chat-template", "max-logprobs"),
    )
)
_BYTES = {  # of one element
    **dict.fromkeys(("half", "float16", "bfloat16"), 2),
    **dict.fromkeys(("float", "float32"), 4),
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model in a local directory; empty when it is not there or cannot be read."""

    config: Mapping[str, Any] = field(default_factory=dict)
    stored_bytes: int = 0  # of its weights; 0: not known


@dataclass(frozen=True, slots=True)
class Device:
    """The largest of the GPUs that a server may take, and the share of its memory that it takes by default."""

    memory_bytes: int
    utilization: float


@cache
def read_checkpoint(directory: str) -> Checkpoint:
    """Read a model's ``config.json`` and the sizes of its weights, once per process."""
    path = Path(directory)
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        return Checkpoint(config, _stored_bytes(path)) if isinstance(config, dict) else Checkpoint()
    except (OSError, ValueError, KeyError, TypeError):
        return Checkpoint()


def _stored_bytes(path: Path) -> int:
    """Return the size of the ``*.safetensors`` files that vLLM loads; 0 when it is not clear which.

    Those of the index when there is one, as `filter_duplicate_safetensors_files` of its weight_utils.py
    takes them: some models are stored twice, in one directory.
    """
    index = path / "model.safetensors.index.json"
    if index.is_file():
        files = {path / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    else:
        files = set(path.glob("*.safetensors"))
        if len(files) > 1:
            return 0
    return sum(file.stat().st_size for file in files)


def contradiction(
    settings: Mapping[str, Value], config: Mapping[str, Any], *, flags: Mapping[str, Flag], version: str
) -> str:
    """Return which rule `settings` break, or an empty text.

    * attention heads: `verify_with_parallel_config` in vllm/config/model.py
    * tokens and sequences of a step: `verify_max_model_len` in vllm/config/scheduler.py
    * weights that are quantized already: `_verify_quantization` in vllm/config/model.py
    * tokens of a step and length of a sequence: the same; releases before 0.12 turned chunked prefill on
      whatever they were told (vllm-project/vllm issue 18547)
    """
    tp = _whole("tensor-parallel-size", settings, flags)
    heads = config.get("num_attention_heads") if "text_config" not in config else None
    overridden = any(name.partition(".")[0] == "hf-overrides" for name in settings)
    if tp and isinstance(heads, int) and heads % tp and not overridden:
        return f"{heads} attention heads cannot be shared by tensor-parallel-size {tp}"
    if not overridden and (problem := quantized_already(settings.get("quantization"), config)):
        return problem
    tokens = _whole("max-num-batched-tokens", settings, flags)
    sequences = _whole("max-num-seqs", settings, flags)
    if tokens and sequences and tokens < sequences:
        return f"max-num-batched-tokens {tokens} is less than max-num-seqs {sequences}"
    length = _whole("max-model-len", settings, flags)
    whole_prompts = settings.get("enable-chunked-prefill") is False and _release(version) >= (0, 12)
    if whole_prompts and tokens and length and tokens < length:
        return f"max-num-batched-tokens {tokens} is less than max-model-len {length} without chunked prefill"
    return ""


def quantized_already(method: Value, config: Mapping[str, Any]) -> str:
    """Return why weights cannot be loaded in 8 bits (fp8), or an empty text: those of a checkpoint in another format.

    vLLM and SGLang compare the method with the checkpoint's, and refuse another one. Other methods may be
    another name for the checkpoint's (awq_marlin for awq), so nothing is said of them.
    """
    stored = config.get("quantization_config")
    own = stored.get("quant_method") if isinstance(stored, dict) else None
    if method != "fp8" or not isinstance(own, str) or own in ("", "fp8"):
        return ""
    return f"weights that are stored as {own} cannot be quantized to fp8 as they are loaded"


def too_large(settings: Mapping[str, Value], checkpoint: Checkpoint, device: Device) -> str:
    """Return how weights and the KV cache of one sequence exceed what a server may take of each GPU, or an empty text.

    A lower bound: activations, CUDA graphs and the CUDA context come on top. vLLM takes
    ``gpu_memory_utilization`` of a device's memory (`request_memory` in vllm/v1/worker/utils.py) and refuses
    to start when the cache of one sequence of ``max_model_len`` does not fit into what the weights leave
    (`_check_enough_kv_cache_memory` in vllm/v1/core/kv_cache_utils.py). Weights and layers are spread over
    the GPUs: where the mean does not fit, one of them does not.
    """
    config = checkpoint.config
    plain = config.get("model_type") in _PLAIN and not config.keys() & {"quantization_config", "text_config"}
    if not plain or not settings.keys() <= _UNDERSTOOD or device.memory_bytes <= 0:
        return ""
    tp = _whole("tensor-parallel-size", settings, {}) or 1
    pp = _whole("pipeline-parallel-size", settings, {}) or 1
    share = settings.get("gpu-memory-utilization", device.utilization)
    if isinstance(share, bool) or not isinstance(share, int | float):
        return ""
    weights = _loaded_bytes(settings, checkpoint) // (tp * pp)
    cache_bytes = _cache_bytes(settings, config, tp=tp) // pp
    limit = share * device.memory_bytes
    if not weights or weights + cache_bytes <= limit:
        return ""
    length = settings.get("max-model-len")
    cached = f" and {cache_bytes / GIB:.2f} GiB of KV cache for one sequence of {length} tokens" if cache_bytes else ""
    return f"{weights / GIB:.2f} GiB of weights{cached} do not fit into {limit / GIB:.2f} GiB per GPU"


def _loaded_bytes(settings: Mapping[str, Value], checkpoint: Checkpoint) -> int:
    """Return the least that the weights take once they are loaded, of all GPUs together; 0 when it is not known.

    What is stored as float32 is loaded in 16 bits unless ``dtype`` says otherwise (`_resolve_auto_dtype` in
    vllm/config/model.py), and an output matrix that is the input's is not loaded.
    """
    config = checkpoint.config
    stored = _BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 4)
    wanted = _BYTES.get(str(settings.get("dtype", "auto")), 2)
    size = checkpoint.stored_bytes * min(1.0, wanted / stored)
    if config.get("tie_word_embeddings"):
        rows, columns = config.get("vocab_size"), config.get("hidden_size")
        size -= rows * columns * wanted if isinstance(rows, int) and isinstance(columns, int) else size
    return max(0, int(size))


def _cache_bytes(settings: Mapping[str, Value], config: Mapping[str, Any], *, tp: int) -> int:
    """Return what keys and values of one sequence of ``max-model-len`` take on each of `tp` GPUs, of all layers.

    ``layers * heads * (key + value) * bytes`` a token (`state_content_size_bytes` in
    vllm/v1/kv_cache_interface.py), heads shared by the GPUs but not split (`get_num_kv_heads` in
    vllm/config/model.py). 0 when any of it is not known, or a window bounds what is kept.
    """
    length = _whole("max-model-len", settings, {})
    if config.get("sliding_window") and config.get("use_sliding_window") is not False:
        return 0
    if set(config.get("layer_types") or ()) - {"full_attention"}:
        return 0
    kept = str(settings.get("kv-cache-dtype", "auto"))
    element = 2 if kept in ("auto", "bfloat16", "float16") else 1 if kept.startswith("fp8") else 0
    layers, hidden, heads = (config.get(name) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads"))
    if not (isinstance(layers, int) and isinstance(hidden, int) and isinstance(heads, int) and heads):
        return 0
    kv_heads = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or hidden // heads
    return int(layers * max(1, kv_heads // tp) * 2 * head * element * length)


def _whole(name: str, settings: Mapping[str, Value], flags: Mapping[str, Flag]) -> int:
    """Return a setting that is a whole number of at least 1, or the flag's default; 0 when it is neither."""
    value = settings.get(name, flags[name].default if name in flags else None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _release(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)
