"""Load generators of others as backends, and reading what they have left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_autotune.errors import SuiteError
from pytest_autotune.load.others.genai_results import RecordedBatch, RecordedFolder, read_genai_bench
from pytest_autotune.spelling import closest

if TYPE_CHECKING:
    from pytest_autotune.load.generator import LoadGenerator

NAMES = ("genai-bench", "vllm-bench", "guidellm")

__all__ = ["NAMES", "RecordedBatch", "RecordedFolder", "generator_named", "read_genai_bench"]


def generator_named(name: str, *, python: str | None, tokenizer: str | None = None) -> LoadGenerator:
    """Return the load generator that suites call `name`, of the Python that has it installed.

    Without `python` it is this interpreter's, else the one whose command is in PATH. `tokenizer` is a
    name of the hub or a directory; without it the server is asked what its model is. Raises
    `MissingRequirement` when the tool is not installed, `SuiteError` when there is none of that name.
    """
    if name == "genai-bench":
        from pytest_autotune.load.others.genai_bench import GenaiBench

        return GenaiBench(python=python, tokenizer=tokenizer)
    if name == "vllm-bench":
        from pytest_autotune.load.others.vllm_bench import VllmBench

        return VllmBench(python=python, tokenizer=tokenizer)
    if name == "guidellm":
        from pytest_autotune.load.others.guidellm import GuideLlm

        return GuideLlm(python=python, tokenizer=tokenizer)
    close = closest(name, NAMES, cutoff=0.5)
    hint = "" if close is None else f"; did you mean {close!r}?"
    raise SuiteError(f"load.generator: {name!r} is no load generator (expected builtin, {', '.join(NAMES)}){hint}")
