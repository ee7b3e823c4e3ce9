"""The history of a suite in the terminal: a line for each metric and load level, and each change with its revision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_autotune.formatting import change, count, quantity, title
from pytest_autotune.reporting.lines import cut, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_autotune.history import Point, Series

_BARS = "▁▂▃▄▅▆▇█"
_SHOWN = 24  # newest values of a sparkline


def history_lines(suite: str, series: Sequence[Series], *, width: int = 80) -> list[str]:
    """Return the lines; `series` are those of one suite, and not none."""
    runs = {point.run_id: point for one in series for point in one.points}
    ordered = sorted(runs.values(), key=lambda point: (point.at, point.run_id))
    first, last = ordered[0], ordered[-1]
    lines = [f"{suite}: {count(len(runs), 'verification')}, {_words(first)} to {_words(last)}", ""]
    rows = [
        [
            title(one.metric),
            one.level,
            sparkline([point.value for point in one.points]),
            quantity(one.metric, one.points[-1].value),
            change(one.points[-1].value / one.points[0].value - 1) if one.points[0].value else "",
        ]
        for one in series
    ]
    lines += cut(table(["", "at", "", "last", "since the first"], rows, left=(0, 1, 2)), width)
    changes = [(found, one) for one in series for found in one.changes]
    changes.sort(key=lambda pair: pair[0].at.at)
    lines += [
        "",
        *(
            f"  {change(found.by)} {title(one.metric)} at {one.level} since {_words(found.at)}"
            for found, one in changes
        ),
    ]
    return lines if changes else [*lines, "  no change of level was found"]


def sparkline(values: Sequence[float]) -> str:
    """Draw the newest values between the least and the largest of them."""
    shown = values[-_SHOWN:]
    least, most = min(shown), max(shown)
    if least == most:
        return _BARS[0] * len(shown)
    top = len(_BARS) - 1
    return "".join(_BARS[round((value - least) / (most - least) * top)] for value in shown)


def _words(point: Point) -> str:
    revision = f"commit {point.commit[:10]}" if point.commit else f"run {point.run_id}"
    version = f", engine {point.engine_version}" if point.engine_version else ""
    return f"{revision} of {point.at:%Y-%m-%d}{version}"
