"""Puts the one spelling of structured values in the place of those that a suite file has, before it is validated.

What is tuned is then a plain choice: its text names trials, is stored, and is what conditions compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

from pytest_autotune import parallelism, quantization
from pytest_autotune.problems import Collector
from pytest_autotune.space import canonical
from pytest_autotune.spelling import show

if TYPE_CHECKING:
    from pytest_autotune.yaml_source import Source

DialectName = Literal["vllm", "sglang", "llamacpp", "trtllm", "tgi"]
DIALECTS: tuple[str, ...] = get_args(DialectName)
_DIALECT_OF = {**{name: name for name in DIALECTS}, "sim": "vllm"}  # by engine; the embedded one has vLLM's flags
READERS: Mapping[str, Callable[[Any], Any]] = {
    parallelism.NAME: parallelism.read_parallelism,
    quantization.NAME: quantization.read_quantization,
}


def dialect_named(engine: object, dialect: object = None) -> str | None:
    """Return the name of the dialect that a suite's engine has, or that it says itself; None for unknown flags."""
    named = dialect or (_DIALECT_OF.get(engine) if isinstance(engine, str) else None)
    return named if isinstance(named, str) else None


def normalise(source: Source) -> Source:
    """Return a suite file with structured values in their one spelling; raise `Problems` for what is wrong in them.

    Where the engine's flags are not known, what is no mapping stays as it is, a value of the engine's own.
    """
    suite = source.value
    known = dialect_named(suite.get("engine"), suite.get("dialect")) is not None
    if not known and suite.get("engine") != "command":
        return source
    collector = Collector()
    read = _read if known else partial(_refuse, placed=str(suite.get("command")))
    changed = dict(suite)
    if isinstance(suite.get("parameters"), Mapping):
        changed["parameters"] = collector.read(("parameters",), _in_parameters, suite["parameters"], read)
    if isinstance(suite.get("fixed"), Mapping):
        changed["fixed"] = collector.read(("fixed",), _in_settings, suite["fixed"], read, several=False)
    if isinstance(suite.get("forbidden"), list):
        changed["forbidden"] = collector.read(("forbidden",), _in_list, suite["forbidden"], read, several=True)
    search = suite.get("search")
    if isinstance(search, Mapping) and isinstance(search.get("seeds"), list):
        seeds = collector.read(("search", "seeds"), _in_list, search["seeds"], read, several=False)
        changed["search"] = {**search, "seeds": seeds}
    collector.finish()
    return replace(source, value=changed)


def _read(name: str, value: Any) -> Any:
    return READERS[name](value)


def _refuse(name: str, value: Any, *, placed: str) -> Any:
    """Return a value of a command's setting; raise `ValueError` for one of ours that would become a flag as it is."""
    ours = isinstance(value, Mapping) or (name == parallelism.NAME and parallelism.parallelism_of(value) is not None)
    if ours and f"{{{name}}}" not in placed:
        remedy = f"add dialect: with the engine whose flags it has: {', '.join(DIALECTS)}"
        raise ValueError(f"{show(value)} becomes flags of an engine, and those of a command are not known; {remedy}")
    return value


def _in_parameters(parameters: Mapping[str, Any], read: Callable[[str, Any], Any]) -> dict[str, Any]:
    collector = Collector()
    changed = dict(parameters)
    for name in (name for name in READERS if name in parameters):
        written = parameters[name]
        if isinstance(written, list):
            changed[name] = collector.read((name,), _in_choices, name, written, read)
        elif isinstance(written, Mapping) and isinstance(written.get("choice"), list):
            choices = collector.read((name, "choice"), _in_choices, name, written["choice"], read)
            changed[name] = {**written, "choice": choices}
        elif isinstance(written, Mapping) and written.keys() & {"int", "float"}:
            collector.note((name,), f"{show(written)} is a range; list the values")
    collector.finish()
    return changed


def _in_choices(name: str, written: list[Any], read: Callable[[str, Any], Any]) -> list[Any]:
    collector = Collector()
    values: list[Any] = []
    first: dict[str, Any] = {}
    for index, each in enumerate(written):
        found = len(collector.found)
        value = collector.read((index,), read, name, each)
        if len(collector.found) > found:
            continue
        key = canonical({"": value})
        if key in first and canonical({"": first[key]}) != canonical({"": each}):
            collector.note((index,), f"{show(each)} is {show(first[key])} in another spelling; remove one of the two")
        first.setdefault(key, each)
        values.append(value)
    collector.finish()
    return values


def _in_settings(settings: Mapping[str, Any], read: Callable[[str, Any], Any], *, several: bool) -> dict[str, Any]:
    """Return settings, each with a value or, if it may have `several`, with a list of them."""
    collector = Collector()
    changed = dict(settings)
    for name in (name for name in READERS if name in settings):
        written = settings[name]
        if several and isinstance(written, list):
            changed[name] = [collector.read((name, index), read, name, each) for index, each in enumerate(written)]
        else:
            changed[name] = collector.read((name,), read, name, written)
    collector.finish()
    return changed


def _in_list(written: list[Any], read: Callable[[str, Any], Any], *, several: bool) -> list[Any]:
    collector = Collector()
    changed = [
        collector.read((index,), _in_settings, each, read, several=several) if isinstance(each, Mapping) else each
        for index, each in enumerate(written)
    ]
    collector.finish()
    return changed
