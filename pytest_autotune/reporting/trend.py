"""The history of a suite in words: a row for each metric and load level, and each change with its revision."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_autotune.formatting import change, count, points, quantity, title
from pytest_autotune.metrics import SHARES
from pytest_autotune.reporting.lines import cut, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_autotune.history import Point, Series

NO_CHANGE = "no change of level was found"
_BARS = "▁▂▃▄▅▆▇█"
_SHOWN = 24  # newest values of a sparkline


class Row(NamedTuple):
    """One series in a table."""

    metric: str
    level: str
    drawn: str
    first: str
    last: str
    change: str
    verifications: int


def history_lines(suite: str, series: Sequence[Series], *, width: int = 80) -> list[str]:
    """Return the lines of the terminal; `series` are those of one suite, and not none."""
    rows = [[row.metric, row.level, row.drawn, row.last, row.change] for row in history_rows(series)]
    return [
        f"{suite}: {span(series)}",
        "",
        *cut(table(["", "at", "", "last", "since the first"], rows, left=(0, 1, 2)), width),
        "",
        *(f"  {text}" for text in change_sentences(series) or [NO_CHANGE]),
    ]


def span(series: Sequence[Series]) -> str:
    """Say how many verifications there are, from when to when."""
    runs = verifications(series)
    return f"{count(len(runs), 'verification')}, {origin(runs[0])} to {origin(runs[-1])}"


def verifications(series: Sequence[Series]) -> list[Point]:
    """Return a point of each verification, oldest first."""
    runs = {point.run_id: point for one in series for point in one.points}
    return sorted(runs.values(), key=lambda point: (point.at, point.run_id))


def history_rows(series: Sequence[Series]) -> list[Row]:
    """Return what a table shows of each series; of a metric that began at 0 no change unless it is a share."""
    return [
        Row(
            title(one.metric),
            one.level,
            sparkline([point.value for point in one.points]),
            quantity(one.metric, one.points[0].value),
            quantity(one.metric, one.points[-1].value),
            _since(one.metric, one.points[0].value, one.points[-1].value),
            len(one.points),
        )
        for one in series
    ]


def change_sentences(series: Sequence[Series], *, newest: int = 0) -> list[str]:
    """Return a sentence for each change, oldest first; of a level that began in the `newest` points, if that is given.

    ``+12 % ttft.p99 at c8 since commit 1a2b3c4d5e of 2026-11-27``
    """
    found = [(each, one) for one in series for each in one.changes if each.at in one.points[-newest:]]
    found.sort(key=lambda pair: pair[0].at.at)
    return [f"{change(each.by)} {title(one.metric)} at {one.level} since {origin(each.at)}" for each, one in found]


def origin(point: Point) -> str:
    """Say where a verification comes from: ``commit 1a2b3c4d5e of 2026-11-27, engine 0.11.0``."""
    version = f", engine {point.engine_version}" if point.engine_version else ""
    return f"{revision(point)} of {point.at:%Y-%m-%d}{version}"


def revision(point: Point) -> str:
    """Name a verification by its commit, or by its run where there is none."""
    return f"commit {point.commit[:10]}" if point.commit else f"run {point.run_id}"


def _since(metric: str, first: float, last: float) -> str:
    if metric in SHARES:
        return points(last - first)
    return change(last / first - 1) if first else ""


def sparkline(values: Sequence[float]) -> str:
    """Draw the newest values between the least and the largest of them."""
    shown = values[-_SHOWN:]
    least, most = min(shown), max(shown)
    if least == most:
        return _BARS[0] * len(shown)
    top = len(_BARS) - 1
    return "".join(_BARS[round((value - least) / (most - least) * top)] for value in shown)
