"""What a file was at a revision of its repository."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from pytest_autotune.errors import SuiteError

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 30.0
REMEDY = "name a *.best.json, or a revision that has one beside the suite"


def text_at(revision: str, path: Path) -> tuple[str, str]:
    """Return a file's text at a revision, branch or tag, and that revision in full; raise `SuiteError` saying why not.

    A branch that is not here is looked for at `origin`, where a CI's checkout has it. The file need not be there any
    more, its directory must.
    """
    if revision.startswith("-"):
        raise SuiteError(f"{revision!r} is neither a file nor a revision; {REMEDY}")
    commit = _commit(path, revision) or _commit(path, f"refs/remotes/origin/{revision}")
    if not commit:
        problem = f"{revision!r} is neither a file nor a revision, branch or tag of the repository of {path}"
        raise SuiteError(f"{problem}; {REMEDY}")
    return _git(path, "show", f"{commit}:./{path.name}", or_else=f"{path.name} is not in {revision}"), commit


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
