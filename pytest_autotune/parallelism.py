"""`parallelism` as one value: how a server divides its model over GPUs, read from any spelling and written in one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pytest_autotune.problems import Problem, Problems
from pytest_autotune.spelling import nearest, show

NAME = "parallelism"
MOST_GPUS = 64  # of one server: the earlier autotuner's limit, beyond any machine that its users had
_PART = re.compile(r"(?P<key>[a-z]+)(?P<size>[0-9]*)")
_HELP = "write e.g. tp4, tp2-pp2, tp4-ep or {tp: 4, dp: 2}; null is the engine's default"


@dataclass(frozen=True, slots=True)
class Parallelism:
    """Degrees of parallelism, 1 where a model is not divided in that way.

    `tp`, `pp`, `dp` and `cp` (context parallelism of prefills) multiply the GPUs. Data parallelism of attention
    alone (`adp`) and context parallelism of decoding (`dcp`) divide the work of those of `tp`, and `ep` spreads
    experts over GPUs that are there: True over all that one copy of the model has.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    adp: int = 1
    cp: int = 1
    dcp: int = 1
    ep: int | bool = False

    def __str__(self) -> str:
        sizes = [f"{key}{size}" for key in KEYS[:-1] if (size := getattr(self, key)) > 1]
        if self.tp == 1:
            sizes.insert(0, "tp1")
        experts = [] if self.ep is False else ["ep" if self.ep is True else f"ep{self.ep}"]
        return "-".join((*sizes, *experts))

    @property
    def gpus(self) -> int:
        """How many GPUs a server takes."""
        return self.tp * self.pp * self.dp * self.cp


KEYS = tuple(each.name for each in fields(Parallelism))


def read_parallelism(value: Any) -> str | None:
    """Return the one text of a value of `parallelism`; None for the engine's default, which ``default`` is, too.

    Raises `ValueError` for what is none, and for more than `MOST_GPUS`.
    """
    if value is None or value == "default":
        return None
    sizes = dict(value) if isinstance(value, Mapping) else _sizes_of(value)
    if not sizes:
        raise ValueError(f"an empty mapping divides nothing; {_HELP}")
    problems = [Problem((key,), text) for key, size in sizes.items() if (text := _problem_of(key, size))]
    if problems:
        raise Problems(problems)
    # One copy over which experts are spread is one over which they are not.
    if sizes.get("ep") == 1:
        sizes["ep"] = sizes["ep"] is True
    found = Parallelism(**sizes)
    if found.gpus > MOST_GPUS:
        raise ValueError(f"{found} takes {found.gpus} GPUs, and one server at most {MOST_GPUS}; divide it less")
    return str(found)


def parallelism_of(text: object) -> Parallelism | None:
    """Return what a text that `read_parallelism` wrote stands for; None for anything else."""
    try:
        written = read_parallelism(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return None if written is None else Parallelism(**_sizes_of(written))


def _sizes_of(value: Any) -> dict[str, Any]:
    if not isinstance(value, str):
        raise ValueError(f"{show(value)} is no parallelism; {_HELP}")
    sizes: dict[str, Any] = {}
    for part in value.split("-"):
        found = _PART.fullmatch(part)
        if found is None or found["key"] not in KEYS:
            raise ValueError(f"{show(value)} is no parallelism: {show(part)} is not one of its parts; {_HELP}")
        if found["key"] in sizes:
            raise ValueError(f"{show(value)} says {found['key']} twice; {_HELP}")
        sizes[found["key"]] = int(found["size"]) if found["size"] else True
    return sizes


def _problem_of(key: str, size: Any) -> str:
    if key not in KEYS:
        return f"unknown key{nearest(key, KEYS)}; allowed: {', '.join(KEYS)}"
    if isinstance(size, bool) and key == "ep":
        return ""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        return f"{show(size)} is not a whole number of at least 1"
    return ""
