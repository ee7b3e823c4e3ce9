"""How each engine's flags say what a suite can say for any engine: neutral settings, parallelism and quantization.

Where a table comes from, and what it was held against:

* vllm: the argument parser of vLLM 0.32, and ``QuantizationMethods`` and ``QuantizationConfigArgs`` of it
* sglang: ``ServerArgs`` of SGLang 0.5.23 (sglang/srt/arg_groups)
* llamacpp: ``llama-server --help`` of 2026-11
* trtllm: ``trtllm-serve --help`` of TensorRT-LLM 1.3, whose flags are written with underscores
* tgi: ``text-generation-launcher --help`` of Text Generation Inference 3
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_autotune.engines.engine import Flag
from pytest_autotune.quantization import PRECISIONS, precision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_autotune.parallelism import Parallelism
    from pytest_autotune.quantization import Quantization
    from pytest_autotune.space import Value

Settings = dict[str, Any]
# Settings of any engine, by the names that flags have. A `memory-fraction` is the share of each GPU that the server
# takes altogether, with weights, cache and what a step needs, as vLLM counts it.
NEUTRAL = (
    *("max-sequences", "max-batched-tokens", "context-length", "memory-fraction"),
    *("kv-cache-type", "eager", "prefix-cache", "graph-sizes"),
)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a share of memory is a share of, in bytes; 0 of what is not known."""

    gpu_bytes: int = 0  # of the smallest GPU
    weight_bytes: int = 0  # of the checkpoint, all GPUs together


@dataclass(frozen=True, slots=True)
class Share:
    """How a `memory-fraction` is converted: `convert` raises `ValueError` for one that leaves no room."""

    flag: str  # the engine's own, as its command line spells it
    needs_weights: bool
    convert: Callable[[float, Mapping[str, Value], Memory], Settings]

    def lacks(self, memory: Memory) -> str:
        """Say what has to be known to convert a share, and is not; else an empty text."""
        if not memory.gpu_bytes:
            return "the memory of the GPUs"
        return "the size of the weights" if self.needs_weights and not memory.weight_bytes else ""


def _nothing_to_adjust(derived: Settings, own: Mapping[str, Value]) -> Settings:  # noqa: ARG001 - the field's signature
    return derived


@dataclass(frozen=True, slots=True)
class Dialect:
    """The flags of one engine, by the names that `flag_name` gives them."""

    name: str
    renamed: Mapping[str, str]  # neutral settings whose values stay as they are
    written: Mapping[str, Callable[[Value], Settings]]  # those whose values do not
    kv_types: Mapping[str, str]  # of `kv-cache-type`, and of a quantized cache
    kv_flags: tuple[str, ...]
    divide: Callable[[Parallelism], Settings]
    quantize: Callable[[Quantization], Settings]
    degree: str = ""  # the flag of tensor parallelism that attention heads are divided by
    method: str = ""  # the flag of how weights are quantized while they are loaded
    spellings: Mapping[str, str] = field(default_factory=dict)  # of a flag with several, to the one used here
    flags: Mapping[str, Flag] = field(default_factory=dict)  # those that are not a flag and one value
    underscores: bool = False  # in the flags of its command line
    share: Share | None = None  # where a `memory-fraction` is no flag's value as it stands
    # What several neutral settings come to together, given the flags that the suite sets itself.
    adjust: Callable[[Settings, Mapping[str, Value]], Settings] = _nothing_to_adjust

    def kept(self, name: Value) -> Settings:
        """Return the flags of a cache in a precision, by its neutral or its own name."""
        if not isinstance(name, str):
            raise ValueError(f"{name!r} is not the name of a precision")
        neutral = precision(name)
        if neutral in PRECISIONS["kv_cache"] and neutral not in self.kv_types:
            raise ValueError(f"{self.name} has only {', '.join(self.kv_types)}")
        return dict.fromkeys(self.kv_flags, self.kv_types.get(neutral, name))


_MIB = 2**20


