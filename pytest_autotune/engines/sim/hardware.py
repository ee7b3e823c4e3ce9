"""GPUs, model shapes, and what they make of a configuration: memory, and the time of a step.

The model is a roofline. It is meant to rank configurations as hardware does and to fail where
hardware fails, not to predict a given machine to the percent: against published closed-loop
measurements of Llama 3.1 8B on H100 its TPOT is within about 20 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_autotune.engines.sim.arguments import Settings

GIB = 1 << 30
MIB = 1 << 20

# Shares of the data-sheet peak that large matrix products (MFU) and streaming reads (MBU) reach in serving.
COMPUTE_EFFICIENCY = 0.55
BANDWIDTH_EFFICIENCY = 0.80

STEP_OVERHEAD_S = 1.0e-3  # scheduling, input preparation and sampling of one step, whatever its size
SEQUENCE_OVERHEAD_S = 15e-6  # per sequence that samples: sampler, detokenizer, response
EAGER_LAUNCH_S = 250e-6  # per layer: without CUDA graphs the CPU launches every kernel

CONTEXT_BYTES = 350 * MIB  # CUDA context and libraries
COMMUNICATOR_BYTES = 450 * MIB  # NCCL buffers, with tensor parallelism only
GRAPH_BYTES = 6 * MIB  # one captured batch size
SAMPLER_BUFFERS = (
    12  # vocabulary-sized float32 buffers per sequence: logits, probabilities, and keys and indices of a sort, twice
)

PAGE_CACHE_BYTES_S = 10e9  # weights are read from a warm page cache


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of a node, by its vendor's data sheet."""

    name: str
    tflops: float  # dense bf16 tensor peak
    bandwidth: float  # bytes per second
    memory: int  # bytes, as CUDA reports the device's total
    link: float  # bytes per second to the other GPUs, one direction
    link_latency_s: float  # of one all-reduce of a few bytes


# Peaks are dense; link figures of data sheets count both directions, these here one. All figures are
# of NVIDIA's data sheets; the memory is what CUDA reports as usable, 1 to 8 % less than on the sheet.
GPUS = {
    gpu.name: gpu
    for gpu in (
        # NVIDIA H100 data sheet, SXM: bf16 1,979 TFLOPS with sparsity (half dense), 3.35 TB/s, 80 GB, NVLink 900 GB/s
        Gpu("H100", 989, 3.35e12, int(79.1 * GIB), 450e9, 10e-6),
        # NVIDIA H200 data sheet, SXM: bf16 1,979 TFLOPS with sparsity, 4.8 TB/s, 141 GB, NVLink 900 GB/s
        Gpu("H200", 989, 4.8e12, int(139.7 * GIB), 450e9, 10e-6),
        # NVIDIA A100 80GB data sheet, SXM: bf16 312 TFLOPS dense, 2,039 GB/s, 80 GB, NVLink 600 GB/s
        Gpu("A100-80G", 312, 2.039e12, int(79.2 * GIB), 300e9, 12e-6),
        # NVIDIA L40S data sheet: bf16 733 TFLOPS with sparsity, 864 GB/s, 48 GB, PCIe Gen4 x16 64 GB/s
        Gpu("L40S", 362, 864e9, int(44.4 * GIB), 32e9, 30e-6),
        # NVIDIA L4 data sheet: bf16 242 TFLOPS with sparsity, 300 GB/s, 24 GB, PCIe Gen4 x16 64 GB/s
        Gpu("L4", 121, 300e9, int(22.0 * GIB), 32e9, 30e-6),
    )
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A dense transformer, by its published ``config.json``."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    intermediate: int
    vocabulary: int
    context: int  # max_position_embeddings
    tied: bool = False  # input and output embeddings are one matrix

    @property
    def block_parameters(self) -> int:
        """Parameters of all layers, embeddings apart."""
        attention = self.hidden * self.head * 2 * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.block_parameters + self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def weight_bytes(self) -> int:
        """Size of the weights in bf16."""
        return 2 * self.parameters

    def kv_bytes(self, *, tp: int, element: int) -> int:
        """Bytes of keys and values of one token on one of `tp` GPUs; heads are never split, but copied."""
        return 2 * self.layers * max(1, self.kv_heads // tp) * self.head * element


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("llama-3.1-8b", 32, 4096, 32, 8, 128, 14336, 128256, 131072),
        Shape("llama-3.1-70b", 80, 8192, 64, 8, 128, 28672, 128256, 131072),
        Shape("qwen2.5-1.5b", 28, 1536, 12, 2, 128, 8960, 151936, 32768, tied=True),
        Shape("qwen2.5-7b", 28, 3584, 28, 4, 128, 18944, 152064, 32768),
        Shape("tiny", 4, 256, 4, 2, 64, 1024, 4096, 4096, tied=True),  # for tests: a step costs next to nothing
    )
}


