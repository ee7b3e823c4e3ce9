"""What must fit together in the `load:` block of a suite file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_autotune.load.lengths import Fixed
from pytest_autotune.load.scenario import read_scenario
from pytest_autotune.problems import Collector

if TYPE_CHECKING:
    from pytest_autotune.samples import Shape
    from pytest_autotune.suite_load import LoadBlock

SHAPES: tuple[Shape, ...] = ("concurrency", "rate", "burst", "stages", "replay")
_GENERATES = ("completions", "chat")
_PROMPTS = {"dataset": "the dataset", "replay": "the trace"}  # keys that say what the prompts are


def check_load(load: LoadBlock) -> None:
    """Raise `Problems` for keys that contradict each other, or would have no effect."""
    collector = Collector()
    _check_shape(load, collector)
    _check_prompts(load, collector)
    _check_api(load, collector)
    _check_sending(load, collector)
    _check_settling(load, collector)
    collector.finish()


def _check_shape(load: LoadBlock, collector: Collector) -> None:
    written = load.model_fields_set
    first, *others = [shape for shape in SHAPES if shape in written] or [load.shape]
    for shape in others:
        collector.note((shape,), f"a load has one shape, and {first}: is written too; remove one of the two")
    for index, stage in enumerate(load.stages):
        if (stage.rate is None) is (stage.concurrency is None):
            collector.note(("stages", index), "a stage has either rate or concurrency; write e.g. {rate: 5, for: 30s}")
    if len({stage.rate is None for stage in load.stages}) > 1:
        collector.note(("stages",), "all stages have a rate, or all have a concurrency; use one of the two")
    if "arrivals" in written and load.shape != "rate" and not any(stage.rate for stage in load.stages):
        collector.note(("arrivals",), f"only a rate is spread in time, {load.shape} is not; remove it")
    if load.max_concurrency is not None and not load.by_clock:
        collector.note(("max_concurrency",), f"{load.shape} says itself what is in flight; remove it")
    if load.stages and "duration_s" in written:
        collector.note(("duration",), "the stages say how long the batch is; remove it")
    if load.max_duration_s is not None and load.max_duration_s < load.duration_s:
        collector.note(("max_duration",), f"{load.max_duration_s:g}s is less than the duration, {load.duration_s:g}s")
    if load.stages and (load.planned_duration_s or 0.0) <= 0:
        collector.note(("warmup",), "the warm-up is a part of the stages, and takes all of their time; shorten it")
    if load.skip is not None and (load.searched is not None or load.shape not in ("concurrency", "rate")):
        collector.note(("skip",), f"{'a search' if load.searched else load.shape} has no levels to skip; remove it")
    if load.shape == "burst" and load.planned_warmup_s:
        collector.note(("warmup",), "a burst meets a server at rest; remove it")


def _check_prompts(load: LoadBlock, collector: Collector) -> None:
    written = load.model_fields_set
    if load.scenario is not None:
        for key in ("prompt_tokens", "output_tokens"):
            if key in written:
                collector.note((key,), f"the scenario {load.scenario} says it already; remove one of the two")
        if load.scenario == "dataset" and load.dataset is None:
            collector.note(("scenario",), "'dataset' needs dataset: the file that has the prompts")
    for key, what in _PROMPTS.items():
        if getattr(load, key) is None:
            continue
        for other in ("prompt_tokens", "prefix"):
            if other in written:
                collector.note((other,), f"{what} has the prompts; remove one of the two")
        if load.scenario not in (None, "dataset"):
            collector.note(("scenario",), f"{what} has the prompts; remove one of the two")
    if load.dataset is not None and load.replay is not None:
        collector.note(("dataset",), "the trace has the requests; remove one of the two")
    prompt, _ = load.lengths
    if load.prefix is not None and isinstance(prompt, Fixed) and load.prefix.tokens >= prompt.tokens:
        collector.note(
            ("prefix", "tokens"),
            f"{load.prefix.tokens} leaves nothing of prompts of {prompt.tokens} tokens that is their own; use fewer",
        )
    if load.conversation is not None and load.shape in ("burst", "replay"):
        collector.note(("conversation",), f"{load.shape} says itself when each request is sent; remove one of the two")


def _check_api(load: LoadBlock, collector: Collector) -> None:
    written = load.model_fields_set
    if load.scenario is not None and load.api not in (apis := read_scenario(load.scenario).apis):
        collector.note(("scenario",), f"{load.scenario} is of api: {' or '.join(apis)}, not {load.api}; change one")
    if "documents" in written and load.api != "rerank":
        collector.note(("documents",), "only api: rerank has documents; remove it")
    if load.api in _GENERATES:
        return
    if "output_tokens" in written:
        collector.note(("output_tokens",), f"api: {load.api} generates no tokens; remove it")
    if load.conversation is not None:
        collector.note(("conversation",), f"api: {load.api} has no answers to go on from; remove it")


def _check_sending(load: LoadBlock, collector: Collector) -> None:
    if load.api_key is not None and "authorization" in load.headers:
        collector.note(("api_key",), "headers: has an authorization too; remove one of the two")
    if load.generator == "builtin" and load.generator_python is not None:
        collector.note(("generator_python",), "the builtin generator runs in this Python; remove it")
    if load.generator != "builtin" and load.workers is not None:
        collector.note(("workers",), f"{load.generator} has workers of its own; remove it")


def _check_settling(load: LoadBlock, collector: Collector) -> None:
    if load.settle_s is not None and load.shape != "concurrency":
        collector.note(("settle",), f"a server settles under a concurrency, and the load is {load.shape}; remove it")
    if load.settle_s is not None and load.generator != "builtin":
        collector.note(("settle",), f"{load.generator} cannot tell when a server has settled; remove it")
