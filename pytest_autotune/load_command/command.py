"""``python -m pytest_autotune load``: measures every level, prints, writes, and says by its exit status how it went."""

from __future__ import annotations

import logging
import shutil
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pytest_autotune.errors import AutotuneError, BenchmarkError
from pytest_autotune.files import write_atomically
from pytest_autotune.formatting import count, duration
from pytest_autotune.load_command import values
from pytest_autotune.load_command.document import LoadRun, json_text, recorded_document, run_document
from pytest_autotune.load_command.live import Lines, LiveTable
from pytest_autotune.load_command.loadtest import read_load_test
from pytest_autotune.load_command.measuring import measure
from pytest_autotune.load_command.options import OPTIONS, Written, flag
from pytest_autotune.load_command.server import prepared, require_reachable
from pytest_autotune.load_command.table import finding_lines, table_lines
from pytest_autotune.masking import mask_text
from pytest_autotune.records import utc_now
from pytest_autotune.slo import Status

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence
    from types import FrameType

    from pytest_autotune.load.generator import LoadGenerator, Progress
    from pytest_autotune.load_command.live import Display
    from pytest_autotune.load_command.loadtest import LoadTest
    from pytest_autotune.load_command.measuring import LoadBatch
    from pytest_autotune.samples import Level, Sample

HELD, MISSED, INTERRUPTED, UNMEASURED, WRONG = range(5)  # exit statuses


def run(arguments: argparse.Namespace) -> int:
    """Measure what the options ask for, or show what was recorded; return the exit status."""
    # What the modules below have to say goes where errors go, as this command's own words.
    logging.basicConfig(format="pytest_autotune load: %(message)s", level=logging.WARNING)
    written = Written({name: getattr(arguments, name) for name in OPTIONS})
    json_path = None if arguments.json is None else Path(arguments.json)
    if arguments.read is not None:
        return _show(Path(arguments.read), written, json_path)
    try:
        test = prepared(read_load_test(written), label=flag)
        results = Results(test, json_path)
    except AutotuneError as error:
        _complain(str(error))
        return WRONG
    _say(_headline(test))
    if test.prompt_lengths:
        _say(f"prompts: {test.prompt_lengths}")
    with Interruption() as interruption, _display(test) as display:
        _measure_all(test, _generator(), results, display, interruption)
    results.close(interrupted=interruption.happened)
    for line in (
        *table_lines(results.batches, test.limits, width=_width()),
        *finding_lines(results.batches, test.secrets),
    ):
        _say(line)
    if results.lost:
        return WRONG
    if results.path is not None:
        _say(f"written: {results.path}")
    return exit_status(results.batches, of=len(test.levels), interrupted=interruption.happened)


def _show(folder: Path, written: Written, json_path: Path | None) -> int:
    """Show the results that another tool has left in a folder."""
    from pytest_autotune.load_command.reading import read_folder

    try:
        if foreign := [name for name in written.shown() if name not in ("slo", "gpus")]:
            raise written.wrong(foreign[0], f"nothing is loaded with {flag('read')}; remove one of them")
        limits = written.read("slo", values.read_slo)
        recorded = read_folder(folder, limits, gpus=written.read("gpus", values.read_count))
        if json_path is not None:
            _write(json_path, recorded_document(folder, recorded))
    except AutotuneError as error:
        _complain(str(error))
        return WRONG
    for line in (*table_lines(recorded.batches, limits, width=_width()), *finding_lines(recorded.batches)):
        _say(line)
    if json_path is not None:
        _say(f"written: {json_path}")
    return exit_status(recorded.batches, of=len(recorded.batches))


def exit_status(batches: Sequence[LoadBatch], *, of: int, interrupted: bool = False) -> int:
    """Return how a load test of so many levels went, the worst first."""
    if interrupted:
        return INTERRUPTED
    if len(batches) < of or any(not batch.valid for batch in batches):
        return UNMEASURED
    return MISSED if any(batch.verdict.status is not Status.COMPLIANT for batch in batches) else HELD


