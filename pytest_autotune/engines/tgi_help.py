"""Reads what ``text-generation-launcher --help`` prints: its flags, as Rust's clap tells them."""

from __future__ import annotations

import re

from pytest_autotune.engines.engine import Flag
from pytest_autotune.engines.reprs import plain

_OPTION = re.compile(r"^ +(?:-\w, )?--(?P<name>[a-z][\w-]*)(?P<value> <\w+>)?\s*$")
_DEFAULT = re.compile(r"\[default: ([^\]]+)\]")
_WORDS = re.compile(r"\[possible values: ([^\]]+)\]")
_LISTED = re.compile(r"^ +- ([\w-]+):(?: |$)")  # one of the possible values, with what it means
_VERSION = re.compile(r"text-generation-launcher (\S+)")


def flags_in(text: str) -> dict[str, Flag]:
    """Return each flag of a long help page, by its name; one without a value is a switch."""
    flags: dict[str, Flag] = {}
    for name, valued, lines in _entries(text):
        said = " ".join(lines)
        words, default = _WORDS.search(said), _DEFAULT.search(said)
        listed = tuple(match[1] for line in lines if (match := _LISTED.match(line)))
        flags[name] = Flag(
            name,
            default=plain(default[1]) if default and valued else None,
            choices=tuple(words[1].split(", ")) if words else listed,
            boolean=not valued,
        )
    return flags


def version_in(text: str) -> str:
    """Return the version that the launcher tells; empty without one."""
    found = _VERSION.search(text)
    return found[1] if found else ""


def _entries(text: str) -> list[tuple[str, bool, list[str]]]:
    """Return the name of each option, whether it takes a value, and the lines below it."""
    entries: list[tuple[str, bool, list[str]]] = []
    for line in text.splitlines():
        if option := _OPTION.match(line):
            entries.append((option["name"], option["value"] is not None, []))
        elif entries:
            entries[-1][2].append(line)
    return entries