def find_shape(model: str) -> Shape | None:
    """Return the shape that `model` names: ``meta-llama/Llama-3.1-8B-Instruct`` is ``llama-3.1-8b``."""
    name = model.rstrip("/").rpartition("/")[2].lower().replace("meta-", "").removesuffix("-instruct")
    return SHAPES.get(name)


class StartError(Exception):
    """The server cannot start, or go on, with these settings; `str()` is what vLLM would say."""

    @property
    def line(self) -> str:
        """The last line of the traceback that a real server would leave."""
        return f"ValueError: {self}"


class InvalidSettingsError(StartError):
    """The settings contradict each other."""


class UnknownModelError(StartError):
    """There is no such model."""

    @property
    def line(self) -> str:
        """See `StartError`."""
        return f"OSError: {self}"


class DeviceMemoryError(StartError):
    """The GPU's memory is used up, at start or under load."""

    @property
    def line(self) -> str:
        """See `StartError`."""
        kind = "torch.OutOfMemoryError" if str(self).startswith("CUDA out of memory") else "ValueError"
        return f"{kind}: {self}"


@dataclass(frozen=True, slots=True)
class Memory:
    """Where one GPU's memory goes, in bytes, after the profile run."""

    total: int
    budget: int  # total * gpu-memory-utilization
    weights: int
    activations: int
    graphs: int
    kv_blocks: int
    kv_block_bytes: int
    sampler: int  # per sequence that samples, on top of the budget

    @property
    def headroom(self) -> int:
        """What the budget and the CUDA graphs leave for buffers that the profile run did not see."""
        return self.total - self.budget - self.graphs

    @property
    def max_samples(self) -> int:
        """Sequences that may sample in one step before the GPU is out of memory."""
        return self.headroom // self.sampler

    def out_of_memory(self, samples: int) -> str:
        """Return what CUDA says when `samples` sequences want to sample."""
        return cuda_out_of_memory(samples * self.sampler, free=self.headroom, total=self.total)


def cuda_out_of_memory(wanted: int, *, free: int, total: int) -> str:
    """Return PyTorch's message for a failed allocation."""
    return (
        f"CUDA out of memory. Tried to allocate {wanted / MIB:.2f} MiB. GPU 0 has a total capacity of "
        f"{total / GIB:.2f} GiB of which {max(free, 0) / MIB:.2f} MiB is free. Process has "
        f"{(total - max(free, 0)) / GIB:.2f} GiB memory in use."
    )


