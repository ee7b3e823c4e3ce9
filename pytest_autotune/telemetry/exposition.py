"""Reading Prometheus' text format: the lines that somebody wants of a page, without a registry behind them."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

Labels = tuple[tuple[str, str], ...]  # sorted by name

_LABEL = r'[ \t]*[a-zA-Z_][a-zA-Z0-9_]*[ \t]*=[ \t]*"(?:[^"\\]|\\.)*"[ \t]*'
_LINE = re.compile(
    rf"([a-zA-Z_:][a-zA-Z0-9_:]*)[ \t]*(?:\{{((?:{_LABEL},)*(?:{_LABEL})?)\}})?[ \t]+(\S+)(?:[ \t]+-?\d+)?\s*"
)
_PARTS = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n"}  # any other character stands for itself


def read_page(text: str, names: Collection[str]) -> dict[str, dict[Labels, float]]:
    """Return the values of the lines with these names, by name and labels.

    A line that is none of the format, and a value that is not finite, are left out.
    """
    found: dict[str, dict[Labels, float]] = {}
    for line in text.split("\n"):
        name = line.partition("{")[0].partition(" ")[0].strip()
        if name not in names or (parts := _LINE.fullmatch(line)) is None:
            continue
        try:
            value = float(parts[3])
        except ValueError:
            continue
        if math.isfinite(value):
            found.setdefault(name, {})[_labels(parts[2] or "")] = value
    return found


def _labels(text: str) -> Labels:
    return tuple(sorted((name, _unquoted(value)) for name, value in _PARTS.findall(text)))


def _unquoted(text: str) -> str:
    return _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), text)
