"""``python -m pytest_autotune presets``: lists the parameters and limits that suites can name, and shows one."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_autotune.errors import AutotuneError

if TYPE_CHECKING:
    from pytest_autotune.presets.library import Preset

HELP = "list the presets that suites can name for their parameters and limits, and show one"
_VERBS = {"list": "list them; so does the command without a verb", "show": "print one as its YAML file has it"}
_UNCUT = 1000  # columns where the output is no terminal


class _Refused(AutotuneError):
    """What was asked for is not there; the message says what is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare verbs and options; `--suites` may stand on either side of the verb."""
    parser.set_defaults(suites=None)
    _add_common(parser)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for verb, text in _VERBS.items():
        _add_common(verbs.add_parser(verb, help=text, description=text, allow_abbrev=False))
    verbs.choices["show"].add_argument("name", metavar="NAME", help="e.g. vllm-quick, or chat")


def _add_common(parser: argparse.ArgumentParser) -> None:
    given = argparse.SUPPRESS  # else a verb's default would replace what was given before it
    text = "also those of a directory with suites, which win over shipped ones"
    parser.add_argument("--suites", metavar="DIR", type=Path, default=given, help=text)


def run(given: argparse.Namespace) -> int:
    """Run the verb and return 0; raise `AutotuneError` for a name that is not there and a preset that is wrong."""
    from pytest_autotune.presets.library import all_presets

    if given.suites is not None and not given.suites.is_dir():
        raise _Refused(f"--suites {given.suites} is not a directory")
    presets = all_presets(beside=given.suites)
    sys.stdout.write(_text_of(presets, given.name) if given.verb == "show" else _listing(presets))
    return 0


def _listing(presets: tuple[Preset, ...]) -> str:
    from pytest_autotune.reporting.lines import cut, table

    width = shutil.get_terminal_size((_UNCUT, 24)).columns
    head = ("name", "kind", "engine", "description", "source")
    rows = [(each.name, each.kind, each.engine or "any", each.description, each.source) for each in presets]
    return "\n".join([*cut(table(head, rows, left=range(len(head))), width), ""])


def _text_of(presets: tuple[Preset, ...], name: str) -> str:
    from pytest_autotune.spelling import nearest

    found = [each for each in presets if each.name == name]
    if not found:
        known = [each.name for each in presets]
        raise _Refused(f"{name!r} is no preset{nearest(name, known)}; there are {', '.join(known)}")
    return "---\n".join(each.path.read_text(encoding="utf-8") for each in found)
