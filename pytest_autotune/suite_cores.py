"""`cores:` of a suite: how many CPU cores one server takes, and which ones the load generator keeps for itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_autotune import units
from pytest_autotune.fields import read_mapping
from pytest_autotune.problems import Collector
from pytest_autotune.spelling import nearest, show

_FORMS = "a number of cores, auto, none, or a mapping, e.g. {per_server: 4, generator: 2, pool: [0-15]}"
_WORDS = ("auto", "none")
_MOST = 4096  # cores by their numbers: the most that Linux is built for on x86
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Cores:
    """Cores as Linux counts them: where cores have hyper-threads, each of those is one."""

    leased: bool = True  # False: servers and load generator run where they like
    per_server: int | None = None  # None: an equal share for each of the servers that run at a time
    generator: int = 1  # for the load generators and pytest itself, all that run at a time together
    members: tuple[int, ...] | None = None  # that there are to take; None: all that this process may use
    wait_s: float = 3600.0


NONE = Cores(leased=False)


def read_cores(value: Any) -> Cores:
    """Read `cores:`, a count, a word or a mapping."""
    if isinstance(value, Mapping):
        return _read_mapping(value)
    if value == "none":
        return NONE
    return Cores(per_server=_read_share(value, forms=_FORMS, words=_WORDS))


def _read_mapping(value: Mapping[str, Any]) -> Cores:
    read_mapping(value, keys=("per_server", "generator", "pool", "wait"))
    if not value:
        raise ValueError("an empty mapping says nothing; remove the key")
    collector = Collector()
    terms: dict[str, Any] = {}
    if "per_server" in value:
        terms["per_server"] = collector.read(
            ("per_server",), _read_share, value["per_server"], forms="a number of cores, or auto", words=("auto",)
        )
    if "generator" in value:
        terms["generator"] = collector.read(("generator",), units.count, value["generator"], least=1)
    if "pool" in value:
        terms["members"] = collector.read(("pool",), _read_pool, value["pool"])
    if "wait" in value:
        terms["wait_s"] = collector.read(("wait",), units.duration, value["wait"])
    collector.finish()
    return Cores(**terms)


def _read_share(value: Any, *, forms: str, words: tuple[str, ...]) -> int | None:
    if value == "auto":
        return None
    if isinstance(value, str) and not value.isdecimal():
        raise ValueError(f"{show(value)} is not {forms}{nearest(value, words)}")
    if isinstance(value, list):
        raise ValueError(f"{show(value)} is not {forms}; a list of cores is a pool")
    return units.count(value, least=1)


def _read_pool(value: Any) -> tuple[int, ...] | None:
    if value == "auto":
        return None
    if not isinstance(value, list):
        raise ValueError(f"{show(value)} is not auto, or a list of cores, e.g. [0-15, 32]")
    if not value:
        raise ValueError("an empty list has no core; write auto, or list some, e.g. [0-15]")
    collector = Collector()
    members: list[int] = []
    for index, written in enumerate(value):
        for core in collector.read((index,), _read_members, written) or ():
            if core in members:
                collector.note((index,), f"core {core} is listed twice")
            members.append(core)
    collector.finish()
    return tuple(members)


def _read_members(value: Any) -> range:
    text = "" if isinstance(value, bool) else str(value)
    found = _RANGE.fullmatch(text)
    if found is None:
        raise ValueError(f"{show(value)} is not a core; write its number as lscpu shows it, or a range such as 0-15")
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first:
        raise ValueError(f"{text} is no range; write {last}-{first}")
    if last >= _MOST:
        raise ValueError(f"core {last} is too many; write {_MOST - 1} at most")
    return range(first, last + 1)


_COUNT = {"type": "integer", "minimum": 1}
CORES_SCHEMA: dict[str, Any] = {
    "anyOf": [
        _COUNT,
        {"enum": list(_WORDS)},
        {
            "type": "object",
            "minProperties": 1,
            "properties": {
                "per_server": {
                    "anyOf": [_COUNT, {"const": "auto"}],
                    "default": "auto",
                    "description": "How many one server takes; auto: an equal share for each that runs at a time.",
                },
                "generator": {
                    **_COUNT,
                    "default": Cores().generator,
                    "description": "How many pytest and its load generators keep for themselves, all together.",
                },
                "pool": {
                    "anyOf": [
                        {"const": "auto"},
                        {
                            "type": "array",
                            "minItems": 1,
                            "uniqueItems": True,
                            "items": {
                                "anyOf": [
                                    {"type": "integer", "minimum": 0, "maximum": _MOST - 1},
                                    {"type": "string", "pattern": r"^[0-9]{1,5}(-[0-9]{1,5})?$"},
                                ]
                            },
                        },
                    ],
                    "default": "auto",
                    "description": "Those that there are to take: all that pytest may use, or a list of numbers and "
                    "ranges.",
                },
                "wait": {
                    "type": "string",
                    "pattern": units.DURATION,
                    "default": "1h",
                    "description": "How long a trial waits for its cores until it fails.",
                },
            },
            "additionalProperties": False,
        },
    ]
}
