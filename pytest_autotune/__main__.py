"""``python -m pytest_autotune``: what is useful outside a pytest run."""

from __future__ import annotations

import argparse
import json
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m pytest_autotune", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("schema", help="print the JSON schema of suite files, for editors")
    parser.parse_args(arguments)
    from pytest_autotune.suite_schema import suite_schema

    json.dump(suite_schema(), sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