def _degrees(sizes: Parallelism, names: Mapping[str, str], *, engine: str) -> Settings:
    """Return a flag for each degree above 1, and for `tp` always; raise `ValueError` for one that there is not."""
    found = {names["tp"]: sizes.tp}
    for key in ("pp", "dp", "adp", "cp", "dcp"):
        size = getattr(sizes, key)
        if size > 1 and key not in names:
            raise ValueError(f"{engine} has no {key}; it divides by {', '.join(names)}")
        if size > 1:
            found[names[key]] = size
    return found


def _divides(of: str, size: int, by: str, divisor: int) -> None:
    if size % divisor:
        raise ValueError(f"{of} {size} cannot be divided by {by} {divisor}")


def _refuse_parts(engine: str, asked: Quantization, **tables: Mapping[str, str] | str) -> None:
    """Raise `ValueError` for a precision that is not in the table of its part; text says why there is no table."""
    for part, table in tables.items():
        name = getattr(asked, part)
        if not name:
            continue
        if isinstance(table, str):
            raise ValueError(f"{part} {name}: {engine} {table}")
        if name not in table:
            raise ValueError(f"{part} {name}: {engine} has only {', '.join(table)}")


_FOLLOWS_CACHE = "has no flag for it: attention is computed in the precision of the KV cache or of the weights"
_NO_MOE = "has no flag for the experts alone"
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def _vllm_divide(sizes: Parallelism) -> Settings:
    names = {
        "tp": "tensor-parallel-size",
        "pp": "pipeline-parallel-size",
        "dp": "data-parallel-size",
        "cp": "prefill-context-parallel-size",
        "dcp": "decode-context-parallel-size",
    }
    found = _degrees(sizes, names, engine="vllm")
    if sizes.cp == 1:  # `ParallelConfig._validate_parallel_config`: it takes the GPUs of tp
        _divides("tp", sizes.tp, "dcp", sizes.dcp)
    if sizes.ep is False:
        return found
    every = sizes.tp * sizes.dp * sizes.cp
    if sizes.ep not in (True, every):
        raise ValueError(f"vllm spreads experts over all {every} GPUs of tp, dp and cp, not over {sizes.ep}; write ep")
    return {**found, "enable-expert-parallel": True}


_VLLM_KV = {
    **_DTYPES,
    "fp8": "fp8",
    "fp8_e5m2": "fp8_e5m2",
    "int8": "int8_per_token_head",
    "int4": "int4_per_token_head",
    "nvfp4": "nvfp4",
}
del _VLLM_KV["fp32"]
_VLLM_WEIGHTS = {**_DTYPES, "fp8": "fp8", "mxfp8": "mxfp8"}
_VLLM_LINEAR = {"fp8": "fp8_per_tensor", "mxfp8": "mxfp8"}
_VLLM_MOE = {
    "fp8": "fp8_per_tensor",
    "mxfp8": "mxfp8",
    "mxfp4": "mxfp4",
    "nvfp4": "nvfp4_per_token",
    "int8": "int8_per_channel_weight_only",
}


def _vllm_quantize(asked: Quantization) -> Settings:
    _refuse_parts("vllm", asked, weights=_VLLM_WEIGHTS, kv_cache=_VLLM_KV, attention=_FOLLOWS_CACHE, moe=_VLLM_MOE)
    found: Settings = {}
    if asked.weights in _DTYPES:
        found["dtype"] = _DTYPES[asked.weights]
    elif asked.weights:
        found["quantization"] = asked.weights
    if asked.moe:
        linear = {"linear": _VLLM_LINEAR[asked.weights]} if asked.weights in _VLLM_LINEAR else {}
        found |= {"quantization": "online", "quantization-config": {**linear, "moe": _VLLM_MOE[asked.moe]}}
    return found | ({"kv-cache-dtype": _VLLM_KV[asked.kv_cache]} if asked.kv_cache else {})


VLLM = Dialect(
    name="vllm",
    renamed={
        "max-sequences": "max-num-seqs",
        "max-batched-tokens": "max-num-batched-tokens",
        "context-length": "max-model-len",
        "memory-fraction": "gpu-memory-utilization",
        "eager": "enforce-eager",
        "prefix-cache": "enable-prefix-caching",
        "graph-sizes": "cudagraph-capture-sizes",
    },
    written={},
    kv_types=_VLLM_KV,
    kv_flags=("kv-cache-dtype",),
    divide=_vllm_divide,
    quantize=_vllm_quantize,
    degree="tensor-parallel-size",
    method="quantization",
    flags={
        "enforce-eager": Flag("enforce-eager", boolean=True, negatable=True),
        "enable-prefix-caching": Flag("enable-prefix-caching", boolean=True, negatable=True),
        "cudagraph-capture-sizes": Flag("cudagraph-capture-sizes", many=True),
    },
)


