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

from pytest_autotune.parallelism import Parallelism
from pytest_autotune.quantization import Quantization, precision
from pytest_autotune.spelling import nearest, show

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_autotune.engines.dialects import Dialect
    from pytest_autotune.problems import Collector

    Remark = Callable[[str, str], None]  # of a place in the task, what became of it

AUTO = "auto"  # what the engine and the checkpoint make of it
_FIELDS = MappingProxyType(
    {
        "gemm_dtype": "weights",
        "kvcache_dtype": "kv_cache",
        "attention_dtype": "attention",
        "moe_dtype": "moe",
    }
)
_TYPES = {"sglang": {("kvcache_dtype", "fp8"): "fp8_e5m2"}}  # what the earlier system made of a name for one engine
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
_SIZES = ("tp", "pp", "dp", "dcp", "cp")
_WITHOUT = ("moe_tp", "moe_ep", "moe_cluster", "moe_dense_tp")
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


def quantizations(value: Any, dialect: Dialect, collector: Collector, remark: Remark) -> list[Any]:
    """Return the values of `quantization` that a `quant_config` comes to, in its order; None where all is automatic.

    A field may be a list; several make every combination. What is beside a preset overrides its fields. Problems go
    to `collector`, and to `remark` what the engine has no flag for: the earlier system left that out as well.
    """
    given = _mapping(value, "quant_config", collector)
    _refuse_unknown(given, (*_FIELDS, "preset", "presets"), "quant_config", collector)
    found = []
    for preset in _named(given, _QUANTIZED, "quant_config", collector):
        own = {name: each for name, each in given.items() if name in _FIELDS}
        _refuse(own, _no_precision, "quant_config", collector)
        chosen = {**preset, **own}
        found += [_quantized(combination, dialect, remark) for combination in _combinations(chosen)]
    return _distinct(found)


def degrees(value: Any, dialect: Dialect, collector: Collector, remark: Remark) -> list[dict[str, Any]]:
    """Return the values of `parallelism` that a `parallel_config` comes to, in its order; one GPU is ``{tp: 1}``.

    Problems go to `collector`, and to `remark` what the engine cannot do.
    """
    given = _mapping(value, "parallel_config", collector)
    known = (*_SIZES, *_WITHOUT, _EXPERTS)
    _refuse_unknown(given, (*known, "preset", "presets"), "parallel_config", collector)
    presets = {**_DEGREES, **_OWN_DEGREES.get(dialect.name, {})}
    found = []
    for preset in _named(given, presets, "parallel_config", collector):
        own = {name: each for name, each in given.items() if name in known}
        _refuse(own, _no_degree, "parallel_config", collector)
        chosen = {**preset, **own}
        for combination in _combinations(chosen):
            degree = _degree(combination, remark)
            try:
                dialect.divide(Parallelism(**degree))
                found.append(degree)
            except ValueError as error:
                remark("parallel_config", f"{_shown(degree)} is left out: {error}")
    return _distinct(found)


def _refuse(fields: dict[str, Any], wrong: Callable[[str, Any], str], key: str, collector: Collector) -> None:
    """Note the values that are none, and take their fields out."""
    for name, written in list(fields.items()):
        values = written if isinstance(written, list) else [written]
        problems = [problem for value in values if value is not None and (problem := wrong(name, value))]
        for problem in problems:
            collector.note((key, name), problem)
        if problems:
            del fields[name]


def _no_precision(_: str, value: Any) -> str:
    return "" if isinstance(value, str) else f"{show(value)} is not the name of a precision, e.g. fp8"


def _no_degree(name: str, value: Any) -> str:
    if name == _EXPERTS:
        return "" if isinstance(value, bool) else f"{show(value)} is not true or false"
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    return "" if whole else f"{show(value)} is not a whole number of at least 1"


def _quantized(fields: Mapping[str, str], dialect: Dialect, remark: Remark) -> dict[str, str] | None:
    kept = {}
    for name, value in fields.items():
        if value is None or value == AUTO:
            continue
        part, name_here = _FIELDS[name], _TYPES.get(dialect.name, {}).get((name, value), precision(value))
        try:
            dialect.quantize(Quantization(**{part: name_here}))
            kept[part] = name_here
        except ValueError as error:
            remark(f"quant_config.{name}", f"{value} is left out, as it was: {error}")
    return kept or None


def _degree(fields: Mapping[str, Any], remark: Remark) -> dict[str, Any]:
    for name in fields:
        if name in _WITHOUT:
            remark(f"parallel_config.{name}", "is left out: parallelism does not say it; set the engine's own flag")
    sizes = {name: value for name, value in fields.items() if name in _SIZES and value not in (None, 1)}
    experts = {"ep": True} if fields.get(_EXPERTS) else {}
    return {**sizes, **experts} or {"tp": 1}


def _shown(degree: Mapping[str, Any]) -> str:
    return "-".join(name if size is True else f"{name}{size}" for name, size in degree.items())


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
            if isinstance(name, str) and name in presets:
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
