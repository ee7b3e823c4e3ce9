"""Files in this user's runtime directory that processes lock against each other; a lock ends with its last holder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_autotune.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Iterator


def runtime_directory() -> Path:
    """Return this user's runtime directory, made on first use and refused when somebody else could tamper with it."""
    directory = Path(tempfile.gettempdir()) / f"pytest-autotune-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise DeployError(f"{directory} is not a directory of this user alone: remove it, or set TMPDIR")
    return directory


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a file that is there to be locked, made on first use; a lock on it is released at the end.

    It is released then wherever else a copy of the descriptor is open, as in a forked copy of this process. Without
    that end, which a killed process does not come to, it lasts as long as any copy.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield fd
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def lock(fd: int) -> bool:
    """Lock an open file against all others, without waiting; say whether it is locked now."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
