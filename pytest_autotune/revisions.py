"""What a file was at a revision of its repository."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from pytest_autotune.errors import SuiteError

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 30.0


def commit_of(revision: str, path: Path) -> str:
    """Return a revision, branch or tag of the repository of a file in full; empty where it is none there.

    A branch that is not here is looked for at `origin`, where a CI's checkout has it. The file need not be there,
    its directory must. What looks like an option never reaches git.
    """
    if revision.startswith("-"):
        return ""
    return _commit(path, revision) or _commit(path, f"refs/remotes/origin/{revision}")


def text_at(commit: str, path: Path) -> str | None:
    """Return a file's text at a commit; None where the commit does not have it."""
    if not _git(path, "ls-tree", "--name-only", commit, "--", path.name, or_else=f"{commit} has no tree"):
        return None
    return _git(path, "show", f"{commit}:./{path.name}", or_else=f"{path.name} at {commit} cannot be read")


def _commit(path: Path, revision: str) -> str:
    return _git(path, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}").strip()


def _git(path: Path, *arguments: str, or_else: str = "") -> str:
    command = ["git", "-C", str(path.parent), *arguments]
    try:
        answer = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
        )
    except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired) as error:
        raise SuiteError(f"git cannot tell: {error}", path=path) from None
    if answer.returncode != 0:
        if or_else:
            raise SuiteError(f"{or_else}: {answer.stderr.strip()}", path=path)
        return ""
    return answer.stdout
