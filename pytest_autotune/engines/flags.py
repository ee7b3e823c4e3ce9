"""Settings to command-line arguments: one argv element per value, never a shell line."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.engines.engine import Flag
    from pytest_autotune.space import Value


def flag_name(name: str) -> str:
    """Return the one spelling of a setting's name: ``max_num_seqs`` and ``max-num-seqs`` are the same flag.

    What follows a dot is a key inside a JSON value (``compilation-config.cudagraph_mode``), not a
    flag, and stays as it is.
    """
    flag, dot, key = name.partition(".")
    return f"{flag.replace('_', '-').lstrip('-')}{dot}{key}"


def merged(*layers: Mapping[str, Value]) -> dict[str, Value]:
    """Lay settings over each other by the flag they mean, whatever their spelling; the last one wins."""
    return {flag_name(name): value for layer in layers for name, value in layer.items()}


def to_argv(settings: Mapping[str, Value], flags: Mapping[str, Flag] | None, *, joins: bool = True) -> tuple[str, ...]:
    """Render settings as command-line arguments, in the order of `settings`.

    A switch that is true is its bare flag; one that is false is ``--no-<flag>`` where the engine
    understands that, else nothing; one that the engine wants a value of has it behind. A flag that is known
    is spelled as the engine does. None means the engine's default and is left out. A list is one
    flag followed by its values where the engine takes many, else one JSON value, as a mapping is.
    A value that begins with a dash is joined to its flag, or it would be read as a flag itself, but by an engine
    that `joins` none and takes what follows a flag as its value.
    """
    known = {} if flags is None else {flag_name(name): flag for name, flag in flags.items()}
    argv: list[str] = []
    for name, value in merged(settings).items():
        argv += _arguments(name, value, known.get(name.partition(".")[0]), joins=joins)
    return tuple(argv)


def _arguments(name: str, value: Value, flag: Flag | None, *, joins: bool) -> list[str]:
    if value is None:
        return []
    if flag is not None and "." not in name:
        name = flag.name
    bare = "." not in name and not (flag is not None and flag.valued)  # a key inside a JSON value has no bare form
    if isinstance(value, bool) and bare:
        if value:
            return [f"--{name}"]
        return [f"--no-{name}"] if flag is not None and flag.negatable else []
    if isinstance(value, list | tuple) and flag is not None and flag.many:
        return [f"--{name}", *(text_of(element) for element in value)] if value else []
    text = text_of(value)
    return [f"--{name}={text}"] if joins and text.startswith("-") else [f"--{name}", text]


def with_reserved(flags: Mapping[str, Flag], reserved: Mapping[str, str]) -> dict[str, Flag]:
    """Return flags with the reasons why a suite may not set some of them, each by its name with dashes."""
    return {name: replace(flag, reserved=reserved.get(name, "")) for name, flag in flags.items()}


def text_of(value: Value) -> str:
    """Return a value as one argv element: text as it is, anything else as compact JSON."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
