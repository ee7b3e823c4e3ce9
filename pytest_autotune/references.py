"""What a reference to a baseline stands for: a file, a name or run of the store, or a revision of the repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_autotune.baseline import SUFFIX, beside, parse_baseline, read_baseline
from pytest_autotune.errors import SuiteError
from pytest_autotune.revisions import commit_of, text_at
from pytest_autotune.spelling import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pytest_autotune.baseline import Baseline
    from pytest_autotune.baselines import StoredBaseline
    from pytest_autotune.store import Store
    from pytest_autotune.suite import Suite

REMEDY = (
    f"name a *{SUFFIX}, a revision that has one beside the suite, or what is listed by: "
    "python -m pytest_autotune baselines"
)


def referred(reference: str, suite: Suite, *, store: Store | None, directory: Path) -> Baseline:
    """Return the baseline of a suite that a reference names; raise `SuiteError`.

    It is a file, from `directory`; else a name or a run of the store; else a revision, branch or tag, where it is the
    file beside the suite, or without one the newest that the store has of that revision.
    """
    file = directory / reference
    if file.suffix == ".json" or file.is_file():
        baseline = read_baseline(file)
        if baseline.suite != suite.name:
            problem = f"suite: recorded for {baseline.suite}, but {suite.path.name} has {suite.name}"
            raise SuiteError(f"{problem}; {REMEDY}", path=file)
        return baseline
    stored = () if store is None else store.baselines.find(suite=suite.name)
    if found := by_name_or_run(reference, stored):
        return found[0].baseline
    path = beside(suite.path)
    commit = commit_of(reference, path)
    if not commit:
        raise _unknown(reference, suite, store=store, stored=stored)
    text = text_at(commit, path)
    if text is not None:
        return parse_baseline(text, f"{path.name} at {reference}").model_copy(update={"commit": commit})
    for one in stored:
        if one.commit == commit:
            return one.baseline
    problem = f"{reference!r} has no {path.name}, and there is no baseline of {suite.name} at that revision"
    raise SuiteError(f"{problem} in {_place(store)}; {REMEDY}", path=path)


def by_name_or_run(reference: str, stored: Iterable[StoredBaseline]) -> tuple[StoredBaseline, ...]:
    """Return those of the baselines that a reference names by a name, or else by their run."""
    stored = tuple(stored)
    named = tuple(one for one in stored if reference in one.names)
    return named or tuple(one for one in stored if one.run_id == reference)


def words_of(stored: Iterable[StoredBaseline]) -> tuple[str, ...]:
    """Return all names and runs that these baselines are known by, names first."""
    stored = tuple(stored)
    names = {name for one in stored for name in one.names}
    return (*sorted(names), *dict.fromkeys(one.run_id for one in stored))


def _unknown(reference: str, suite: Suite, *, store: Store | None, stored: tuple[StoredBaseline, ...]) -> SuiteError:
    path = beside(suite.path)
    problem = (
        f"{reference!r} is neither a file, nor a name or run with a baseline of {suite.name} in {_place(store)}, "
        f"nor a revision, branch or tag of the repository of {path}"
    )
    others = () if store is None else by_name_or_run(reference, store.baselines.find())
    if others:
        problem += f"; it stands for {', '.join(sorted({one.suite for one in others}))} only"
    elif store is not None and any(run.id == reference for run in store.runs()):
        problem += f"; the gate of {suite.name} did not hold in that run, or was not judged"
    return SuiteError(f"{problem}{nearest(reference, words_of(stored))}; {REMEDY}")


def _place(store: Store | None) -> str:
    return "the results store, which is not there yet" if store is None else f"results store {store.name}"
