"""Reads a dataset of prompts or conversations into the rows of a workload."""

from __future__ import annotations

import json
import logging
import re
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pytest_autotune.errors import SuiteError
from pytest_autotune.load.dataset_files import read_arrow, read_csv, read_json, read_json_lines, read_parquet
from pytest_autotune.load.dataset_rows import Columns, row_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_autotune.load.dataset_files import Reader
    from pytest_autotune.load.generator import Row

Format = Literal["json", "jsonl", "csv", "parquet", "arrow"]

_READERS: dict[Format, Reader] = {  # the first of these that a directory has files of is its data
    "parquet": read_parquet,
    "arrow": read_arrow,
    "jsonl": read_json_lines,
    "csv": read_csv,
    "json": read_json,
}
_FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
}
_ABOUT = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})  # not data
_log = logging.getLogger(__name__)


def read_dataset(
    path: Path | str,
    *,
    format: Format | None = None,  # noqa: A002 -- what a suite calls it
    split: str | None = None,
    limit: int | None = None,
    columns: Columns = Columns(),  # noqa: B008 -- frozen
) -> tuple[Row, ...]:
    """Return the rows of a dataset, at most `limit`, in its order.

    `path` is a file, whose format its suffix tells unless named, or a directory: one that Hugging
    Face's ``save_to_disk`` wrote, or one with files, such as a clone of a dataset's repository. Of a
    directory with splits, `split` is read: ``train`` unless named, if there is one. Empty records are
    skipped. Raises `SuiteError` with file, line and remedy for what cannot be read.
    """
    path = Path(path)
    empty: list[str] = []
    rows = tuple(islice(_rows(path, format, split, columns, empty), limit))
    if empty:
        _log.warning("skipped %d empty records of %s, the first is %s", len(empty), path, empty[0])
    if not rows:
        raise SuiteError("holds no prompts; name another dataset", path=path)
    return rows


def _rows(path: Path, wanted: Format | None, split: str | None, columns: Columns, empty: list[str]) -> Iterator[Row]:
    try:
        for file, read in _files(path, wanted, split):
            for fields, names, number, line in read(file, columns.wanted):
                try:
                    row = row_of(fields, names, columns)
                except ValueError as error:
                    where = f"row {number}: " if line is None else ""
                    raise SuiteError(f"{where}{error}", path=file, line=line) from None
                if row is None:
                    empty.append(f"{file.name} row {number}" if line is None else f"{file.name}:{line}")
                else:
                    yield row
    except OSError as error:
        raise SuiteError(f"cannot be read: {error.strerror or error}", path=path) from None


def _files(path: Path, wanted: Format | None, split: str | None) -> list[tuple[Path, Reader]]:
    """Return the files of a dataset in their order, each with what reads it."""
    if not path.exists():
        raise SuiteError("there is no such file or directory; datasets are read from disk only", path=path)
    if path.is_dir():
        return _of_directory(path, wanted, split)
    found = wanted or _FORMATS.get(path.suffix.lower())
    if found is None:
        raise SuiteError(
            f"the suffix {path.suffix!r} tells no format; name one of {', '.join(sorted(_READERS))}", path=path
        )
    return [(path, _READERS[found])]


def _of_directory(path: Path, wanted: Format | None, split: str | None) -> list[tuple[Path, Reader]]:
    if (splits := path / "dataset_dict.json").is_file():
        name = _chosen(_listed(splits, "splits"), split, path)
        return _of_directory(path / name, wanted, None)
    if (state := path / "state.json").is_file():
        return [(path / file, read_arrow) for file in _listed(state, "_data_files")]
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file()
        and file.name not in _ABOUT
        and not any(part[0] == "." for part in file.relative_to(path).parts)
    ]
    for found, read in _READERS.items():
        there = [file for file in files if _FORMATS.get(file.suffix.lower()) == found]
        if there and wanted in (None, found):
            return [(file, read) for file in _of_split(there, split, path)]
    raise SuiteError(f"no {wanted or 'dataset'} files; there must be some ending in {', '.join(_FORMATS)}", path=path)


def _of_split(files: list[Path], split: str | None, path: Path) -> list[Path]:
    """Return the files whose name or folder says that they are of a split; all when none says so of ``train``."""
    names = {file: str(file.relative_to(path)) for file in files}
    pattern = re.compile(rf"(^|[-_./]){re.escape(split or 'train')}([-_./]|$)")
    chosen = [file for file in files if pattern.search(names[file])]
    if split is not None and not chosen:
        raise SuiteError(f"no files of split {split!r}; there are {', '.join(names.values())}", path=path)
    return chosen or files


def _chosen(splits: list[str], split: str | None, path: Path) -> str:
    if split is None and len(splits) == 1:
        return splits[0]
    if (name := split or "train") not in splits:
        raise SuiteError(f"no split {name!r}; name one of {', '.join(splits)}", path=path)
    return name


def _listed(file: Path, key: str) -> list[str]:
    """Return the names that one of `save_to_disk`'s own files lists."""
    try:
        names = [
            entry["filename"] if isinstance(entry, dict) else entry for entry in json.loads(file.read_bytes())[key]
        ]
    except (ValueError, KeyError, TypeError):
        names = []
    if not names or not all(isinstance(name, str) for name in names):
        raise SuiteError(f"lists no {key.strip('_')}, as save_to_disk writes them; save the dataset again", path=file)
    return names
