"""Reading this project's documentation: its code blocks, command lines and tables; and running its scripts."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return [text for named, text in _FENCED.findall(path.read_text()) if named == language]


def commands(path: Path) -> list[str]:
    """Return the command lines: lines of indented blocks and of shell blocks, without their comments."""
    prose = _FENCED.sub("", path.read_text())
    indented = re.findall(r"^ {4}(\S.*)$", prose, re.MULTILINE)
    shell = [line for block in blocks(path, "sh") for line in block.splitlines()]
    return [shlex.join(shlex.split(line, comments=True)) for line in (*indented, *shell) if line.strip()]


def table(text: str, heading: str) -> dict[str, list[str]]:
    """Return the rows of the first table under a heading: the name in the first cell, without backticks, to the others."""
    section = re.split(r"^#+ ", text.split(f"\n## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
    return {row[0].strip("`"): row[1:] for row in rows}


def copy_project(directory: Path, *names: str) -> Path:
    """Copy files and directories of the project to where a test may change them."""
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, directory / name)
    return directory


def clean_environment() -> dict[str, str]:
    """Return the variables for a process that sees neither this checkout nor what the tests' own pytest was told."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}


def script(name: str, *arguments: str | Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts in .ci, with the tools of the environment that runs the tests."""
    return subprocess.run(
        [root / ".ci" / name, *arguments],
        env={**os.environ, "VENV": sys.prefix},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
