"""The kinds of fields that the `load:` block of a suite file has, beyond those of every block."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, InstanceOf, PlainSerializer, PlainValidator, ValidationInfo, WithJsonSchema

from pytest_autotune import units
from pytest_autotune.capacity import PROBES, TOLERANCE, LoadSearch
from pytest_autotune.fields import as_written, read_levels, read_mapping
from pytest_autotune.load.generator import Arrivals
from pytest_autotune.load.length_notation import LENGTHS_SCHEMA, read_lengths
from pytest_autotune.load.lengths import Fixed, Lengths
from pytest_autotune.load.scenario import SCENARIO, read_scenario
from pytest_autotune.masking import holds_secret
from pytest_autotune.problems import Collector, Problem, Problems
from pytest_autotune.spelling import nearest, show
from pytest_autotune.variables import VARIABLE

HEADER = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"  # name of a header field: a token of RFC 9110

_ARRIVALS = {"poisson": Arrivals(), "constant": Arrivals(math.inf)}
_ARRIVALS_HELP = "write poisson, constant or {burstiness: 0.5}"


@dataclasses.dataclass(frozen=True, slots=True)
class Ramp:
    """A load that changes evenly from one value to another, or stays."""

    start: float
    end: float


def read_numbers(value: Any, reader: Callable[[Any], float], *, what: str, example: str) -> tuple[float, ...]:
    """Return the load levels of ``rate: 5`` or ``rate: [5, 10]``, in the order of the file."""
    if not isinstance(value, list):
        return (reader(value),)
    if not value:
        raise ValueError(f"an empty list is no load; list at least one {what}, e.g. {example}")
    collector = Collector()
    levels: list[float] = []
    for index, item in enumerate(value):
        level = collector.read((index,), reader, item)
        if level is not None and level in levels:
            collector.note((index,), f"{what} {level:g} is listed twice")
        levels.append(level)
    collector.finish()
    return tuple(levels)


def read_rate(value: Any) -> float:
    """Return requests per second, more than none."""
    if isinstance(value, str):
        raise ValueError(f"{show(value)} is not a number; a rate is requests per second without a unit, e.g. 10.5")
    return _above_zero(value, "a rate", "requests per second")


def read_speed(value: Any) -> float:
    """Return how many times as fast a trace is replayed."""
    if isinstance(value, str):
        raise ValueError(f"{show(value)} is not a number; write e.g. 2 for twice as fast as recorded")
    return _above_zero(value, "a speed", "times as fast as recorded")


def read_ramp(value: Any, reader: Callable[[Any], float]) -> Ramp:
    """Return the load of a stage: one value, or two between which it changes evenly; one end may be 0."""
    if not isinstance(value, list):
        level = reader(value)
        return Ramp(level, level)
    if len(value) != 2:
        raise ValueError(f"{show(value)} is not a ramp; write one value, or two: [from, to]")
    collector = Collector()
    start, end = (
        0.0 if item == 0 and not isinstance(item, bool) else collector.read((index,), reader, item)
        for index, item in enumerate(value)
    )
    collector.finish()
    if start == end == 0:
        raise ValueError(f"{show(value)} is no load; one end must be above 0")
    return Ramp(start, end)


def read_arrivals(value: Any) -> Arrivals:
    """Return how an open loop spreads its requests: a name, or the burstiness of a gamma distribution."""
    if isinstance(value, str):
        if value in _ARRIVALS:
            return _ARRIVALS[value]
        raise ValueError(f"{show(value)} is not a kind of arrivals{nearest(value, _ARRIVALS)}; {_ARRIVALS_HELP}")
    if not isinstance(value, Mapping):
        raise ValueError(f"{show(value)} is not a kind of arrivals; {_ARRIVALS_HELP}")
    read_mapping(value, keys=("burstiness",))
    if not value:
        raise ValueError(f"an empty mapping says nothing; {_ARRIVALS_HELP}")
    collector = Collector()
    burstiness = collector.read(("burstiness",), _read_burstiness, value["burstiness"])
    collector.finish()
    return Arrivals(burstiness)


def write_arrivals(arrivals: Arrivals) -> str | dict[str, float]:
    """Return arrivals as a suite would have them."""
    for name, named in _ARRIVALS.items():
        if arrivals == named:
            return name
    return {"burstiness": arrivals.burstiness}


def write_lengths(lengths: Lengths) -> Any:
    """Return lengths as JSON: a number, or the kind of a distribution and what makes it."""
    if isinstance(lengths, Fixed):
        return lengths.tokens
    assert dataclasses.is_dataclass(lengths)
    made_of = {field.name: getattr(lengths, field.name) for field in dataclasses.fields(lengths) if field.init}
    return {type(lengths).__name__.lower(): {n: _plain(v) for n, v in made_of.items() if v is not None}}


def read_workers(value: Any) -> int | None:
    """Return a number of processes; None for ``auto``."""
    if value == "auto":
        return None
    if isinstance(value, str):
        raise ValueError(
            f"{show(value)} is neither a number of processes nor auto{nearest(value, ['auto'])}; write one"
        )
    return units.count(value, least=1)


def read_headers(value: Any) -> dict[str, str]:
    """Return header fields; what may be a secret must be a variable of the environment."""
    collector = Collector()
    headers = {}
    for name, written in read_mapping(value).items():
        if not re.fullmatch(HEADER, name):
            collector.note((name,), f"{show(name)} is not the name of a header field; use letters, digits and '-'")
        headers[name.lower()] = collector.read((name,), _read_header, name, written)
    collector.finish()
    return headers


def read_key(value: Any) -> str:
    """Return an API key: a reference to a variable of the environment, never the key itself."""
    if not isinstance(value, str) or not VARIABLE.fullmatch(value.strip()):
        raise ValueError(
            "a key that stands in a file is no secret any more; write the variable that holds it: ${API_KEY}"
        )
    return value.strip()


def read_error_share(value: Any) -> float:
    """Return the share of failed requests beyond which a batch is ended."""
    return units.percentage(value)


def _plain(value: Any) -> Any:
    return write_lengths(value) if hasattr(value, "at") else value


def _read_header(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{show(value)} is not text; put it in quotes")
    text = str(value)
    if holds_secret(name, VARIABLE.sub("", text)) and not VARIABLE.search(text):
        raise ValueError(
            "a secret that stands in a file is none any more; write the variable that holds it, e.g. Bearer ${API_KEY}"
        )
    if not (text.isascii() and text.isprintable()):
        raise ValueError(f"{show(text)} holds a character that HTTP does not allow in a header; remove it")
    return text


def _read_burstiness(value: Any) -> float:
    if isinstance(value, str):
        raise ValueError(f"{show(value)} is not a number; 1 is poisson, less is burstier")
    return _above_zero(value, "a burstiness", "1 is poisson, less is burstier")


def _above_zero(value: Any, what: str, meaning: str) -> float:
    number = units.number(value)
    if number <= 0:
        raise ValueError(f"{show(value)} is not {what}; write a number above 0 ({meaning})")
    return number


def _read_concurrencies(value: Any) -> tuple[int, ...] | LoadSearch:
    if isinstance(value, Mapping):
        return _read_search(value, _read_size, "concurrency", example="[1, 512]")
    return read_levels(value)


def _read_rates(value: Any) -> tuple[float, ...] | LoadSearch:
    if isinstance(value, Mapping):
        return _read_search(value, read_rate, "rate", example="[0.5, 50]")
    return read_numbers(value, read_rate, what="rate", example="[5, 10.5]")


def _read_search(
    value: Any, reader: Callable[[Any], float], shape: Literal["concurrency", "rate"], *, example: str
) -> LoadSearch:
    """Read ``{search: [1, 512], tolerance: 5%, probes: 12}``."""
    read_mapping(value, keys=("search", "tolerance", "probes"))
    collector = Collector()
    bounds = value.get("search")
    if not isinstance(bounds, list) or len(bounds) != 2:
        raise Problems([Problem(("search",), f"{show(bounds)} is not a range; write e.g. search: {example}")])
    low, high = (collector.read(("search", index), reader, bound) for index, bound in enumerate(bounds))
    tolerance = collector.read(("tolerance",), _read_tolerance, value.get("tolerance", f"{TOLERANCE * 100:g}%"))
    probes = collector.read(("probes",), _read_size, value.get("probes", PROBES))
    if not collector.found and low > high:
        collector.note(("search",), f"{show(bounds)} ends below its start; write [{high:g}, {low:g}]")
    collector.finish()
    return LoadSearch(low, high, shape, tolerance, probes)


def _read_tolerance(value: Any) -> float:
    tolerance = units.percentage(value)
    if not 0.001 <= tolerance <= 1:
        raise ValueError(f"{show(value)} is no tolerance between 0.1% and 100%; write e.g. 5%")
    return tolerance


def _read_speeds(value: Any) -> tuple[float, ...]:
    return read_numbers(value, read_speed, what="speed", example="[1, 2]")


def _read_bursts(value: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in read_numbers(value, _read_size, what="burst", example="[50, 200]"))


def _read_size(value: Any) -> int:
    return units.count(value, least=1)


def _as_lengths(value: Any, info: ValidationInfo) -> Any:
    """Read lengths as a file has them; from Python a number is as good as a distribution."""
    if info.context:
        return read_lengths(value)
    return Fixed(value) if isinstance(value, int) else value


def _ramp(reader: Callable[[Any], float]) -> BeforeValidator:
    return as_written(lambda value: read_ramp(value, reader))


def _write_ramp(ramp: Ramp) -> float | list[float]:
    return ramp.start if ramp.start == ramp.end else [ramp.start, ramp.end]


def _read_scenario(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f'{show(value)} is not a traffic scenario; write e.g. "N(480,240)/(300,150)"')
    return read_scenario(value).text


def _one_or_more(item: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [item, {"type": "array", "items": item, "minItems": 1, "uniqueItems": True}]}


def _levels_or_search(item: Mapping[str, Any]) -> dict[str, Any]:
    search = {
        "type": "object",
        "properties": {
            "search": {"type": "array", "items": item, "minItems": 2, "maxItems": 2},
            "tolerance": {"type": ["string", "number"]},
            "probes": _COUNT,
        },
        "required": ["search"],
        "additionalProperties": False,
    }
    return {"anyOf": [*_one_or_more(item)["anyOf"], search]}


_POSITIVE = {"type": "number", "exclusiveMinimum": 0}
_COUNT = {"type": "integer", "minimum": 1}
_RAMP = {
    "anyOf": [_POSITIVE, {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 2, "maxItems": 2}]
}

LengthsField = Annotated[
    Lengths,
    PlainValidator(_as_lengths),
    PlainSerializer(write_lengths),
    WithJsonSchema(LENGTHS_SCHEMA),
]
ScenarioField = Annotated[str, as_written(_read_scenario), WithJsonSchema({"type": "string", "pattern": SCENARIO})]
Concurrencies = Annotated[
    tuple[int, ...] | InstanceOf[LoadSearch], as_written(_read_concurrencies), WithJsonSchema(_levels_or_search(_COUNT))
]
Rates = Annotated[
    tuple[float, ...] | InstanceOf[LoadSearch], as_written(_read_rates), WithJsonSchema(_levels_or_search(_POSITIVE))
]
Speeds = Annotated[tuple[float, ...], as_written(_read_speeds), WithJsonSchema(_one_or_more(_POSITIVE))]
Bursts = Annotated[tuple[int, ...], as_written(_read_bursts), WithJsonSchema(_one_or_more(_COUNT))]
RateRamp = Annotated[
    InstanceOf[Ramp],
    _ramp(read_rate),
    PlainSerializer(_write_ramp),
    WithJsonSchema(_RAMP),
]
StreamRamp = Annotated[
    InstanceOf[Ramp],
    _ramp(_read_size),
    PlainSerializer(_write_ramp),
    WithJsonSchema(_RAMP),
]
ArrivalsField = Annotated[
    InstanceOf[Arrivals],
    as_written(read_arrivals),
    PlainSerializer(write_arrivals),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(_ARRIVALS)},
                {
                    "type": "object",
                    "properties": {"burstiness": {**_POSITIVE, "description": "1 is poisson, less is burstier."}},
                    "required": ["burstiness"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
Workers = Annotated[int | None, as_written(read_workers), WithJsonSchema({"anyOf": [_COUNT, {"const": "auto"}]})]
Headers = Annotated[
    dict[str, str],
    as_written(read_headers),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": HEADER},
            "additionalProperties": {"type": ["string", "integer"]},
        }
    ),
]
Key = Annotated[
    str, as_written(read_key), WithJsonSchema({"type": "string", "pattern": r"^\s*\$\{\w+(:-[^}]*)?\}\s*$"})
]
ErrorShare = Annotated[
    float,
    as_written(read_error_share),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": units.PERCENTAGE},
                {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
            ]
        }
    ),
]
