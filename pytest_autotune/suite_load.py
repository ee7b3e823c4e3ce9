"""The `load:` block of a suite: what is sent, in which shape, at which levels, for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from pytest_autotune.capacity import LoadSearch
from pytest_autotune.fields import (
    Block,
    Count,
    Duration,
    Flag,
    PositiveCount,
    PositiveDuration,
    Text,
    as_written,
    read_list,
)
from pytest_autotune.load.generator import Arrivals
from pytest_autotune.load.lengths import Fixed, Lengths
from pytest_autotune.load.scenario import read_scenario
from pytest_autotune.load_fields import (
    ArrivalsField,
    Bursts,
    Concurrencies,
    ErrorShare,
    Headers,
    Key,
    LengthsField,
    RateRamp,
    Rates,
    ScenarioField,
    Speeds,
    StreamRamp,
    Workers,
)
from pytest_autotune.load_rules import SHAPES, check_load
from pytest_autotune.samples import Level

if TYPE_CHECKING:
    from pytest_autotune.samples import Shape

_FIRST_KEYS = frozenset(  # written whatever they are, so that measurements of suites that say no more keep their key
    (
        "prompt_tokens",
        "output_tokens",
        "concurrency",
        "duration_s",
        "warmup_s",
        "max_requests",
        "request_timeout_s",
        "api",
        "seed",
    )
)


class StageBlock(Block):
    """One of `stages:`, a load that stays or changes evenly for some time."""

    rate: RateRamp | None = Field(
        default=None, description="Requests per second, or two rates between which it changes evenly."
    )
    concurrency: StreamRamp | None = Field(
        default=None, description="Requests in flight, or two numbers between which it changes evenly."
    )
    for_s: PositiveDuration = Field(alias="for", description="How long the stage lasts.", examples=["30s"])


class ReplayBlock(Block):
    """`replay:` a recorded trace whose requests are sent at their times."""

    file: Text = Field(description="The trace; a relative path counts from the suite's file.")
    format: Literal["mooncake", "azure", "jsonl"] | None = Field(
        default=None, description="How the trace is written. Default: as its content looks."
    )
    speed: Speeds = Field(
        default=(1.0,),
        description="Load levels: how many times as fast as it was recorded. One batch is measured for each.",
        examples=[[1, 2]],
    )
    limit: PositiveCount | None = Field(default=None, description="Take only so many requests from its start.")


class ColumnsBlock(Block):
    """`columns:` where the parts of a dataset's rows stand, when it is not where they usually do."""

    prompt: Text | None = Field(default=None, description="Of the prompt, or of the turns of a conversation.")
    prompt_tokens: Text | None = Field(default=None, description="Of the length of a prompt that is to be made up.")
    output_tokens: Text | None = Field(default=None, description="Of the length of the output.")
    turns: PositiveCount | None = Field(default=None, description="Take only so many turns of a conversation.")


class DatasetBlock(Block):
    """`dataset:` prompts that are sent as they are."""

    file: Text = Field(description="The dataset; a relative path counts from the suite's file.")
    format: Literal["json", "jsonl", "csv", "parquet", "arrow"] | None = Field(
        default=None, description="How it is written. Default: as its suffix says."
    )
    split: Text | None = Field(default=None, description="Which part of a directory. Default: train, if there is one.")
    limit: PositiveCount | None = Field(default=None, description="Take only so many rows from its start.")
    shuffle: Flag = Field(default=False, description="Send the rows in an order by the seed.")
    columns: ColumnsBlock = Field(
        default=ColumnsBlock(), description="Where the parts of a row stand, when it is not where they usually do."
    )


class PrefixBlock(Block):
    """`prefix:` what prompts have in common at their start."""

    tokens: PositiveCount = Field(description="So many first tokens of each prompt are the same within a group.")
    groups: PositiveCount = Field(default=1, description="Number of different prefixes.")


class ConversationBlock(Block):
    """`conversation:` requests that follow each other, each with all earlier ones and their answers."""

    turns: LengthsField = Field(default=Fixed(1), description="Requests of a conversation: a number or a distribution.")
    think_time_s: Duration = Field(
        default=0.0, alias="think_time", description="Between an answer and the next request."
    )


