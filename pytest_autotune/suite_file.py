"""A suite file as users write it: its keys, and what must fit together before it becomes a suite."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import Field, PlainValidator, ValidationError, ValidationInfo, WithJsonSchema

from pytest_autotune import notation
from pytest_autotune.errors import SuiteError
from pytest_autotune.fields import Block, unknown_key
from pytest_autotune.metrics import COSTS, PER_GPU
from pytest_autotune.notation import Limits
from pytest_autotune.presets.expansion import expand
from pytest_autotune.problems import Collector, Problem, Problems, dotted
from pytest_autotune.slo import DELIVERED, ERROR_RATE, Limit, Tier, certified_statistic
from pytest_autotune.space import Forbidden, Parameter, Space
from pytest_autotune.spelling import nearest, show
from pytest_autotune.structured import dialect_named, normalise
from pytest_autotune.suite import Objective, Plain, Price, SearchBlock, Suite, TimeoutsBlock
from pytest_autotune.suite_accuracy import ACCURACY_SCHEMA, AccuracyGate, read_accuracy
from pytest_autotune.suite_cores import CORES_SCHEMA, NONE, Cores, read_cores
from pytest_autotune.suite_docker import DockerBlock
from pytest_autotune.suite_gate import GATE_SCHEMA, Terms, read_gate
from pytest_autotune.suite_gpus import GPUS_SCHEMA, Gpus, read_gpus
from pytest_autotune.suite_load import (
    ColumnsBlock,
    ConversationBlock,
    DatasetBlock,
    LoadBlock,
    PrefixBlock,
    ReplayBlock,
    StageBlock,
    StopBlock,
)
from pytest_autotune.suite_price import PRICE_SCHEMA, read_price
from pytest_autotune.suite_space import read_space
from pytest_autotune.yaml_source import Source, read_yaml

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from pytest_autotune.problems import Where

PLACEHOLDERS = ("port", "host", "model", "model_name", "python", "flags")

_RESERVED = {
    **dict.fromkeys(("port", "host"), "is chosen for each server; remove it"),
    **dict.fromkeys(("model", "model_name"), "is a key of the suite itself; write it at the top level"),
    **dict.fromkeys(("served-model-name", "flags"), "is set for each server; remove it"),
}
_TOKEN_METRICS = ("ttft", "ttft_sent", "tpot", "itl", "output_throughput", "cost_per_million_output_tokens")
_NEED_MODEL = ("vllm", "sglang", "llamacpp", "llama-cpp-python", "tgi", "trtllm", "ollama", "transformers", "sim")
# Engines that add all arguments to the executable that `command` names.
_BEGUN_BY_COMMAND = ("llamacpp", "tgi", "ollama")
_PLACEHOLDER = r"(?<!\$)\{([A-Za-z_][A-Za-z0-9_.-]*)\}"  # not ${VARIABLE}
_ENDPOINT_REFUSES = ("parameters", "fixed", "env", "engine_python", "command", "dialect")


def _objectives(value: Any, info: ValidationInfo) -> tuple[Objective, ...]:
    metrics = info.context["metrics"] if info.context else ()
    read = notation.read_objectives(value, also=metrics)
    return tuple(Objective.model_validate({"direction": direction, "metric": metric}) for direction, metric in read)


def _price(value: Any) -> Price:
    per_gpu_hour, currency = read_price(value)
    return Price(per_gpu_hour=per_gpu_hour, currency=currency)


class SuiteFile(Plain):
    """A suite of pytest-autotune: what to tune, on what, under which load and limits."""

    gpus: Annotated[Gpus, PlainValidator(read_gpus), WithJsonSchema(GPUS_SCHEMA)] = Field(
        default=Gpus(),
        description="GPUs: how many one server takes, when the engine cannot tell from its settings (a number), which "
        "there are to take (auto: all; none; a list), or a mapping of that and when one of them is free.",
        examples=[2, "auto", [0, 1], {"per_server": 2, "pool": [0, 1, 2, 3], "memory": "90%"}, {"pretend": 8}],
    )
    cores: Annotated[Cores, PlainValidator(read_cores), WithJsonSchema(CORES_SCHEMA)] = Field(
        default=NONE,
        description="CPU cores of its own for each server, and others for the load generator: how many one server "
        "takes (a number; auto: an equal share of all), none: all share all, or a mapping of that and which there are.",
        examples=[4, "auto", {"per_server": 4, "generator": 2, "pool": ["0-15"]}],
    )
    parameters: Annotated[
        tuple[Parameter, ...], PlainValidator(notation.read_parameters), WithJsonSchema(notation.PARAMETERS_SCHEMA)
    ] = Field(
        default=(),
        description="What is tuned: for each setting a list of values or a range.",
        examples=[{"tensor-parallel-size": [1, 2, 4], "max-num-seqs": {"int": [64, 512], "log": True, "grid": 4}}],
    )
    constraints: Annotated[
        tuple[str, ...], PlainValidator(notation.read_conditions), WithJsonSchema(notation.CONSTRAINTS_SCHEMA)
    ] = Field(
        default=(),
        description="Conditions that a configuration must meet to be tried.",
        examples=[["max-num-batched-tokens >= max-num-seqs"]],
    )
    forbidden: Annotated[
        tuple[Forbidden, ...], PlainValidator(notation.read_forbidden), WithJsonSchema(notation.FORBIDDEN_SCHEMA)
    ] = Field(
        default=(),
        description="Combinations that are not tried: settings, each with a value or a list of values.",
        examples=[[{"kv-cache-dtype": "fp8", "attention-backend": "FLASH_ATTN"}]],
    )
    slo: Annotated[Limits, PlainValidator(notation.read_limits), WithJsonSchema({"type": "object"})] = Field(
        default=Limits(()),
        description="Limits that every batch must keep. Without error_rate, 1% is its limit; without delivered, "
        "98% is that of a load with a rate, a burst or a trace.",
    )
    tiers: Annotated[tuple[Tier, ...], PlainValidator(notation.read_tiers), WithJsonSchema({"type": "object"})] = Field(
        default=(),
        description="Further sets of limits, by name. For each the best is selected from the same measurements; "
        "slo decides what is searched, and the outcome of the run.",
        examples=[{"interactive": {"ttft.p99": "200ms"}, "batch": {"e2e.p99": "60s"}}],
    )
    objective: Annotated[
        tuple[Objective, ...], PlainValidator(_objectives), WithJsonSchema(notation.OBJECTIVE_SCHEMA)
    ] = Field(
        default=(Objective(),),
        description="What is best among the configurations that keep the limits. The first of a list selects; "
        "what no other configuration beats in all of them is the Pareto front.",
        examples=["maximize output_throughput_per_gpu", ["maximize output_throughput_per_gpu", "minimize e2e.p90"]],
    )
    price: Annotated[Price | None, PlainValidator(_price), WithJsonSchema(PRICE_SCHEMA)] = Field(
        default=None,
        description="What one GPU costs for one hour: a number, or a mapping that names the currency. With it there "
        "are costs: cost_per_million_output_tokens and cost_per_million_tokens.",
        examples=[2.5, {"per_gpu_hour": 2.5, "currency": "USD"}],
    )
    accuracy: Annotated[AccuracyGate | None, PlainValidator(read_accuracy), WithJsonSchema(ACCURACY_SCHEMA)] = Field(
        default=AccuracyGate(),
        description="What a configuration that quantizes weights or cache must still answer to win: a share of what "
        "the engine's defaults answer, or a mapping that names a file of prompts; none asks nothing.",
        examples=["95%", {"prompts": "prompts.jsonl", "least": "98%"}, "none"],
    )
    gate: Annotated[Terms, PlainValidator(read_gate), WithJsonSchema(GATE_SCHEMA)] = Field(
        default=Terms(),
        description="By how much each metric may get worse than in the recorded baseline.",
        examples=[{"throughput": "-5%", "ttft.p99": "+10%"}],
    )


_BLOCKS: dict[tuple[str | int, ...], type[Block]] = {
    (): SuiteFile,
    ("docker",): DockerBlock,
    ("load",): LoadBlock,
    ("load", "stages"): StageBlock,
    ("load", "replay"): ReplayBlock,
    ("load", "dataset"): DatasetBlock,
    ("load", "dataset", "columns"): ColumnsBlock,
    ("load", "prefix"): PrefixBlock,
    ("load", "conversation"): ConversationBlock,
    ("load", "stop"): StopBlock,
    ("search",): SearchBlock,
    ("timeouts",): TimeoutsBlock,
}


def load_suite(path: Path, *, known_flags: Collection[str] | None = None, metrics: Collection[str] = ()) -> Suite:
    """Read and validate a suite file; raise `SuiteError` naming file, line, value, what is allowed and the remedy.

    A suite without a limit on `error_rate` gets one of 1 %, and one whose requests are sent by the
    clock gets one of 98 % on `delivered` in the same way. Constraints may name what the suite
    does not set: with `known_flags` (of the installed engine) only those, without it anything
    that is not an evident typo. `metrics` are objectives beyond the built-in ones.
    """
    source = read_yaml(path)
    if not isinstance(source.value, dict):
        problem = f"{show(source.value)} is not a mapping of keys to values; write e.g. 'name: chat'"
        raise SuiteError(problem, path=path, line=source.line(()))
    try:
        source = normalise(expand(source, path))
    except Problems as problems:
        raise _first(problems.found, source, path) from None
    try:
        file = SuiteFile.model_validate(source.value, context={"metrics": metrics}, by_alias=True, by_name=False)
    except ValidationError as error:
        raise _first(_translate(error), source, path) from None
    collector = Collector()
    _check_engine(file, collector)
    _check_metrics(file, collector)
    _check_costs(file, collector)
    _check_screen(file, collector)
    _check_names(file, collector)
    _check_command(file, collector)
    _check_search(file, collector)
    space = read_space(file, known_flags, collector)
    if collector.found:
        raise _first(collector.found, source, path)
    return _assemble(file, space, source, path)


def _assemble(file: SuiteFile, space: Space, source: Source, path: Path) -> Suite:
    limits, steepness, confidence, spread = file.slo
    limits = _with_implicit(limits, file)
    shared: dict[str, Any] = {name: getattr(file, name) for name in Plain.model_fields}
    if file.engine == "endpoint":
        shared["deploy"] = "endpoint"
    objective, *tradeoffs = file.objective
    if file.load.api in ("embeddings", "rerank") and "objective" not in file.model_fields_set:
        objective = Objective(metric="request_throughput")
    shared |= {"gpus": file.gpus.per_server, "pool": file.gpus.pool, "cores": file.cores}
    shared |= {"objective": objective, "tradeoffs": tuple(tradeoffs), "price": file.price, "gate": file.gate}
    shared["accuracy"] = file.accuracy
    shared["tiers"] = tuple(Tier(tier.name, _with_implicit(tier.limits, file)) for tier in file.tiers)
    if steepness is not None:
        shared["steepness"] = steepness
    if file.load.max_duration_s is not None and confidence is None:
        problem = "only slo: confidence makes a batch longer than its duration; remove it or write e.g. confidence: 95%"
        raise SuiteError(f"load.max_duration: {problem}", path=path, line=source.line(("load", "max_duration")))
    if confidence is not None and not any(certified_statistic(limit) is not None for limit in limits):
        problem = "no hard limit is on a percentile or mean, to which it would apply; remove it or add ttft.p95: 500ms"
        raise SuiteError(f"slo.confidence: {problem}", path=path, line=source.line(("slo", "confidence")))
    if spread is not None and confidence is None:
        problem = "only means something with confidence: in slo:; remove it or write e.g. confidence: 95%"
        raise SuiteError(f"slo.spread: {problem}", path=path, line=source.line(("slo", "spread")))
    shared |= {"confidence": confidence, "spread": spread or 0.0}
    return Suite(**shared, space=space, slo=limits, path=path, lines=source.lines, files=source.files)


def _with_implicit(limits: tuple[Limit, ...], file: SuiteFile) -> tuple[Limit, ...]:
    """Return limits with those that hold unless others on the same metrics are given."""
    named = {limit.metric for limit in limits}
    implicit = (ERROR_RATE, DELIVERED) if file.load.by_clock else (ERROR_RATE,)
    return (*limits, *(limit for limit in implicit if limit.metric not in named))


def _places_of_limits(file: SuiteFile) -> list[tuple[Where, str]]:
    """Return the metric of every limit with where it stands in the file."""
    of_tiers = [(("tiers", tier.name, limit.metric), limit.metric) for tier in file.tiers for limit in tier.limits]
    return [*((("slo", limit.metric), limit.metric) for limit in file.slo.limits), *of_tiers]


def _first(problems: Iterable[Problem], source: Source, path: Path) -> SuiteError:
    """Return the problem that comes first in the file, then in its presets, and how many more there are."""
    ordered = sorted(problems, key=lambda each: (source.file(each.where) is not None, source.line(each.where)))
    problem, more = ordered[0], len(ordered) - 1
    prefix = f"{dotted(problem.where)}: " if problem.where else ""
    rest = f" (and {more} more problem{'s' if more > 1 else ''})" if more else ""
    file = source.file(problem.where) or path
    return SuiteError(f"{prefix}{problem.text}{rest}", path=file, line=source.line(problem.where))


def _translate(error: ValidationError) -> list[Problem]:
    """Turn what pydantic found into our words."""
    collector = Collector()
    for found in error.errors(include_url=False):
        where = found["loc"]
        kind = found["type"]
        if kind == "missing":
            collector.note(where[:-1], f"missing key {where[-1]!r}")
        elif kind == "extra_forbidden":
            collector.note(where, unknown_key(str(where[-1]), _keys(where[:-1])))
        elif found["input"] is None:
            collector.note(where, "has no value; remove the key or give it one")
        elif kind == "value_error":
            collector.note(where, found["ctx"]["error"])
        elif kind == "literal_error":
            allowed = _choices(where)
            hint = nearest(str(found["input"]), allowed)
            collector.note(where, f"{show(found['input'])} is not one of {', '.join(allowed)}{hint}")
        else:  # "model_type": a block that is something else
            collector.note(where, f"{show(found['input'])} is not a mapping of keys to values")
    return collector.found


def _keys(where: tuple[str | int, ...]) -> list[str]:
    return [field.alias or name for name, field in _block(where).model_fields.items()]


def _choices(where: tuple[str | int, ...]) -> tuple[str, ...]:
    annotation = _block(where[:-1]).model_fields[str(where[-1])].annotation
    parts = (annotation, *get_args(annotation))  # a choice, or one of a union with None
    return tuple(name for part in parts for name in get_args(part) if isinstance(name, str))


def _block(where: tuple[str | int, ...]) -> type[Block]:
    """Return the block that a place leads to, or an item of its list."""
    return _BLOCKS[tuple(step for step in where if isinstance(step, str))]


def _check_docker(file: SuiteFile, collector: Collector) -> None:
    if file.deploy == "docker" and file.docker.image is None:
        collector.note(("deploy",), "'docker' needs docker: {image: ...}: the image, e.g. vllm/vllm-openai:v0.11.0")
    if file.deploy != "docker" and "docker" in file.model_fields_set:
        collector.note(("docker",), "only for deploy: docker; remove it, or write deploy: docker")
    if file.cores.leased and "cpuset-cpus" in file.docker.run:
        collector.note(
            ("docker", "run", "cpuset-cpus"), "cores: says on which cores each server runs; remove one of them"
        )


def _check_engine(file: SuiteFile, collector: Collector) -> None:
    if file.engine == "endpoint" or file.deploy == "endpoint":
        if file.engine == "endpoint" and file.deploy != "endpoint" and "deploy" in file.model_fields_set:
            collector.note(("deploy",), f"{show(file.deploy)} starts servers, but engine: endpoint is already running")
        if file.url is None:
            collector.note(("engine",), "an endpoint needs url: its base URL, e.g. http://127.0.0.1:8000")
        for key in _ENDPOINT_REFUSES:
            if getattr(file, key):
                collector.note((key,), "an endpoint's settings cannot be changed; remove the key")
        if file.cores.leased:
            collector.note(("cores",), "an endpoint's server is not started here, and keeps its cores; remove the key")
        return
    _check_docker(file, collector)
    if file.url is not None:
        collector.note(("url",), "only an endpoint has a url; remove it or write engine: endpoint")
    if file.engine in _NEED_MODEL and file.model is None:
        collector.note(
            ("engine",), f"{file.engine!r} needs model: a name or path, e.g. meta-llama/Llama-3.1-8B-Instruct"
        )
    if file.engine == "command" and not file.command:
        collector.note(("engine",), "'command' needs command: how to start the server, e.g. [serve, --port, '{port}']")
    if file.dialect is not None and dialect_named(file.engine) is not None:
        collector.note(("dialect",), f"{file.engine!r} has its own flags; remove it or write engine: command")
    if file.engine in _NEED_MODEL and file.engine not in _BEGUN_BY_COMMAND and file.command:
        collector.note(("command",), f"{file.engine!r} makes its own command; remove it or write engine: command")


def _check_metrics(file: SuiteFile, collector: Collector) -> None:
    """Refuse limits and objectives on tokens where the api generates none."""
    if file.load.api not in ("embeddings", "rerank"):
        return
    remedy = f"api: {file.load.api} generates no tokens; use e2e, request_throughput or input_throughput"
    for where, metric in _places_of_limits(file):
        if _of_tokens(metric):
            collector.note(where, remedy)
    if "objective" in file.model_fields_set and any(_of_tokens(objective.metric) for objective in file.objective):
        collector.note(("objective",), remedy)


def _check_costs(file: SuiteFile, collector: Collector) -> None:
    """Refuse limits and objectives on what tokens cost where nobody knows what a GPU does."""
    if file.price is not None:
        return
    several = len(file.objective) > 1
    objectives = [
        (("objective", index) if several else ("objective",), objective.metric)
        for index, objective in enumerate(file.objective)
    ]
    for where, metric in (*_places_of_limits(file), *objectives):
        if metric in COSTS:
            collector.note(where, f"{metric!r} needs the price of a GPU; add what one costs per hour, e.g. price: 2.50")


def _check_screen(file: SuiteFile, collector: Collector) -> None:
    """Refuse screening where a candidate's first requests cannot be held against those of another."""
    if file.search.screen is None:
        return
    where, load = ("search", "screen"), file.load
    if load.searched is not None:
        collector.note(where, "a search for the capacity rejects by itself what cannot win; remove it")
    elif load.shape not in ("concurrency", "rate"):
        collector.note(where, f"{load.shape} is no load of which a part tells the rest; remove it")
    elif load.generator != "builtin":
        collector.note(where, f"{load.generator} cannot be watched while it runs; remove it")
    if len(file.objective) > 1:
        collector.note(where, "what is worse in the first objective may be best in another; remove it, or the others")


