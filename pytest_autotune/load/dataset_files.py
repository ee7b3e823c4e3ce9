"""Reads the records of dataset files one after the other, each with the place that errors name."""

from __future__ import annotations

import csv
import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from pytest_autotune.errors import SuiteError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    Reader = Callable[[Path, Collection[str]], Iterator["Record"]]

_CHUNK = 2**20  # characters of a JSON list that are read at once
_NEAR = 16  # characters: a syntax error no farther from the end of what was read may be due to that end
_BATCH = 1024  # rows of a table that are made Python objects at once
_LONGEST_CELL = 2**31 - 1  # characters; the csv module's own limit is 131,072, less than a long prompt
_SPACE = re.compile(r"[ \t\r\n]*")


class Record(NamedTuple):
    """One record of a dataset, and where it stands."""

    fields: dict[str, Any]  # at least those wanted that there are
    names: Collection[str]  # of all fields
    row: int  # of its file, counted from 1
    line: int | None = None  # of a text file


def read_json_lines(path: Path, _wanted: Collection[str]) -> Iterator[Record]:
    """Yield the objects of a file with one per line."""
    row = 0
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            with _json_errors(path, line):
                text = raw.decode("utf-8-sig" if line == 1 else "utf-8").rstrip()
                if not text:
                    continue
                value = json.loads(text)
            row += 1
            yield _record(value, path, row, line)


def read_json(path: Path, wanted: Collection[str]) -> Iterator[Record]:
    """Yield the objects of a file that is a list of them, or that has one per line after all.

    The file is never in memory as a whole: a common one of ShareGPT has 670 MB.
    """
    with path.open(encoding="utf-8-sig") as file:
        scanner = _Scanner(file)
        with _json_errors(path, 1):
            first = scanner.peek()
        if first == "[":
            yield from _listed(path, scanner)
            return
    if first != "{":
        raise SuiteError("expected a list of objects, or one object per line", path=path, line=scanner.line)
    yield from read_json_lines(path, wanted)


def read_csv(path: Path, _wanted: Collection[str]) -> Iterator[Record]:
    """Yield the rows of a table with a header, separated by commas, or by tabs in a ``.tsv`` file."""
    with path.open(newline="", encoding="utf-8-sig") as file, _long_cells():
        reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        try:
            for row, fields in enumerate(reader, start=1):
                if None in fields:
                    raise SuiteError(
                        "more cells than the header has; quote those with commas", path=path, line=reader.line_num
                    )
                inside = sum(cell.count("\n") for cell in fields.values() if cell)
                yield Record(fields, fields.keys(), row, reader.line_num - inside)
        except (csv.Error, UnicodeDecodeError) as error:
            raise SuiteError(f"no CSV in UTF-8: {error}", path=path, line=reader.line_num + 1) from None


def read_parquet(path: Path, wanted: Collection[str]) -> Iterator[Record]:
    """Yield the rows of a Parquet file."""
    with _pyarrow_errors(path, "Parquet"):
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            columns = [name for name in names if name in wanted]
            yield from _tabular(file.iter_batches(_BATCH, columns=columns, use_threads=False), names, columns)


def read_arrow(path: Path, wanted: Collection[str]) -> Iterator[Record]:
    """Yield the rows of an Arrow file: a stream, as Hugging Face's ``save_to_disk`` writes it, or a Feather file."""
    with _pyarrow_errors(path, "Arrow"):
        import pyarrow.ipc

        with pyarrow.memory_map(str(path)) as source:
            if source.read(6) == b"ARROW1":
                file = pyarrow.ipc.open_file(source)
                batches: Iterable[Any] = map(file.get_batch, range(file.num_record_batches))
                names = file.schema.names
            else:
                source.seek(0)
                batches = stream = pyarrow.ipc.open_stream(source)
                names = stream.schema.names
            yield from _tabular(batches, names, [name for name in names if name in wanted])


def _tabular(batches: Iterable[Any], names: Collection[str], columns: list[str]) -> Iterator[Record]:
    row = 0
    for batch in batches:
        selected = batch.select(columns)
        for start in range(0, batch.num_rows, _BATCH):
            part = selected.slice(start, _BATCH)
            for fields in part.to_pylist() if columns else [{}] * min(_BATCH, batch.num_rows - start):
                row += 1
                yield Record(fields, names, row)


def _listed(path: Path, scanner: _Scanner) -> Iterator[Record]:
    """Yield the objects of a list whose bracket comes next."""
    row = 0
    scanner.skip()
    while True:
        with _json_errors(path, scanner.line):
            found = scanner.peek()
            if row and found == ",":
                scanner.skip()
                found = scanner.peek()
            elif row and found != "]":
                raise _unexpected(found, "',' or ']'", path, scanner.line)
        if found == "]":
            return
        if found != "{":
            raise _unexpected(found, "an object", path, scanner.line)
        row += 1
        line = scanner.line
        with _json_errors(path, line):
            value = scanner.value()
        yield _record(value, path, row, line)


class _Scanner:
    """Reads JSON values from a text that comes in parts."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._at = 0
        self.line = 1  # of what comes next

    def peek(self) -> str:
        """Return the next character that is no white space; nothing at the end."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None
            self._to(space.end())
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self) -> None:
        """Skip one character."""
        self._at += 1

    def value(self) -> Any:
        """Return the value that comes next."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                place = error.pos - self._at
                cut = error.pos > len(self._text) - _NEAR or error.msg.startswith("Unterminated")
                if cut and self._more():
                    continue
                raise json.JSONDecodeError(error.msg, self._text[self._at :], place) from None
            self._to(end)
            return value

    def _to(self, end: int) -> None:
        self.line += self._text.count("\n", self._at, end)
        self._at = end

    def _more(self) -> bool:
        """Read on, at least as much as is left, so that a long value is not scanned too often."""
        rest = self._text[self._at :]
        part = self._file.read(max(_CHUNK, len(rest)))
        self._text, self._at = rest + part, 0
        return bool(part)


def _record(value: object, path: Path, row: int, line: int) -> Record:
    if not isinstance(value, dict):
        raise _unexpected(json.dumps(value)[:40], "an object", path, line)
    return Record(value, value.keys(), row, line)


def _unexpected(found: str, expected: str, path: Path, line: int) -> SuiteError:
    return SuiteError(f"found {found or 'the end'!r}, expected {expected}; correct the JSON", path=path, line=line)


@contextmanager
def _json_errors(path: Path, line: int) -> Iterator[None]:
    """Raise what is wrong with the JSON that begins on a line as an error of that file."""
    try:
        yield
    except json.JSONDecodeError as error:
        where = line + error.lineno - 1
        raise SuiteError(f"no JSON: {error.msg} (column {error.colno})", path=path, line=where) from None
    except UnicodeDecodeError as error:
        raise SuiteError(f"no UTF-8: {error.reason} at {error.object[error.start]:#x}", path=path, line=line) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists in lists in lists
        raise SuiteError(f"JSON that cannot be read: {error}", path=path, line=line) from None


@contextmanager
def _pyarrow_errors(path: Path, kind: str) -> Iterator[None]:
    try:
        import pyarrow as pa
    except ImportError:
        problem = f"{kind} files are read with pyarrow: pip install 'pytest-autotune[datasets]', or convert it to JSONL"
        raise SuiteError(problem, path=path) from None
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise SuiteError(f"no {kind} file: {' '.join(str(error).split())}", path=path) from None


@contextmanager
def _long_cells() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(before)