def plan_memory(settings: Settings, gpu: Gpu, shape: Shape) -> Memory:
    """Lay out the memory of one GPU; raise `DeviceMemoryError` where a real server would.

    `gpu-memory-utilization` bounds weights, activations of the profile run and KV cache together.
    CUDA graphs and the sampler's buffers come on top, out of what it leaves.
    """
    tp = settings.tensor_parallel_size
    weights = shape.weight_bytes // tp
    fixed = CONTEXT_BYTES + (COMMUNICATOR_BYTES if tp > 1 else 0)
    if weights + fixed > gpu.memory:
        layer = 2 * 2 * shape.hidden * shape.intermediate // tp
        raise DeviceMemoryError(cuda_out_of_memory(layer, free=layer // 3, total=gpu.memory))
    # the largest live tensors of a layer: gate and up projections with their product, and the residual stream
    activations = settings.max_num_batched_tokens * 2 * (3 * shape.intermediate // tp + 4 * shape.hidden)
    budget = int(gpu.memory * settings.gpu_memory_utilization)
    available = budget - weights - fixed - activations
    if available <= 0:
        raise DeviceMemoryError(
            "No available memory for the cache blocks. "
            "Try increasing `gpu_memory_utilization` when initializing the engine."
        )
    element = 1 if settings.kv_cache_dtype == "fp8" else 2
    per_token = shape.kv_bytes(tp=tp, element=element)
    needed = per_token * settings.max_model_len
    if needed > available:
        raise DeviceMemoryError(
            f"To serve at least one request with the model's max seq len ({settings.max_model_len}), "
            f"({needed / GIB:.2f} GiB KV cache is needed, which is larger than the available KV cache memory "
            f"({available / GIB:.2f} GiB). Based on the available memory, the estimated maximum model length is "
            f"{available // per_token}. Try increasing `gpu_memory_utilization` or decreasing `max_model_len`."
        )
    graphs = 0 if settings.enforce_eager else GRAPH_BYTES * _capture_sizes(settings.max_num_seqs)
    memory = Memory(
        total=gpu.memory,
        budget=budget,
        weights=weights,
        activations=activations,
        graphs=graphs,
        kv_blocks=available // (per_token * settings.block_size),
        kv_block_bytes=per_token * settings.block_size,
        sampler=shape.vocabulary * 4 * SAMPLER_BUFFERS,
    )
    if memory.headroom < 0:
        raise DeviceMemoryError(cuda_out_of_memory(graphs, free=gpu.memory - budget, total=gpu.memory))
    return memory


def _capture_sizes(max_num_seqs: int) -> int:
    """How many batch sizes vLLM captures: 1, 2, 4, then every 8 up to twice max-num-seqs, at most 512."""
    return 3 + min(2 * max_num_seqs, 512) // 8


class StepCost:
    """The time of one step on `tp` GPUs, in seconds.

    ``max(FLOPs / (peak * MFU), bytes / (bandwidth * MBU)) + all-reduce``, but not less than what
    launching the kernels takes, plus the CPU's overhead.

    * FLOPs: 2 per parameter and token, the vocabulary's for sampled tokens only, and 4 per
      attended pair and attention channel (scores and weighted sum)
    * bytes: all weights once, and the keys and values of every token attended to
    * all-reduce: two per layer (attention, MLP), ring: 2 (tp - 1) / tp of the hidden states
    """

    def __init__(self, settings: Settings, gpu: Gpu, shape: Shape) -> None:
        tp = settings.tensor_parallel_size
        flops = gpu.tflops * 1e12 * COMPUTE_EFFICIENCY * tp
        bandwidth = gpu.bandwidth * BANDWIDTH_EFFICIENCY
        element = 1 if settings.kv_cache_dtype == "fp8" else 2
        self._per_token_s = 2 * shape.block_parameters / flops
        self._per_sample_s = 2 * shape.vocabulary * shape.hidden / flops
        self._per_pair_s = 4 * shape.layers * shape.heads * shape.head / flops
        streamed = 2 * (shape.block_parameters + shape.vocabulary * shape.hidden)
        self._weights_s = streamed / tp / bandwidth
        self._per_kv_s = shape.kv_bytes(tp=tp, element=element) / bandwidth
        rounds = 2 * shape.layers if tp > 1 else 0
        self._latency_s = rounds * gpu.link_latency_s * tp.bit_length()
        self._per_token_link_s = rounds * 2 * (tp - 1) / tp * 2 * shape.hidden / gpu.link
        self._launch_s = EAGER_LAUNCH_S * shape.layers if settings.enforce_eager else 0.0

    def seconds(self, *, tokens: int, samples: int, pairs: int, kv_tokens: int) -> float:
        """Return the time of a step over `tokens` new tokens.

        `samples` sequences get an output token; `pairs` counts the (new token, attended token)
        pairs, `kv_tokens` the tokens whose keys and values are read.
        """
        compute = tokens * self._per_token_s + samples * self._per_sample_s + pairs * self._per_pair_s
        memory = self._weights_s + kv_tokens * self._per_kv_s
        communication = self._latency_s + tokens * self._per_token_link_s
        device = max(compute, memory) + communication
        return max(device, self._launch_s) + STEP_OVERHEAD_S + samples * SEQUENCE_OVERHEAD_S


def load_seconds(shape: Shape, *, tp: int) -> float:
    """Return how long the weights take to load; the GPUs load their shares side by side."""
    return shape.weight_bytes / tp / PAGE_CACHE_BYTES_S
