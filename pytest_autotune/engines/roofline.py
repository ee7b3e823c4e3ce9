"""What a layout of a model on GPUs can be expected to bring, by a roofline: to order what is tried, never to judge.

The figures are those of the embedded engine's step (`StepCost`), with mixtures of experts, latent attention, windows
and quantized weights. Efficiencies and GPUs are its own too: nothing is fitted to measurements.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from pytest_autotune.engines.sim.hardware import (
    BANDWIDTH_EFFICIENCY,
    COMMUNICATOR_BYTES,
    COMPUTE_EFFICIENCY,
    CONTEXT_BYTES,
    GPUS,
    SEQUENCE_OVERHEAD_S,
    STEP_OVERHEAD_S,
    Gpu,
)
from pytest_autotune.metrics import COSTS, LATENCIES, PER_GPU, RATES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_autotune.capacity import LoadSearch
    from pytest_autotune.engines.transformer import Transformer
    from pytest_autotune.samples import Level
    from pytest_autotune.selection import Objective
    from pytest_autotune.slo import Limit

FP8 = frozenset({"H100", "H200", "L40S", "L4"})  # by their data sheets fp8 has twice the peak of bf16; an A100 has none
_DRIVERS = (  # names as the driver tells them; boards with another memory or link are other GPUs
    (r"\bH200\b(?! NVL)", "H200"),
    (r"\bH100 80GB HBM3\b", "H100"),
    (r"\bA100-SXM4-80GB\b", "A100-80G"),
    (r"\bL40S\b", "L40S"),
    (r"\bL4\b", "L4"),
)
_PER_OCTAVE = 4  # loads of a search that are looked at: a fifth apart, which is what a roofline can tell
_HALVINGS = 12  # of a bracket of concurrencies around a rate: to a four-thousandth of it


class Served(NamedTuple):
    """What a server consists of, whatever its settings: a model, on GPUs of one kind."""

    transformer: Transformer
    gpu: Gpu


@dataclass(frozen=True, slots=True)
class Layout:
    """How a server divides a model over its GPUs, and how many sequences it works on at a time.

    `tp` GPUs share attention and MLPs, in each of `pp` stages; `dp` copies of that have sequences of their own.
    Experts are shared by ``expert_tp * expert_ep`` GPUs of a stage, each expert by `expert_tp` of them.
    """

    gpus: int = 1  # what the server takes: what is brought per GPU is divided by them
    tp: int = 1
    pp: int = 1
    dp: int = 1
    expert_tp: int = 1
    expert_ep: int = 1
    weight_bytes: float | None = None  # of weights that the checkpoint has no smaller; None: as it has them
    kv_bytes: float = 2.0  # of one element of keys and values
    max_sequences: int | None = None  # of the whole server; None: as many as there is memory for
    memory_share: float = 0.92  # of a GPU's memory, vLLM's default (`gpu_memory_utilization` in vllm/config/cache.py)


@dataclass(frozen=True, slots=True)
class Figures:
    """What is expected at one load: mean latencies in seconds, and rates per second, by the names of metrics."""

    ttft: float
    tpot: float
    e2e: float
    request_throughput: float
    prompt_tokens: float  # of each request
    output_tokens: float

    @property
    def input_throughput(self) -> float:
        """Tokens of prompts per second."""
        return self.request_throughput * self.prompt_tokens

    @property
    def output_throughput(self) -> float:
        """Generated tokens per second."""
        return self.request_throughput * self.output_tokens

    @property
    def total_throughput(self) -> float:
        """Both."""
        return self.input_throughput + self.output_throughput


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked of a server: lengths in tokens, and the loads, in requests in flight or per second."""

    prompt_tokens: float
    output_tokens: float
    levels: tuple[Level, ...]


def gpu_named(name: str) -> Gpu | None:
    """Return the GPU that the driver calls so; None when its figures are not known here."""
    return next((GPUS[known] for pattern, known in _DRIVERS if re.search(pattern, name)), None)


def loads(search: LoadSearch) -> tuple[Level, ...]:
    """Return the loads that stand for a search of the largest one, evenly spread on a logarithmic scale."""
    steps = math.floor(_PER_OCTAVE * math.log2(search.high / search.low) + 1e-9)
    return tuple(dict.fromkeys(search.level(search.low * 2 ** (step / _PER_OCTAVE)) for step in range(steps + 1)))


