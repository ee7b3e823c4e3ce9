"""How the values of a load's options are read: text of a command line, or values of Python."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pytest_autotune import units
from pytest_autotune.load.generator import Api, Arrivals
from pytest_autotune.load.lengths import Fixed
from pytest_autotune.load_command.options import CONSTANT, POISSON
from pytest_autotune.metrics import COSTS
from pytest_autotune.notation import read_limits, read_metric
from pytest_autotune.spelling import nearest, show

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_autotune.load.lengths import Lengths
    from pytest_autotune.slo import Limit

_OF_THE_CLIENT = ("host", "content-length", "content-type", "transfer-encoding", "connection", "x-request-id")
_LIMIT = re.compile(r"\s*([A-Za-z0-9_.]+)\s*(<=|>=)\s*(\S.*?)\s*", re.DOTALL)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def read_url(value: Any) -> str:
    """Return a base URL without trailing slash and without ``/v1``, of HTTP or of a Unix socket."""
    from pytest_autotune.fields import read_url as read_http_url  # with pydantic, which the fixture may never need

    if isinstance(value, str) and value.startswith("unix://"):
        if not value.removeprefix("unix://").startswith("/"):
            raise ValueError(f"{show(value)} is not the URL of a socket; write unix:///path/to/socket")
        return value.rstrip("/")
    return read_http_url(value)


def read_api(value: Any) -> str:
    """Return one of the APIs that can be loaded."""
    if value not in get_args(Api):
        raise ValueError(
            f"{show(value)} is not an API{nearest(str(value), get_args(Api))}; use {_listed(get_args(Api))}"
        )
    return str(value)


def read_flag(value: Any) -> bool:
    """Return whether a flag is set."""
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{show(value)} is not true or false")
    return bool(value)


def read_text(value: Any) -> str:
    """Return text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{show(value)} is not text that means something; write one or remove it")
    return value


def read_value(value: Any) -> str:
    """Return the value of a header; the error does not repeat it, for it may be a secret."""
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or value != value.strip():
        raise ValueError("holds a character that HTTP does not allow in a header; check the value")
    return value


def read_headers(value: Any) -> dict[str, str]:
    """Return headers, with small names, from ``name: value`` or from a mapping."""
    headers: dict[str, str] = {}
    pairs = value.items() if isinstance(value, Mapping) else [_split_header(item) for item in _as_list(value)]
    for written, text in pairs:
        name = written.strip().lower()
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{show(name)} is not the name of a header; write 'name: value'")
        if name in _OF_THE_CLIENT:
            raise ValueError(f"{name} is set by the client itself; remove it")
        if name in headers:
            raise ValueError(f"{name} is given twice; remove one")
        try:
            headers[name] = read_value(text)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    return headers


def _split_header(text: Any) -> tuple[str, str]:
    name, colon, value = text.partition(":") if isinstance(text, str) else ("", "", "")
    if not colon:
        raise ValueError("a header has no colon; write 'name: value'")
    return name, value.strip()


def read_arrivals(value: Any) -> Arrivals:
    """Return how a rate spreads its requests."""
    if value == POISSON:
        return Arrivals()
    if value == CONSTANT:
        return Arrivals(math.inf)
    try:
        return Arrivals(read_positive_number(value))
    except ValueError:
        hint = nearest(str(value), (POISSON, CONSTANT))
        raise ValueError(
            f"{show(value)} is no way to arrive{hint}; use poisson, constant or a burstiness above 0, e.g. 0.5"
        ) from None


def read_workers(value: Any) -> int | None:
    """Return a number of processes; None for ``auto``."""
    return None if value == "auto" else read_positive_count(value)


def read_errors(value: Any) -> tuple[int | None, float | None]:
    """Return how many failed requests, or which share of them, end a window."""
    share = isinstance(value, float) or (isinstance(value, str) and "%" in value)
    return (None, units.percentage(value)) if share else (read_positive_count(value), None)


def read_lengths(value: Any) -> Lengths:
    """Return a distribution of lengths in tokens: a number, ``U(100,500)``, ``N(480,240)``, or a suite's mapping."""
    from pytest_autotune.load.length_notation import read_lengths as read_distribution

    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9.]+\s*[kK]?\s*", value):
        return Fixed(read_positive_count(value))
    return read_distribution(value)


def read_path(value: Any) -> Path:
    """Return the path of a file."""
    return Path(read_text(str(value) if isinstance(value, Path) else value)).expanduser()


def read_slo(value: Any) -> tuple[Limit, ...]:
    """Return limits from text like ``ttft.p90<=500ms``, several with commas between, or from a suite's mapping."""
    if isinstance(value, Mapping):
        return _without_costs(read_limits(value).limits)
    limits: list[Limit] = []
    for text in (part for item in _as_list(value) for part in split_list(item)):
        match = _LIMIT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"{show(text)} is not a limit; write a metric, <= or >=, and a value: ttft.p90<=500ms")
        metric, relation, bound = match.groups()
        read_metric(metric)
        side = "max" if relation == "<=" else "min"
        limits += read_limits({metric: {side: _plain_number(bound)}}).limits
    return _without_costs(limits)


def _without_costs(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    for limit in limits:
        if limit.metric in COSTS:
            raise ValueError(f"{limit.metric!r} needs a price, which only a suite has; use {COSTS[limit.metric]}")
    return tuple(limits)


def _plain_number(text: str) -> str | int | float:
    if re.fullmatch(r"[0-9]{1,15}", text):
        return int(text)
    return float(text) if re.fullmatch(r"[0-9]{1,15}\.[0-9]{1,15}", text) else text


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def split_list(value: Any) -> list[Any]:
    """Split text at its commas; values of Python are taken as they are."""
    items = [part.strip() for part in value.split(",")] if isinstance(value, str) else _as_list(value)
    if not items or "" in items:
        raise ValueError(f"{show(value)} lists nothing between two commas; write e.g. 1,8,64")
    return items


def read_duration(value: Any) -> float:
    """Return seconds; numbers of Python are seconds, text needs a unit."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return units.duration(f"{value}s") if value < 0 else units.number(value)
    return units.duration(value)


def read_positive_duration(value: Any) -> float:
    """Return seconds, more than none."""
    seconds = read_duration(value)
    if seconds <= 0:
        raise ValueError(f"{show(value)} must be longer than 0; write e.g. 500ms, 30s, 2m")
    return seconds


def read_count(value: Any, *, least: int = 0) -> int:
    """Return a whole number, from text as well."""
    written = isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,18}\s*", value)
    return units.count(int(value) if written else value, least=least)


def read_positive_count(value: Any) -> int:
    """Return a whole number of at least 1."""
    return read_count(value, least=1)


def read_positive_number(value: Any) -> float:
    """Return a finite number above 0."""
    try:
        number = float(value) if isinstance(value, str) else units.number(value)
    except ValueError:
        raise ValueError(f"{show(value)} is not a number") from None
    if not 0 < number < math.inf:
        raise ValueError(f"{show(value)} is not a number above 0")
    return number


def _listed(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
