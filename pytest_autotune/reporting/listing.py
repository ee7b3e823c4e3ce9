"""The baselines of a store in the terminal: a line for each, and how many there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_autotune.formatting import quantity, title
from pytest_autotune.reporting.lines import cut, table
from pytest_autotune.samples import Level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_autotune.baselines import StoredBaseline

_HEADER = ("name", "suite", "run", "commit", "date", "engine", "at")
_METRICS = 2  # the first that are recorded: those that the suite is about


def listing_lines(stored: Sequence[StoredBaseline], *, width: int) -> list[str]:
    """Return a table in the order of the baselines, each with what it came to at its highest load level."""
    rows = [_row(one) for one in stored]
    lines = table((*_HEADER, *[""] * _METRICS), rows, left=range(len(_HEADER) + _METRICS))
    return cut(lines, width)


def in_words(stored: StoredBaseline) -> str:
    """Return a baseline in a sentence: ``chat of run 20261127T120000Z-1a2b (commit 1a2b3c4d5e of 2026-11-27)``."""
    day = f"{stored.recorded_at:%Y-%m-%d}"
    origin = f"commit {stored.commit[:10]} of {day}" if stored.commit else day
    return f"{stored.suite} of run {stored.run_id} ({origin})"


def _row(stored: StoredBaseline) -> list[str]:
    engine = " ".join(str(stored.document.get(key, "")) for key in ("engine", "engine_version"))
    levels = stored.document.get("levels", {})
    highest = max(levels, key=Level.named, default="")
    metrics = list(levels.get(highest, {}).items())[:_METRICS]
    told = [f"{title(metric)} {quantity(metric, value)}" for metric, value in metrics]
    names, day = ", ".join(stored.names), f"{stored.recorded_at:%Y-%m-%d}"
    return [names, stored.suite, stored.run_id, stored.commit[:10], day, engine, highest, *told]