class Results:
    """The batches of a load test, kept in a file as they come, so that nothing measured is lost.

    Raises `BenchmarkError` at once when the file cannot be written.
    """

    def __init__(self, test: LoadTest, path: Path | None) -> None:
        self.batches: list[LoadBatch] = []
        self.path = path
        self.lost = False  # the file is not as it should be
        self._test = test
        self._run = LoadRun(utc_now())
        if path is not None:
            from pytest_autotune.environment import describe

            self._run = replace(self._run, environment=describe(Path.cwd()))
        self._write()

    def add(self, batch: LoadBatch) -> None:
        """Keep a batch."""
        self.batches.append(batch)
        self._write_again()

    def close(self, *, interrupted: bool) -> None:
        """Say in the file that the test has ended, and how."""
        self._run = replace(self._run, finished_at=utc_now(), interrupted=interrupted)
        self._write_again()

    def _write_again(self) -> None:
        try:
            self._write()
            self.lost = False
        except BenchmarkError as error:  # a full disk must not cost what is still to be measured and printed
            self.lost = True
            _complain(str(error))

    def _write(self) -> None:
        if self.path is None:
            return
        _write(self.path, run_document(self._test, self.batches, self._run))


def _write(path: Path, document: Mapping[str, object]) -> None:
    try:
        write_atomically(path, json_text(document))
    except OSError as error:
        cause = error.strerror or str(error)
        raise BenchmarkError(f"--json: {path} cannot be written: {cause}; name another file") from error


class Interruption:
    """Ctrl-C and SIGTERM during a load test: the first one closes the window, another one gives the batch up.

    Outside a window, where nothing has been measured yet, the first one gives up at once.
    """

    def __init__(self) -> None:
        self.happened = False
        self.measuring = False  # a window is open: what it has seen so far is worth keeping
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def enough(self, _samples: Sequence[Sample], _elapsed_s: float) -> str:
        """Close the window of the load generator once a signal has come."""
        return "interrupted" if self.happened else ""

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        again, self.happened = self.happened, True
        if again or not self.measuring:
            raise KeyboardInterrupt
        _complain("interrupted: waits for the requests in flight; once more gives them up")


def _measure_all(
    test: LoadTest, generator: LoadGenerator, results: Results, display: Display, interruption: Interruption
) -> None:
    """Measure level by level until all are done, the server is gone, or a signal has come."""
    try:
        for number, level in enumerate(test.levels):
            if number:
                require_reachable(test.target)

            batch = measure(
                test,
                level,
                generator,
                on_progress=partial(_report, display, interruption, level),
                enough=interruption.enough,
                on_retry=lambda reason: _complain(f"measured once more: {reason}"),
            )
            interruption.measuring = False
            results.add(batch)
            display.finished(batch)
            if interruption.happened:
                return
    except KeyboardInterrupt:
        return
    except BenchmarkError as error:
        _complain(mask_text(str(error), test.secrets))


def _report(display: Display, interruption: Interruption, level: Level, progress: Progress) -> None:
    interruption.measuring = progress.phase != "warm-up"
    display.progress(level, progress)


def _generator() -> LoadGenerator:
    from pytest_autotune.load.http import HttpLoad

    return HttpLoad()


@contextmanager
def _display(test: LoadTest) -> Iterator[Display]:
    display: Display = Lines(test, _say)
    if sys.stdout.isatty():
        from rich.console import Console

        console = Console()
        if console.is_terminal and not console.is_dumb_terminal:
            display = LiveTable(test, console)
    with display:
        yield display


def _width() -> int | None:
    """Return how many characters a line has room for; None where nothing is cut off."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _headline(test: LoadTest) -> str:
    return (
        f"loading {test.target.model} at {test.target.url}: {count(len(test.levels), 'level')}, "
        f"about {duration(test.planned_s)}, seed {test.workload.seed}"
    )


def _complain(text: str) -> None:
    sys.stderr.write(f"pytest_autotune load: {text}\n")
    sys.stderr.flush()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
