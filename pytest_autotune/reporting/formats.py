"""What `--autotune-export FORMAT=PATH` writes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pytest_autotune.files import write_atomically
from pytest_autotune.reporting.markdown import markdown_text
from pytest_autotune.reporting.trends import bencher, github_benchmark, openmetrics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pytest_autotune.reporting.report import SuiteReport

WRITERS: dict[str, Callable[[Sequence[SuiteReport]], str]] = {
    "markdown": markdown_text,
    "bencher": bencher,
    "bigger-is-better": partial(github_benchmark, bigger=True),
    "smaller-is-better": partial(github_benchmark, bigger=False),
    "openmetrics": openmetrics,
}


def write_export(kind: str, path: Path, reports: Sequence[SuiteReport]) -> None:
    """Write the reports of a run in a format, whole or not at all; the directory is made."""
    write_atomically(path, WRITERS[kind](reports))
