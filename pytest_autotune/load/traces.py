"""Recorded traffic: files that say when requests arrived and how long they were.

The formats, and how they are told apart: `trace_lines`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_autotune.errors import SuiteError
from pytest_autotune.load.trace_lines import FORMATS_HELP, PER_SECOND, parser_of, sniff
from pytest_autotune.spelling import show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pytest_autotune.load.generator import Row
    from pytest_autotune.load.trace_lines import Format

_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of their arrival: `rows[n]` arrived `times_s[n]` after the first."""

    times_s: tuple[float, ...]
    rows: tuple[Row, ...]
    format: Format

    @property
    def duration_s(self) -> float:
        """The time from the first arrival to the last."""
        return self.times_s[-1]


def read_trace(path: Path | str, *, format: Format | None = None, limit: int | None = None) -> Trace:  # noqa: A002 - as suites call it
    """Return the requests of a file, or its first `limit`; raise `SuiteError` with the line that is wrong.

    Lines may be out of order, as where several servers log into one file, and are sorted by time:
    the order of lines means nothing else. A length of 0 becomes 1, the least that a server accepts, so
    that its arrival is not lost.
    """
    try:
        with Path(path).open("rb") as file:
            return _read(_lines(file, path), path, format, limit)
    except OSError as error:
        raise SuiteError(f"the trace cannot be read: {error.strerror}", path=path) from None


def _read(lines: Iterator[tuple[int, str]], path: Path | str, known: Format | None, limit: int | None) -> Trace:
    head = next(lines, None)
    if head is None:
        raise SuiteError(f"the trace is empty; {FORMATS_HELP}", path=path)
    found: Format = _at_line(head[0], path, sniff, head[1]) if known is None else known
    parse = _at_line(head[0], path, parser_of, found, head[1])
    times: list[float] = []
    rows: list[Row] = []
    for number, text in islice(lines if found == "azure" else chain([head], lines), limit):
        time, row = _at_line(number, path, parse, text)
        times.append(time)
        rows.append(row)
    if not times:
        raise SuiteError("the trace has no requests; it ends after its header", path=path, line=head[0])
    if any(later < earlier for earlier, later in pairwise(times)):
        order = sorted(range(len(times)), key=times.__getitem__)
        times, rows = [times[place] for place in order], [rows[place] for place in order]
    origin, per_second = times[0], PER_SECOND[found]
    return Trace(tuple((time - origin) / per_second for time in times), tuple(rows), found)


def _lines(file: Iterable[bytes], path: Path | str) -> Iterator[tuple[int, str]]:
    """Yield the number and text of each line that is not blank."""
    for number, line in enumerate(file, start=1):
        text = _at_line(number, path, _decoded, line).strip()
        if text:
            yield number, text


def _at_line(number: int, path: Path | str, read: Callable[..., _Read], *values: Any) -> _Read:
    """Return what `read` makes of a line's values; what it finds wrong is told with the line."""
    try:
        return read(*values)
    except ValueError as error:
        raise SuiteError(str(error), path=path, line=number) from None


def _decoded(line: bytes) -> str:
    try:
        return line.decode().removeprefix("\ufeff")  # a byte order mark, which some editors write
    except UnicodeDecodeError:
        raise ValueError(f"{show(line)} is not UTF-8 text; if the trace is compressed, unpack it first") from None
