"""What docs/gate.md tells to do, command by command: green as recorded, red on a planted regression, green when reverted."""

import os
import shlex
import subprocess
import sys

import pytest

from tests.documents import ROOT, blocks, commands
from tests.repositories import git

PAGE = ROOT / "docs" / "gate.md"
COMMANDS = [line for line in commands(PAGE) if line.startswith("pytest ")]
SUITE = blocks(PAGE, "yaml")[0]


@pytest.fixture
def user(project):
    """A repository with the suite of the page: shorter batches, and limits that a busy machine keeps."""
    shorter = SUITE.replace("duration: 10s", "duration: 2s, warmup: 200ms").replace(
        "concurrency: [8, 32]", "concurrency: [8]"
    )
    wider = shorter.replace("-5%, ttft.p99: +10%", "-30%, pairs: 4")
    project.suite(wider.replace("ttft.p99: 500ms", "ttft.p99: 5s"), "chat.yaml")
    git(project.path, "init", "-q", "-b", "main")
    return project


def follow(project, line):
    """Run a command of the page as it stands there, in a shell that knows where GitHub wants the summary."""
    python = shlex.quote(sys.executable)
    script = line.replace("pytest ", f"{python} -m pytest -p no:cacheprovider -p tolerant_load ", 1)
    script = script.replace("'markdown=$GITHUB_STEP_SUMMARY'", '"markdown=$GITHUB_STEP_SUMMARY"')
    variables = {**os.environ, "GITHUB_STEP_SUMMARY": str(project.path / "summary.md"), "PYTHONPATH": str(project.path)}
    command = ["bash", "-euc", script]
    return subprocess.run(command, cwd=project.path, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.alone
@pytest.mark.slow
def test_the_page_is_followed_to_the_letter(user):
    record, verify, *compare, noise, export = COMMANDS
    assert [line.split()[-1] for line in compare] == ["main", "v1.2", "old.best.json"]
    suite = user.path / "suites" / "chat.yaml"
    good = suite.read_text()
    assert follow(user, record).returncode == 0
    git(user.path, "add", "suites")
    git(user.path, "commit", "-q", "-m", "record")
    git(user.path, "tag", "v1.2")
    (user.path / "old.best.json").write_text((user.path / "suites" / "chat.best.json").read_text())
    assert follow(user, verify).returncode == 0
    assert "  noise recorded: suites/chat.best.json" in follow(user, noise).stdout.splitlines()
    for line in compare[1:]:  # the first measures below
        assert follow(user, f"{line} --collect-only -q").stdout.count("::baseline-") == 4 * 2

    suite.write_text(good.replace("time-scale: 0.1", "time-scale: 0.3"))
    planted = follow(user, export)
    assert planted.returncode == 1, planted.stdout
    assert (user.path / "summary.md").read_text().startswith("### chat: failed\n")
    assert "more than the 30 % allowed" in (user.path / "build" / "verdict.xml").read_text()
    compared = follow(user, compare[0])
    assert compared.returncode == 1
    assert "regression" in compared.stdout

    suite.write_text(good)
    assert follow(user, verify).returncode == 0
