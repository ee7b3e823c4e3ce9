"""`gpus:` of a suite: how many one server takes, which ones there are to take, and when one of them is free."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_autotune import units
from pytest_autotune.fields import read_flag, read_mapping
from pytest_autotune.problems import Collector
from pytest_autotune.spelling import nearest, show

PRETENDED_MOST = 1024
_FORMS = "a number of GPUs, auto, none, a list of GPUs, or a mapping, e.g. {per_server: 2, pool: [0, 1]}"
_POOLS = ("auto", "none")


@dataclass(frozen=True, slots=True)
class GpuPool:
    """The GPUs that servers may be given, and what one must be like to be given away."""

    leased: bool = True  # False: servers take what they like, and nobody keeps count
    members: tuple[int | str, ...] | None = None  # by index or UUID; None: all that this process may see
    pretended: int = 0  # so many that do not exist, instead of the machine's
    memory_share: float = 0.5  # of a GPU's memory, and ...
    memory_bytes: int = 0  # ... so much of it, that must be free
    utilization: float = 0.5  # above this share of the time it is somebody else's
    shared: bool = False  # also where other processes compute
    balance: float = 0.8  # of several: the least free memory, as a share of the most
    weight: float = 0.6  # of free memory in the choice; the rest is that of idleness
    wait_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Gpus:
    """What `gpus:` says."""

    per_server: int | None = None  # None: what the engine takes by its settings
    pool: GpuPool = GpuPool()


def read_gpus(value: Any) -> Gpus:
    """Read `gpus:`, a count, a word, a list or a mapping."""
    if isinstance(value, Mapping):
        return _read_mapping(value)
    if isinstance(value, int | float) or (isinstance(value, str) and value.isdecimal()):
        return Gpus(units.count(value))
    return _of_pool(value, forms=_FORMS)


def _of_pool(value: Any, *, forms: str) -> Gpus:
    """Read the word or the list that says which GPUs there are to take; without any, a server takes none."""
    if value == "auto":
        return Gpus()
    if value == "none":
        return Gpus(0, GpuPool(leased=False))
    if isinstance(value, list):
        return Gpus(pool=GpuPool(members=_read_members(value)))
    hint = nearest(value, _POOLS) if isinstance(value, str) else ""
    raise ValueError(f"{show(value)} is not {forms}{hint}")


def _read_mapping(value: Mapping[str, Any]) -> Gpus:
    read_mapping(value, keys=(*_PLACES, *_TERMS))
    if not value:
        raise ValueError("an empty mapping says nothing; remove the key")
    collector = Collector()
    found = Gpus()
    if "pool" in value:
        found = (
            collector.read(("pool",), _of_pool, value["pool"], forms="auto, none, or a list of GPUs, e.g. [0, 1]")
            or found
        )
    terms: dict[str, Any] = {"members": found.pool.members, "leased": found.pool.leased}
    per_server = found.per_server
    if "per_server" in value:
        per_server = collector.read(("per_server",), units.count, value["per_server"])
    if "pretend" in value:
        terms["pretended"] = collector.read(("pretend",), _read_pretended, value["pretend"])
        if "pool" in value:
            collector.note(("pretend",), "pretended GPUs are all that there are; remove it, or pool")
    for name in (name for name in _TERMS if name in value):
        terms |= collector.read((name,), _TERMS[name], value[name]) or {}
    collector.finish()
    return Gpus(per_server, GpuPool(**terms))


def _read_members(value: Sequence[Any]) -> tuple[int | str, ...]:
    if not value:
        raise ValueError("an empty list has no GPU; write none, or list some, e.g. [0, 1]")
    collector = Collector()
    members: list[int | str] = []
    for index, written in enumerate(value):
        member = collector.read((index,), _read_member, written)
        if member is not None and member in members:
            collector.note((index,), f"GPU {member} is listed twice")
        members.append(member)
    collector.finish()
    return tuple(members)


def _read_member(value: Any) -> int | str:
    if isinstance(value, str) and value.startswith("GPU-"):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError(f"{show(value)} is not a GPU; write its index as nvidia-smi shows it, or its UUID (GPU-...)")


def _read_pretended(value: Any) -> int:
    number = units.count(value, least=1)
    if number > PRETENDED_MOST:
        raise ValueError(f"{number} is too many to pretend; write {PRETENDED_MOST} at most")
    return number


def _read_memory(value: Any) -> dict[str, Any]:
    if isinstance(value, str) and value.strip().endswith(("B", "b")):
        return {"memory_share": 0.0, "memory_bytes": units.size(value)}
    try:
        return {"memory_share": units.percentage(value)}
    except ValueError as error:
        raise ValueError(f"{error}, or a size, e.g. 20GiB") from None


def _read_wait(value: Any) -> dict[str, Any]:
    return {"wait_s": units.duration(value)}


def _share(field: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {field: units.percentage(value)}


_PLACES = ("per_server", "pool", "pretend")
_TERMS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "memory": _read_memory,
    "utilization": _share("utilization"),
    "shared": lambda value: {"shared": read_flag(value)},
    "balance": _share("balance"),
    "weight": _share("weight"),
    "wait": _read_wait,
}

_COUNT = {"type": "integer", "minimum": 0}
_LIST = {
    "type": "array",
    "minItems": 1,
    "uniqueItems": True,
    "items": {"anyOf": [_COUNT, {"type": "string", "pattern": "^GPU-"}]},
}
_PERCENTAGE = {"type": ["string", "number"], "pattern": units.PERCENTAGE}
GPUS_SCHEMA: dict[str, Any] = {
    "anyOf": [
        _COUNT,
        {"enum": list(_POOLS)},
        _LIST,
        {
            "type": "object",
            "minProperties": 1,
            "properties": {
                "per_server": {
                    **_COUNT,
                    "description": "How many one server takes, when the engine cannot tell from its settings.",
                },
                "pool": {
                    "anyOf": [{"enum": list(_POOLS)}, _LIST],
                    "default": "auto",
                    "description": "Those that servers may be given: all that are visible, a list of indices or UUIDs, "
                    "or none: nothing is leased.",
                },
                "pretend": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": PRETENDED_MOST,
                    "description": "So many that do not exist, instead of the machine's: to try things out.",
                },
                "memory": {
                    "type": ["string", "number"],
                    "default": f"{GpuPool().memory_share:.0%}",
                    "description": "How much of a GPU's memory must be free: a share, or a size such as 20GiB.",
                },
                "utilization": {
                    **_PERCENTAGE,
                    "default": f"{GpuPool().utilization:.0%}",
                    "description": "A GPU that is busier than that is not given away.",
                },
                "shared": {
                    "type": "boolean",
                    "default": GpuPool().shared,
                    "description": "Give away GPUs on which processes of others compute, too.",
                },
                "balance": {
                    **_PERCENTAGE,
                    "default": f"{GpuPool().balance:.0%}",
                    "description": "Of the GPUs of one server, the least free memory as a share of the most.",
                },
                "weight": {
                    **_PERCENTAGE,
                    "default": f"{GpuPool().weight:.0%}",
                    "description": "How much free memory counts in the choice among free ones; the rest is idleness.",
                },
                "wait": {
                    "type": "string",
                    "pattern": units.DURATION,
                    "default": "1h",
                    "description": "How long a trial waits for its GPUs until it fails.",
                },
            },
            "additionalProperties": False,
        },
    ]
}
