"""What is wrong in a suite file, collected so that one line can tell the first and count the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

_Told = TypeVar("_Told")
Where = tuple[str | int, ...]  # keys and indexes that lead to a value: ("slo", "ttft.p90", "max")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and the keys that lead to it."""

    where: Where
    text: str


class Problems(ValueError):
    """Everything that is wrong inside one value."""

    def __init__(self, found: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.text for problem in found))
        self.found = tuple(found)


class Collector:
    """Runs readers one after the other and keeps what each finds wrong, so that all of it is known at once."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def read(self, where: Where, reader: Callable[..., Any], *values: Any, **options: Any) -> Any:
        """Return what `reader` makes of `values`, or None after noting its problems below `where`."""
        try:
            return reader(*values, **options)
        except ValueError as error:
            self.note(where, error)
        return None

    def note(self, where: Where, error: ValueError | str) -> None:
        """Keep one problem, or all those of a `Problems` error, below `where`."""
        if isinstance(error, Problems):
            self.found += [Problem((*where, *problem.where), problem.text) for problem in error.found]
        else:
            self.found.append(Problem(where, str(error)))

    def finish(self) -> None:
        """Raise `Problems` when anything was wrong."""
        if self.found:
            raise Problems(self.found)


def line_of(where: Where, lines: Mapping[Where, int]) -> int | None:
    """Return the line of a place, or of the nearest that encloses it; None when `lines` knows neither."""
    return _nearest_place(where, lines)


def file_of(where: Where, files: Mapping[Where, Path]) -> Path | None:
    """Return the other file that a place, or the nearest that encloses it, comes from; None for the suite's own."""
    return _nearest_place(where, files)


def _nearest_place(where: Where, told: Mapping[Where, _Told]) -> _Told | None:
    while where and where not in told:
        where = where[:-1]
    return told.get(where)


def dotted(where: Where) -> str:
    """Return a place as messages name it: ``load.concurrency[1]``."""
    text = ""
    for step in where:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
