"""Files that appear whole or not at all, their names, and values as JSON can hold them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def write_atomically(path: Path, text: str, *, executable: bool = False) -> None:
    """Write a whole file or none: a reader, or a kill, never sees half of it. Its directory is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o777 if executable else 0o666)
    with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123 - of a descriptor
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def file_name(text: str) -> str:
    """Keep letters, digits, dots and a few signs; node names have colons, which some file systems refuse."""
    return "".join(c if c.isalnum() or c in "-_.," else "_" for c in text)[:120]


def json_value(value: Any) -> Any:
    """Return a value as JSON can hold it: what is not a finite number is null, what JSON does not know is text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_value(inner) for inner in value]
    return str(value)