def _sglang_divide(sizes: Parallelism) -> Settings:
    names = {"tp": "tp-size", "pp": "pp-size", "dp": "dp-size", "adp": "attn-dp-size", "dcp": "dcp-size"}
    found = _degrees(sizes, names, engine="sglang")
    _divides("tp", sizes.tp, "adp", sizes.adp)  # `_handle_data_parallelism` of arg_groups/parallel_hook.py
    _divides("tp", sizes.tp, "dcp", sizes.dcp)
    experts = sizes.tp if sizes.ep is True else int(sizes.ep)
    if experts:
        _divides("tp", sizes.tp, "ep", experts)
        found["ep-size"] = experts
    return found


# Below so many GiB: tokens of a prefill, and sequences of the largest graph, with few GPUs and with many.
_SGLANG_DEFAULTS: tuple[tuple[float, int, tuple[int, int]], ...] = (
    (20, 2048, (8, 8)),
    (35, 4096, (48, 160)),
    (60, 4096, (32, 160)),
    (90, 8192, (256, 512)),
    (160, 8192, (256, 512)),
    (float("inf"), 16384, (512, 512)),
)
_SGLANG_WIDE = 4  # many


def _sglang_share(share: float, settings: Mapping[str, Value], memory: Memory) -> Settings:
    """Take what SGLang reserves for a step and for graphs off the share: its fraction is of weights and cache alone.

    The reserve is its own estimate (`handle_gpu_memory_settings` of arg_groups/memory_hook.py), with its
    defaults by the size of the GPU where the suite leaves them open.
    """
    gpu_mib = memory.gpu_bytes / _MIB
    tp, pp = (size if isinstance(size := settings.get(name), int) else 1 for name in ("tp-size", "pp-size"))
    small, graphed = next((tokens, sizes) for most, tokens, sizes in _SGLANG_DEFAULTS if gpu_mib < most * 1024)
    tokens = settings.get("chunked-prefill-size")
    tokens = tokens if isinstance(tokens, int) and tokens > 0 else small
    graphs = 0 if settings.get("disable-cuda-graph") else 2 * graphed[tp >= _SGLANG_WIDE]
    reserved_mib = 512 + 1.5 * max(tokens, 2048) + tp * pp / 8 * 1024 + graphs
    if gpu_mib > 60 * 1024:
        reserved_mib = max(reserved_mib, 10 * 1024)
    left = round(share - reserved_mib / gpu_mib, 3)
    if left <= 0:
        problem = (
            f"{share:g} of {gpu_mib / 1024:.0f} GiB is less than the {reserved_mib / 1024:.1f} GiB that a step takes"
        )
        raise ValueError(f"{problem}; write more")
    return {"mem-fraction-static": left}


