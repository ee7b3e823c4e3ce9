"""Lines of the terminal output: tables, what is cut off, and other people's words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_autotune.formatting import count, settings
from pytest_autotune.masking import mask, mask_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_autotune.reporting.report import SuiteReport
    from pytest_autotune.selection import JudgedTrial

_NARROWEST = 40  # below this a column that is cut off says nothing


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int]) -> list[str]:
    """Align rows under a header, right-aligned except for the columns in `left`; short rows are filled up."""
    filled = [[*row, *[""] * (len(header) - len(row))] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*filled, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in filled
    ]


def cut(lines: Iterable[str], width: int) -> list[str]:
    """Cut lines that are longer than `width` characters, or than 40 where that is less."""
    room = max(width, _NARROWEST)
    return [line if len(line) <= room else f"{line[: room - 3]}..." for line in lines]


def configured(judged: JudgedTrial, report: SuiteReport) -> str:
    """Return the configuration of a trial, without secrets and control characters."""
    return clean(settings(mask(dict(judged.trial.configuration), report.secrets)), report)


def clean(text: str, report: SuiteReport) -> str:
    """Keep a server's or a user's words on their line: no secrets, no control characters."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", mask_text(text, report.secrets))


def inaccurate_lines(report: SuiteReport, top: int) -> list[str]:
    """Say which trials, `top` of them, cannot win by their answers, whatever they were measured to bring."""
    found = [judged for judged in report.selection.ranking if judged.trial.inaccurate and judged.batches]
    lines = [
        f"cannot win: {configured(judged, report)} {clean(judged.trial.inaccurate, report)}" for judged in found[:top]
    ]
    return [*lines, f"... and {count(len(found) - top, 'more trial')} by their answers"] if len(found) > top else lines
