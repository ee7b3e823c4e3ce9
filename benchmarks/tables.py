"""Tables and verdicts on the terminal, or as Markdown for benchmarks/README.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class Printer:
    """Prints the results of one point after the other."""

    def __init__(self, *, markdown: bool) -> None:
        self._markdown = markdown

    def title(self, text: str, note: str) -> None:
        """Begin a point."""
        print(f"\n### {text}\n\n{note}\n" if self._markdown else f"\n{text}\n{note}", flush=True)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; the first column is text, the others are numbers."""
        if self._markdown:
            lines = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
            lines.insert(1, "|---|" + "---:|" * (len(header) - 1))
        else:
            widths = [max(len(cells[column]) for cells in (header, *rows)) for column in range(len(header))]
            lines = [
                "  ".join(
                    [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
                )
                for cells in (header, *rows)
            ]
        print("\n".join(lines), flush=True)
        if self._markdown:
            print()

    def verdict(self, what: str, value: float, limit: float, unit: str, *, at_least: bool = False) -> None:
        """Say whether a figure keeps its limit; nothing follows from it."""
        good = value >= limit if at_least else value <= limit
        unit = f" {unit}" if unit else ""
        relation = "at least" if at_least else "at most"
        word = "PASS " if good else "short"
        text = f"{word} {what}: {value:.4g}{unit}, {relation} {limit:g}{unit} asked for"
        print(f"* {text}" if self._markdown else text, flush=True)

    def note(self, text: str) -> None:
        """Print a remark."""
        print(f"* {text}" if self._markdown else text, flush=True)
