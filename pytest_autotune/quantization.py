"""`quantization` as one value: in which precision a server keeps weights and cache, written in one spelling.

Some engines have a flag of this name, which takes the name of a method (awq, gptq): a text that names no
precision is that flag's, as it stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from pytest_autotune.problems import Problem, Problems
from pytest_autotune.spelling import nearest, show

NAME = "quantization"
_FLOATS = ("bf16", "fp16", "fp32")
PRECISIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "weights": (*_FLOATS, "fp8", "mxfp8", "int8", "int4"),
        "kv_cache": (*_FLOATS, "fp8", "fp8_e5m2", "int8", "int4", "nvfp4"),
        "attention": ("bf16", "fp16", "fp8"),
        "moe": ("fp8", "mxfp8", "mxfp4", "nvfp4", "int8", "w4afp8"),
    }
)
# vLLM's and TensorRT-LLM's docs of quantized caches: without a suffix, fp8 is e4m3.
_SPELLINGS = {
    "bfloat16": "bf16",
    **dict.fromkeys(("float16", "half"), "fp16"),
    **dict.fromkeys(("float32", "float"), "fp32"),
    "fp8_e4m3": "fp8",
}
_DEFAULT = ("default", "auto")  # of the whole value, or of one of its parts
_MARKS = {"kv": "kv_cache", "attention": "attention", "moe": "moe"}  # before a part, in a text
_HELP = "write e.g. fp8, fp8-kv-fp8 or {weights: bf16, kv_cache: fp8}; null is the engine's default"


@dataclass(frozen=True, slots=True)
class Quantization:
    """The precision of each part of a model; empty where it is the engine's default."""

    weights: str = ""
    kv_cache: str = ""
    attention: str = ""
    moe: str = ""

    def __str__(self) -> str:
        marked = [f"{mark}-{kept}" for mark, part in _MARKS.items() if (kept := getattr(self, part))]
        return "-".join((*filter(None, (self.weights,)), *marked))


PARTS = tuple(each.name for each in fields(Quantization))
PRESETS: Mapping[str, Quantization] = MappingProxyType(  # names of the earlier autotuner, which never resolved them
    {
        "kv-cache-fp8": Quantization(kv_cache="fp8"),
        "dynamic-fp8": Quantization(weights="fp8"),
        "bf16-stable": Quantization(weights="bf16", kv_cache="bf16"),
        "aggressive-moe": Quantization(kv_cache="fp8", moe="mxfp4"),
    }
)


def read_quantization(value: Any) -> Any:
    """Return the one text of a value of `quantization`; None for the engine's default; else the value, a flag's.

    Raises `ValueError` for a mapping, or a text like one of ours, that names what is no precision.
    """
    if value is None or value in _DEFAULT:
        return None
    if isinstance(value, Mapping):
        return _written(value)
    if not isinstance(value, str):
        return value
    if value in PRESETS:
        return str(PRESETS[value])
    parts = _parts_of(value)
    return value if parts is None else _written(parts)


def quantization_of(value: object) -> Quantization | None:
    """Return what a text that `read_quantization` wrote stands for; None for anything else."""
    try:
        parts = _parts_of(value) if isinstance(value, str) else None
        return None if parts is None or any(_problem_of(*part) for part in parts.items()) else Quantization(**parts)
    except ValueError:
        return None


def precision(name: str) -> str:
    """Return the one name of a precision: bf16 of bfloat16; what is none as it stands."""
    return _SPELLINGS.get(name, name)


def _written(parts: Mapping[str, Any]) -> str | None:
    if not parts:
        raise ValueError(f"an empty mapping names no precision; {_HELP}")
    problems = [Problem((part,), text) for part, name in parts.items() if (text := _problem_of(part, name))]
    if problems:
        raise Problems(problems)
    return str(Quantization(**{part: precision(name) for part, name in parts.items() if name not in _DEFAULT})) or None


def _parts_of(text: str) -> dict[str, str] | None:
    """Split a text into parts; None for one that begins with none of ours, which is the engine's own."""
    words = text.split("-")
    parts: dict[str, str] = {}
    if words[0] not in _MARKS:
        if precision(words[0]) not in PRECISIONS["weights"]:
            return None
        parts["weights"] = words.pop(0)
    if len(words) % 2 or any(mark not in _MARKS for mark in words[::2]):
        raise ValueError(f"{show(text)} is no quantization; {_HELP}")
    for mark, name in zip(words[::2], words[1::2], strict=True):
        if _MARKS[mark] in parts:
            raise ValueError(f"{show(text)} says {mark} twice; {_HELP}")
        parts[_MARKS[mark]] = name
    return parts


def _problem_of(part: str, name: Any) -> str:
    if part not in PARTS:
        return f"unknown key{nearest(part, PARTS)}; allowed: {', '.join(PARTS)}"
    if not isinstance(name, str) or (name not in _DEFAULT and precision(name) not in PRECISIONS[part]):
        hint = nearest(str(name), PRECISIONS[part])
        return f"{show(name)} is not one of {', '.join(PRECISIONS[part])}{hint}; leave it out for the engine's default"
    return ""
