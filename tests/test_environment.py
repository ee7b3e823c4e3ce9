"""What a run records about where it ran, and what of it is secret."""

import json
import os
import subprocess

import pytest

from pytest_autotune.environment import describe


@pytest.fixture
def repository(tmp_path):
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}

    def git(*arguments):
        command = ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e@x", *arguments]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q", "-b", "trunk")
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "chat.yaml").write_text("name: chat\n")
    git("add", "-A")
    git("commit", "-q", "-m", "Begin")
    return git


def test_revision_branch_and_dirt_of_the_suites_are_told(tmp_path, repository):
    suites = tmp_path / "suites"
    revision = repository("rev-parse", "HEAD")
    assert describe(suites)["git"] == {"revision": revision, "branch": "trunk", "dirty": False}

    (tmp_path / "elsewhere.txt").write_text("not of these suites")
    for results in (suites / ".autotune", tmp_path / ".autotune"):
        results.mkdir()
        (results / "results.db").write_text("")
    assert describe(suites)["git"]["dirty"] is False

    (suites / "new.yaml").write_text("name: new\n")
    assert describe(suites)["git"]["dirty"] is True
    (suites / "new.yaml").unlink()
    (suites / "chat.yaml").write_text("name: other\n")
    assert describe(suites)["git"]["dirty"] is True
    repository("checkout", "-q", "--detach")
    assert describe(suites)["git"] == {"revision": revision, "dirty": True}


def test_what_is_not_there_is_absent(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for name in list(os.environ):
        if name.startswith(("CI", "GITHUB_", "BUILD", "CIRCLE_", "GIT_B", "GIT_COMMIT")):
            monkeypatch.delenv(name)
    assert describe(tmp_path)["git"] == {}
    assert describe(tmp_path)["ci"] == {}
    assert describe(tmp_path / "nowhere")["git"] == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe(tmp_path)["git"] == {}


def test_environment_names_software_hardware_and_ci_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_SHA", "0123abcd")
    monkeypatch.setenv("CI_JOB_URL", "https://me:S3CRET@ci.example/1")
    monkeypatch.setenv("HF_TOKEN", "S3CRET")
    described = describe(tmp_path)
    text = json.dumps(described, allow_nan=False)
    assert json.loads(text) == described
    assert "S3CRET" not in text
    assert described["ci"]["GITHUB_SHA"] == "0123abcd"
    assert described["ci"]["CI_JOB_URL"] == "https://me:***@ci.example/1"
    assert {"pytest", "optuna", "pytest-xdist", "sqlalchemy"} <= described["packages"].keys()
    assert described["python"].startswith("3.")
    assert described["hostname"]
    assert described["hardware"]["cores"] >= 1
    assert described["hardware"]["memory_bytes"] > 2**20
    assert described["hardware"]["cpu"]
