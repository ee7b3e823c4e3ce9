"""A YAML file as plain JSON-like data that remembers the line of every key and item."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_autotune.errors import SuiteError
from pytest_autotune.problems import Where, dotted, file_of, line_of
from pytest_autotune.spelling import show

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LARGEST = 1_000_000  # bytes; suites are written by hand
_MOST_VALUES = 100_000  # after aliases are expanded: nine nested aliases of nine items are 3 billion
_DEEPEST = 50
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = ("str", "timestamp", "value", "merge")  # dates stay text: JSON has none


@dataclass(frozen=True, slots=True)
class Source:
    """What a file says, and where."""

    value: Any  # dict, list, str, int, float, bool or None
    lines: Mapping[Where, int]
    files: Mapping[Where, Path] = field(default_factory=dict)  # of what comes from other files

    def line(self, where: Where) -> int:
        """Return the line of the key or item that `where` leads to, or of what encloses it."""
        return line_of(where, self.lines) or 1

    def file(self, where: Where) -> Path | None:
        """Return the other file in which that line is; None when it is in the one that was read."""
        return file_of(where, self.files)


def read_yaml(path: Path, *, least: str = "name:, engine: and parameters:") -> Source:
    """Read one YAML 1.2 document without executing any tag; raise `SuiteError` with the line of a mistake.

    Keys are text and unique, numbers finite, aliases and merge keys expanded. `least` is what a file
    that is empty lacks.
    """
    text = _text(path)
    node = _compose(text, path)
    if node is None:
        raise SuiteError(f"the file is empty; write at least {least}", path=path)
    reader = _Reader(path)
    value = reader.read(node, ())
    return Source(value, {(): node.start_mark.line + 1, **reader.lines})


def _text(path: Path) -> str:
    if path.is_dir():
        raise SuiteError("is a directory, not a suite file", path=path)
    if path.exists() and not path.is_file():
        raise SuiteError("is not a regular file", path=path)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise SuiteError("no such file", path=path) from None
    except OSError as error:
        raise SuiteError(f"cannot be read: {error.strerror}", path=path) from error
    if len(content) > _LARGEST:
        raise SuiteError(f"is larger than {_LARGEST} bytes, so it is hardly a suite", path=path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise SuiteError(f"is not UTF-8 text: byte 0x{byte:02x}; save it as UTF-8", path=path, line=line) from None


def _compose(text: str, path: Path) -> Any:
    from ruamel.yaml import YAML  # here: it costs tens of milliseconds
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.reader import ReaderError

    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = _DEEPEST
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an anchor that is used twice is valid YAML
            return yaml.compose(text)
    except ReaderError as error:
        line_of_character = text.count("\n", 0, error.position) + 1
        raise SuiteError(
            f"not valid YAML: character {show(chr(error.character))}", path=path, line=line_of_character
        ) from None
    except MarkedYAMLError as error:
        unclosed = "quoted scalar" in str(error.context) and error.context_mark is not None
        mark = error.context_mark if unclosed else error.problem_mark or error.context_mark
        line = None if mark is None else int(mark.line) + 1
        raise SuiteError(f"not valid YAML: {_explain(error, text)}", path=path, line=line) from None
    except (YAMLError, ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        # The parser lets through what its internals raise, e.g. for "\U00110000" or %YAML 1.0.
        raise SuiteError(f"not valid YAML: {_one_line(error) or type(error).__name__}", path=path) from error


def _explain(error: Any, text: str) -> str:
    problem = _one_line(error.problem or error.context or "")
    if "quoted scalar" in str(error.context) and "end of stream" in problem:
        return "the quote that opens here is never closed"
    mark = error.problem_mark
    line = text.splitlines()[mark.line] if mark is not None and mark.line < len(text.splitlines()) else ""
    if "'\\t'" in problem or re.match(r"\s*\t", line):
        return "a tab in the indentation; use spaces"
    if "another document" in problem:
        return "a second document starts here; write one suite per file"
    if "maximum depth" in problem:
        return f"nested deeper than {_DEEPEST} levels"
    if "mapping values are not allowed" in problem:
        return f"{problem} (a ': ' inside text? then put the text in quotes)"
    return problem


def _one_line(error: object) -> str:
    return " ".join(str(error).split())


class _Reader:
    """Turns composed nodes into plain data, and notes lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[Where, int] = {}
        self._values = 0
        self._open: list[Any] = []  # containers being read: an alias to one of them has no end

    def read(self, node: Any, where: Where) -> Any:
        self._values += 1
        if self._values > _MOST_VALUES:
            raise self._error(f"more than {_MOST_VALUES} values", node)
        if any(node is outer for outer in self._open):
            raise self._error("an alias leads back to itself", node)
        tag = str(node.tag)
        kind = tag.removeprefix(_TAG)
        if not isinstance(node.value, list):
            if kind == tag or kind not in (*_PLAIN_TAGS, "int", "float", "bool", "null"):
                raise self._error(f"unknown tag {show(_short(tag))}; suites are plain data, remove it", node)
            return self._scalar(kind, node)
        if kind not in ("map", "seq"):
            raise self._error(f"unknown tag {show(_short(tag))}; suites are plain data, remove it", node)
        self._open.append(node)
        value = self._mapping(node, where) if _is_mapping(node) else self._sequence(node, where)
        self._open.pop()
        return value

    def _sequence(self, node: Any, where: Where) -> list[Any]:
        items = []
        for index, item in enumerate(node.value):
            here = (*where, index)
            self.lines[here] = item.start_mark.line + 1
            items.append(self.read(item, here))
        return items

    def _mapping(self, node: Any, where: Where) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if str(key_node.tag) == f"{_TAG}merge":
                for base in self._merges(value_node, where):
                    merged = {**base, **merged}
                continue
            key = self._key(key_node)
            here = (*where, key)
            line = key_node.start_mark.line + 1
            if key in own:
                raise self._error(
                    f"key {show(key)} is written twice, first in line {self.lines[here]}", key_node, where
                )
            self.lines[here] = line
            own[key] = self.read(value_node, here)
        return {**merged, **own}

    def _merges(self, node: Any, where: Where) -> list[dict[str, Any]]:
        """Read what ``<<:`` takes over: one mapping, or a list of them where the first wins."""
        bases = node.value if isinstance(node.value, list) and not _is_mapping(node) else [node]
        if not all(_is_mapping(base) for base in bases):
            raise self._error("'<<' takes over a mapping, e.g. '<<: *base'", node)
        return [self.read(base, where) for base in bases]

    def _key(self, node: Any) -> str:
        if isinstance(node.value, list):
            raise self._error("a key must be text; put braces and brackets in quotes", node)
        key = self._scalar(str(node.tag).removeprefix(_TAG), node)
        if not isinstance(key, str):
            raise self._error(f"key {node.value} must be text; put it in quotes: {node.value!r}", node)
        return key

    def _scalar(self, kind: str, node: Any) -> Any:
        text: str = node.value
        if kind == "null":
            return None
        if kind == "bool":
            return text.casefold() in ("true", "yes", "on", "y")
        if kind in ("int", "float"):
            return self._number(kind, node)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self._error("text with half of a surrogate pair, which is no character", node) from None
        return text

    def _number(self, kind: str, node: Any) -> float:
        text = node.value.replace("_", "").lower()
        try:
            value = _whole(text) if kind == "int" else float(text.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            raise self._error(f"{show(node.value)} is not a number; if it is text, put it in quotes", node) from None
        if not math.isfinite(value):
            raise self._error(f"{show(node.value)} is not a finite number", node)
        return value

    def _error(self, problem: str, node: Any, where: Where = ()) -> SuiteError:
        prefix = f"{dotted(where)}: " if where else ""
        return SuiteError(f"{prefix}{problem}", path=self.path, line=node.start_mark.line + 1)


def _is_mapping(node: Any) -> bool:
    return bool(node.id == "mapping")


def _whole(text: str) -> int:
    if len(text) > 100:
        raise ValueError(text)
    sign, digits = (text[0], text[1:]) if text[0] in "+-" else ("", text)
    base = {"0b": 2, "0o": 8, "0x": 16}.get(digits[:2], 10)
    return int(sign + digits, base)


def _short(tag: str) -> str:
    return f"!!{tag.removeprefix(_TAG)}" if tag.startswith(_TAG) else tag