_SGLANG_KV = {"bf16": "bf16", "fp8": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2", "nvfp4": "nvfp4"}
_SGLANG_WEIGHTS = {**_DTYPES, "fp8": "fp8", "mxfp8": "mxfp8"}
_SGLANG_MOE = {"mxfp4": "mxfp4", "w4afp8": "w4afp8"}  # of QUANTIZATION_CHOICES those that leave linear layers alone


def _sglang_quantize(asked: Quantization) -> Settings:
    _refuse_parts(
        "sglang", asked, weights=_SGLANG_WEIGHTS, kv_cache=_SGLANG_KV, attention=_FOLLOWS_CACHE, moe=_SGLANG_MOE
    )
    found: Settings = {}
    if asked.weights in _DTYPES:
        found["dtype"] = _DTYPES[asked.weights]
    elif asked.weights and asked.moe:
        raise ValueError(f"moe {asked.moe}: sglang has one quantization; leave out weights {asked.weights}, or moe")
    elif asked.weights:
        found["quantization"] = asked.weights
    if asked.moe:
        found["quantization"] = _SGLANG_MOE[asked.moe]
    return found | ({"kv-cache-dtype": _SGLANG_KV[asked.kv_cache]} if asked.kv_cache else {})


SGLANG = Dialect(
    name="sglang",
    renamed={
        "max-sequences": "max-running-requests",
        "max-batched-tokens": "chunked-prefill-size",
        "context-length": "context-length",
        "graph-sizes": "cuda-graph-bs-decode",
    },
    written={
        "eager": lambda value: {"disable-cuda-graph": True} if value else {},
        "prefix-cache": lambda value: {} if value else {"disable-radix-cache": True},
    },
    kv_types=_SGLANG_KV,
    kv_flags=("kv-cache-dtype",),
    divide=_sglang_divide,
    quantize=_sglang_quantize,
    degree="tp-size",
    method="quantization",
    spellings={
        **dict.fromkeys(("tensor-parallel-size", "tp"), "tp-size"),
        **dict.fromkeys(("pipeline-parallel-size", "pp"), "pp-size"),
        **dict.fromkeys(("data-parallel-size", "dp"), "dp-size"),
        **dict.fromkeys(("expert-parallel-size", "ep"), "ep-size"),
        "attention-data-parallel-size": "attn-dp-size",
        "decode-context-parallel-size": "dcp-size",
    },
    flags={"cuda-graph-bs-decode": Flag("cuda-graph-bs-decode", many=True)},
    share=Share("mem-fraction-static", needs_weights=False, convert=_sglang_share),
)


def _llamacpp_divide(sizes: Parallelism) -> Settings:
    """Split by rows or by layers, evenly over as many devices: a server takes all that it sees unless it is told."""
    if sizes.tp > 1 and sizes.pp > 1:
        raise ValueError(f"{sizes}: llamacpp divides by layers (pp) or by rows (tp), not by both")
    found = _degrees(sizes, {"tp": "split-mode", "pp": "split-mode"}, engine="llamacpp")
    if sizes.ep:
        raise ValueError("llamacpp has no ep; it divides by tp, pp")
    number = max(sizes.tp, sizes.pp)
    if number == 1:
        return {"split-mode": "none"}
    return {**found, "split-mode": "row" if sizes.tp > 1 else "layer", "tensor-split": ",".join("1" * number)}


_LLAMACPP_KV = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "q8_0", "int4": "q4_0"}


def _llamacpp_quantize(asked: Quantization) -> Settings:
    files = "has the weights of the file; choose a GGUF of that precision as model:"
    _refuse_parts("llamacpp", asked, weights=files, kv_cache=_LLAMACPP_KV, attention=_FOLLOWS_CACHE, moe=files)
    return dict.fromkeys(("cache-type-k", "cache-type-v"), _LLAMACPP_KV[asked.kv_cache]) if asked.kv_cache else {}


def _llamacpp_adjust(derived: Settings, own: Mapping[str, Value]) -> Settings:
    """Return the context of all sequences: with a number of them, it is divided (ggml-org/llama.cpp issue 11681)."""
    sequences = own.get("parallel", derived.get("parallel"))
    divided = isinstance(sequences, int) and sequences > 1 and own.get("kv-unified") is not True
    if "ctx-size" not in derived or not divided:
        return derived
    return {**derived, "ctx-size": derived["ctx-size"] * sequences}


LLAMACPP = Dialect(
    name="llamacpp",
    renamed={"max-sequences": "parallel", "max-batched-tokens": "batch-size", "context-length": "ctx-size"},
    written={"prefix-cache": lambda value: {"cache-prompt" if value else "no-cache-prompt": True}},
    kv_types=_LLAMACPP_KV,
    kv_flags=("cache-type-k", "cache-type-v"),
    divide=_llamacpp_divide,
    quantize=_llamacpp_quantize,
    adjust=_llamacpp_adjust,
)


def _trtllm_divide(sizes: Parallelism) -> Settings:
    found = _degrees(sizes, {"tp": "tp-size", "pp": "pp-size", "cp": "cp-size"}, engine="trtllm")
    experts = sizes.tp if sizes.ep is True else int(sizes.ep)
    if experts:
        _divides("tp", sizes.tp, "ep", experts)
        found["ep-size"] = experts
    return found


