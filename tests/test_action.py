"""The composite action: its steps run as GitHub runs them, against an origin, in a checkout without history."""

import os
import re
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from tests.conftest import QUICK_SUITE
from tests.documents import ROOT, table
from tests.make_baselines import record
from tests.repositories import git

ACTION = YAML(typ="safe").load(ROOT / ".github" / "actions" / "autotune-gate" / "action.yml")
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}
SUITE = QUICK_SUITE.replace("objective:", "gate: {throughput: -40%, pairs: 4}\nobjective:")
SLOWER = SUITE.replace("time-scale: 0.2", "time-scale: 0.6")


@pytest.fixture
def checkout(project, tmp_path):
    """What actions/checkout makes of a branch: one commit, and of main nothing."""
    project.suite(SUITE)
    record(project)
    git(project.path, "init", "-q", "-b", "main")
    git(project.path, "add", "suites", "tolerant_load.py")
    git(project.path, "commit", "-q", "-m", "record")
    git(project.path, "checkout", "-q", "-b", "change")
    project.suite(SLOWER)
    git(project.path, "commit", "-q", "-a", "-m", "slower")
    clone = tmp_path / "checkout"
    git(tmp_path, "clone", "-q", "--depth=1", "--branch=change", project.path.as_uri(), str(clone))
    return clone


def run(name, checkout, **inputs):
    """Run a step's script with its variables, expressions filled in."""
    given = {key: declared["default"] for key, declared in ACTION["inputs"].items()} | inputs
    pytest_here = checkout.parent / "pytest"
    pytest_here.write_text(f'#!/bin/sh\nexec {sys.executable} -m pytest -p no:cacheprovider -p tolerant_load "$@"\n')
    pytest_here.chmod(0o755)
    given["pytest"] = str(pytest_here)
    variables = {
        key: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda found: given[found[1]], value)
        for key, value in STEPS[name]["env"].items()
    }
    summary = {"GITHUB_STEP_SUMMARY": str(checkout.parent / "summary.md"), "PYTHONPATH": str(checkout)}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", STEPS[name]["run"]]
    environment = {**os.environ, **variables, **summary}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.alone
def test_a_slower_change_turns_the_job_red_and_its_revert_green(checkout):
    assert run("Fetch what is compared with", checkout, compare="main").returncode == 0
    compared = run("Verify", checkout, compare="main")
    assert compared.returncode == 1, compared.stdout + compared.stderr
    assert "regression" in compared.stdout
    reports = checkout / "build" / "autotune"
    assert {path.name for path in reports.iterdir()} == {"tests.xml", "verdict.xml", "summary.md", "benchmark.json"}
    summary = checkout.parent / "summary.md"
    assert summary.read_text() == (reports / "summary.md").read_text()
    assert summary.read_text().startswith("### quick: failed\n")
    (checkout / "suites" / "quick.yaml").write_text(SUITE)
    for _ in range(2):
        held = run("Verify", checkout, store="../kept.db")
        assert held.returncode == 0, held.stdout + held.stderr
    assert summary.read_text().count("### quick: passed\n") == 2
    assert "| history |" in summary.read_text()


def test_a_revision_that_origin_has_not_fails_the_step(checkout):
    fetched = run("Fetch what is compared with", checkout, compare="nowhere")
    assert fetched.returncode != 0
    assert "nowhere" in fetched.stderr
    assert run("Fetch what is compared with", checkout, compare="nowhere", store="../kept.db").returncode == 0


def test_what_could_not_be_collected_is_an_error_and_leaves_no_summary(checkout):
    (checkout / "suites" / "quick.yaml").write_text("name: quick\nengin: sim\n")
    failed = run("Verify", checkout)
    assert failed.returncode == 2
    assert not (checkout.parent / "summary.md").exists()


def test_a_comment_is_only_made_of_a_summary_that_is_there(checkout):
    assert run("Comment", checkout).returncode == 0  # without the program of GitHub, which it would call


def test_every_input_is_documented_with_its_default():
    documented = table((ROOT / "docs" / "ci.md").read_text(), "GitHub")
    assert documented.keys() == ACTION["inputs"].keys()
    for name, declared in ACTION["inputs"].items():
        assert documented[name][0].strip("`") == (declared["default"] or "none"), name
