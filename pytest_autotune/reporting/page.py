"""The history of a suite as a web page in one file: its tables, and a chart of each metric; nothing is loaded by it."""

from __future__ import annotations

import html
import math
from itertools import cycle
from typing import TYPE_CHECKING, Any

from pytest_autotune.errors import MissingRequirement
from pytest_autotune.formatting import change, in_unit, quantity, title, unit
from pytest_autotune.reporting.trend import (
    NO_CHANGE,
    change_sentences,
    history_rows,
    revision,
    span,
    verifications,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_autotune.history import Point, Series

SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "star")  # load levels, told apart without colours
DASHES = ("solid", "dash", "dot", "dashdot")
TICKS = 30  # most verifications that are named below a chart
HEIGHT, LINE = 420, 15  # of a chart, and of a line of text above it; pixels
GREY = "#57606a"
LABEL = 0.11  # share of a chart's width that a label of a change takes
# A browser neither fetches nor sends anything for the page, whatever may stand in it.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "form-action 'none'; base-uri 'none'"
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2328; background: #fff; max-width: 1200px; margin: 2em auto;
  padding: 0 1em }
table { border-collapse: collapse }
th, td { padding: 0.2em 0.9em; border-bottom: 1px solid #d1d9e0; text-align: left; white-space: nowrap }
td:nth-child(n+4), th:nth-child(n+4) { text-align: right }
td:nth-child(3) { font-family: monospace }
.table { overflow-x: auto }
"""
PLOTLY = {  # its other buttons are a link to Plotly, and one that sends it what was measured
    "displaylogo": False,
    "responsive": True,
    "modeBarButtons": [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]],
}


def history_page(suite: str, series: Sequence[Series]) -> str:
    """Return the page; `series` are those of one suite, and not none. Raises `MissingRequirement` without Plotly."""
    name = html.escape(suite)
    rows = [[*row[:3], row.first, row.last, row.change, str(row.verifications)] for row in history_rows(series)]
    header = ["metric", "at", "newest", "first", "last", "since the first", "verifications"]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            f"<title>{name}: history</title><style>{STYLE}</style></head>",
            f"<body><h1>{name}</h1>",
            f"<p>{html.escape(span(series))}</p>",
            "<h2>Since when it changed</h2><ul>",
            *(f"<li>{html.escape(text)}</li>" for text in change_sentences(series) or [NO_CHANGE]),
            "</ul><h2>First and last</h2>",
            '<div class="table"><table>',
            *_rows("th", [header]),
            *_rows("td", rows),
            "</table></div>",
            *_drawn(series),
            "</body></html>",
            "",
        ]
    )


def _rows(tag: str, rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in rows:
        yield f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in row)}</tr>"


def _drawn(series: Sequence[Series]) -> Iterator[str]:
    """Yield a heading and a chart for each metric; the first brings what draws them."""
    try:
        from plotly.io import to_html
    except ImportError:
        raise MissingRequirement("Plotly draws the page: pip install 'pytest-autotune[dashboard]'") from None
    runs = verifications(series)
    for number, metric in enumerate(dict.fromkeys(one.metric for one in series)):
        figure = chart([one for one in series if one.metric == metric], runs)
        yield f"<h2>{html.escape(title(metric))}</h2>"
        yield to_html(
            figure,
            config=PLOTLY,
            include_plotlyjs=number == 0,
            full_html=False,
            div_id=f"chart-{number}",
            default_height=f"{figure['layout']['height']}px",
        )


def chart(series: Sequence[Series], runs: Sequence[Point]) -> dict[str, Any]:
    """Return a Plotly figure of one metric: a line for each load level over all `runs`, and where a level began."""
    metric = series[0].metric
    place = {run.run_id: number for number, run in enumerate(runs)}
    named = range(0, len(runs), math.ceil(len(runs) / TICKS))
    labels, lines = _changes(series, place)
    top = 20 + LINE * lines
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": one.level,
                "showlegend": True,
                "x": [place[point.run_id] for point in one.points],
                "y": [in_unit(metric, point.value) for point in one.points],
                "hovertext": [_hover(one, point) for point in one.points],
                "hoverinfo": "text",
                "marker": {"symbol": shape, "size": 8 if len(runs) <= 2 * TICKS else 5},
                "line": {"dash": dash, "width": 1.5},
            }
            for one, shape, dash in zip(series, cycle(SHAPES), cycle(DASHES), strict=False)
        ],
        "layout": {
            "template": "none",
            "height": HEIGHT + top,
            "margin": {"t": top, "r": 40},
            "hovermode": "closest",
            "legend": {"title": {"text": "load level"}},
            "xaxis": {
                "title": {"text": "verifications by commit, oldest first"},
                "tickmode": "array",
                "tickvals": list(named),
                "ticktext": [_short(runs[number]) for number in named],
                "tickangle": -45,
                "range": [-0.5, len(runs) - 0.5],
                "showgrid": False,
                "zeroline": False,
            },
            "yaxis": {
                "title": {"text": f"{title(metric)} ({unit(metric)})" if unit(metric) else title(metric)},
                "rangemode": "nonnegative",
            },
            "shapes": [
                {"type": "line", "x0": label["x"], "x1": label["x"], "yref": "paper", "y0": 0, "y1": 1}
                | {"layer": "below", "line": {"dash": "dash", "width": 1, "color": GREY}}
                for label in labels
            ],
            "annotations": labels,
        },
    }


def _changes(series: Sequence[Series], place: Mapping[str, int]) -> tuple[list[dict[str, Any]], int]:
    """Return the label of each verification with which a level began, and how many lines of text they take.

    A label that would cover an earlier one stands above it.
    """
    found: dict[int, list[str]] = {}
    for one in series:
        for each in one.changes:
            began = found.setdefault(place[each.at.run_id], [f"<b>{_short(each.at)}</b>"])
            began.append(f"{one.level}: {change(each.by)}")
    labels: list[dict[str, Any]] = []
    taken: list[tuple[float, int]] = []  # until where, and by how many lines
    for x, words in sorted(found.items()):
        below = max((lines for until, lines in taken if until > x), default=0)
        taken.append((x + LABEL * len(place), below + len(words)))
        labels.append(
            {
                "x": x,
                "y": 1,
                "yref": "paper",
                "yanchor": "bottom",
                "text": "<br>".join(words),
                "align": "left",
                "font": {"size": 11},
                "ax": 0,
                "ay": -LINE * below - 2,
                "arrowhead": 0,
                "arrowwidth": 1,
                "arrowcolor": GREY,
            }
        )
    return labels, max((lines for _, lines in taken), default=0)


def _hover(one: Series, point: Point) -> str:
    words = [revision(point), f"{point.at:%Y-%m-%d %H:%M} UTC", f"{one.level}: {quantity(one.metric, point.value)}"]
    words += [f"engine {point.engine_version}"] if point.engine_version else []
    return "<br>".join(map(_text, words))


def _short(point: Point) -> str:
    return _text(point.commit[:10] or point.run_id)


def _text(words: str) -> str:
    """Write words as text in a chart, where Plotly reads markup, but no names of quotation marks."""
    return html.escape(words, quote=False)
