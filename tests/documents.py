"""Reading this project's documentation: its code blocks, command lines, tables and links."""

from __future__ import annotations

import re
import shlex
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
