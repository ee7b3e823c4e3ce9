"""What another load generator cannot do is refused in one line, before anything is started."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_autotune.errors import BenchmarkError
from pytest_autotune.load.others.shapes import FixedShape, shape_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_autotune.load.generator import Target, Workload
    from pytest_autotune.load.others.shapes import Shape
    from pytest_autotune.samples import Level

REMEDY = "use load.generator: builtin"
_SHAPES = {
    "rate": "send requests at a rate",
    "burst": "send a burst",
    "stages": "run stages",
    "replay": "replay a trace",
}


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a tool can do of all that a workload may ask for."""

    tool: str
    apis: frozenset[str]
    levels: frozenset[str]
    lengths: tuple[type[Shape], ...]
    burstiness: frozenset[float] | None = field(default_factory=frozenset)  # None: any
    headers: bool = True  # beside the API key
    unverified_tls: bool = True
    error_limits: bool = False
    cap: bool = False  # a maximum concurrency on top of a rate


def refuse(abilities: Abilities, target: Target, level: Level, workload: Workload) -> None:
    """Raise `BenchmarkError` for the first thing that is asked for and that the tool cannot do."""
    for problem in _problems(abilities, target, level, workload):
        raise BenchmarkError(f"{abilities.tool} cannot {problem}; {REMEDY}")


def bearer(target: Target) -> str:
    """Return the API key that a target's headers hold; empty when they hold none."""
    for name, value in target.headers.items():
        scheme, _, key = value.partition(" ")
        if name.lower() == "authorization" and scheme.lower() == "bearer":
            return key.strip()
    return ""


def other_headers(target: Target) -> dict[str, str]:
    """Return a target's headers without the one that `bearer` reads."""
    key = bearer(target)
    return {name: value for name, value in target.headers.items() if not (key and name.lower() == "authorization")}


def _problems(abilities: Abilities, target: Target, level: Level, workload: Workload) -> Iterator[str]:
    if urlsplit(target.url).scheme not in ("http", "https"):
        yield f"load {target.url!r}: it needs http:// or https://"
    if target.api not in abilities.apis:
        known = " or ".join(sorted(abilities.apis))
        yield f"load the {target.api} API (it can load {known})"
    if other_headers(target) and not abilities.headers:
        yield f"send the header {next(iter(other_headers(target)))!r}"
    if not target.verify_tls and not abilities.unverified_tls:
        yield "leave a certificate unverified"
    if level.shape not in abilities.levels:
        yield _SHAPES.get(level.shape, f"run {level}")
    yield from _requests(abilities, target, workload)
    yield from _times(abilities, level, workload)


def _requests(abilities: Abilities, target: Target, workload: Workload) -> Iterator[str]:
    if workload.rows:
        yield "send a dataset"
    if workload.prefix_tokens:
        yield "share prefixes between prompts"
    if shape_of(workload.turns) != FixedShape(1) or workload.think_s:
        yield "hold conversations"
    asked = [("prompt", workload.prompt_tokens)]
    if target.api in ("completions", "chat"):
        asked.append(("output", workload.output_tokens))
    for name, lengths in asked:
        shape = shape_of(lengths)
        if not isinstance(shape, abilities.lengths):
            known = " or ".join(kind.__name__.removesuffix("Shape").lower() for kind in abilities.lengths)
            yield f"draw {name} lengths from {lengths} (it can from a {known} distribution)"


def _times(abilities: Abilities, level: Level, workload: Workload) -> Iterator[str]:
    if workload.workers not in (None, 1):
        yield f"be told to use {workload.workers} processes"
    if (workload.max_errors is not None or workload.max_error_share is not None) and not abilities.error_limits:
        yield "end a batch because of its errors (load.max_errors)"
    if workload.max_requests is not None and workload.warmup_s:
        yield "count requests after a warm-up: it counts from its start (set load.warmup: 0s)"
    if not level.open_loop:
        return
    if workload.max_concurrency is not None and not abilities.cap:
        yield "limit the concurrency of a rate"
    burstiness = workload.arrivals.burstiness
    if level.shape == "rate" and abilities.burstiness is not None and burstiness not in abilities.burstiness:
        yield f"send with a burstiness of {burstiness:g}"
