"""`quant_config` and `parallel_config` of a task file, as values of `quantization` and `parallelism`.

Presets and fields are those of inference-autotuner at c86a814 (src/utils/quantization_mapper.py,
parallel_mapper.py, parallel_integration.py): the earlier system described them, but ran every preset with
the same flags.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pytest_autotune.spelling import nearest, show

if TYPE_CHECKING:
    from pytest_autotune.problems import Collector

AUTO = "auto"  # what the engine and the checkpoint make of it
_FIELDS = MappingProxyType(
    {
        "gemm_dtype": "weights",
        "kvcache_dtype": "kv_cache",
        "attention_dtype": "attention",
        "moe_dtype": "moe",
    }
)
_TYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}  # else they are called alike
_QUANTIZED = {
    "default": {},
    "kv-cache-fp8": {"kvcache_dtype": "fp8_e5m2"},
    "dynamic-fp8": {"gemm_dtype": "fp8", "kvcache_dtype": "fp8_e5m2", "attention_dtype": "fp8", "moe_dtype": "fp8"},
    "bf16-stable": {"gemm_dtype": "bfloat16", "kvcache_dtype": "fp8_e5m2"},
    "aggressive-moe": {
        "gemm_dtype": "bfloat16",
        "kvcache_dtype": "fp8_e5m2",
        "attention_dtype": "fp8",
        "moe_dtype": "w4afp8",
    },
}
_SIZES = ("tp", "pp", "dp", "dcp", "cp", "moe_tp", "moe_ep", "moe_cluster", "moe_dense_tp")
_EXPERTS = "enable_expert_parallel"
_DEGREES = {
    "single-gpu": {"tp": 1},
    "high-throughput": {"dp": 8},
    "large-model-tp": {"tp": 8},
    "large-model-tp-pp": {"tp": 8, "pp": 2},
    "moe-optimized": {"tp": 2, "dp": 8, _EXPERTS: True},
    "long-context": {"tp": 4, "dcp": 4},
    "balanced": {"tp": 2, "dp": 4},
}
_OWN_DEGREES = {"sglang": {"moe-optimized": {"tp": 2, "dp": 8, "moe_dense_tp": 2}}}


def quantizations(value: Any, collector: Collector) -> list[Any]:
    """Return the values of `quantization` that a `quant_config` comes to, in its order; None where all is automatic.

    Problems go to `collector`. A field may be a list; several make every combination. What is beside a preset
    overrides its fields.
    """
    given = _mapping(value, "quant_config", collector)
    _refuse_unknown(given, (*_FIELDS, "preset", "presets"), "quant_config", collector)
    found = []
    for preset in _named(given, _QUANTIZED, "quant_config", collector):
        chosen = {**preset, **{name: each for name, each in given.items() if name in _FIELDS}}
        found += [_quantized(combination) for combination in _combinations(chosen)]
    return _distinct(found)


def degrees(value: Any, engine: str, collector: Collector) -> list[dict[str, Any]]:
    """Return the values of `parallelism` that a `parallel_config` comes to, in its order; one GPU is ``{tp: 1}``."""
    given = _mapping(value, "parallel_config", collector)
    known = (*_SIZES, _EXPERTS)
    _refuse_unknown(given, (*known, "preset", "presets"), "parallel_config", collector)
    presets = {**_DEGREES, **_OWN_DEGREES.get(engine, {})}
    found = []
    for preset in _named(given, presets, "parallel_config", collector):
        chosen = {**preset, **{name: each for name, each in given.items() if name in known}}
        found += [_degree(combination) for combination in _combinations(chosen)]
    return _distinct(found)


def _quantized(fields: Mapping[str, str]) -> dict[str, str] | None:
    written = {name: value for name, value in fields.items() if value is not None and value != AUTO}
    return {_FIELDS[name]: _TYPES.get(value, value) for name, value in written.items()} or None


def _degree(fields: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {name: value for name, value in fields.items() if name in _SIZES and value not in (None, 1)}
    experts = {"ep": True} if fields.get(_EXPERTS) else {}
    return {**sizes, **experts} or {"tp": 1}


def _named(
    given: Mapping[str, Any], presets: Mapping[str, Mapping[str, Any]], key: str, collector: Collector
) -> list[Mapping[str, Any]]:
    """Return the presets that are named; nothing at all where none is."""
    found: list[Mapping[str, Any]] = []
    written = False
    for word in ("preset", "presets"):
        names = given.get(word)
        for name in names if isinstance(names, list) else [] if names is None else [names]:
            written = True
            if name in presets:
                found.append(presets[name])
            else:
                hint = nearest(str(name), presets)
                collector.note((key, word), f"{show(name)} is no preset{hint}; there are {', '.join(presets)}")
    return found if written else [{}]


def _combinations(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return every combination of the values that are lists; one that is empty is left out, as a parameter is."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in fields.items() if value != []}
    return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]


def _distinct(values: list[Any]) -> list[Any]:
    return [value for index, value in enumerate(values) if value not in values[:index]]


def _mapping(value: Any, key: str, collector: Collector) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    if value is not None:
        collector.note((key,), f"{show(value)} is not a mapping")
    return {}


def _refuse_unknown(given: Mapping[str, Any], known: tuple[str, ...], key: str, collector: Collector) -> None:
    for name in given:
        if name not in known:
            collector.note((key, name), f"is not known{nearest(name, known)}; there are {', '.join(known)}")
