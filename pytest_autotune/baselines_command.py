"""``python -m pytest_autotune baselines``: lists, shows, promotes and removes the baselines of a results store."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

from pytest_autotune.errors import AutotuneError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from pytest_autotune.baselines import StoredBaseline
    from pytest_autotune.store import Store

HELP = "list, show, promote and remove what runs have recorded of their suites, to compare with later"
_VERBS = {
    "list": "list what runs have recorded, newest first; so does the command without a verb",
    "show": "print a baseline as a *.best.json file has it",
    "promote": "let a name stand for the newest run that recorded any, for another, or for a file",
    "forget": "let a name stand for nothing any more; the baseline stays",
    "prune": "remove baselines that no name stands for",
}
_RUN_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{4}")
_DAYS = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(?:d|days?)\s*")
_UNCUT = 1000  # columns where the output is no terminal


class _Refused(AutotuneError):
    """What was asked for is wrong, or not there; the message says what is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare verbs and options; `--store` and `--suite` may stand on either side of the verb."""
    parser.set_defaults(store="", suite=None)
    _add_common(parser)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for verb, text in _VERBS.items():
        own = verbs.add_parser(verb, help=text, description=text, allow_abbrev=False)
        _add_common(own)
        if verb in ("promote", "forget"):
            own.add_argument("name", metavar="NAME", help="e.g. release; takes the place of REF in --autotune-compare")
    show, promote, prune = (verbs.choices[verb] for verb in ("show", "promote", "prune"))
    show.add_argument("reference", metavar="REF", help="a name, a run, or a git revision, branch or tag")
    source = promote.add_mutually_exclusive_group()
    source.add_argument("--run", metavar="RUN", help="the run whose baselines it stands for")
    source.add_argument("--file", metavar="PATH", help="a *.best.json file, which the store keeps from then on")
    prune.add_argument("--keep", type=_count, metavar="N", help="of each suite leave the newest N without a name")
    prune.add_argument("--older-than", type=_age, metavar="AGE", help="remove only what is older, e.g. 90d or 12h")
    prune.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")


def _add_common(parser: argparse.ArgumentParser) -> None:
    given = argparse.SUPPRESS  # else a verb's defaults would replace what was given before it
    parser.add_argument("--suite", metavar="NAME", default=given, help="only of this suite, by the name in its file")
    parser.add_argument(
        "--store", metavar="URL", default=given, help="results store: a path or URL (default: .autotune/results.db)"
    )


def run(given: argparse.Namespace) -> int:
    """Run the verb, print its lines and return 0; raise `AutotuneError` for what is wrong or not there."""
    from pathlib import Path

    from pytest_autotune.settings import url_of_existing
    from pytest_autotune.store import Store

    with Store(url_of_existing(given.store, Path.cwd())) as store:
        store.migrate()
        sys.stdout.write("\n".join([*_ACTS[given.verb or "list"](store, given), ""]))
    return 0


def _list(store: Store, given: argparse.Namespace) -> list[str]:
    from pytest_autotune.reporting.listing import listing_lines

    width = shutil.get_terminal_size((_UNCUT, 24)).columns
    return listing_lines(_stored(store, given), width=width)


def _show(store: Store, given: argparse.Namespace) -> list[str]:
    from pathlib import Path

    from pytest_autotune.baseline import SUFFIX, baseline_text
    from pytest_autotune.references import by_name_or_run, words_of
    from pytest_autotune.revisions import commit_of
    from pytest_autotune.spelling import nearest

    stored, reference = _stored(store, given), given.reference
    found = by_name_or_run(reference, stored)
    any_file = Path.cwd() / SUFFIX  # for its repository
    if not found and (commit := commit_of(reference, any_file)):
        found = _newest_of_each_suite(one for one in stored if one.commit == commit)
    if not found:
        of_suite = f" of {given.suite}" if given.suite else ""
        hint = nearest(reference, words_of(stored))
        raise _Refused(
            f"{reference!r} is neither a name, nor a run, nor the revision of a baseline{of_suite} "
            f"in results store {store.name}{hint}; see: python -m pytest_autotune baselines"
        )
    if len(found) > 1:
        there = ", ".join(sorted(one.suite for one in found))
        raise _Refused(f"{reference!r} stands for several suites: name one of {there} by --suite")
    return [baseline_text(found[0].baseline).removesuffix("\n")]


def _promote(store: Store, given: argparse.Namespace) -> list[str]:
    from pytest_autotune.reporting.listing import in_words

    problem = wrong_name(given.name, {one.run_id for one in store.baselines.find()})
    if problem:
        raise _Refused(f"{given.name!r} {problem}; choose another name, e.g. release")
    chosen = _of_file(store, given) if given.file else _of_run(store, given)
    replaced = store.baselines.promote(given.name, chosen)
    return [f"{given.name}: {in_words(one)}{_instead(one, replaced)}" for one in chosen]


def _of_file(store: Store, given: argparse.Namespace) -> tuple[StoredBaseline, ...]:
    from pathlib import Path

    from pytest_autotune.baseline import read_baseline

    baseline = read_baseline(Path(given.file))
    if given.suite not in (None, baseline.suite):
        raise _Refused(f"{given.file} is a baseline of {baseline.suite}, not of {given.suite}")
    store.baselines.adopt(baseline)
    return store.baselines.find(run_id=baseline.run, suite=baseline.suite)


def _of_run(store: Store, given: argparse.Namespace) -> tuple[StoredBaseline, ...]:
    from pytest_autotune.spelling import nearest

    stored = _stored(store, given)
    wanted = given.run or stored[0].run_id
    chosen = tuple(one for one in stored if one.run_id == wanted)
    if not chosen:
        hint = nearest(wanted, [one.run_id for one in stored])
        of_suite = f" of {given.suite}" if given.suite else ""
        raise _Refused(f"run {wanted} has no baseline{of_suite} in results store {store.name}{hint}")
    return chosen


def _forget(store: Store, given: argparse.Namespace) -> list[str]:
    from pytest_autotune.spelling import nearest

    suites = store.baselines.forget(given.name, suite=given.suite)
    if not suites:
        known = sorted({name for one in store.baselines.find(suite=given.suite) for name in one.names})
        there = ", ".join(known) or "none"
        raise _Refused(f"{given.name!r} stands for nothing{nearest(given.name, known)}; there are {there}")
    return [f"{given.name} does not stand for a baseline of {suite} any more" for suite in suites]


def _prune(store: Store, given: argparse.Namespace) -> list[str]:
    from pytest_autotune.formatting import count
    from pytest_autotune.records import utc_now
    from pytest_autotune.reporting.listing import in_words

    if given.keep is None and given.older_than is None:
        raise _Refused("prune: say what is removed, by --keep N, --older-than AGE or both")
    stored = _stored(store, given)
    chosen = prunable(stored, keep=given.keep or 0, older_than=given.older_than or timedelta(0), now=utc_now())
    removed = chosen if given.dry_run else store.baselines.remove(chosen)
    remain = len(stored) - len(removed)
    did, rest = ("would remove", "would be left") if given.dry_run else ("removed", "left")
    of_suite = f" of {given.suite}" if given.suite else ""
    return [*(f"{did} {in_words(one)}" for one in removed), f"{count(remain, 'baseline')}{of_suite} {rest}"]


_ACTS: dict[str, Callable[[Store, argparse.Namespace], list[str]]] = {
    "list": _list,
    "show": _show,
    "promote": _promote,
    "forget": _forget,
    "prune": _prune,
}


def wrong_name(name: str, runs: set[str]) -> str:
    """Say why a name cannot be told from what else a reference may be; empty for one that can."""
    if not name:
        return "is no name"
    if name.startswith("-"):
        return "looks like an option"
    if any(character.isspace() or not character.isprintable() for character in name):
        return "has characters that are not seen"
    if name.endswith(".json"):
        return "looks like a file"
    if name in runs or _RUN_ID.fullmatch(name):
        return "looks like a run"
    return ""


def prunable(
    stored: Sequence[StoredBaseline], *, keep: int, older_than: timedelta, now: datetime
) -> tuple[StoredBaseline, ...]:
    """Return which of these baselines, newest first, may go: without a name, old enough, and more than are kept.

    `keep` counts for each suite, and only what has no name.
    """
    seen: dict[str, int] = {}
    found = []
    for one in stored:
        if one.names:
            continue
        seen[one.suite] = seen.get(one.suite, 0) + 1
        if seen[one.suite] > keep and now - one.recorded_at > older_than:
            found.append(one)
    return tuple(found)


def _stored(store: Store, given: argparse.Namespace) -> tuple[StoredBaseline, ...]:
    """Return the baselines of the store, or of one suite, newest first; raise where there are none."""
    from pytest_autotune.spelling import nearest

    stored = store.baselines.find()
    if not stored:
        raise _Refused(
            f"results store {store.name} has no baselines; a search or verification whose gate holds records them"
        )
    found = tuple(one for one in stored if given.suite in (None, one.suite))
    if not found:
        known = sorted({one.suite for one in stored})
        there = ", ".join(known)
        raise _Refused(
            f"no baseline of {given.suite!r} is in the store{nearest(given.suite, known)}; there are {there}"
        )
    return found


def _newest_of_each_suite(stored: Iterable[StoredBaseline]) -> tuple[StoredBaseline, ...]:
    newest: dict[str, StoredBaseline] = {}
    for one in stored:
        newest.setdefault(one.suite, one)
    return tuple(newest.values())


def _instead(promoted: StoredBaseline, replaced: dict[str, str]) -> str:
    before = replaced.get(promoted.suite)
    if before is None:
        return ""
    return ", as before" if before == promoted.run_id else f", instead of run {before}"


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of baselines")
    return int(text)


def _age(text: str) -> timedelta:
    from pytest_autotune.units import duration

    days = _DAYS.fullmatch(text)
    try:
        return timedelta(days=float(days[1])) if days else timedelta(seconds=duration(text))
    except OverflowError:
        raise argparse.ArgumentTypeError(f"{text!r} is longer than can be told") from None
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an age: write days or hours, e.g. 90d or 12h") from None
