"""What a reference to a baseline stands for, with a real store and a real repository."""

import functools
import os

import pytest

from pytest_autotune.baseline import beside, write_baseline
from pytest_autotune.errors import SuiteError
from pytest_autotune.references import referred
from pytest_autotune.store import Store
from pytest_autotune.suite_file import load_suite
from tests import repositories
from tests.make_baselines import baseline
from tests.make_records import START

SUITE = """\
name: chat
engine: sim
model: llama-3.1-8b
fixed: {gpu: H100}
load: {prompt_tokens: 128, output_tokens: 32, concurrency: [1, 8], duration: 1s}
slo: {ttft.p90: 500ms}
"""


@pytest.fixture
def suite(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "chat.yaml").write_text(SUITE)
    return load_suite(tmp_path / "chat.yaml")


@pytest.fixture
def git(suite):
    git = functools.partial(repositories.git, suite.path.parent)

    git("init", "--quiet", "--initial-branch=main")
    git("add", "chat.yaml")
    git("commit", "--quiet", "--message", "first")
    return git


@pytest.fixture
def store(tmp_path):
    with Store(f"sqlite:///{tmp_path / 'results.db'}") as store:
        store.migrate()
        yield store


def keep(store, run, *names, day=1, **fields):
    made = baseline(run=run, recorded_at=f"2026-01-{day:02d}T02:03:04Z", **fields)
    store.baselines.record(made)
    for name in names:
        store.baselines.promote(name, store.baselines.find(run_id=run, suite=made.suite))
    return made


def refused(reference, suite, store=None):
    with pytest.raises(SuiteError) as error:
        referred(reference, suite, store=store, directory=suite.path.parent)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_is_taken_from_the_directory_before_a_name(suite, store, tmp_path):
    made = baseline(run="of the file")
    (tmp_path / "other").mkdir()
    for name in ("old.json", "release"):
        write_baseline(tmp_path / "other" / name, made)
        keep(store, "run-1", "release")
        assert referred(name, suite, store=store, directory=tmp_path / "other") == made
    assert "missing.json: cannot be read: " in refused("missing.json", suite, store)


def test_a_file_of_another_suite_is_refused(suite, tmp_path):
    write_baseline(tmp_path / "old.json", baseline(suite="code"))
    told = f"{tmp_path / 'old.json'}: suite: recorded for code, but chat.yaml has chat; name a *.best.json, "
    assert refused("old.json", suite).startswith(told)


def test_a_name_comes_before_a_run_and_a_run_before_a_branch(suite, store, git):
    named, ran = keep(store, "run-1", "run-2", "main"), keep(store, "run-2")
    keep(store, "run-3", "run-3", suite="code")
    of_run = keep(store, "run-3")
    git("branch", "run-3")
    for reference, found in (("run-2", named), ("run-1", named), ("main", named), ("run-3", of_run)):
        assert referred(reference, suite, store=store, directory=suite.path.parent) == found
    assert ran != named


def test_of_a_revision_it_is_the_file_beside_the_suite(suite, store, git):
    path, made = beside(suite.path), baseline()
    keep(store, "run-1", commit=git("rev-parse", "HEAD"))
    path.write_text("{")
    git("add", "--all")
    git("commit", "--quiet", "--message", "broken")
    git("tag", "broken")
    write_baseline(path, made)
    git("commit", "--quiet", "--all", "--message", "recorded")
    keep(store, "run-2", commit=git("rev-parse", "HEAD"))
    path.unlink()
    for existing in (store, None):
        found = referred("main", suite, store=existing, directory=suite.path.parent)
        assert found == made.model_copy(update={"commit": git("rev-parse", "main")})
    assert refused("broken", suite).startswith("chat.best.json at broken: Invalid JSON: ")


def test_of_a_revision_without_a_file_it_is_the_newest_that_was_measured_there(suite, store, git):
    commit = git("rev-parse", "HEAD")
    keep(store, "run-1", day=1, commit=commit)
    newest = keep(store, "run-2", day=2, commit=commit)
    keep(store, "run-3", day=3, commit="f" * 40)
    keep(store, "run-4", day=4, commit=commit, suite="code")
    for reference in ("main", "HEAD", commit[:8]):
        assert referred(reference, suite, store=store, directory=suite.path.parent) == newest


def test_what_names_nothing_says_what_was_looked_at_and_what_to_do(suite, store, git):
    keep(store, "run-1", "release")
    path = beside(suite.path)
    assert refused("releese", suite, store) == (
        f"'releese' is neither a file, nor a name or run with a baseline of chat in results store {store.name}, nor a "
        f"revision, branch or tag of the repository of {path} (did you mean 'release'?); name a *.best.json, a revision "
        "that has one beside the suite, or what is listed by: python -m pytest_autotune baselines"
    )
    assert "of chat in the results store, which is not there yet, nor a revision" in refused("releese", suite)
    assert refused("-release", suite, store).startswith("'-release' is neither a file, nor ")
    assert refused("main", suite, store) == (
        f"{path}: 'main' has no chat.best.json, and there is no baseline of chat at that revision in results store "
        f"{store.name}; name a *.best.json, a revision that has one beside the suite, or what is listed by: "
        "python -m pytest_autotune baselines"
    )


def test_what_names_other_suites_or_a_run_that_recorded_nothing_is_told(suite, store):
    keep(store, "run-1", "release", suite="code")
    store.begin_run("run-2", started_at=START, environment={}, arguments=[])
    assert "; it stands for code only; name a " in refused("release", suite, store)
    assert "; it stands for code only; name a " in refused("run-1", suite, store)
    assert "; the gate of chat did not hold in that run, or was not judged; name a " in refused("run-2", suite, store)
