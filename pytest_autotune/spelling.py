"""The nearest valid spelling of a word, and values as they are shown in messages."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

SHOWN = 60  # characters of a value that a message repeats


def nearest(word: str, candidates: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the candidate that looks most like `word`, else nothing."""
    match = closest(word, candidates)
    return "" if match is None else f" (did you mean {match!r}?)"


def closest(word: str, candidates: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the candidate that looks most like `word`; case, ``-`` and ``_`` count for nothing.

    Below `cutoff`, a likeness from 0 to 1, there is none.
    """
    spelled = {_plain(candidate): candidate for candidate in candidates}
    matches = difflib.get_close_matches(_plain(word), spelled, n=1, cutoff=cutoff)
    return spelled[matches[0]] if matches else None


def misspelled(word: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate of which `word` is almost certainly a typo, else None.

    Stricter than `closest`: two edits in a long name, one in a short one, none in names as short
    as ``tp`` and ``pp``, which differ on purpose.
    """
    plain = _plain(word)
    allowed = 0 if len(plain) < 4 else 1 if len(plain) < 8 else 2
    distances = [(_edits(plain, _plain(candidate)), candidate) for candidate in candidates if candidate != word]
    distance, candidate = min(distances, default=(allowed + 1, ""))
    return candidate if distance <= allowed else None


def show(value: Any) -> str:
    """Return a value as a message repeats it: one line, text in quotes, shortened when long."""
    if isinstance(value, str):
        return repr(value) if len(value) <= SHOWN else f"{value[:SHOWN]!r}..."
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _plain(word: str) -> str:
    return word.strip().casefold().replace("_", "-")


def _edits(left: str, right: str) -> int:
    """Return the optimal string alignment distance: insertions, deletions, substitutions, swaps of neighbours."""
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, start=1):
        older, before, row = before, row, [i]
        for j, b in enumerate(right, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and b == left[i - 2]:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
    return row[-1]
