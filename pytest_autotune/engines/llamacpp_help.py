"""Reads what ``llama-server`` prints of itself: its flags, its version, its devices."""

from __future__ import annotations

import re

from pytest_autotune.engines.engine import Flag

# "-c,    --ctx-size N     size of the prompt context (default: 0, ...": spellings, what follows them, the text.
_OPTION = re.compile(
    r"^(?P<spellings>-{1,2}[a-zA-Z][\w.-]*(?:, +-{1,2}[a-zA-Z][\w.-]*)*)(?P<value> \S.*?)?(?: {2,}(?P<text>.*))?$"
)
_WORDS = re.compile(r"^\[(\w+(?:\|\w+)+)\]$|^\{(\w+(?:,\w+)+)\}$|^<(\d+(?:\|\d+)+)>$")
_ALLOWED = re.compile(r"allowed values: ([\w, ]+)")
_DEFAULT = re.compile(r"\(default: '?([^,;()']+)'?[,;)]")
_VERSION = re.compile(r"^version: (\S+)(?: \((?:build (?P<build>\d+), commit )?(?P<commit>\w+)\))?", re.MULTILINE)
_DEVICE = re.compile(r"^ {2}(?!\(none\))\S+: ", re.MULTILINE)


def flags_in(text: str) -> dict[str, Flag]:
    """Return each long flag of a help page, by its name.

    A flag without a value is a switch; one that has a twin ``--no-<name>`` can be switched off.
    """
    flags: dict[str, Flag] = {}
    for entry in _entries(text):
        option = _OPTION.match(entry[0])
        if option is None:
            continue
        spellings = [word.strip() for word in option["spellings"].split(",")]
        names = [word[2:] for word in spellings if word.startswith("--")]
        value = (option["value"] or "").strip()
        said = " ".join([option["text"] or "", *entry[1:]])
        for name in names:
            if name.startswith("no-") and name[3:] in names:
                continue
            flags[name] = Flag(
                name,
                default=_default(said) if value else None,
                choices=_choices(value, said),
                boolean=not value,
                negatable=not value and f"no-{name}" in names,
                many=False,
            )
    return flags


def version_in(text: str) -> str:
    """Return the version that a server tells: its build's number where it has one, or the text before it."""
    found = _VERSION.search(text)
    if found is None:
        return ""
    return f"{found[1]}+{found['commit']}" if found["commit"] else found[1]


def devices_in(text: str) -> int:
    """Return how many devices beside the processor a server lists."""
    return len(_DEVICE.findall(text.partition("Available devices:")[2]))


def _entries(text: str) -> list[list[str]]:
    """Return the lines of each option: its first one, and those of its text that are indented."""
    entries: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("-") and not line.startswith("---"):
            entries.append([line.rstrip()])
        elif line.startswith(" ") and entries:
            entries[-1].append(line.strip())
    return entries


def _choices(value: str, said: str) -> tuple[str, ...]:
    if words := _WORDS.match(value):
        return tuple(re.split(r"[|,]", next(group for group in words.groups() if group)))
    if allowed := _ALLOWED.search(said):
        return tuple(word.strip() for word in re.split(r", *", allowed[1].partition(" (")[0]) if word.strip())
    return ()


def _default(said: str) -> int | float | str | None:
    found = _DEFAULT.search(said)
    if found is None:
        return None
    text = found[1].strip()
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text if re.fullmatch(r"\w+", text) else None