def _trtllm_share(share: float, settings: Mapping[str, Value], memory: Memory) -> Settings:
    """Return the share of what is left beside the weights, which is what TensorRT-LLM's fraction is of.

    Buffers of a step count as left; the weights are spread evenly over tp and pp.
    """
    tp, pp = (size if isinstance(size := settings.get(name), int) else 1 for name in ("tp-size", "pp-size"))
    weights = memory.weight_bytes / (tp * pp)
    cache, left = share * memory.gpu_bytes - weights, memory.gpu_bytes - weights
    if cache <= 0:
        problem = f"{share:g} of {memory.gpu_bytes / 2**30:.0f} GiB does not hold {weights / 2**30:.1f} GiB of weights"
        raise ValueError(f"{problem}; write more, or divide the model over more GPUs")
    return {"free-gpu-memory-fraction": round(cache / left, 3)}


_TRTLLM_KV = {"fp8": "fp8", "nvfp4": "nvfp4"}


def _trtllm_quantize(asked: Quantization) -> Settings:
    stored = "has the weights of the checkpoint; serve one that is quantized as model:"
    _refuse_parts("trtllm", asked, weights=stored, kv_cache=_TRTLLM_KV, attention=_FOLLOWS_CACHE, moe=stored)
    return {"kv-cache-dtype": _TRTLLM_KV[asked.kv_cache]} if asked.kv_cache else {}


TRTLLM = Dialect(
    name="trtllm",
    renamed={
        "max-sequences": "max-batch-size",
        "max-batched-tokens": "max-num-tokens",
        "context-length": "max-seq-len",
    },
    written={},
    kv_types=_TRTLLM_KV,
    kv_flags=("kv-cache-dtype",),
    divide=_trtllm_divide,
    quantize=_trtllm_quantize,
    degree="tp-size",
    spellings={
        "tensor-parallel-size": "tp-size",
        "pipeline-parallel-size": "pp-size",
        "context-parallel-size": "cp-size",
        "moe-expert-parallel-size": "ep-size",
        "kv-cache-free-gpu-memory-fraction": "free-gpu-memory-fraction",
    },
    underscores=True,
    share=Share("free_gpu_memory_fraction", needs_weights=True, convert=_trtllm_share),
)


def _tgi_divide(sizes: Parallelism) -> Settings:
    if sizes.ep:
        raise ValueError("tgi has no ep; it divides by tp")
    return _degrees(sizes, {"tp": "num-shard"}, engine="tgi")


_TGI_KV = {"fp8": "fp8_e4m3fn", "fp8_e5m2": "fp8_e5m2"}
_TGI_WEIGHTS = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp8": "fp8",
    "int8": "bitsandbytes",
    "int4": "bitsandbytes-nf4",
}


def _tgi_quantize(asked: Quantization) -> Settings:
    _refuse_parts("tgi", asked, weights=_TGI_WEIGHTS, kv_cache=_TGI_KV, attention=_FOLLOWS_CACHE, moe=_NO_MOE)
    flag = "dtype" if asked.weights in _DTYPES else "quantize"
    found = {flag: _TGI_WEIGHTS[asked.weights]} if asked.weights else {}
    return found | ({"kv-cache-dtype": _TGI_KV[asked.kv_cache]} if asked.kv_cache else {})


TGI = Dialect(
    name="tgi",
    renamed={
        "max-sequences": "max-batch-size",
        "max-batched-tokens": "max-batch-prefill-tokens",
        "context-length": "max-total-tokens",
        "memory-fraction": "cuda-memory-fraction",
    },
    written={
        # `--cuda-graphs 0` switches them off.
        "eager": lambda value: {"cuda-graphs": "0"} if value else {},
        "graph-sizes": lambda value: {"cuda-graphs": ",".join(map(str, value))},
    },
    kv_types=_TGI_KV,
    kv_flags=("kv-cache-dtype",),
    divide=_tgi_divide,
    quantize=_tgi_quantize,
    degree="num-shard",
    method="quantize",
)

DIALECTS: Mapping[str, Dialect] = MappingProxyType({each.name: each for each in (VLLM, SGLANG, LLAMACPP, TRTLLM, TGI)})
