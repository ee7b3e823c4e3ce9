"""Reads Python's own notation of values, in which engines log what they run with."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_autotune.space import Value


def split(text: str) -> Iterator[str]:
    """Split at commas that are in no bracket and no string."""
    depth, quote, start, escaped = 0, "", 0, False
    for at, character in enumerate(text):
        if quote:
            quote = "" if character == quote and not escaped else quote
            escaped = character == "\\" and not escaped
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth == 0:
            yield text[start:at]
            start = at + 1
    yield text[start:]


def plain(text: str) -> Value:
    """Return the value that a text stands for, or the text when it is no plain one."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return list(value) if isinstance(value, tuple | set) else value
