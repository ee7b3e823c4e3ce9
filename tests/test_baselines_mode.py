"""Baselines from end to end: runs whose gate holds record them, and `--autotune-compare` finds them again."""

import shlex
import subprocess
import sys

import pytest

from pytest_autotune.baseline import parse_baseline, read_baseline
from tests.conftest import QUICK_SUITE
from tests.documents import ROOT, commands
from tests.make_baselines import record
from tests.repositories import git

SUITE = QUICK_SUITE.replace("objective:", "gate: {throughput: -60%, pairs: 4}\nobjective:").replace(
    "max-num-seqs: [2, 64]", "max-num-seqs: [64]"
)
PAGE = [line for line in commands(ROOT / "docs" / "gate.md") if line.startswith("python -m pytest_autotune baselines")]


@pytest.fixture
def repository(project):
    """A repository whose first commit, tagged v1, has a suite and no record of it."""
    project.suite(SUITE)
    git(project.path, "init", "-q")
    git(project.path, "add", "suites")
    git(project.path, "commit", "-q", "-m", "first")
    git(project.path, "tag", "v1")
    return project


def baselines(project, *arguments):
    command = [sys.executable, "-m", "pytest_autotune", "baselines", *arguments]
    return subprocess.run(command, cwd=project.path, capture_output=True, text=True, check=True).stdout


def stored(project):
    with project.store() as store:
        return store.baselines.find()


def collected(project, *arguments):
    """Collect a comparison; return its result and whether it has the trials of both sides."""
    result = project.run("suites", "--collect-only", "-q", *arguments)
    return result, "::baseline-1::c8" in result.stdout.str()


@pytest.mark.alone
@pytest.mark.slow
def test_what_runs_record_is_listed_promoted_and_compared_with(repository):
    commit = git(repository.path, "rev-parse", "v1")
    assert repository.run("suites", "--autotune", "--autotune-record").ret == 0
    beside = repository.path / "suites" / "quick.best.json"
    assert baselines(repository, "show", stored(repository)[0].run_id) == beside.read_text()
    beside.unlink()
    assert repository.run("suites").ret == 0
    verified, searched = stored(repository)
    assert (verified.suite, verified.commit) == (searched.suite, searched.commit) == ("quick", commit)
    assert verified.baseline.configuration == searched.baseline.configuration == {"max-num-seqs": 64}
    assert list(verified.baseline.levels) == list(searched.baseline.levels) == ["c1", "c8"]
    assert verified.baseline.levels != searched.baseline.levels
    promoted = baselines(repository, "promote", "release", "--run", searched.run_id)
    assert promoted.startswith(f"release: quick of run {searched.run_id} (commit {commit[:10]} of ")
    assert [line.split()[0] for line in baselines(repository).splitlines()] == ["name", "quick", "release"]
    for reference in (searched.run_id, "v1"):
        assert collected(repository, "--autotune-compare", reference)[1], reference
    result = repository.run("suites", "--autotune-compare", "release")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines([f"*commit {commit[:10]} of *4 pairs of deployments in turn"])
    assert len(stored(repository)) == 2, "a comparison in pairs records nothing"
    assert baselines(repository, "prune", "--keep=0").splitlines()[-1] == "1 baseline left"
    assert [one.names for one in stored(repository)] == [("release",)]


def test_neither_a_part_nor_a_broken_gate_is_recorded(project):
    project.suite(SUITE.replace("max-num-seqs: [64]", "max-num-seqs: [2, 64]"))
    result = project.run("suites", "--autotune", "--autotune-record", "-m", "config(max_num_seqs=64)", "-rs")
    result.stdout.fnmatch_lines(["*1 of 2 trials were finished; the gate judges all"])
    assert project.run("suites", "-k", "c1").ret == 0
    project.suite(SUITE.replace("ttft.p90: 40ms", "ttft.p90: 1ms"))
    assert project.run("suites").ret == 1
    assert stored(project) == ()


def test_workers_record_one_baseline_of_each_suite(project):
    for name in ("second", "third"):
        project.suite(SUITE.replace("name: quick", f"name: {name}"), name=f"{name}.yaml")
        record(project, name)
    assert project.run("suites", "-n2").ret == 0
    assert sorted(one.suite for one in stored(project)) == ["second", "third"]  # by when each was done, otherwise


def test_a_name_that_is_none_is_a_collection_error_with_the_nearest(repository):
    record(repository)
    with repository.store() as store:
        store.migrate()
        store.baselines.record(read_baseline(repository.path / "suites" / "quick.best.json"))
        store.baselines.promote("release", store.baselines.find())
    result, compared = collected(repository, "--autotune-compare", "releese")
    assert (result.ret, compared) == (2, False)
    result.stdout.fnmatch_lines(["*'releese' is neither a file, nor a name or run * (did you mean 'release'?); name *"])
    assert collected(repository, "--autotune-compare", "release")[1]


def test_looking_for_a_name_makes_no_store(repository):
    record(repository)
    result, _ = collected(repository, "--autotune-compare", "release")
    assert result.ret == 2
    result.stdout.fnmatch_lines(["*in the results store, which is not there yet, nor a revision*"])
    assert not (repository.path / ".autotune").exists()


def test_the_page_is_followed_to_the_letter(project):
    record(project, "chat")
    made = read_baseline(project.path / "suites" / "chat.best.json")
    with project.store() as store:
        store.migrate()
        store.baselines.record(made.model_copy(update={"run": "run-2"}))
    assert len(PAGE) >= 5
    for line in PAGE:
        script = line.replace("python", shlex.quote(sys.executable), 1).replace(" '>' ", " > ")
        subprocess.run(["bash", "-euc", script], cwd=project.path, check=True, timeout=600)
    written = project.path / "old.best.json"
    assert parse_baseline(written.read_text(), written).run == "run-2"