def _of_tokens(metric: str) -> bool:
    return metric.partition(".")[0].removesuffix(PER_GPU) in _TOKEN_METRICS


def _check_names(file: SuiteFile, collector: Collector) -> None:
    """Refuse settings that stand twice (``-`` and ``_`` are the same to engines), or that are not the user's."""
    seen: dict[str, str] = {}
    for block, names in (
        ("parameters", [parameter.name for parameter in file.parameters]),
        ("fixed", list(file.fixed)),
    ):
        for name in names:
            plain = name.replace("_", "-")
            if plain in seen:
                collector.note((block, name), f"{name!r} stands in {seen[plain]} already; remove one of the two")
            seen.setdefault(plain, f"{block} as {name!r}")
            reserved = _RESERVED.get(name) or _RESERVED.get(plain)
            if reserved:
                collector.note((block, name), f"{name!r} {reserved}")


def _check_search(file: SuiteFile, collector: Collector) -> None:
    if file.search.improvement is not None and file.search.strategy not in ("bayes", "auto"):
        remedy = "remove it, or write strategy: bayes (or auto)"
        collector.note(("search", "improvement"), f"{file.search.strategy} expects nothing of what it tries; {remedy}")
    if file.search.improvement is not None and len(file.objective) > 1:
        problem = "only what the first objective gains can be expected; remove it, or the other objectives"
        collector.note(("search", "improvement"), problem)
    if file.search.strategy != "grid":
        return
    for key in ("seeds", "earlier", "prior"):
        if key in file.search.model_fields_set:
            collector.note(("search", key), "a grid tries everything in its order; remove it or write strategy: bayes")


