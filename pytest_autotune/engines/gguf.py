"""Models as one GGUF file, as the engines on llama.cpp take them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_autotune.engines import requirements

if TYPE_CHECKING:
    from pytest_autotune.suite import Suite

_MAGIC = b"GGUF"


def missing_file(suite: Suite) -> str | None:
    """Say why the suite's model is no file that llama.cpp loads, or return None. It must be on this machine."""
    if suite.model is None:
        return "needs a model: say model: <file>.gguf"
    path = Path(requirements.model_of(suite))
    if path.is_dir():
        files = ", ".join(sorted(file.name for file in path.glob("*.gguf"))) or "none"
        return f"model: {path} is a directory: name one of its .gguf files ({files})"
    if not path.is_absolute() or not path.is_file():
        return f"model: no such file: {path}"
    with path.open("rb") as file:
        magic = file.read(len(_MAGIC))
    return None if magic == _MAGIC else f"model: {path} is no GGUF file: it begins with {magic!r}, not {_MAGIC!r}"
