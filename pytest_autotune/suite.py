"""Pydantic models of a suite, loading one from a file, and what identifies it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, InstanceOf, SkipValidation

from pytest_autotune.budget import Budget
from pytest_autotune.errors import SuiteError
from pytest_autotune.fields import (
    AnyText,
    Block,
    Command,
    Count,
    Env,
    Fixed,
    Flag,
    Identifier,
    PositiveCount,
    PositiveDuration,
    PositivePercentage,
    Screen,
    Seeds,
    SuiteName,
    Text,
    Url,
)
from pytest_autotune.load.plan import fingerprints_of
from pytest_autotune.masking import mask, mask_argv
from pytest_autotune.problems import Where, dotted, file_of, line_of
from pytest_autotune.slo import Certainty, Limit, Tier
from pytest_autotune.space import Configuration, Parameter, Space
from pytest_autotune.structured import DialectName
from pytest_autotune.suite_accuracy import AccuracyGate
from pytest_autotune.suite_cores import NONE, Cores
from pytest_autotune.suite_docker import DockerBlock
from pytest_autotune.suite_gate import Terms
from pytest_autotune.suite_gpus import GpuPool
from pytest_autotune.suite_load import LoadBlock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_autotune.load.generator import Workload
    from pytest_autotune.search import Strategy


SENDING = ("workers", "api_key", "generator_python", "skip")  # of a load: with or without, a batch is the same


DEFAULT_TRIALS = 20  # of an adaptive search: 15 to 30 launches is the range where one pays
LARGEST_GRID = 100_000  # combinations before constraints

# Of a search: how much of it.
_MORE_OR_LESS = {
    "trials",
    "time_s",
    "gpu_time_s",
    "patience",
    "improvement",
    "screen",
    "confirm",
    "repeats",
}
_FIRST = {"seeds", "earlier", "prior"}  # of a search: what it tries before anything that it chooses


class SearchBlock(Block):
    """`search:` how configurations are chosen."""

    strategy: Literal["grid", "random", "tpe", "gp", "bayes", "auto"] = Field(
        default="grid",
        description="grid: every combination; random; tpe and gp: Optuna's samplers; bayes: models of what was "
        "measured; auto: a grid that fits into the trials, else bayes.",
    )
    trials: PositiveCount | None = Field(
        default=None, description="At most so many trials. Default: all of a grid, else 20."
    )
    time_s: PositiveDuration | None = Field(
        default=None,
        alias="time",
        description="Begin no trial after so much time, of all runs of the search together.",
        examples=["2h"],
    )
    gpu_time_s: PositiveDuration | None = Field(
        default=None,
        alias="gpu_time",
        description="Begin no trial after so much GPU time: that of each trial since it has its GPUs, times those.",
        examples=["16h"],
    )
    patience: PositiveCount | None = Field(
        default=None,
        description="Begin no trial after so many in a row that brought nothing better than the best compliant one.",
        examples=[8],
    )
    improvement: PositivePercentage | None = Field(
        default=None,
        description="Of bayes: begin no trial once the next one is expected to improve the best by less than that.",
        examples=["1%"],
    )
    screen: Screen | None = Field(
        default=None,
        description="Load each configuration at the best one's level first, and measure it no further when it is "
        "clearly worse within this share of the duration.",
        examples=["20%"],
    )
    confirm: Count = Field(
        default=0,
        description="After the search, measure so many of the best configurations, and the engine's defaults, again.",
        examples=[3],
    )
    repeats: PositiveCount = Field(default=2, description="How often `confirm` measures each of them again.")
    seed: Count = Field(default=0, description="Equal seeds choose equal configurations.")
    defaults: Flag = Field(
        default=True,
        description="Measure the engine's defaults (only `fixed`) first, as the reference; in an adaptive search also "
        "at each other degree of parallelism.",
    )
    seeds: Seeds = Field(
        default=(),
        description="Of an adaptive search: configurations to measure next. What one leaves out is left to the engine.",
        examples=[[{"max-num-seqs": 128}, {"tensor-parallel-size": 2, "max-num-seqs": 64}]],
    )
    earlier: Count = Field(
        default=1,
        description="Of a search that learns: begin also with so many of the best configurations of other searches.",
    )
    prior: Count = Field(
        default=3, description="Of an adaptive search: begin also with so many configurations that a plugin proposes."
    )

    @property
    def budget(self) -> Budget:
        """What ends the search before its last trial."""
        return Budget(time_s=self.time_s, gpu_time_s=self.gpu_time_s, patience=self.patience)

    def identity(self) -> dict[str, Any]:
        """Return what decides which configurations are tried, not how many: a larger budget continues a search.

        Neither does what a search begins with: a seed that is added takes the next trial that nobody has
        begun, and what was measured without it is not measured again.
        """
        return self.model_dump(exclude_defaults=True, exclude=_MORE_OR_LESS | _FIRST)


class TimeoutsBlock(Block):
    """`timeouts:` a deadline for each phase of a trial, in seconds (durations in the file)."""

    start_s: PositiveDuration = Field(
        default=600.0, alias="start", description="From launch until the server's health answers."
    )
    ready_s: PositiveDuration = Field(
        default=300.0, alias="ready", description="From health until the model is listed and has answered a request."
    )
    batch_s: PositiveDuration | None = Field(
        default=None,
        alias="batch",
        description="For one batch. Default: warm-up + duration + request timeout + 30s.",
    )
    accuracy_s: PositiveDuration = Field(
        default=300.0, alias="accuracy", description="For all answers that a server's accuracy is judged by."
    )
    alive_s: PositiveDuration = Field(
        default=30.0,
        alias="alive",
        description="For one small request after a batch that ended without an answer: past it the engine is dead.",
    )
    stop_s: PositiveDuration = Field(
        default=20.0, alias="stop", description="From the polite signal to stop until the server is killed."
    )

    def for_batch(self, workload: Workload, generator: str) -> float:
        """Return the deadline of one batch in seconds; other load generators start slowly, and some run twice."""
        planned_s = workload.warmup_s + workload.duration_s + workload.request_timeout_s
        return self.batch_s or (planned_s + 30.0 if generator == "builtin" else 2 * planned_s + 300.0)


class Price(Block):
    """`price:` what one GPU costs for one hour."""

    per_gpu_hour: float
    currency: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (f"{self.per_gpu_hour:g}", self.currency, "per GPU and hour")))


class Objective(Block):
    """`objective: maximize output_throughput_per_gpu`."""

    direction: Literal["maximize", "minimize"] = "maximize"
    metric: str = "output_throughput"

    def __str__(self) -> str:
        return f"{self.direction} {self.metric}"


class Plain(Block):
    """What a suite file and a suite have in common."""

    name: SuiteName = Field(description="Names the suite in reports and files.", examples=["chat"])
    engine: Identifier = Field(
        description="Kind of model server: vllm, sglang, llamacpp (llama-server), llama-cpp-python, tgi, trtllm, "
        "ollama, transformers, sim (embedded simulator), command (any OpenAI-compatible server given as an argv "
        "template), endpoint (already running), or one that a plugin adds.",
        examples=["vllm", "sglang", "llamacpp", "sim", "command", "endpoint"],
    )
    model: Text | None = Field(
        default=None,
        description="Model to serve: a name on a hub or a path.",
        examples=["meta-llama/Llama-3.1-8B-Instruct"],
    )
    deploy: Identifier = Field(
        default="local", description="How servers are run: local, docker, endpoint, or a deployer that a plugin adds."
    )
    docker: DockerBlock = Field(
        default=DockerBlock(), description="deploy: docker: the image, and what a container gets of the machine."
    )
    description: AnyText = Field(default="", description="What the suite is for.")
    fixed: Fixed = Field(
        default_factory=dict,
        description="Settings that are the same for all configurations.",
        examples=[{"max-model-len": 4096}],
    )
    env: Env = Field(default_factory=dict, description="Environment variables of the server.")
    engine_python: Text | None = Field(default=None, description="Python interpreter of the engine's own environment.")
    command: Command = Field(
        default=(),
        description="engine: command: how to start the server, with {port}, {host}, {model}, {model_name}, {python} "
        "(engine_python), {flags} (all settings that are not named, as flags) or {<name of a setting>}. A list, or "
        "one line that is split but never given to a shell. engine: llamacpp, tgi or ollama: what starts their "
        "server, without its flags.",
        examples=[["llama-server", "-m", "{model}", "--port", "{port}", "--parallel", "{parallel}"]],
    )
    dialect: DialectName | None = Field(
        default=None,
        description="engine: command: whose flags the server has, so that parallelism, quantization and settings of "
        "any engine become flags.",
    )
    url: Url | None = Field(
        default=None,
        description="engine: endpoint: base URL of the running server.",
        examples=["http://127.0.0.1:8000"],
    )
    model_name: Text | None = Field(
        default=None, description="engine: endpoint or command: the name that the server lists, when it cannot be set."
    )
    load: LoadBlock = Field(default_factory=LoadBlock, description="What is sent, at which levels, for how long.")
    search: SearchBlock = Field(default=SearchBlock(), description="How configurations are chosen.")
    timeouts: TimeoutsBlock = Field(default=TimeoutsBlock(), description="A deadline for each phase of a trial.")


class Suite(Plain):
    """One validated suite: what is tuned, on what, under which load and limits.

    One object travels from the file to the verdict; nothing copies it field by field.
    """

    gpus: Count | None = None  # that one server takes; None: the engine tells, by its settings
    pool: InstanceOf[GpuPool] = GpuPool()  # that they are taken from
    cores: InstanceOf[Cores] = NONE
    space: InstanceOf[Space] = Space(())  # from `parameters:`, `constraints:` and `forbidden:`
    slo: tuple[InstanceOf[Limit], ...] = ()
    steepness: float = 0.1
    confidence: float | None = None  # of verdicts on percentiles and means; None: what was measured decides
    spread: float = 0.0  # between batches of one server, of which the confidence is one as well
    tiers: tuple[InstanceOf[Tier], ...] = ()  # further limits, each with a best of its own
    objective: Objective = Objective()  # that the best is selected by
    tradeoffs: tuple[Objective, ...] = ()  # the further ones of a list
    price: Price | None = None
    accuracy: AccuracyGate | None = AccuracyGate()  # None: nothing is asked
    gate: InstanceOf[Terms] = Terms()
    path: Path = Field(default=Path(), exclude=True)
    lines: Annotated[Mapping[Where, int], SkipValidation] = Field(default_factory=dict, exclude=True, repr=False)
    files: Annotated[Mapping[Where, Path], SkipValidation] = Field(  # where those lines are, if not in `path`
        default_factory=dict, exclude=True, repr=False
    )

    @property
    def hourly(self) -> float | None:
        """The price of one GPU for one hour; None when the suite has none, and so no costs."""
        return None if self.price is None else self.price.per_gpu_hour

    @property
    def certainty(self) -> Certainty | None:
        """How surely limits are decided; None when what was measured decides."""
        return None if self.confidence is None else Certainty(self.confidence, self.spread)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objective that the best is selected by, then those that the Pareto front holds against it."""
        return (self.objective, *self.tradeoffs)

    @property
    def trials(self) -> int:
        """The trials of a search that chooses; a grid has its configurations, or fewer if the suite says so."""
        return self.search.trials or DEFAULT_TRIALS

    @cached_property
    def strategy(self) -> Strategy:
        """What chooses configurations: `auto` is a grid where that is no larger than the trials, else `bayes`.

        Seeds say where to begin, which a grid does not ask: with seeds it is `bayes`.
        """
        if self.search.strategy != "auto":
            return self.search.strategy
        try:
            listable = self.space.size() <= LARGEST_GRID and not self.search.seeds
        except ValueError:  # a range without grid points
            listable = False
        return "grid" if listable and _at_most(self.configurations(), self.trials) else "bayes"

    def configurations(self) -> Iterator[Configuration]:
        """Yield what a grid tries: first the engine's defaults if they are asked for, then every allowed combination.

        Lazy, without duplicates. Raises `ValueError` when a parameter cannot be enumerated, which
        `load_suite` rules out for a grid.
        """
        defaults = self.search.defaults and bool(self.space.parameters)
        if defaults:
            yield {}
        # Without any parameter whose condition holds, the grid has the defaults as well.
        yield from (configuration for configuration in self.space.grid(self.fixed) if configuration or not defaults)

    @property
    def every_limit(self) -> tuple[Limit, ...]:
        """The limits of `slo`, then those of each tier."""
        return (*self.slo, *(limit for tier in self.tiers for limit in tier.limits))

    def extra_metrics(self) -> tuple[str, ...]:
        """Return the metrics with a statistic (``ttft.p90``) that limits and objective need, sorted."""
        names = {*(objective.metric for objective in self.objectives), *(limit.metric for limit in self.every_limit)}
        return tuple(sorted(name for name in names if "." in name))

    def document(self) -> dict[str, Any]:
        """Return everything the suite says as JSON values in base units, with secrets masked."""
        content = self.model_dump(mode="json", exclude={"space", "pool", "cores", "slo", "tiers", "gate"})
        content["parameters"] = [_described(parameter) for parameter in self.space.parameters]
        content["constraints"] = [constraint.text for constraint in self.space.constraints]
        content["forbidden"] = [
            {name: list(values) for name, values in forbidden.values.items()} for forbidden in self.space.forbidden
        ]
        content["pool"] = dataclasses.asdict(self.pool)
        content["cores"] = dataclasses.asdict(self.cores)
        content["slo"] = [dataclasses.asdict(limit) for limit in self.slo]
        content["tiers"] = {tier.name: [dataclasses.asdict(limit) for limit in tier.limits] for tier in self.tiers}
        content["gate"] = dataclasses.asdict(self.gate)
        masked: dict[str, Any] = mask(content)
        masked["command"] = list(mask_argv(self.command))
        return masked

    def measurement_key(self) -> str:
        """Return a SHA-256 over everything that changes what is measured, and nothing else.

        The files of the load count by their content. Limits, tiers, objective, price, search, parameters and the GPUs
        that there are to take are left out: with others the recorded numbers still hold, and are only judged anew.
        """
        content = self.model_dump(
            mode="json",
            include={
                "engine",
                "model",
                "deploy",
                "fixed",
                "env",
                "engine_python",
                "command",
                "url",
                "model_name",
                "gpus",
                "load",
            },
        )
        content["load"] = sent(content["load"])
        if self.dialect is not None:  # without one, what was measured before there were any still holds
            content["dialect"] = self.dialect
        if self.deploy == "docker":  # which image it is, its digest tells (`plan.make_plan`)
            content["docker"] = self.docker.model_dump(mode="json", exclude={"image", "pull"}, exclude_defaults=True)
        if self.cores.leased:
            content["cores"] = self.cores.per_server
        if files := fingerprints_of(self.load, self.path.parent):
            content["load_files"] = files
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def error(self, problem: str, *where: str | int) -> SuiteError:
        """Return the error for a problem at a place of the file: ``suite.error("unknown flag", "fixed", "tp")``."""
        path = file_of(where, self.files) or (None if self.path == Path() else self.path)
        prefix = f"{dotted(where)}: " if where else ""
        return SuiteError(f"{prefix}{problem}", path=path, line=line_of(where, self.lines))


def sent(load: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a load says of what is measured; records that are older than a key lack what is usual of it."""
    usual = {"keep_cache": False}
    return {name: value for name, value in load.items() if name not in SENDING and usual.get(name, ...) != value}


def _at_most(configurations: Iterator[Configuration], number: int) -> bool:
    return sum(1 for _ in islice(configurations, number + 1)) <= number


def _described(parameter: Parameter) -> dict[str, Any]:
    """Return a parameter as JSON values."""
    content = dataclasses.asdict(dataclasses.replace(parameter, when=None))
    content.pop("when")
    when = {} if parameter.when is None else {"when": parameter.when.text}
    return {"kind": type(parameter).__name__.lower(), **content, **when}
