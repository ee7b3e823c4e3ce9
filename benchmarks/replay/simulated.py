"""Landscapes of the embedded engine's own model: its memory plan and step costs, in closed form.

A closed loop is taken at its steady state instead of request by request, so that the truth about ten thousand
configurations takes seconds. What a server refuses or runs out of is what the engine's own code says.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pytest_autotune.constraints import Constraint
from pytest_autotune.engines.sim.arguments import Settings, resolve
from pytest_autotune.engines.sim.engine import SimEngine
from pytest_autotune.engines.sim.hardware import GPUS, StartError, StepCost, find_shape, plan_memory
from pytest_autotune.feasibility import asks_no_less
from pytest_autotune.search import Observation, failure_value
from pytest_autotune.space import Choice, Space, canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np

    from pytest_autotune.space import Configuration

LEVELS = (16, 32, 64, 128, 256, 512)
NOISE = 0.02  # standard deviation of the logarithm of what a batch measures
BUDGET_S = 900.0  # deadlines of a start, for the graded failure scale
OUT_OF_MEMORY = failure_value(0.0, BUDGET_S, "out of memory")  # of a start that ends early
REFUSED_S, DIED_S = 40.0, 300.0  # when a server that cannot start, or that dies under load, is lost


@dataclass(frozen=True, slots=True)
class Batch:
    """What one level brings, without noise."""

    throughput_per_gpu: float  # output tokens/s
    ttft_s: float
    tpot_s: float


@dataclass(frozen=True)
class Traffic:
    """A GPU, a model and what is asked of it."""

    gpu: str
    model: str
    isl: int
    osl: int
    ttft_s: float  # limit
    tpot_s: float  # limit
    utilizations: tuple[float, ...]  # shares of the GPU's memory that are tried

    @property
    def space(self) -> Space:
        """Eight parameters; what no engine would take for other reasons than memory is left out."""
        parameters = (
            Choice("tensor-parallel-size", (1, 2, 4) if "qwen" in self.model else (1, 2, 4, 8)),
            Choice("max-num-seqs", (16, 32, 64, 128, 256, 512, 1024)),
            Choice("max-num-batched-tokens", (512, 1024, 2048, 4096, 8192, 16384)),
            Choice("gpu-memory-utilization", self.utilizations),
            Choice("max-model-len", (8192, 32768)),
            Choice("kv-cache-dtype", ("auto", "fp8")),
            Choice("enforce-eager", (False, True)),
            Choice("block-size", (16, 32)),
        )
        names = frozenset(one.name for one in parameters)
        return Space(parameters, (Constraint("max-num-batched-tokens >= max-num-seqs", names),))

    def __str__(self) -> str:
        return f"{self.model} on {self.gpu}, {self.isl}/{self.osl}"

    def batches(self, configuration: Configuration) -> tuple[Batch, ...] | None:
        """Return what each level brings, up to the one the server dies under; None when it cannot start."""
        given: dict[str, Any] = {name.replace("-", "_"): value for name, value in configuration.items()}
        try:
            settings = resolve(dataclasses.replace(Settings(gpu=self.gpu, model=self.model), **given))
            gpu, shape = settings.hardware()
            memory = plan_memory(settings, gpu, shape)
        except StartError:
            return None
        cost = StepCost(settings, gpu, shape)
        length = self.isl + self.osl / 2
        room = min(settings.max_num_seqs, int(memory.kv_blocks * settings.block_size / length))
        found = []
        for streams in LEVELS:
            running = min(streams, room)
            if running < 1 or running > memory.max_samples:
                break
            found.append(self._batch(settings, cost, streams, running))
        return tuple(found)

    def _batch(self, settings: Settings, cost: StepCost, streams: int, running: int) -> Batch:
        tokens, ratio, length = settings.max_num_batched_tokens, self.isl / self.osl, self.isl + self.osl / 2
        # So many decode that their successors' prompts fit beside them into a step.
        decoding = min(running, tokens / (1 + ratio))
        prefill = decoding * ratio
        step_s = cost.seconds(
            tokens=decoding + prefill,  # type: ignore[arg-type]
            samples=decoding,  # type: ignore[arg-type]
            pairs=decoding * length + prefill * self.isl / 2,  # type: ignore[arg-type]
            kv_tokens=decoding * length + prefill,  # type: ignore[arg-type]
        )
        first_s = step_s * max(1.0, self.isl / max(tokens - decoding, 1.0))
        tpot_s = step_s * running / decoding
        answer_s = first_s + (self.osl - 1) * tpot_s
        waits_s = answer_s * (streams - running) / running
        throughput = running * self.osl / answer_s / settings.tensor_parallel_size
        return Batch(throughput, first_s + waits_s, tpot_s)

    def keeps(self, batch: Batch) -> bool:
        """Say whether a batch keeps both limits."""
        return batch.ttft_s <= self.ttft_s and batch.tpot_s <= self.tpot_s

    def worth(self, configuration: Configuration) -> float | None:
        """Return the most that a configuration truly brings within the limits; 0 at none, None when it crashes."""
        batches = self.batches(configuration)
        if batches is None or len(batches) < len(LEVELS):
            return None
        return max((one.throughput_per_gpu for one in batches if self.keeps(one)), default=0.0)

    @cached_property
    def truth(self) -> Mapping[str, float | None]:
        """What every configuration is worth, by its canonical JSON."""
        return {canonical(one): self.worth(one) for one in self.space.grid({})}

    @cached_property
    def best(self) -> float:
        """The worth of the best configuration."""
        return max(one or 0.0 for one in self.truth.values())

    @property
    def crash_share(self) -> float:
        """The share of the configurations that cannot start, or die under load."""
        return sum(one is None for one in self.truth.values()) / len(self.truth)

    def observe(self, configuration: Configuration, chance: np.random.Generator) -> Observation:
        """Return what a trial would tell the search, as `plan.observe` encodes it, with noise."""
        batches = self.batches(configuration)
        limits = {"ttft.mean": 1.0, "tpot.mean": 1.0}
        if batches is None or len(batches) < len(LEVELS):
            took_s = REFUSED_S if batches is None else DIED_S
            crash = failure_value(took_s, BUDGET_S, "out of memory")
            return Observation(configuration, "done", None, {**limits, "crash": crash})
        noisy = [
            Batch(*(value * math.exp(chance.normal(0.0, NOISE)) for value in dataclasses.astuple(one)))
            for one in batches
        ]
        sure = math.exp(2 * NOISE)  # what is within the noise of a limit is inconclusive, and does not comply
        compliant = [one for one in noisy if one.ttft_s * sure <= self.ttft_s and one.tpot_s * sure <= self.tpot_s]
        if compliant:
            shown = max(compliant, key=lambda one: one.throughput_per_gpu)
        else:
            shown = min(noisy, key=lambda one: max(one.ttft_s / self.ttft_s, one.tpot_s / self.tpot_s))
        value = shown.throughput_per_gpu if compliant else None
        margins = {
            "ttft.mean": math.log(shown.ttft_s / self.ttft_s),
            "tpot.mean": math.log(shown.tpot_s / self.tpot_s),
        }
        return Observation(configuration, "done", value, {**margins, "crash": 0.0})

    def barred(self, history: Sequence[Observation]) -> Callable[[Configuration], bool]:
        """Return what says of a configuration that it is known not to start, as the product knows it of a vLLM.

        By its weights and the KV cache of one sequence, and by what ran out of memory at its start before.
        """
        gpu, shape = GPUS[self.gpu], find_shape(self.model)
        assert shape is not None
        known = [row.configuration for row in history if row.constraints["crash"] >= OUT_OF_MEMORY]

        def bars(configuration: Configuration) -> bool:
            tp = configuration["tensor-parallel-size"]
            element = 1 if configuration["kv-cache-dtype"] == "fp8" else 2
            sequence = shape.kv_bytes(tp=tp, element=element) * configuration["max-model-len"]
            if shape.weight_bytes / tp + sequence > gpu.memory * configuration["gpu-memory-utilization"]:
                return True
            return any(asks_no_less(configuration, one, knobs=SimEngine.memory_knobs, flags=None) for one in known)

        return bars


_WHOLE = (0.85, 0.88, 0.9, 0.95, 0.98)
_SHARED = (0.06, 0.12, 0.2, 0.6, 0.98)  # a GPU that others use, too
TRAFFICS = (
    Traffic("H100", "llama-3.1-8b", 128, 128, 0.1, 0.012, _SHARED),
    Traffic("H100", "llama-3.1-8b", 4096, 512, 1.0, 0.020, _SHARED),
    Traffic("A100-80G", "qwen2.5-7b", 1024, 256, 0.3, 0.015, _SHARED),
    Traffic("H100", "llama-3.1-70b", 1024, 256, 0.5, 0.030, _WHOLE),
    Traffic("A100-80G", "llama-3.1-70b", 128, 128, 0.2, 0.035, _WHOLE),
    Traffic("L4", "llama-3.1-8b", 1024, 256, 1.0, 0.050, _WHOLE),
    Traffic("L4", "qwen2.5-7b", 4096, 512, 3.0, 0.050, (0.6, 0.7, 0.8, 0.9, 0.98)),
    Traffic("L40S", "llama-3.1-8b", 4096, 512, 2.0, 0.030, (0.1, 0.2, 0.35, 0.6, 0.98)),
)