def _check_command(file: SuiteFile, collector: Collector) -> None:
    if not file.command:
        return
    if file.engine in _BEGUN_BY_COMMAND:
        _check_beginning(file, collector)
        return
    settings = [*(parameter.name for parameter in file.parameters), *file.fixed]
    conditional = {parameter.name for parameter in file.parameters if parameter.when is not None}
    allowed = (*PLACEHOLDERS, *settings)
    used: set[str] = set()
    for index, argument in enumerate(file.command):
        if "{flags}" in argument and argument != "{flags}":
            collector.note(
                ("command", index), f"{{flags}} becomes any number of arguments; it cannot be a part of {argument!r}"
            )
        for name in re.findall(_PLACEHOLDER, argument):
            used.add(name)
            if name not in allowed:
                placeholders = ", ".join(f"{{{word}}}" for word in allowed)
                hint = nearest(f"{{{name}}}", [f"{{{word}}}" for word in allowed])
                collector.note(("command", index), f"unknown placeholder {{{name}}}{hint}; allowed: {placeholders}")
            if name in conditional:
                problem = f"{{{name}}} has no value where the parameter's condition does not hold; pass it by {{flags}}"
                collector.note(("command", index), problem)
    if "port" not in used:
        collector.note(("command",), "has no {port}, so the server would not listen where it is expected")
    if "model" in used and file.model is None:
        collector.note(("command",), "has {model}, but the suite has no model:")
    for name in settings:
        if name not in used and "flags" not in used:
            collector.note(("command",), f"has neither {{{name}}} nor {{flags}}, so that setting would have no effect")


def _check_beginning(file: SuiteFile, collector: Collector) -> None:
    for index, argument in enumerate(file.command):
        if re.search(_PLACEHOLDER, argument):
            problem = f"{file.engine!r} adds its arguments itself; name what starts it, without {argument!r}"
            collector.note(("command", index), problem)
