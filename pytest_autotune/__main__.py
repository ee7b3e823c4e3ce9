"""``python -m pytest_autotune``: what is useful outside a pytest run."""

from __future__ import annotations

import argparse
import shutil
import sys
from typing import NoReturn

_HISTORY = "show what verifications of a suite have measured over time, and since when it changed"
_LOAD = "load a running server, measure it, and say by the exit status whether it keeps its limits"
WRONG = 4  # exit status for a wrong option, as pytest's own


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line each."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is; end with the status of a wrong option."""
        self.exit(WRONG, f"{self.prog}: {message} (--help lists the options)\n")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status."""
    from pytest_autotune import baselines_command, import_command, new_command, presets_command
    from pytest_autotune.errors import AutotuneError
    from pytest_autotune.load_command.options import add_arguments

    parser = Parser(prog="python -m pytest_autotune", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("schema", help="print the JSON schema of suite files, for editors", allow_abbrev=False)
    add_arguments(commands.add_parser("load", help=_LOAD, description=_LOAD, allow_abbrev=False))
    history = commands.add_parser("history", help=_HISTORY, description=_HISTORY, allow_abbrev=False)
    history.add_argument("suite", metavar="SUITE", help="name of the suite, as it says itself")
    history.add_argument(
        "--metric", action="append", default=[], metavar="METRIC", help="e.g. ttft.p99; several times for several"
    )
    history.add_argument(
        "--store", default="", metavar="URL", help="results store: a path or URL (default: .autotune/results.db)"
    )
    history.add_argument("--html", default="", metavar="PATH", help="also write a web page with charts, in one file")
    baselines = commands.add_parser(
        "baselines", help=baselines_command.HELP, description=baselines_command.HELP, allow_abbrev=False
    )
    baselines_command.add_arguments(baselines)
    presets = commands.add_parser(
        "presets", help=presets_command.HELP, description=presets_command.HELP, allow_abbrev=False
    )
    presets_command.add_arguments(presets)
    importing = commands.add_parser(
        "import", help=import_command.HELP, description=import_command.HELP, allow_abbrev=False
    )
    import_command.add_arguments(importing)
    new = commands.add_parser("new", help=new_command.HELP, description=new_command.HELP, allow_abbrev=False)
    new_command.add_arguments(new)
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        from pytest_autotune.spelling import nearest

        word = unknown[0].partition("=")[0]
        known = ["--" + name.replace("_", "-") for name in vars(given)]
        parser.error(f"{word} is not an option of {given.command}{nearest(word, known)}")
    if given.command == "load":
        from pytest_autotune.load_command import command

        return command.run(given)
    if given.command == "history":
        return _history(parser, given)
    runs = {
        "baselines": baselines_command.run,
        "presets": presets_command.run,
        "import": import_command.run,
        "new": new_command.run,
    }
    if given.command in runs:
        try:
            return runs[given.command](given)
        except AutotuneError as error:
            parser.error(str(error))
    return _schema()


def _schema() -> int:
    import json

    from pytest_autotune.suite_schema import suite_schema

    json.dump(suite_schema(), sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


def _history(parser: Parser, given: argparse.Namespace) -> int:
    from pathlib import Path

    from pytest_autotune.errors import MissingRequirement, StoreError
    from pytest_autotune.files import write_atomically
    from pytest_autotune.history import history_of, verified_suites
    from pytest_autotune.metrics import parse_metric
    from pytest_autotune.reporting.page import history_page
    from pytest_autotune.reporting.trend import history_lines
    from pytest_autotune.settings import url_of_existing
    from pytest_autotune.spelling import nearest
    from pytest_autotune.store import Store

    suite, metrics = given.suite, given.metric
    try:
        for metric in metrics:
            parse_metric(metric)
        with Store(url_of_existing(given.store, Path.cwd())) as store:
            store.migrate()
            series = history_of(store, suite, metrics)
            known = () if series else verified_suites(store)
    except (ValueError, StoreError) as error:
        parser.error(str(error))
    if not series:
        there = f"there are {', '.join(known)}" if known else "a run without --autotune verifies what was found before"
        parser.error(f"no verification of {suite!r} is in the store{nearest(suite, known)}; {there}")
    lines = history_lines(suite, series, width=shutil.get_terminal_size().columns)
    if given.html:
        try:
            write_atomically(Path(given.html), history_page(suite, series))
        except (MissingRequirement, OSError) as error:
            parser.error(f"--html {given.html}: {error}")
        lines += ["", f"written: {given.html}"]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
