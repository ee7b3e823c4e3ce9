"""How lengths of prompts and outputs are written in a suite, turned into distributions.

Apart from `lengths`, so that the processes that send the load import no reader of suites.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_autotune import units
from pytest_autotune.fields import read_mapping
from pytest_autotune.load.lengths import Empirical, Fixed, Lengths, LogNormal, Normal, Uniform
from pytest_autotune.load.scenario import lengths_of, split_brackets
from pytest_autotune.problems import Collector, Problem, Problems
from pytest_autotune.spelling import nearest, show

_FORMS = ("uniform", "normal", "lognormal", "empirical")
_BRACKETS = {"D": 1, "N": 2, "U": 2}  # one side of a scenario, and how many numbers it has
_HELP = (
    "write a number of tokens, {uniform: [100, 500]}, {normal: {mean: 480, sd: 240}}, "
    "{lognormal: {median: 480, sigma: 0.8}}, {empirical: [128, 512]}, N(480,240) or U(100,500)"
)
_UNIFORM_HELP = "write two numbers of tokens: {uniform: [low, high]}"


def read_lengths(value: Any) -> Lengths:
    """Return the distribution that a value of a suite describes; raise `ValueError` with what is allowed.

    Beside numbers and mappings, one side of a genai-bench scenario is accepted, and means what it
    means there: ``D(512)``, ``N(480,240)``, ``U(100,500)``.
    """
    if isinstance(value, Mapping):
        return _read_form(value)
    if isinstance(value, str) and not value.strip()[:1].isdecimal():
        return _read_brackets(value)
    if value is None or isinstance(value, list):
        raise ValueError(f"{show(value)} is not a length; {_HELP}")
    return Fixed(units.count(value, least=1))


def _read_brackets(text: str) -> Lengths:
    kind, groups = split_brackets(text)
    if kind not in _BRACKETS:
        raise ValueError(f"{show(text)} is not a length; {_HELP}")
    if len(groups) != 1 or len(groups[0]) != _BRACKETS[kind]:
        raise ValueError(f"{show(text)} is not one length; write D(tokens), N(mean,sd) or U(min,max)")
    try:
        return lengths_of(kind, groups[0])
    except ValueError as error:
        raise ValueError(f"{show(text)}: {error}") from None


def _read_form(value: Mapping[str, Any]) -> Lengths:
    form = next((form for form in _FORMS if form in value), None)
    if form is None:
        hint = nearest(str(next(iter(value))), _FORMS) if value else ""
        raise ValueError(f"{show(value)} is not a length{hint}; {_HELP}")
    if len(value) > 1:
        other = next(key for key in value if key != form)
        raise ValueError(
            f"{show(value)} has {other} beside {form}; a length is one distribution, so remove one of them"
        )
    readers = {
        "uniform": _read_uniform,
        "normal": _read_normal,
        "lognormal": _read_lognormal,
        "empirical": _read_empirical,
    }
    collector = Collector()
    lengths: Lengths = collector.read((form,), readers[form], value[form])
    collector.finish()
    return lengths


def _read_uniform(value: Any) -> Uniform:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{show(value)} is not a range; {_UNIFORM_HELP}")
    low, high = _read_tokens(value)
    if low > high:
        raise ValueError(f"low {low} is above high {high}; write [{high}, {low}]")
    return Uniform(low, high)


def _read_normal(value: Any) -> Normal:
    figures = _read_figures(value, ("mean", "sd"))
    low, high = _read_bounds(value)
    _check_inside("mean", value["mean"], low, high)
    return Normal(figures["mean"], figures["sd"], low, high)


def _read_lognormal(value: Any) -> LogNormal:
    by_mean = isinstance(value, Mapping) and "mean" in value and "median" not in value
    names = ("mean", "sd") if by_mean else ("median", "sigma")
    figures = _read_figures(value, names)
    low, high = _read_bounds(value)
    _check_inside(names[0], value[names[0]], low, high)
    if by_mean:
        return LogNormal.of_mean(figures["mean"], figures["sd"], low=low, high=high)
    return LogNormal(figures["median"], figures["sigma"], low, high)


def _read_figures(value: Any, names: tuple[str, str]) -> Mapping[str, float]:
    """Return the centre, above 0, and the spread, at least 0, of a distribution."""
    read_mapping(value, keys=(*names, "min", "max"))
    missing = [name for name in names if name not in value]
    if missing:
        raise ValueError(f"has no {missing[0]}; write {{{names[0]}: ..., {names[1]}: ...}}")
    collector = Collector()
    centre, spread = names
    figures = {name: collector.read((name,), units.number, value[name]) for name in names}
    if figures[centre] is not None and figures[centre] <= 0:
        collector.note((centre,), f"{show(value[centre])} is not above 0; write a number of tokens")
    if figures[spread] is not None and figures[spread] < 0:
        collector.note((spread,), f"{show(value[spread])} is negative; write 0 or more")
    collector.finish()
    return figures


def _read_bounds(value: Mapping[str, Any]) -> tuple[int, int | None]:
    collector = Collector()
    low = collector.read(("min",), units.count, value.get("min", 1), least=1)
    high = collector.read(("max",), units.count, value["max"], least=1) if "max" in value else None
    if low is not None and high is not None and low > high:
        collector.note(("min",), f"min {low} is above max {high}; exchange them")
    collector.finish()
    return low, high


def _check_inside(name: str, centre: float, low: int, high: int | None) -> None:
    if centre < low or (high is not None and centre > high):
        bounds = f"below min {low}" if centre < low else f"above max {high}"
        raise Problems([Problem((name,), f"{show(centre)} is {bounds}; move one of them")])


def _read_empirical(value: Any) -> Empirical:
    if isinstance(value, Mapping):
        read_mapping(value, keys=("values", "weights"))
        if value.keys() != {"values", "weights"}:
            raise ValueError("needs both values and weights; write {values: [128, 512], weights: [3, 1]}, or a list")
        collector = Collector()
        values = collector.read(("values",), _read_values, value["values"])
        weights = collector.read(("weights",), _read_weights, value["weights"])
        if values and weights and len(values) != len(weights):
            collector.note(("weights",), f"{len(weights)} weights for {len(values)} values; give one for each")
        collector.finish()
        return Empirical(values, weights)
    return Empirical(_read_values(value))


def _read_values(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{show(value)} is not a list of lengths; write e.g. [128, 512]")
    return _read_tokens(value)


def _read_weights(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{show(value)} is not a list of weights; write e.g. [3, 1]")
    collector = Collector()
    weights = [collector.read((index,), units.number, item) for index, item in enumerate(value)]
    for index, weight in enumerate(weights):
        if weight is not None and weight < 0:
            collector.note((index,), f"{show(value[index])} is negative; write 0 or more")
    collector.finish()
    if not any(weights):
        raise ValueError("all weights are 0, which leaves no length; give one a weight above 0")
    return tuple(weights)


def _read_tokens(value: list[Any]) -> tuple[int, ...]:
    collector = Collector()
    tokens = [collector.read((index,), units.count, item, least=1) for index, item in enumerate(value)]
    collector.finish()
    return tuple(tokens)


def _object(properties: Mapping[str, Any], required: tuple[str, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def _spread_schema(centre: str, spread: str) -> dict[str, Any]:
    properties = {
        centre: {"type": "number", "exclusiveMinimum": 0, "description": "In tokens."},
        spread: {"type": "number", "minimum": 0},
        "min": {**_TOKENS, "default": 1, "description": "No length is shorter; what would be is spread over the rest."},
        "max": {**_TOKENS, "description": "No length is longer."},
    }
    return _object(properties, (centre, spread))


_ONE_SIDE = r"^\s*(D\s*\(\s*0*[1-9][0-9]*\s*\)|[NU]\s*\(\s*[0-9]+\s*,\s*[0-9]+\s*\))\s*$"
_TOKENS = {"type": "integer", "minimum": 1}
_LENGTHS = {"type": "array", "items": _TOKENS, "minItems": 1}
_WEIGHTS = {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 1}
_EMPIRICAL = {"anyOf": [_LENGTHS, _object({"values": _LENGTHS, "weights": _WEIGHTS}, ("values", "weights"))]}

LENGTHS_SCHEMA: dict[str, Any] = {
    "anyOf": [
        _TOKENS,
        {"type": "string", "pattern": _ONE_SIDE, "examples": ["N(480,240)"]},
        _object({"uniform": {**_LENGTHS, "minItems": 2, "maxItems": 2}}, ("uniform",)),
        _object({"normal": _spread_schema("mean", "sd")}, ("normal",)),
        _object(
            {"lognormal": {"anyOf": [_spread_schema("median", "sigma"), _spread_schema("mean", "sd")]}}, ("lognormal",)
        ),
        _object({"empirical": _EMPIRICAL}, ("empirical",)),
    ]
}