def expected(
    transformer: Transformer,
    gpu: Gpu,
    layout: Layout,
    *,
    prompt_tokens: float,
    output_tokens: float,
    concurrency: float,
) -> Figures | None:
    """Return what so many requests in flight bring; None where the weights and one sequence do not fit.

    Every stream sends its next request when the last is answered. A prompt is worked on at once: all that decode
    wait for it, each of them for all others' prompts once per answer. A request for which there is no place waits
    for its turn.
    """
    cost = _Cost(transformer, gpu, layout)
    whole = prompt_tokens + output_tokens
    if cost.room(whole) < 1:
        return None
    length = prompt_tokens + output_tokens / 2  # of a sequence, on the mean of its life
    most = layout.dp * max(1.0, cost.room(length))
    if layout.max_sequences is not None:
        most = min(most, layout.max_sequences)
    running = min(concurrency, most)
    of_copy = max(1.0, running / layout.dp)
    in_stage = max(1.0, of_copy / layout.pp)
    step_s = cost.step_s(in_stage, max(1.0, running / layout.pp), length)
    prefill_s = cost.prefill_s(prompt_tokens)
    tpot_s = step_s + (of_copy - 1) * prefill_s / layout.pp / output_tokens
    served_s = step_s + prefill_s + max(output_tokens - 1, 0) * tpot_s
    waiting_s = served_s * (concurrency / running - 1)
    return Figures(
        step_s + prefill_s + waiting_s, tpot_s, served_s + waiting_s, running / served_s, prompt_tokens, output_tokens
    )


def worth(
    served: Served, layout: Layout, demand: Demand, *, limits: Iterable[Limit], objective: Objective
) -> float | None:
    """Return the best value of the objective at the loads that are expected to keep the limits; more is better.

    0 where none does; None for an objective, or a shape of load, of which a roofline says nothing. A latency
    counts by its inverse, whatever its statistic, a cost by the throughput of a GPU. Limits on anything else are
    taken to be kept.
    """
    levels = demand.levels
    if not speaks_of(objective) or any(level.shape not in ("concurrency", "rate") for level in levels):
        return None
    known = [limit for limit in limits if limit.hard_fail and _is_expected(limit.metric)]
    values = [0.0]
    for level in levels:
        figures = _at(served, layout, demand, level)
        if figures is None or not all(_keeps(figures, limit, layout) for limit in known):
            continue
        figure = _figure(figures, _rate_of(objective.metric), layout)
        values.append(figure if objective.direction == "maximize" or objective.metric in COSTS else 1 / figure)
    return max(values)


def speaks_of(objective: Objective) -> bool:
    """Say whether a roofline orders by that objective: a throughput, a latency or a cost, in the usual direction."""
    latency = objective.metric.partition(".")[0] in LATENCIES
    cheaper = latency or objective.metric in COSTS
    return _is_expected(_rate_of(objective.metric)) and objective.direction == ("minimize" if cheaper else "maximize")


def _at(served: Served, layout: Layout, demand: Demand, level: Level) -> Figures | None:
    """Return what a level brings; None where nothing fits, or the server does not keep up with a rate."""

    def at(concurrency: float) -> Figures | None:
        return expected(
            *served,
            layout,
            prompt_tokens=demand.prompt_tokens,
            output_tokens=demand.output_tokens,
            concurrency=concurrency,
        )

    if level.shape == "concurrency":
        return at(level.value)
    low = high = 1.0
    found = at(high)
    while found is not None and found.request_throughput < level.value:
        low, high, before = high, 2 * high, found.request_throughput
        found = at(high)
        if found is not None and found.request_throughput <= before * (1 + 1e-9):
            return None
    for _ in range(_HALVINGS if found is not None and high > low else 0):
        middle = (low + high) / 2
        between = at(middle)
        if between is not None and between.request_throughput >= level.value:
            high, found = middle, between
        else:
            low = middle
    return None if found is None else replace(found, request_throughput=level.value)


def _rate_of(metric: str) -> str:
    return COSTS[metric] + PER_GPU if metric in COSTS else metric


def _is_expected(metric: str) -> bool:
    family, _, statistic = metric.partition(".")
    return (family in LATENCIES and statistic != "std") or metric.removesuffix(PER_GPU) in RATES


def _figure(figures: Figures, metric: str, layout: Layout) -> float:
    """Return what is expected of a metric; goodput is what a load brings of which every request keeps the limits."""
    family = metric.partition(".")[0].removesuffix(PER_GPU)
    name = {"itl": "tpot", "goodput": "request_throughput"}.get(family, family)
    value: float = getattr(figures, name)
    return value / max(layout.gpus, 1) if metric.endswith(PER_GPU) else value


def _keeps(figures: Figures, limit: Limit, layout: Layout) -> bool:
    value = _figure(figures, limit.metric, layout)
    if limit.floor:
        return value >= limit.bound * (1 - limit.fail_ratio)
    return value <= limit.bound * (1 + limit.fail_ratio)


