"""Traffic scenarios as genai-bench writes them: ``D(100,100)``, ``N(480,240)/(300,150)``, ``U(50,100)/(200,250)``.

Grammar and meaning are those of genai-bench 0.0.5 (genai_bench/scenarios/, genai_bench/sampling/text.py):

* ``D(prompt,output)``: always these lengths
* ``N(mean,sd)/(mean,sd)``: normally distributed prompt and output
* ``U(min,max)/(min,max)``: evenly distributed prompt and output
* ``U(prompt,output)``: the same, from 1 to these
* ``E(document)``: embeddings of documents of this length
* ``R(document,query)``: rerank documents of this length for a query
* ``dataset``: the rows of a dataset as they are, without a limit on the output
* ``I(...)``, ``V(...)``, ``A(...)``: images, video and speech, which are refused here

genai-bench cuts off the fraction of what it draws (a length of ``U(min,max)`` is at most max - 1), raises what is
shorter than 1 prompt or 2 output tokens to that, and so do the lengths here: the distributions are the same.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_autotune.load.lengths import AtLeast, Fixed, Normal, Uniform
from pytest_autotune.spelling import show

if TYPE_CHECKING:
    from pytest_autotune.load.generator import Api
    from pytest_autotune.load.lengths import Lengths

SCENARIO = r"^\s*(dataset|[DNUER]\s*\([0-9,\s]+\)(\s*/\s*\([0-9,\s]+\))?)\s*$"  # of the JSON schema

_LEAST_PROMPT, _LEAST_OUTPUT = 1, 2  # of what N and U draw
_FORMS = {  # kind -> number of values in each pair of brackets
    "D": ((2,),),
    "N": ((2, 2),),
    "U": ((2,), (2, 2)),
    "E": ((1,),),
    "R": ((2,),),
}
_WRITTEN = {
    "D": "D(prompt,output), e.g. D(100,100)",
    "N": "N(mean,sd)/(mean,sd), e.g. N(480,240)/(300,150)",
    "U": "U(min,max)/(min,max), e.g. U(50,100)/(200,250), or U(prompt,output) for lengths from 1",
    "E": "E(document), e.g. E(1024)",
    "R": "R(document,query), e.g. R(1024,100)",
}
_MEDIA = {"I": "images", "V": "video", "A": "speech"}
_HELP = "write D(100,100), N(480,240)/(300,150), U(50,100)/(200,250), E(1024), R(1024,100) or dataset"


@dataclass(frozen=True, slots=True)
class Scenario:
    """What the requests of a traffic scenario are.

    `text` is the scenario without blanks, as genai-bench names its results by it.
    """

    text: str
    apis: tuple[Api, ...]  # that can serve it
    prompt: Lengths | None = None  # of each document, for embeddings and rerank; None: the dataset's rows say
    output: Lengths | None = None  # None: the api has no output, or the dataset's rows say
    query: Lengths | None = None  # of a rerank request


def read_scenario(text: str) -> Scenario:
    """Return the scenario that a text names; raise `ValueError` with what is allowed."""
    written = _without_blanks(text)
    if written == "dataset":
        return Scenario(written, ("completions", "chat", "embeddings", "rerank"))
    kind, groups = split_brackets(text)
    if kind in _MEDIA and groups:
        raise ValueError(
            f"{show(text)} asks for {_MEDIA[kind]}, and only text is sent here; remove it, "
            "or run it with load.generator: genai-bench"
        )
    if kind not in _FORMS:
        raise ValueError(f"{show(text)} is not a traffic scenario; {_HELP}")
    if tuple(map(len, groups)) not in _FORMS[kind]:
        raise ValueError(f"{show(text)} is not a scenario of kind {kind}; write {_WRITTEN[kind]}")
    try:
        return _scenario(written, kind, groups)
    except ValueError as error:
        raise ValueError(f"{show(text)}: {error}") from None


def _scenario(written: str, kind: str, groups: list[tuple[int, ...]]) -> Scenario:
    first, last = groups[0], groups[-1]
    if kind == "E":
        return Scenario(written, ("embeddings",), _fixed(first[0]))
    if kind == "R":
        return Scenario(written, ("rerank",), _fixed(first[0]), query=_fixed(first[1]))
    if kind == "D":
        return Scenario(written, ("completions", "chat"), _fixed(first[0]), _fixed(first[1]))
    if len(groups) == 1:
        first, last = (1, first[0]), (1, first[1])
    prompt, output = lengths_of(kind, first, least=_LEAST_PROMPT), lengths_of(kind, last, least=_LEAST_OUTPUT)
    return Scenario(written, ("completions", "chat"), prompt, output)


def split_brackets(text: str) -> tuple[str, list[tuple[int, ...]]]:
    """Return the leading word of ``N(1,2)/(3,4)`` and the numbers in each pair of brackets; none if it is not such."""
    numbers = r"\(([0-9]{1,9}(?:,[0-9]{1,9})*)\)"
    match = re.fullmatch(rf"([A-Za-z]+){numbers}(?:/{numbers})?", _without_blanks(text))
    if not match:
        return "", []
    return match[1], [tuple(map(int, group.split(","))) for group in match.groups()[1:] if group]


def lengths_of(kind: str, numbers: tuple[int, ...], *, least: int = 1) -> Lengths:
    """Return the distribution of one side of a scenario: ``D(tokens)``, ``N(mean,sd)`` or ``U(min,max)``."""
    if kind == "D":
        return _fixed(*numbers)
    if kind == "N":
        mean, sd = numbers
        if sd == 0:
            return Fixed(max(least, mean))
        # Cutting off the fraction instead of rounding costs half a token.
        return AtLeast(least, Normal(mean - 0.5, sd, clamped=True))
    low, high = numbers
    if high < 1 or low > high:
        raise ValueError(f"no length lies between {low} and {high}; write U(min,max) with min <= max, in tokens")
    low = max(1, low)
    if max(low, high - 1) <= least:
        return Fixed(max(least, low))
    return AtLeast(least, Uniform(low, max(low, high - 1)))


def _without_blanks(text: str) -> str:
    return re.sub(r"\s*([(),/])\s*", r"\1", text.strip())


def _fixed(tokens: int) -> Fixed:
    if tokens < 1:
        raise ValueError(f"{tokens} tokens cannot be asked for; write at least 1")
    return Fixed(tokens)
