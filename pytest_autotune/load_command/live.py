"""What is shown while a load test runs: a live table on a terminal, a line for each batch elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

from pytest_autotune.formatting import amount
from pytest_autotune.load_command.table import COLUMNS, UNKNOWN, batch_line, columns_shown, row

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from pytest_autotune.load.generator import Progress
    from pytest_autotune.load_command.loadtest import LoadTest
    from pytest_autotune.load_command.measuring import LoadBatch
    from pytest_autotune.samples import Level


class Display(Protocol):
    """Shows how a load test goes, from entering its context to leaving it."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def progress(self, level: Level, progress: Progress) -> None:
        """Show where the batch at `level` stands; called about once a second."""

    def finished(self, batch: LoadBatch) -> None:
        """Show a batch that has ended."""


class Lines:
    """For logs: one line when a batch has ended."""

    def __init__(self, test: LoadTest, write: Callable[[str], None]) -> None:
        self._test = test
        self._write = write

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def progress(self, level: Level, progress: Progress) -> None:
        """Show nothing: a log keeps every line."""

    def finished(self, batch: LoadBatch) -> None:
        """Write the batch's line."""
        self._write(batch_line(batch, self._test.limits))


class LiveTable:
    """For terminals: a row for each level, drawn anew at each report and gone in the end.

    It is drawn by the caller's thread only, when the load generator reports: it has no timer of its own.
    """

    def __init__(self, test: LoadTest, console: Console) -> None:
        from rich.live import Live

        self._test = test
        self._width = console.width
        self._rows = {level: [level.name, *[UNKNOWN] * (len(COLUMNS) - 2), "waits"] for level in test.levels}
        self._live: Live = Live(self.table(), console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def progress(self, level: Level, progress: Progress) -> None:
        """Draw where the batch at `level` stands."""
        self._rows[level] = _running(level, progress)
        self._live.update(self.table(), refresh=True)

    def finished(self, batch: LoadBatch) -> None:
        """Draw a batch that has ended."""
        self._rows[batch.level] = row(batch, self._test.limits)
        self._live.update(self.table(), refresh=True)

    def table(self) -> Table:
        """Return the table as it stands."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        rows = list(self._rows.values())
        shown = columns_shown(rows, width=self._width)
        for column in (COLUMNS[index] for index in shown):
            side = "left" if column.below in ("level", "verdict") else "right"
            table.add_column(f"{column.above}\n{column.below}", justify=side, no_wrap=True)  # type: ignore[arg-type]
        for cells in rows:
            table.add_row(*(Text(cells[index]) for index in shown))
        return table


def _running(level: Level, progress: Progress) -> list[str]:
    """Return the cells of a batch under way: what is known of it by now, and its phase in place of a verdict."""
    known = {
        "level": level.name,
        "requests": f"{progress.finished + progress.failed}",
        "failed": f"{progress.failed}",
        "ttft.p50": UNKNOWN if progress.ttft_s is None else amount("ttft.p50", progress.ttft_s),
        "output_throughput": amount("output_throughput", progress.output_rate) if progress.output_rate else UNKNOWN,
        "verdict": f"{progress.phase} {progress.elapsed_s:.0f}/{progress.total_s:.0f} s, {progress.running} in flight",
    }
    return [known.get(column.metric or column.below, UNKNOWN) for column in COLUMNS]
