"""The log file of one deployment: opened anew each time, earlier ones kept aside, read in bounded pieces."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from pytest_autotune.errors import DeployError

if TYPE_CHECKING:
    from pathlib import Path

_MOST_BYTES = 4 * 2**20  # of a log that is read at once: half from its beginning, half from its end
_TAIL_BYTES = 64 * 2**10


@dataclass(frozen=True, slots=True)
class ServerLog:
    """The output of one server, and of no other: earlier files are renamed, so their servers cannot write into it."""

    path: Path
    fd: int  # open for appending; the deployer closes it as soon as the server has it
    skipped: int  # bytes of our own note at the beginning

    def text(self) -> str:
        """Return what the server wrote; of a very long log, its beginning and its end."""
        with self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END) - self.skipped
            file.seek(self.skipped)
            if size <= _MOST_BYTES:
                return file.read().decode(errors="replace")
            head = file.read(_MOST_BYTES // 2)
            file.seek(-_MOST_BYTES // 2, os.SEEK_END)
            return b"\n[... cut ...]\n".join((head, file.read())).decode(errors="replace")

    def tail(self, lines: int = 40) -> str:
        """Return the last lines; of a progress bar, its last state."""
        with self.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _TAIL_BYTES, 0))
            text = file.read().decode(errors="replace")
        shown = [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip("\n").split("\n")]
        return "\n".join(shown[-lines:])


def open_log(path: Path, note: str = "") -> ServerLog:
    """Start an empty log at `path`, with one line of our own if there is something to say.

    A file that is already there becomes ``server.1.log``, ``server.2.log``, ...: the highest number is the latest.
    """
    try:
        if path.exists():
            path.rename(_aside(path))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        line = f"[autotune] {note}\n".encode() if note else b""
        os.write(fd, line)
    except OSError as error:
        raise DeployError(f"cannot write the server's log {path}: {error.strerror}") from error
    return ServerLog(path, fd, len(line))


def _aside(path: Path) -> Path:
    names = (path.with_name(f"{path.stem}.{number}{path.suffix}") for number in count(1))
    return next(name for name in names if not name.exists())
