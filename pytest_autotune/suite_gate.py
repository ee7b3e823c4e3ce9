"""How the gate is written in a suite file: by how much a metric may get worse, and what follows from what is open."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping  # noqa: TC003 - pydantic looks at the fields of `Terms`
from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_autotune import units
from pytest_autotune.fields import read_mapping
from pytest_autotune.metrics import worse_when
from pytest_autotune.notation import read_metric
from pytest_autotune.problems import Collector
from pytest_autotune.spelling import nearest, show

SHORT = {"throughput": "output_throughput"}  # what is written most
OPEN = ("fail", "warn")
FEWEST_PAIRS = 4  # before which nothing can be told


@dataclass(frozen=True, slots=True)
class Terms:
    """`gate:` by how much each metric may get worse; the others are not judged.

    That is relative to the baseline, or of a share as it is (0.01: 1 pp).

    `inconclusive` says what follows where it cannot be told whether something got worse; None where the suite does not.
    """

    tolerances: Mapping[str, float] = field(default_factory=dict)  # above 0, whichever direction is worse
    inconclusive: Literal["fail", "warn"] | None = None
    pairs: int = 10  # at most, of a paired comparison


def read_gate(value: Any) -> Terms:
    """Read `gate:`, a tolerance for each metric such as ``throughput: -5%`` or ``ttft.p99: +10%``, and options."""
    collector = Collector()
    tolerances: dict[str, float] = {}
    options: dict[str, Any] = {}
    for name, written in read_mapping(value).items():
        if name in _OPTIONS:
            options[name] = collector.read((name,), _OPTIONS[name], written)
            continue
        metric = SHORT.get(name, name)
        if metric in tolerances:
            collector.note(
                (name,), f"is another name of {metric}, which has a tolerance already; remove one of the two"
            )
        tolerances[metric] = collector.read((name,), _read_tolerance, metric, written)
    collector.finish()
    return Terms(tolerances, **options)


def _read_open(value: Any) -> str:
    if value not in OPEN:
        raise ValueError(f"{show(value)} is not one of {', '.join(OPEN)}{nearest(str(value), OPEN)}")
    return str(value)


def _read_pairs(value: Any) -> int:
    return units.count(value, least=FEWEST_PAIRS)


_OPTIONS: dict[str, Callable[[Any], Any]] = {"inconclusive": _read_open, "pairs": _read_pairs}


def _read_tolerance(metric: str, value: Any) -> float:
    try:
        read_metric(metric)
    except ValueError:
        if hint := nearest(metric, (*SHORT, *_OPTIONS)):
            raise ValueError(f"{metric!r} is neither a metric nor an option of the gate{hint}") from None
        raise
    side = worse_when(metric)
    if side is None:
        raise ValueError(f"{metric!r} is neither better nor worse when it changes; choose a latency, a rate or a cost")
    sign, text = _signed(value)
    worse, written = ("-", "fall") if side == "smaller" else ("+", "rise")
    if sign not in ("", worse):
        raise ValueError(f"{show(value)}: {metric} gets worse when it {written}s; write {worse}{text}")
    bounded = worse == "-" or not isinstance(text, str)  # +10 without a unit is 10 %, not 1000 %
    share = units.percentage(text, most=1.0 if bounded else None)
    if share <= 0 or (worse == "-" and share >= 1):
        limit = " and below 100%" if worse == "-" else ""
        raise ValueError(f"{show(value)} is no tolerance above 0%{limit}; write e.g. {worse}5%")
    return share


def _signed(value: Any) -> tuple[str, Any]:
    """Return the sign that a tolerance is written with, and the rest."""
    if isinstance(value, str) and (found := re.fullmatch(r"\s*([+-])\s*(.*)", value)):
        return found[1], found[2]
    if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
        return "-", -value
    return "", value


_TOLERANCE = {
    "anyOf": [
        {"type": "string", "pattern": r"^\s*[+-]?\s*[0-9.]+\s*%\s*$"},
        {"type": "number", "exclusiveMinimum": -1, "exclusiveMaximum": 1},
    ],
    "description": "By how much the metric may get worse than its baseline.",
    "examples": ["-5%", "+10%"],
}
GATE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "inconclusive": {
            "enum": list(OPEN),
            "description": "What follows where it cannot be told whether a metric got worse. Default: fail for a "
            "metric with a tolerance; without any tolerance the gate is skipped then.",
        },
        "pairs": {
            "type": "integer",
            "minimum": FEWEST_PAIRS,
            "default": Terms().pairs,
            "description": "Of --autotune-compare: deploy baseline and candidate at most so often.",
        },
        **dict.fromkeys(SHORT, _TOLERANCE),
    },
    "additionalProperties": _TOLERANCE,
}
