"""Where another load generator is installed, and what to install when it is not."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from dataclasses import dataclass

from pytest_autotune.errors import MissingRequirement

_ASK_S = 60.0  # an interpreter on a cold disk takes seconds to start


@dataclass(frozen=True, slots=True)
class Package:
    """A tool as its users install it."""

    name: str  # as suites call it
    package: str  # what is imported
    install: str  # what pip installs
    run: tuple[str, ...]  # arguments of an interpreter that has it
    script: tuple[str, ...]  # its own command, where no interpreter is named


def command_of(tool: Package, python: str | None) -> tuple[str, ...]:
    """Return the command that starts a tool: of `python`, else of this interpreter, else the one in PATH.

    Raise `MissingRequirement` when it is in none of them.
    """
    if python is not None:
        if not _has(python, tool.package):
            raise MissingRequirement(
                f"load.generator: {tool.name}: {python} has no package {tool.package!r}: "
                f"`{python} -m pip install {tool.install}`"
            )
        return (python, *tool.run)
    if importlib.util.find_spec(tool.package) is not None:
        return (sys.executable, *tool.run)
    script = shutil.which(tool.script[0])
    if script is not None:
        return (script, *tool.script[1:])
    raise MissingRequirement(
        f"load.generator: {tool.name} is not installed: `pip install {tool.install}`, "
        "best into an environment of its own whose Python is named beside it"
    )


def _has(python: str, package: str) -> bool:
    """Say whether an interpreter can find a package; nothing of it is imported, which may take a minute."""
    script = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    argv = [python, "-c", script, package]
    try:
        return subprocess.run(argv, capture_output=True, timeout=_ASK_S, check=False).returncode == 0
    except OSError as error:
        raise MissingRequirement(f"{python} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise MissingRequirement(f"{python} did not tell within {_ASK_S:g} s whether it has {package!r}") from None
