"""``python -m pytest_autotune``: what is useful outside a pytest run."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

_LOAD = "load a running server, measure it, and say by the exit status whether it keeps its limits"
WRONG = 4  # exit status for a wrong option, as pytest's own


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line each."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is; end with the status of a wrong option."""
        self.exit(WRONG, f"{self.prog}: {message} (--help lists the options)\n")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status."""
    from pytest_autotune.load_command.options import add_arguments

    parser = Parser(prog="python -m pytest_autotune", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("schema", help="print the JSON schema of suite files, for editors", allow_abbrev=False)
    add_arguments(commands.add_parser("load", help=_LOAD, description=_LOAD, allow_abbrev=False))
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        from pytest_autotune.spelling import nearest

        word = unknown[0].partition("=")[0]
        known = ["--" + name.replace("_", "-") for name in vars(given)]
        parser.error(f"{word} is not an option of {given.command}{nearest(word, known)}")
    if given.command == "load":
        from pytest_autotune.load_command import command

        return command.run(given)
    return _schema()


def _schema() -> int:
    import json

    from pytest_autotune.suite_schema import suite_schema

    json.dump(suite_schema(), sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
