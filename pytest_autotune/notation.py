"""How parameters, limits and objectives are written in a suite file, turned into runtime values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from pytest_autotune import units
from pytest_autotune.constraints import Constraint
from pytest_autotune.fields import (
    SETTING,
    SUITE_NAME,
    read_above_zero,
    read_flag,
    read_mapping,
    read_setting_name,
    read_suite_name,
)
from pytest_autotune.metrics import (
    COSTS,
    IN_FLIGHT,
    IN_FLIGHT_STATISTICS,
    PER_GPU,
    RATES,
    SHARES,
    STATISTICS,
    TIMES,
    parse_metric,
)
from pytest_autotune.presets.merging import MERGES
from pytest_autotune.problems import Collector
from pytest_autotune.slo import Limit, Tier
from pytest_autotune.space import Choice, Float, Forbidden, Integer, Parameter, Value, canonical
from pytest_autotune.spelling import nearest, show

MOST_LEVELS = 10_000  # of one `grid:`
MOST_SPREAD = 0.5  # and not that much: a limit would hold at about half of its bound only

OWN_TIER = "slo"  # what the limits that decide are called beside those of the tiers

OF_ALL_TIERS = ("steepness", "confidence", "spread")
_LIMIT_KEYS = ("max", "min", "hard_fail", "fail_ratio", "weight")
_FORMS = {"int": ("log", "grid", "step", "when"), "float": ("log", "grid", "step", "when"), "choice": ("when",)}
_FORMS_HELP = "write a list of values, {int: [low, high]}, {float: [low, high]} or {choice: [...]}"


class Limits(NamedTuple):
    """What `slo:` says."""

    limits: tuple[Limit, ...]
    steepness: float | None = None
    confidence: float | None = None
    spread: float | None = None


def read_parameters(value: Any) -> tuple[Parameter, ...]:
    """Read `parameters:`, one `Parameter` for each key."""
    collector = Collector()
    parameters = []
    for name, written in read_mapping(value).items():
        collector.read((name,), read_setting_name, name)
        parameters.append(collector.read((name,), _read_parameter, name, written))
    collector.finish()
    return tuple(parameters)


def _read_parameter(name: str, value: Any) -> Parameter:
    if isinstance(value, Mapping):
        form = next((form for form in _FORMS if form in value), None)
        if form is None:
            hint = nearest(next(iter(value)), _FORMS) if value else ""
            raise ValueError(f"{show(value)} is neither a list nor a range{hint}; {_FORMS_HELP}")
        read_mapping(value, keys=(form, *_FORMS[form]))
        collector = Collector()
        when = collector.read(("when",), _read_when, value["when"]) if "when" in value else None
        if form == "choice":
            parameter: Parameter = collector.read(("choice",), _read_choice, name, value["choice"])
        else:
            parameter = collector.read((), _read_range, name, value, whole=form == "int")
        collector.finish()
        return replace(parameter, when=when)
    if value is None:
        raise ValueError(f"has no values; {_FORMS_HELP}")
    if not isinstance(value, list):
        raise ValueError(f"{show(value)} is one value, not a list; move it to fixed: to set it without tuning it")
    return _read_choice(name, value)


def _read_choice(name: str, values: Any) -> Choice:
    if not isinstance(values, list):
        raise ValueError(f"{show(values)} is not a list of values")
    if not values:
        raise ValueError("an empty list leaves nothing to try; list values or remove the parameter")
    collector = Collector()
    seen: set[str] = set()
    for index, value in enumerate(values):
        identity = canonical({"": value})
        if identity in seen:
            collector.note((index,), f"{show(value)} is listed twice")
        seen.add(identity)
    collector.finish()
    return Choice(name, tuple(values))


def _read_range(name: str, value: Mapping[str, Value], *, whole: bool) -> Integer | Float:
    collector = Collector()
    form = "int" if whole else "float"
    bounds = collector.read((form,), _read_bounds, value[form], whole=whole)
    log = collector.read(("log",), read_flag, value.get("log", False))
    levels = collector.read(("grid",), _read_levels, value["grid"]) if "grid" in value else None
    step = collector.read(("step",), _read_step, value["step"], whole=whole) if "step" in value else None
    if log and "step" in value:
        collector.note(("log",), "a logarithmic range has no step; write grid: N instead of step:")
    if "grid" in value and "step" in value:
        collector.note(("step",), "give either grid: or step:, not both")
    if log and bounds and bounds[0] <= 0:
        collector.note((form,), f"a logarithmic range starts above 0, not at {show(bounds[0])}")
    collector.finish()
    low, high = bounds
    if whole:
        return Integer(name, low, high, log=log, step=step, levels=levels)
    return Float(name, float(low), float(high), log=log, step=step, levels=levels)


def _read_bounds(value: Any, *, whole: bool) -> tuple[float, float]:
    kind = "whole numbers" if whole else "numbers"
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{show(value)} is not a range; write two {kind}: [low, high]")
    for bound in value:
        if isinstance(bound, bool) or not isinstance(bound, int if whole else int | float):
            raise ValueError(f"{show(bound)} is not a {kind[:-1]}; write two {kind}: [low, high]")
    low, high = value
    if low > high:
        raise ValueError(f"low {show(low)} is above high {show(high)}; write [{show(high)}, {show(low)}]")
    return low, high


def _read_when(value: Any) -> Constraint:
    """Read a condition; which names it may subtract from each other is settled with those of the whole suite."""
    if not isinstance(value, str):
        raise ValueError(f"{show(value)} is not a condition; write text in quotes, e.g. \"a == 'b'\"")
    return Constraint(value)


def _read_levels(value: Any) -> int:
    levels = units.count(value, least=2)
    if levels > MOST_LEVELS:
        raise ValueError(f"{levels} grid points are more than {MOST_LEVELS}; use fewer")
    return levels


def _read_step(value: Any, *, whole: bool) -> float:
    if whole:
        return units.count(value, least=1)
    step = units.number(value)
    if step <= 0:
        raise ValueError(f"{show(value)} is not a step; write a number above 0")
    return step


def read_metric(name: str) -> tuple[str, str | None]:
    """Split ``ttft.p90`` into family and statistic; raise `ValueError` with what is allowed and the nearest."""
    if name in TIMES:
        raise ValueError(f"{name!r} is a distribution; add a statistic: {name}.p90, {name}.p99 or {name}.mean")
    return parse_metric(name)


def read_limits(value: Any) -> Limits:
    """Read `slo:`: limits, `steepness`, `confidence` and `spread`; without an error rate, 1 % is the limit."""
    collector = Collector()
    limits: list[Limit] = []
    steepness: float | None = None
    confidence: float | None = None
    spread: float | None = None
    for metric, written in read_mapping(value).items():
        if metric == "steepness":
            steepness = collector.read((metric,), read_above_zero, written)
        elif metric == "confidence":
            confidence = collector.read((metric,), _read_confidence, written)
        elif metric == "spread":
            spread = collector.read((metric,), _read_spread, written)
        else:
            limits.append(collector.read((metric,), _read_limit, metric, written))
    collector.finish()
    return Limits(tuple(limits), steepness, confidence, spread)


def read_tiers(value: Any) -> tuple[Tier, ...]:
    """Read `tiers:`, a name and limits for each; `steepness`, `confidence` and `spread` are those of `slo:`."""
    collector = Collector()
    tiers = []
    for name, written in read_mapping(value).items():
        collector.read((name,), read_suite_name, name)
        if name == OWN_TIER:
            collector.note((name,), "is what slo: is called among the tiers; choose another name")
        read = collector.read((name,), read_limits, written)
        for key in OF_ALL_TIERS:
            if read is not None and key in written:
                collector.note((name, key), "counts for every tier; write it in slo:")
        tiers.append(Tier(name, () if read is None else read.limits))
    collector.finish()
    return tuple(tiers)


def _read_confidence(value: Any) -> float:
    confidence = units.percentage(value)
    if not 0.5 <= confidence <= 0.9999:
        raise ValueError(f"{show(value)} is no confidence between 50% and 99.99%; write e.g. 95%")
    return confidence


def _read_spread(value: Any) -> float:
    spread = units.percentage(value)
    if spread >= MOST_SPREAD:
        raise ValueError(f"{show(value)} is no spread below {MOST_SPREAD:.0%}; write e.g. 1%")
    return spread


def _read_limit(metric: str, value: Any) -> Limit:
    family, _ = read_metric(metric)
    if not isinstance(value, Mapping):
        return Limit(metric, _read_bound(family, value), floor=family in _floors())
    read_mapping(value, keys=_LIMIT_KEYS)
    sides = [side for side in ("max", "min") if side in value]
    if len(sides) != 1:
        usual = "min" if family in _floors() else "max"
        raise ValueError(f"a limit has either max or min; write {{{usual}: ...}}")
    collector = Collector()
    bound = collector.read((sides[0],), _read_bound, family, value[sides[0]])
    hard = collector.read(("hard_fail",), read_flag, value.get("hard_fail", True))
    ratio = collector.read(("fail_ratio",), _read_ratio, value.get("fail_ratio", 0.0))
    weight = collector.read(("weight",), read_above_zero, value.get("weight", 1.0))
    if hard is False and "fail_ratio" in value:
        text = "says how far a hard limit may be missed, so it means nothing with hard_fail: false; remove one of them"
        collector.note(("fail_ratio",), text)
    collector.finish()
    return Limit(metric, bound, floor=sides[0] == "min", hard_fail=hard, fail_ratio=ratio, weight=weight)


def _floors() -> frozenset[str]:
    """Metrics where more is better: a bare number is the least that is accepted."""
    return frozenset((*RATES, *(rate + PER_GPU for rate in RATES), "requests", "delivered"))


def _read_bound(family: str, value: Any) -> float:
    if family in TIMES:
        seconds = units.duration(value)
        if seconds <= 0:
            raise ValueError(f"{show(value)} cannot be kept by any server; write a duration above 0, e.g. 500ms")
        return seconds
    if family in SHARES:
        return units.percentage(value)
    if family == "failed":
        return units.count(value)
    if isinstance(value, str):
        kind = "costs are numbers in the currency of the price" if family in COSTS else "rates are numbers per second"
        example = "0.5" if family in COSTS else "100"
        raise ValueError(f"{show(value)} is not a number; {kind} without a unit, e.g. {example}")
    return read_above_zero(value)


def _read_ratio(value: Any) -> float:
    return units.percentage(value, most=None)


def read_objectives(value: Any, *, also: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    """Read one objective or a list of different ones."""
    if not isinstance(value, list):
        return (read_objective(value, also=also),)
    if not value:
        raise ValueError("an empty list has no objective; write e.g. 'maximize output_throughput'")
    collector = Collector()
    read = [collector.read((index,), read_objective, each, also=also) for index, each in enumerate(value)]
    for index, objective in enumerate(read):
        if objective is not None and objective in read[:index]:
            collector.note((index,), f"{' '.join(objective)!r} is there twice; remove one")
    collector.finish()
    return tuple(read)


def read_objective(value: Any, *, also: Sequence[str] = ()) -> tuple[str, str]:
    """Split ``maximize output_throughput``; `also` are metrics beyond the built-in ones."""
    directions = ("maximize", "minimize")
    words = value.split() if isinstance(value, str) else []
    if len(words) != 2:
        hint = "" if len(words) != 1 or words[0] in directions else f" (did you mean 'maximize {words[0]}'?)"
        raise ValueError(f"{show(value)} is not an objective{hint}; write 'maximize METRIC' or 'minimize METRIC'")
    direction, metric = words
    if direction not in directions:
        raise ValueError(
            f"{direction!r} is not a direction{nearest(direction, directions)}; write maximize or minimize"
        )
    if metric in also:
        return direction, metric
    family, _ = read_metric(metric)
    if (direction == "maximize") is not (family in _floors()):
        other = directions[direction == "maximize"]
        raise ValueError(f"'{direction} {metric}' wants a worse server (did you mean '{other} {metric}'?)")
    return direction, metric


def read_conditions(value: Any) -> tuple[str, ...]:
    """Read `constraints:` as a list of text; what the text means is read later, with the names of the suite."""
    if isinstance(value, str):
        raise ValueError(f"{show(value)} is not a list; write [{show(value)}]")
    if not isinstance(value, list):
        raise ValueError(f"{show(value)} is not a list of conditions")
    collector = Collector()
    for index, text in enumerate(value):
        if not isinstance(text, str):
            collector.note((index,), f"{show(text)} is not a condition; put it in quotes")
    collector.finish()
    return tuple(value)


def read_forbidden(value: Any) -> tuple[Forbidden, ...]:
    """Read `forbidden:`, a list of partial configurations; what they name is checked later."""
    if isinstance(value, Mapping):
        raise ValueError(f"{show(value)} is not a list; write [{show(value)}]")
    if not isinstance(value, list):
        raise ValueError(f"{show(value)} is not a list of combinations; write e.g. [{{a: 1, b: [2, 4]}}]")
    collector = Collector()
    forbidden = [collector.read((index,), _read_combination, each) for index, each in enumerate(value)]
    collector.finish()
    return tuple(forbidden)


def _read_combination(value: Any) -> Forbidden:
    if not isinstance(value, Mapping):
        raise ValueError(f"{show(value)} is not a combination of settings; write e.g. {{a: 1, b: [2, 4]}}")
    if not value:
        raise ValueError("an empty combination forbids everything; name settings with their values, or remove it")
    collector = Collector()
    for name, written in value.items():
        if written == []:
            collector.note((name,), "an empty list forbids nothing; list values or remove the name")
    collector.finish()
    return Forbidden({name: tuple(each) if isinstance(each, list) else (each,) for name, each in value.items()})


def _object(properties: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False, **more}


def _limit_schema(bound: Mapping[str, Any]) -> dict[str, Any]:
    details = {
        "max": {**bound, "description": "The metric may be at most this."},
        "min": {**bound, "description": "The metric must be at least this."},
        "hard_fail": {
            "type": "boolean",
            "default": True,
            "description": "Whether a miss makes the batch non-compliant; else it only costs score.",
        },
        "fail_ratio": {
            "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": units.PERCENTAGE}],
            "default": 0,
            "description": "How far a hard limit may be missed, relative to it.",
        },
        "weight": {"type": "number", "exclusiveMinimum": 0, "default": 1, "description": "Weight of a soft miss."},
    }
    return {"anyOf": [bound, _object(details, oneOf=[{"required": ["max"]}, {"required": ["min"]}])]}


_WHEN_SCHEMA = {
    "type": "string",
    "minLength": 1,
    "description": "Condition under which the parameter exists; elsewhere it is not passed.",
    "examples": ["speculative-method != 'none'"],
}


def _range_schema(form: str, number: Mapping[str, Any]) -> dict[str, Any]:
    bounds = {
        "type": "array",
        "items": number,
        "minItems": 2,
        "maxItems": 2,
        "description": "Lowest and highest value.",
    }
    return _object(
        {
            form: bounds,
            "log": {"type": "boolean", "default": False, "description": "Spread by a constant ratio."},
            "grid": {"type": "integer", "minimum": 2, "maximum": MOST_LEVELS, "description": "Number of grid points."},
            "step": {**number, "exclusiveMinimum": 0, "description": "Distance between grid points."},
            "when": _WHEN_SCHEMA,
        },
        required=[form],
    )


_SHARE = [{"type": "string", "pattern": units.PERCENTAGE}, {"type": "number", "minimum": 0, "exclusiveMaximum": 1}]
DEFINITIONS: dict[str, Any] = {  # `$defs` that the schemas below refer to
    "LatencyLimit": _limit_schema({"type": "string", "pattern": units.DURATION, "examples": ["500ms", "2s"]}),
    "ShareLimit": _limit_schema({"anyOf": _SHARE, "examples": ["1%"]}),
    "CountLimit": _limit_schema({"type": "integer", "minimum": 0, "examples": [0]}),
    "RateLimit": _limit_schema({"type": "number", "exclusiveMinimum": 0, "examples": [100]}),
}
_LATENCY_SCHEMA, _SHARE_SCHEMA, _COUNT_SCHEMA, _RATE_SCHEMA = ({"$ref": f"#/$defs/{name}"} for name in DEFINITIONS)
_VALUES_SCHEMA = {"type": "array", "minItems": 1, "uniqueItems": True}
_PRESET = {"type": "string", "minLength": 1, "description": "Name of a preset."}
_OR_PRESET = {"type": ["object", "string"], "pattern": "^preset:"}  # the pattern is that of text alone

PARAMETERS_SCHEMA: dict[str, Any] = {
    **_OR_PRESET,
    "propertyNames": {"pattern": SETTING},
    "properties": {
        "preset": {
            "anyOf": [_PRESET, {**_VALUES_SCHEMA, "items": _PRESET}, {"type": "object"}],
            "description": "Presets whose parameters are tuned as well; a mapping is a setting of this name.",
        },
        "merge": {
            "anyOf": [{"enum": list(MERGES)}, {"type": ["array", "object"]}],
            "description": "How several presets become one, union unless written; anything else is a setting.",
        },
    },
    "additionalProperties": {
        "anyOf": [
            _VALUES_SCHEMA,
            _range_schema("int", {"type": "integer"}),
            _range_schema("float", {"type": "number"}),
            _object({"choice": _VALUES_SCHEMA, "when": _WHEN_SCHEMA}, required=["choice"]),
        ]
    },
}
CONSTRAINTS_SCHEMA: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
FORBIDDEN_SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {"type": "object", "minProperties": 1, "propertyNames": {"pattern": SETTING}},
}
_LIMITS: dict[str, Any] = {
    "failed": _COUNT_SCHEMA,
    **dict.fromkeys(COSTS, _RATE_SCHEMA),
    **dict.fromkeys(sorted(_floors()), _RATE_SCHEMA),
    **dict.fromkeys(SHARES, _SHARE_SCHEMA),
    **{f"{IN_FLIGHT}.{statistic}": _RATE_SCHEMA for statistic in IN_FLIGHT_STATISTICS},
    **{f"{family}.{statistic}": _LATENCY_SCHEMA for family in TIMES for statistic in STATISTICS},
}
_FURTHER_LIMITS = {rf"^({'|'.join(TIMES)})\.p[0-9]{{1,3}}(\.[0-9]+)?$": _LATENCY_SCHEMA}
SLO_SCHEMA: dict[str, Any] = _object(
    {
        "preset": {**_PRESET, "description": "Preset whose limits hold too, except where this gives another."},
        "steepness": {
            "type": "number",
            "exclusiveMinimum": 0,
            "default": 0.1,
            "description": "Of the penalty of a soft miss.",
        },
        "confidence": {
            "type": ["string", "number"],
            "description": "Decide limits on percentiles and means by sequential tests: batches take as long.",
        },
        "spread": {
            "anyOf": _SHARE,
            "default": 0,
            "description": "With confidence, how far whole batches of one server differ, as a standard deviation.",
        },
        **_LIMITS,
    },
    patternProperties=_FURTHER_LIMITS,
    **_OR_PRESET,
)
_LIMITS_OF_PRESET = {"type": "string", "pattern": "^preset:"}
TIERS_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {
            "type": "object",
            "propertyNames": {"pattern": SUITE_NAME, "not": {"const": OWN_TIER}},
            "additionalProperties": {"$ref": "#/$defs/TierLimits"},
        },
        _LIMITS_OF_PRESET,
        {"type": "array", "items": _LIMITS_OF_PRESET, "minItems": 1, "uniqueItems": True},
    ]
}
DEFINITIONS["TierLimits"] = _object(
    {
        "preset": {**_PRESET, "description": "Preset whose limits are the tier's, except where this gives another."},
        **_LIMITS,
    },
    patternProperties=_FURTHER_LIMITS,
    **_OR_PRESET,
)
_OBJECTIVE = {"type": "string", "pattern": r"^(maximize|minimize)\s+\S+$"}
OBJECTIVE_SCHEMA: dict[str, Any] = {
    "anyOf": [_OBJECTIVE, {"type": "array", "items": _OBJECTIVE, "minItems": 1, "uniqueItems": True}]
}
