"""What a file was at a revision, from a scratch repository."""

import functools
import os
import subprocess

import pytest

from pytest_autotune import revisions
from pytest_autotune.errors import SuiteError
from pytest_autotune.revisions import commit_of, text_at
from tests import repositories


@pytest.fixture(autouse=True)
def no_other_repository(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))


@pytest.fixture
def git(tmp_path):
    git = functools.partial(repositories.git, tmp_path)

    git("init", "--quiet", "--initial-branch=main")
    return git


@pytest.fixture
def path(tmp_path, git):
    """A file with two versions: `first` at tag v1, `second` on main."""
    path = tmp_path / "suites" / "chat.best.json"
    path.parent.mkdir()
    for text, tag in (("first é\n", "v1"), ("second\n", "v2")):
        path.write_text(text, encoding="utf-8")
        git("add", "--all")
        git("commit", "--quiet", "--message", text)
        git("tag", tag)
    return path


def test_a_branch_that_only_origin_has_is_looked_for_there(git, path):
    git("update-ref", "refs/remotes/origin/release", "v1")
    assert commit_of("release", path) == git("rev-parse", "v1")


@pytest.mark.parametrize(
    ("revision", "text", "commit"),
    [
        ("v1", "first é\n", "v1"),
        ("main", "second\n", "v2"),
        ("HEAD", "second\n", "v2"),
        ("HEAD~1", "first é\n", "v1"),
        ("main^", "first é\n", "v1"),
    ],
)
def test_a_file_is_as_it_was_at_a_branch_tag_or_revision(git, path, revision, text, commit):
    path.write_text("not committed\n")
    assert commit_of(revision, path) == git("rev-parse", commit)
    assert text_at(commit_of(revision, path), path) == text


def test_a_revision_may_be_abbreviated_and_is_returned_in_full(git, path):
    full = git("rev-parse", "v1")
    assert commit_of(full[:9], path) == full


def test_a_tag_with_a_message_leads_to_its_commit(git, path):
    git("tag", "--annotate", "v3", "--message", "third", "v1")
    assert commit_of("v3", path) == git("rev-parse", "v1^{commit}") != git("rev-parse", "v3")


def test_a_file_that_is_gone_is_read_as_it_was(path):
    path.unlink()
    assert text_at("v1", path) == "first é\n"


@pytest.mark.parametrize("revision", ["v9", "", "deadbeef", "v1:suites/chat.best.json", "v1..v2", "two words"])
def test_what_is_no_revision_has_no_commit(path, revision):
    assert commit_of(revision, path) == ""


@pytest.mark.parametrize("revision", ["-h", "--all", "--output=x", "-"])
def test_an_option_never_reaches_git(path, monkeypatch, revision):
    monkeypatch.setattr(subprocess, "run", None)
    assert commit_of(revision, path) == ""


@pytest.mark.parametrize("name", ["code.best.json", "chat*", "ch[a]t.best.json"])
def test_a_file_that_a_revision_does_not_have_is_none(path, name):
    assert text_at("v1", path.with_name(name)) is None


def test_an_empty_file_is_a_file(git, path):
    path.write_text("")
    git("commit", "--quiet", "--all", "--message", "third")
    assert text_at("main", path) == ""


def test_a_directory_without_a_repository_has_no_revisions(tmp_path):
    assert commit_of("main", tmp_path / "chat.best.json") == ""


def test_a_file_that_is_no_text_is_refused(git, path):
    path.write_bytes(b"\xff\xfe{}")
    git("commit", "--quiet", "--all", "--message", "third")
    with pytest.raises(SuiteError, match="git cannot tell: 'utf-8' codec can't decode") as refused:
        text_at("main", path)
    assert refused.value.path == path


def test_git_that_is_missing_or_hangs_is_told(path, monkeypatch, tmp_path):
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    monkeypatch.setenv("PATH", str(slow.parent))
    with pytest.raises(SuiteError, match=r"git cannot tell: .*No such file or directory: 'git'"):
        commit_of("main", path)
    slow.write_text("#!/bin/sh\nwhile :; do :; done\n")
    slow.chmod(0o755)
    monkeypatch.setattr(revisions, "TIMEOUT_S", 0.2)
    with pytest.raises(SuiteError, match=r"git cannot tell: .* timed out after 0.2 seconds"):
        commit_of("main", path)
