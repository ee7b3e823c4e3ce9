"""The batches of a load test as an aligned table with a line for each finding."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from pytest_autotune.formatting import amount, quantity
from pytest_autotune.load_command.measuring import error_text, shortfall
from pytest_autotune.masking import mask_text
from pytest_autotune.slo import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_autotune.load_command.measuring import LoadBatch
    from pytest_autotune.slo import Limit

UNKNOWN = "-"
_GAP = 2  # between two columns
_HINTS = {
    "http-400": "the server refuses the requests; see its log for the parameter",
    "http-401": "give a key with --api-key",
    "http-403": "give a key with --api-key",
    "http-404": "check --url, --api and --model",
    "http-429": "the server limits its rate",
}


class Column(NamedTuple):
    """A column of the table: two lines of header, and the metric in it."""

    above: str
    below: str
    metric: str = ""
    spare: int = 0  # of the columns that a narrow terminal has no room for, the one with the most goes first


COLUMNS = (
    Column("", "level"),
    Column("", "requests", "requests", 2),
    Column("", "failed", "failed"),
    Column("TTFT", "p50 ms", "ttft.p50", 1),
    Column("TTFT", "p99 ms", "ttft.p99"),
    Column("TPOT", "mean ms", "tpot.mean"),
    Column("TPOT", "p99 ms", "tpot.p99", 5),
    Column("e2e", "p99 ms", "e2e.p99"),
    Column("output", "tok/s", "output_throughput"),
    Column("", "req/s", "request_throughput", 3),
    Column("", "delivered", spare=4),
    Column("", "client", spare=6),
    Column("", "verdict"),
)


def header() -> list[list[str]]:
    """Return both header lines as cells."""
    return [[column.above for column in COLUMNS], [column.below for column in COLUMNS]]


def row(batch: LoadBatch, limits: Sequence[Limit]) -> list[str]:
    """Return the cells of one batch, in the order of `COLUMNS`."""
    measurement, share = batch.measurement, client_share(batch).get("ttft")
    cells = {
        "level": batch.name,
        "delivered": UNKNOWN if measurement is None or batch.recorded else f"{100 * measurement.delivered:.3g} %",
        "client": UNKNOWN if share is None else quantity("error_rate", share, digits=2),
        "verdict": outcome(batch, limits),
    }
    return [
        cells[column.below] if not column.metric else _amount(column.metric, batch.metrics.get(column.metric))
        for column in COLUMNS
    ]


def table_lines(batches: Sequence[LoadBatch], limits: Sequence[Limit], *, width: int | None = None) -> list[str]:
    """Return the table of the batches; a column that has no value in any row, or no room in `width`, is left out."""
    rows = [row(batch, limits) for batch in batches]
    shown = columns_shown(rows, width=width)
    lines = [[cells[index] for index in shown] for cells in (*header(), *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    last = len(shown) - 1
    return [
        (" " * _GAP)
        .join(
            cell.ljust(width) if index in (0, last) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        .rstrip()
        for cells in lines
    ]


def columns_shown(rows: Sequence[Sequence[str]], *, width: int | None) -> list[int]:
    """Return the columns that have a value in some row and fit together into `width`, which None makes endless."""
    cells = [*header(), *rows]
    shown = [index for index in range(len(COLUMNS)) if any(line[index] != UNKNOWN for line in rows) or not rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(COLUMNS))]
    while width is not None and sum(widths[index] + _GAP for index in shown) - _GAP > width:
        spare = max(shown, key=lambda index: COLUMNS[index].spare)
        if not COLUMNS[spare].spare:
            break
        shown.remove(spare)
    return shown


def finding_lines(batches: Iterable[LoadBatch], secrets: Sequence[str] = ()) -> list[str]:
    """Return one line for each thing that a reader of the table should know."""
    return [
        _clean(f"{batch.recorded or batch.level}: {finding}", secrets)
        for batch in batches
        for finding in _findings(batch)
    ]


def batch_line(batch: LoadBatch, limits: Sequence[Limit]) -> str:
    """Return a batch as one line of a log: ``concurrency=8: 120 requests, ttft.p50 24.2 ms, ..., compliant``."""
    metrics = ("ttft.p50", "ttft.p99", "tpot.mean", "e2e.p99", "output_throughput", "request_throughput")
    words = [f"{metric} {quantity(metric, batch.metrics[metric])}" for metric in metrics if metric in batch.metrics]
    counts = [f"{name} {batch.metrics[name]:.0f}" for name in ("requests", "failed") if name in batch.metrics]
    return _clean(f"{batch.level}: {', '.join([*counts, *words, outcome(batch, limits)])}", ())


def outcome(batch: LoadBatch, limits: Sequence[Limit]) -> str:
    """Return the verdict in a word; without limits a batch that was measured has none."""
    if batch.verdict.status is Status.COMPLIANT and not limits:
        return "measured"
    return str(batch.verdict.status)


def client_share(batch: LoadBatch) -> dict[str, float]:
    """Return what the client itself may have had in the p99 of each latency, as shares of it.

    For TTFT and e2e that is the p99 of how late requests were sent and of how long what had arrived
    lay unread, for the latencies between tokens the latter alone.
    """
    if batch.measurement is None or batch.recorded:
        return {}
    client = batch.measurement.client
    late = {"ttft": client.send_p99_s + client.lag_p99_s, "itl": client.lag_p99_s}
    late["e2e"] = late["ttft"]
    return {
        family: late_s / whole_s
        for family, late_s in late.items()
        if (whole_s := batch.metrics.get(f"{family}.p99", 0.0)) > 0
    }


def _findings(batch: LoadBatch) -> list[str]:
    measurement = batch.measurement
    if measurement is None:
        return [batch.verdict.reason] if batch.verdict.reason else []
    found = [measurement.client.saturated] if measurement.client.saturated else []
    if batch.metrics.get("failed"):
        hints = [f"; {_HINTS[kind]}" for kind in measurement.errors if kind in _HINTS][:1]
        found.append(
            f"{batch.metrics['failed']:.0f} of {batch.metrics['requests']:.0f} requests failed: "
            f"{error_text(measurement.errors)}{''.join(hints)}"
        )
    if (
        short := shortfall(measurement, [check.limit for check in batch.verdict.checks])
    ) and not measurement.client.saturated:
        found.append(short)
    if batch.steadiness.startswith("drifting"):
        found.append(f"not steady: {batch.steadiness}")
    if measurement.stopped:
        found.append(f"stopped after {quantity('ttft.p50', measurement.window_s)}: {measurement.stopped}")
    missed = [] if measurement.client.saturated else [check for check in batch.verdict.checks if not check.holds]
    found += [f"SLO missed: {check}" for check in missed]
    if not batch.valid and not found:
        found.append(batch.verdict.reason)
    return found


def _amount(metric: str, value: float | None) -> str:
    return UNKNOWN if value is None else amount(metric, value)


def _clean(text: str, secrets: Sequence[str]) -> str:
    """Keep a server's words on their line: no secrets, no control characters."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", mask_text(text, secrets))