class _Cost:
    """Times on the GPUs of one layout, in seconds; a stage has the layers of all of them: a token goes through each.

    Experts exchange as much as an all-reduce over their GPUs, whichever way they are shared.
    """

    def __init__(self, transformer: Transformer, gpu: Gpu, layout: Layout) -> None:
        if layout.weight_bytes is not None:
            transformer = replace(
                transformer,
                weight_bytes=min(transformer.weight_bytes, layout.weight_bytes),
                expert_bytes=min(transformer.expert_bytes, layout.weight_bytes),
            )
        self._model, self._gpu, self._layout = transformer, gpu, layout
        self._sharing = layout.expert_tp * layout.expert_ep
        self._bandwidth = gpu.bandwidth * BANDWIDTH_EFFICIENCY
        self._dense_bytes = transformer.dense_parameters * transformer.weight_bytes
        self._expert_bytes = transformer.sparse_layers * transformer.expert_parameters * transformer.expert_bytes
        active = 0 if transformer.experts is None else transformer.experts.active
        self._active = transformer.sparse_layers * transformer.expert_parameters * active
        self._rounds = 2 * transformer.layers - transformer.sparse_layers

    def room(self, length: float) -> float:
        """Return how many sequences of that length there is memory for, of one copy."""
        model, layout = self._model, self._layout
        fixed = CONTEXT_BYTES + (COMMUNICATOR_BYTES if layout.gpus > 1 else 0)
        number = 0 if model.experts is None else model.experts.number
        dense = (self._dense_bytes + model.embeddings * model.element_bytes) / layout.tp
        weights = (dense + number * self._expert_bytes / self._sharing) / layout.pp
        left = self._gpu.memory * layout.memory_share - fixed - weights
        return left / (self._kept_bytes(length) / layout.pp)

    def step_s(self, sequences: float, of_all: float, length: float) -> float:
        """Return the time in which so many sequences of a copy, and of all copies together, get a token each."""
        model, layout = self._model, self._layout
        flops = self._flops(model.element_bytes) * layout.tp
        sampling_s = sequences * 2 * model.embedding / flops
        attending_s = sequences * model.decoding_flops() * model.attended(length) / flops
        streamed = (self._dense_bytes + model.embedding * model.element_bytes) / layout.tp
        streamed += self._touched(of_all) * self._expert_bytes / self._sharing
        memory_s = (streamed + sequences * self._kept_bytes(length)) / self._bandwidth
        compute_s = self._products_s(sequences, of_all) + sampling_s + attending_s
        device_s = max(compute_s, memory_s) + self._exchange_s(sequences, of_all) + self._latency_s()
        return device_s + STEP_OVERHEAD_S + sequences * SEQUENCE_OVERHEAD_S

    def prefill_s(self, tokens: float) -> float:
        """Return what a prompt adds to a step while every other copy has one as well."""
        model, layout = self._model, self._layout
        of_all = tokens * layout.dp
        pairs = tokens * model.attended(tokens / 2)
        attending_s = pairs * model.prefill_flops() / (self._flops(model.element_bytes) * layout.tp)
        return self._products_s(tokens, of_all) + attending_s + self._exchange_s(tokens, of_all)

    def _products_s(self, tokens: float, of_all: float) -> float:
        model = self._model
        dense_s = tokens * 2 * model.dense_parameters / (self._flops(model.weight_bytes) * self._layout.tp)
        return dense_s + of_all * 2 * self._active / (self._flops(model.expert_bytes) * self._sharing)

    def _flops(self, weight_bytes: float) -> float:
        twice = weight_bytes == 1 and self._gpu.name in FP8
        return self._gpu.tflops * 1e12 * COMPUTE_EFFICIENCY * (2 if twice else 1)

    def _touched(self, tokens: float) -> float:
        """Return how many of a layer's experts a step needs, when every token takes its own at random."""
        experts = self._model.experts
        return 0.0 if experts is None else experts.number * (1 - (1 - experts.active / experts.number) ** tokens)

    def _kept_bytes(self, length: float) -> float:
        return self._model.cached(self._layout.tp) * self._model.attended(length) * self._layout.kv_bytes

    def _latency_s(self) -> float:
        tp, sharing, each_s = self._layout.tp, self._sharing, self._gpu.link_latency_s
        rounds = self._rounds * tp.bit_length() if tp > 1 else 0
        return each_s * (rounds + (self._model.sparse_layers * sharing.bit_length() if sharing > 1 else 0))

    def _exchange_s(self, tokens: float, of_all: float) -> float:
        def share(gpus: int) -> float:
            return 2 * (gpus - 1) / gpus

        exchanged = self._rounds * share(self._layout.tp) * tokens
        exchanged += self._model.sparse_layers * share(self._sharing) * of_all
        return exchanged * 2 * self._model.hidden / self._gpu.link
