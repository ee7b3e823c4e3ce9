"""``python -m pytest_autotune import``: turns a task file of the earlier autotuner into suites."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_autotune.errors import AutotuneError, SuiteError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from pytest_autotune.earlier.task import Imported

HELP = "turn a task file of inference-autotuner into suites that mean the same, and say what has no equivalent"


class _Refused(AutotuneError):
    """A file is in the way, or cannot be written."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from pytest_autotune.earlier.task import ENGINES, MODELS

    parser.add_argument("task", metavar="TASK", type=Path, help="the task file, JSON or YAML")
    into = "directory of the suites (default: suites)"
    parser.add_argument("--into", metavar="DIR", type=Path, default=Path("suites"), help=into)
    runtime = "engine of the servers, where base_runtime names none"
    parser.add_argument("--engine", choices=ENGINES, default=None, help=runtime)
    directory = f"directory of models that are named without a slash (default: {MODELS})"
    parser.add_argument("--models", metavar="DIR", default=MODELS, help=directory)
    parser.add_argument("--force", action="store_true", help="replace suites that are there")


def run(given: argparse.Namespace) -> int:
    """Write the suites and return 0; raise `AutotuneError` for a task that is wrong and a file that is in the way."""
    from pytest_autotune.earlier.task import import_task

    imported = import_task(given.task, engine=given.engine, models=given.models)
    texts = {given.into / f"{name}.yaml": text for name, text in _texts(given.task, imported).items()}
    there = [str(path) for path in texts if path.exists()]
    if there and not given.force:
        raise _Refused(f"{', '.join(there)} is there; --force replaces it, --into DIR writes elsewhere")
    _write(texts)
    lines = [*imported.remarks, "", *(f"written: {path}" for path in texts)]
    sys.stdout.write("\n".join(lines).lstrip("\n") + "\n")
    return 0


def _texts(task: Path, imported: Imported) -> dict[str, str]:
    """Return the text of each suite's file, by its name; raise what pytest would refuse in it."""
    from tempfile import TemporaryDirectory

    from pytest_autotune.reporting.yaml_text import yaml_text
    from pytest_autotune.suite_file import load_suite

    texts = {name: yaml_text(imported.remarks, suite, inline=True) for name, suite in imported.suites.items()}
    with TemporaryDirectory() as directory:
        for name, text in texts.items():
            path = Path(directory) / f"{name}.yaml"
            path.write_text(text, encoding="utf-8")
            try:
                load_suite(path)
            except SuiteError as error:
                raise SuiteError(f"comes to a suite that is refused: {error.problem}", path=task) from error
    return texts


def _write(texts: Mapping[Path, str]) -> None:
    from pytest_autotune.files import write_atomically

    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, text)
        except OSError as error:
            raise _Refused(f"{path}: {error}") from error
