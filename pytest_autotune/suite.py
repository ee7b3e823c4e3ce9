"""Pydantic models of a suite file, loading it, and errors that name file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pytest_autotune.slo import Limit
from pytest_autotune.space import Space


class Block(BaseModel):
    """A block of a suite file: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, arbitrary_types_allowed=True)


class LoadBlock(Block):
    """`load:` what is sent, at which levels, for how long."""

    prompt_tokens: int = Field(default=512, ge=1)
    output_tokens: int = Field(default=128, ge=1)
    concurrency: tuple[int, ...] = (1, 4, 16, 64)
    duration_s: float = Field(default=30.0, alias="duration")
    warmup_s: float = Field(default=5.0, alias="warmup")
    max_requests: int | None = None
    request_timeout_s: float = Field(default=120.0, alias="request_timeout")
    api: Literal["completions", "chat"] = "completions"
    seed: int = 0


class SearchBlock(Block):
    """`search:` how configurations are chosen."""

    strategy: Literal["grid", "random", "tpe"] = "grid"
    trials: int | None = Field(default=None, ge=1)  # grid: all; else 20
    seed: int = 0
    defaults: bool = True  # measure the engine's defaults (only `fixed`) first, as the reference


class TimeoutsBlock(Block):
    """`timeouts:` a deadline for each phase of a trial, in seconds (durations in the file)."""

    start_s: float = Field(default=600.0, alias="start")  # launch -> health answers
    ready_s: float = Field(default=300.0, alias="ready")  # health -> our model listed and one generation answered
    batch_s: float | None = Field(default=None, alias="batch")  # default: warm-up + duration + request timeout + 30
    stop_s: float = Field(default=20.0, alias="stop")  # SIGTERM -> SIGKILL


class Objective(Block):
    """`objective: maximize output_throughput_per_gpu`."""

    direction: Literal["maximize", "minimize"] = "maximize"
    metric: str = "output_throughput"


class Suite(Block):
    """One validated suite: what is tuned, on what, under which load and limits.

    One object travels from the file to the verdict; nothing copies it field by field.
    """

    name: str
    engine: str
    model: str | None = None
    deploy: Literal["local", "endpoint"] = "local"
    description: str = ""
    space: Space  # from `parameters:` and `constraints:`
    fixed: dict[str, Any] = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)
    engine_python: str | None = None  # interpreter of the engine's own environment
    command: tuple[
        str, ...
    ] = ()  # engine: command; argv template with {port}, {host}, {model}, {model_name}, {flags}, or {<parameter>}
    url: str | None = None  # engine: endpoint; base URL of a server that is already running
    model_name: str | None = None  # engine: endpoint or command: the name the server lists, when it cannot be set
    gpus: int | None = None  # GPUs a server takes, when the engine cannot tell from its flags
    load: LoadBlock = LoadBlock()
    slo: tuple[Limit, ...] = ()
    steepness: float = 0.1
    objective: Objective = Objective()
    search: SearchBlock = SearchBlock()
    timeouts: TimeoutsBlock = TimeoutsBlock()
    path: Path = Field(default=Path(), exclude=True)


def load_suite(path: Path) -> Suite:
    """Read and validate a suite file; raise `SuiteError` naming file, line, value, what is allowed and the remedy."""
    raise NotImplementedError
