"""How the accuracy gate is written in a suite file: what is asked, and how much may be lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from pytest_autotune import units
from pytest_autotune.fields import read_mapping
from pytest_autotune.problems import Collector
from pytest_autotune.spelling import show

OFF = "none"
_KEYS = ("prompts", "least", "max_tokens")
_LONGEST = 4096  # tokens of one answer


class AccuracyGate(BaseModel):
    """`accuracy:` what servers that may be less exact than their checkpoint are asked before they are loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: str | None = None  # file, relative to the suite's; None: the shipped sanity set
    least: float = 0.95  # share of what the reference answers rightly; of 24 prompts one may be lost
    max_tokens: int = 32  # of one answer


def read_accuracy(value: Any) -> AccuracyGate | None:
    """Read `accuracy:`, a share, a mapping, or ``none`` for no gate at all."""
    if value == OFF:
        return None
    if not isinstance(value, Mapping):
        return AccuracyGate(least=_least(value))
    read_mapping(value, keys=_KEYS)
    collector = Collector()
    readers = {"prompts": _prompts, "least": _least, "max_tokens": _max_tokens}
    found = {key: collector.read((key,), readers[key], written) for key, written in value.items()}
    collector.finish()
    return AccuracyGate(**found)


def _least(value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number and not (isinstance(value, str) and any(map(str.isdigit, value))):
        hint = "write none, a share such as 95%, or {prompts: prompts.jsonl, least: 95%}"
        raise ValueError(f"{show(value)} is no accuracy; {hint}")
    share = units.percentage(value)
    if not 0 < share <= 1:
        raise ValueError(f"{show(value)} is not above 0% and at most 100%; write e.g. 95%, or accuracy: {OFF}")
    return share


def _prompts(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"{show(value)} is not the name of a file; write e.g. prompts.jsonl")
    return value


def _max_tokens(value: Any) -> int:
    number = units.count(value, least=1)
    if number > _LONGEST:
        raise ValueError(f"{show(value)} is more than {_LONGEST}, which is no short answer; write e.g. 32")
    return number


_SHARE = {"type": ["string", "number"], "examples": ["95%"]}
ACCURACY_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"const": OFF},
        _SHARE,
        {
            "type": "object",
            "properties": {
                "prompts": {
                    "type": "string",
                    "minLength": 1,
                    "description": "File with one prompt per line as JSON. Default: the shipped sanity set.",
                    "examples": ["prompts.jsonl"],
                },
                "least": {
                    **_SHARE,
                    "default": f"{AccuracyGate().least:.0%}",
                    "description": "Share of the reference's right answers that a configuration must keep.",
                },
                "max_tokens": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": _LONGEST,
                    "default": AccuracyGate().max_tokens,
                    "description": "Length of one answer.",
                },
            },
            "additionalProperties": False,
        },
    ]
}
