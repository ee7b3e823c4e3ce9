"""Reads the JSON files that tools leave; what cannot be read is told, and never guessed at."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

log = logging.getLogger(__name__)

Read = TypeVar("Read")


def read_each(paths: Iterable[Path], read: Callable[[Path, Any], Read]) -> tuple[list[Read], list[str]]:
    """Return what `read` makes of each file's document, and one line for each file that is none.

    A file that was cut short, or lacks what it should have, is skipped: its neighbours are whole.
    """
    found: list[Read] = []
    skipped: list[str] = []
    for path in paths:
        try:
            found.append(read(path, json.loads(path.read_bytes())))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else str(error)
            skipped.append(f"{path.name}: {why}")
            log.warning("skipped %s: %s", path, why)
    return found, skipped


def skipped_text(skipped: list[str]) -> str:
    """Return a line about files that were skipped; empty when there are none."""
    if not skipped:
        return ""
    return f"skipped {len(skipped)} unreadable result file{'s' * (len(skipped) > 1)} ({skipped[0]})"
