"""Engines that are an executable: that in ``PATH`` or what the suite's `command` names, and what it says of itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from pytest_autotune.deploy.docker import in_container
from pytest_autotune.engines import requirements
from pytest_autotune.engines.installation import run_here
from pytest_autotune.errors import MissingRequirement
from pytest_autotune.variables import expand

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_autotune.suite import Suite

    Asked = Callable[..., str]  # the words of a question to what it prints

T = TypeVar("T")
_ASK_S = 60.0


@dataclass(frozen=True, slots=True)
class Executable:
    """A server as it is called in ``PATH``."""

    name: str
    title: str  # of its engine, as messages call it

    def start(self, suite: Suite) -> tuple[str, ...]:
        """Return what stands before the arguments: the suite's command, else the executable that is in ``PATH``."""
        first, *rest = [expand(word, key="command") for word in suite.command] or [self.name]
        return (executable_of(first, suite), *rest)


class Answers(Generic[T]):
    """What the executables and images that suites name say of themselves: each asked once in a process."""

    def __init__(self, executable: Executable, read: Callable[[Asked, str], T]) -> None:
        self._executable, self._read = executable, read
        self._found: dict[tuple[str | None, tuple[str, ...], tuple[tuple[str, str], ...]], T | MissingRequirement] = {}

    def of(self, suite: Suite) -> T:
        """Return what was read; raise `MissingRequirement` when there is no such server, or another one."""
        start, env = self._executable.start(suite), requirements.environment_of(suite)
        image = suite.docker.image if suite.deploy == "docker" else None
        key = (image, start, tuple(sorted(env.items())))
        if key not in self._found:
            try:
                self._found[key] = self._ask(suite, start, env)
            except MissingRequirement as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, MissingRequirement):
            raise found
        return found

    def _ask(self, suite: Suite, start: tuple[str, ...], env: dict[str, str]) -> T:
        boxed = suite.deploy == "docker"
        if not boxed and shutil.which(start[0], path=env.get("PATH", os.environ.get("PATH"))) is None:
            name, title = self._executable.name, self._executable.title
            remedy = f"put {name} into PATH, or name it as command"
            raise MissingRequirement(f"needs {title}: no such executable: {start[0]}; {remedy}")
        run = in_container(suite) if boxed else run_here

        def said(*question: str) -> str:
            try:
                done = run((*start, *question), env, _ASK_S)
            except subprocess.TimeoutExpired:
                asked = " ".join((start[0], *question))
                raise MissingRequirement(f"{asked} did not end within {_ASK_S:g} s") from None
            except OSError as error:
                raise MissingRequirement(f"{start[0]} cannot be run: {error.strerror}") from error
            return done.stdout + done.stderr

        return self._read(said, start[0])


def executable_of(named: str, suite: Suite) -> str:
    """Return an executable as it is started: a relative path counts from the suite's file, or is the image's."""
    if suite.deploy == "docker":
        return named
    path = Path(named).expanduser()
    return str(path) if path.is_absolute() or "/" not in named else str((suite.path.parent / path).absolute())