class StopBlock(Block):
    """`stop:` when a batch is ended before its time."""

    errors: PositiveCount | None = Field(default=None, description="After so many failed requests.")
    error_share: ErrorShare | None = Field(
        default=None, description="When more than this share of at least 20 requests has failed."
    )
    oversaturated: Flag = Field(
        default=True, description="When the queue of an open loop grows without bound; the level is then not compliant."
    )


def _named(value: Any) -> Any:
    """Take the path of a file for a mapping that says no more."""
    return {"file": value} if isinstance(value, str) else value


Stages = Annotated[tuple[StageBlock, ...], as_written(read_list)]
Replay = Annotated[ReplayBlock, BeforeValidator(_named, json_schema_input_type=str | ReplayBlock)]
Dataset = Annotated[DatasetBlock, BeforeValidator(_named, json_schema_input_type=str | DatasetBlock)]


class LoadBlock(Block):
    """`load:` what is sent, in which shape, at which levels, for how long."""

    prompt_tokens: LengthsField = Field(
        default=Fixed(512), description="Length of each prompt in tokens: a number or a distribution."
    )
    output_tokens: LengthsField = Field(
        default=Fixed(128), description="Tokens that each request generates: a number or a distribution."
    )
    scenario: ScenarioField | None = Field(
        default=None,
        description="Lengths of prompts and outputs, as genai-bench writes them.",
        examples=["D(100,100)", "N(480,240)/(300,150)"],
    )
    dataset: Dataset | None = Field(
        default=None, description="Prompts of a file: its path, or a mapping with more about it."
    )
    prefix: PrefixBlock | None = Field(default=None, description="What prompts have in common at their start.")
    conversation: ConversationBlock | None = Field(
        default=None, description="Requests that follow each other, each with all earlier ones and their answers."
    )
    concurrency: Concurrencies = Field(
        default=(1, 4, 16, 64),
        description="Load levels: requests in flight at any time. One batch is measured for each. "
        "Or search: the range in which the largest load that complies is looked for.",
        examples=[[1, 4, 16, 64], 8, {"search": [1, 512]}],
    )
    rate: Rates = Field(
        default=(),
        description="Load levels: requests per second, sent whether or not the server keeps up. "
        "One batch is measured for each. Or search: the range in which the largest load that complies is looked for.",
        examples=[[5, 10.5], 8, {"search": [0.5, 50]}],
    )
    burst: Bursts = Field(
        default=(),
        description="Load levels: requests that are all sent at the same moment. One batch is measured for each.",
        examples=[[50, 200]],
    )
    stages: Stages = Field(
        default=(),
        description="One batch whose load changes: its parts, one after the other.",
        examples=[[{"rate": 5, "for": "30s"}, {"rate": [5, 50], "for": "60s"}]],
    )
    replay: Replay | None = Field(
        default=None,
        description="A recorded trace, sent at its times: its path, or a mapping with more about it.",
        examples=[{"file": "trace.jsonl", "speed": [1, 2]}],
    )
    arrivals: ArrivalsField = Field(
        default=Arrivals(),
        description="How a rate is spread in time: poisson, constant, or with a burstiness.",
        examples=["poisson", "constant", {"burstiness": 0.5}],
    )
    max_concurrency: PositiveCount | None = Field(
        default=None, description="Of a rate: what is due beyond so many requests in flight waits for an end."
    )
    duration_s: PositiveDuration = Field(
        default=30.0, alias="duration", description="How long each batch is measured, after its warm-up."
    )
    max_duration_s: PositiveDuration | None = Field(
        default=None,
        alias="max_duration",
        description="With slo: confidence, how long a batch is measured at most. Default: three times its duration.",
    )
    warmup_s: Duration = Field(
        default=5.0, alias="warmup", description="How long each batch is loaded before it is measured."
    )
    settle_s: PositiveDuration | None = Field(
        default=None,
        alias="settle",
        description="How long a new server may take, loaded at the largest concurrency, to become as fast as it stays "
        "before its first batch. Default: the first batch is measured at once, after its warm-up.",
        examples=["60s"],
    )
    max_requests: PositiveCount | None = Field(
        default=None, description="End a batch early after so many finished requests."
    )
    skip: Literal["dominated"] | None = Field(
        default=None, description="dominated: leave out load levels that cannot change what a trial comes to."
    )
    keep_cache: Flag = Field(
        default=False,
        description="Leave in the server's prefix cache what earlier batches sent, as in long use; else it is emptied "
        "before each batch, where the engine can.",
    )
    stop: StopBlock = Field(default=StopBlock(), description="When a batch is ended before its time.")
    request_timeout_s: PositiveDuration = Field(
        default=120.0, alias="request_timeout", description="When an unanswered request counts as failed."
    )
    api: Literal["completions", "chat", "embeddings", "rerank"] = Field(
        default="completions", description="Which API is loaded."
    )
    documents: PositiveCount = Field(default=10, description="Documents of a rerank request.")
    headers: Headers = Field(
        default_factory=dict,
        description="Header fields of each request; secrets as variables of the environment: ${NAME}.",
    )
    api_key: Key | None = Field(
        default=None, description="The variable that holds the server's API key.", examples=["${API_KEY}"]
    )
    workers: Workers = Field(
        default=None, description="Processes that send the load: a number, or auto: as many as it is likely to need."
    )
    generator: Literal["builtin", "genai-bench", "vllm-bench", "guidellm"] = Field(
        default="builtin", description="What sends the load: this package, or another tool that is installed."
    )
    generator_python: Text | None = Field(
        default=None, description="Python interpreter of the environment that has the other tool."
    )
    seed: Count = Field(default=0, description="Equal seeds send equal prompts.")

    @property
    def shape(self) -> Shape:
        """The one shape that the load has."""
        return next((shape for shape in SHAPES[1:] if getattr(self, shape)), "concurrency")

    @property
    def searched(self) -> LoadSearch | None:
        """The range in which the capacity is looked for; None when the load levels are listed."""
        levels = self.rate if self.shape == "rate" else self.concurrency
        return levels if isinstance(levels, LoadSearch) and self.shape in ("concurrency", "rate") else None

    @property
    def by_clock(self) -> bool:
        """Whether requests are sent by the clock, not by the end of earlier ones."""
        return self.shape in ("rate", "burst", "replay") or any(stage.rate for stage in self.stages)

    @property
    def planned_warmup_s(self) -> float:
        """The warm-up: none unless it was asked for where every request is the point."""
        usual = "warmup_s" in self.model_fields_set or self.shape in ("concurrency", "rate")
        return self.warmup_s if usual else 0.0

    @property
    def planned_duration_s(self) -> float | None:
        """The measurement window; None when that depends on a trace."""
        if self.stages:
            return sum(stage.for_s for stage in self.stages) - self.planned_warmup_s
        if self.replay is not None and "duration_s" not in self.model_fields_set:
            return None
        return self.duration_s

    @model_validator(mode="after")
    def _fits_together(self, info: ValidationInfo) -> Self:
        if info.context:
            check_load(self)
        return self

    @model_serializer(mode="wrap")
    def _without_what_says_nothing(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        content = {
            key: value
            for key, value in write(self).items()
            if key in _FIRST_KEYS or getattr(self, key) != fields[key].get_default(call_default_factory=True)
        }
        says_nothing = set() if self.shape == "concurrency" else {"concurrency"}
        if self.scenario is not None:
            says_nothing |= {"prompt_tokens", "output_tokens"}
        for key in says_nothing & content.keys():  # without defaults some are not there
            del content[key]
        content["duration_s"], content["warmup_s"] = self.planned_duration_s, self.planned_warmup_s
        return content

    @property
    def least(self) -> Level | None:
        """The smallest load that a trial may have; None where every trial has all of them."""
        if self.searched is not None:
            return self.searched.level(self.searched.low)
        if self.skip is None:
            return None
        levels = self.rate if self.shape == "rate" else self.concurrency
        return Level(min(levels), self.shape) if isinstance(levels, tuple) else None

    @property
    def lengths(self) -> tuple[Lengths, Lengths]:
        """Lengths of prompts and outputs, from wherever the suite gives them."""
        if self.scenario is None:
            return self.prompt_tokens, self.output_tokens
        scenario = read_scenario(self.scenario)
        return scenario.prompt or self.prompt_tokens, scenario.output or self.output_tokens

    @property
    def query_lengths(self) -> Lengths | None:
        """Length of a rerank request's query, when a scenario says it."""
        return None if self.scenario is None else read_scenario(self.scenario).query
