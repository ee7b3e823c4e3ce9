"""A suite to begin with, from what is wanted, what the model's config.json says, and the GPUs that are there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_autotune.engines.vllm_rules import Checkpoint
    from pytest_autotune.hardware import Gpu

ENGINES = ("vllm", "sglang", "llamacpp", "sim", "endpoint")
USABLE = 0.9  # of a GPU's memory, which vLLM takes unless it is told otherwise
MOST_IN_FLIGHT = 512  # of the load that is looked for
ROUND = 256  # tokens: what a server takes at most is a multiple of it
MARGIN = 64  # tokens that a chat template may add to a prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What whoever wants a suite has said."""

    name: str
    engine: str
    model: str | None
    url: str | None = None  # of an endpoint
    image: str | None = None  # of containers
    engine_python: str | None = None
    prompt_tokens: int = 512
    output_tokens: int = 128
    limits: Mapping[str, str] | str = "preset:chat"  # by metric, or the name of a preset


@dataclass(frozen=True, slots=True)
class Draft:
    """What a suite's file says, and why."""

    document: dict[str, Any]
    remarks: tuple[str, ...]


class TooLong(ValueError):
    """Prompt and output are more than the model takes; the message says how much that is."""


def draft(wanted: Wanted, checkpoint: Checkpoint, gpus: Sequence[Gpu]) -> Draft:
    """Return a suite; raise `TooLong` for a load that the model cannot take.

    `checkpoint` is empty where the model's files are not here: what only they tell is left to the engine then.
    """
    remarks: list[str] = []
    document: dict[str, Any] = {"name": wanted.name, "engine": wanted.engine}
    if wanted.model is not None:
        document["model"] = wanted.model
    if wanted.engine == "endpoint":
        document["url"] = wanted.url
    if wanted.image is not None:
        document |= {"deploy": "docker", "docker": {"image": wanted.image}}
    if wanted.engine_python is not None:
        document["engine_python"] = wanted.engine_python
    document |= _settings(wanted, checkpoint, gpus, remarks)
    document["load"] = {
        "prompt_tokens": wanted.prompt_tokens,
        "output_tokens": wanted.output_tokens,
        "concurrency": {"search": [1, MOST_IN_FLIGHT]},
    }
    remarks.append(f"the largest load that keeps the limits is looked for, up to {MOST_IN_FLIGHT} requests in flight")
    document["slo"] = wanted.limits if isinstance(wanted.limits, str) else dict(wanted.limits)
    document["objective"] = "maximize output_throughput" + ("_per_gpu" if _uses(wanted, gpus) else "")
    if "parameters" in document:
        document["search"] = {"strategy": "auto", "trials": 20}
        remarks.append("all configurations if they are at most 20, else those that models of what was measured choose")
    return Draft(document, tuple(remarks))


def degrees(heads: int, stored_bytes: int, gpus: Sequence[Gpu]) -> tuple[int, ...]:
    """Return the degrees of tensor parallelism worth trying.

    Powers of two that share the heads evenly and hold the weights. `heads` and `stored_bytes` are 0 where they are
    not known. Where the weights fit nowhere, the largest is left.
    """
    most = len(gpus)
    shared = [degree for degree in (1, 2, 4, 8, 16) if degree <= most and not heads % degree]
    memory = min((gpu.memory_bytes for gpu in gpus), default=0)
    fitting = [degree for degree in shared if stored_bytes / degree < USABLE * memory]
    return tuple(fitting or shared[-1:])


def _settings(
    wanted: Wanted, checkpoint: Checkpoint, gpus: Sequence[Gpu], remarks: list[str]
) -> dict[str, dict[str, Any]]:
    if wanted.engine == "endpoint":
        return {}
    fixed: dict[str, Any] = {}
    parameters: dict[str, Any] = {"preset": f"{wanted.engine}-quick"}
    remarks.append(f"`python -m pytest_autotune presets show {wanted.engine}-quick` shows what is tuned")
    config = checkpoint.config
    longest = config.get("max_position_embeddings")
    needed = wanted.prompt_tokens + wanted.output_tokens
    if isinstance(longest, int):
        if needed > longest:
            raise TooLong(f"{needed} tokens of prompt and output are more than the model takes: {longest}")
        fixed["context-length"] = min(longest, -(-(needed + MARGIN) // ROUND) * ROUND)
        remarks.append(f"context-length: what this load needs; the model takes up to {longest} tokens")
    if _uses(wanted, gpus):
        heads = config.get("num_attention_heads")
        tried = degrees(heads if isinstance(heads, int) else 0, checkpoint.stored_bytes, gpus)
        if len(tried) > 1:
            parameters["parallelism"] = [f"tp{degree}" for degree in tried]
        elif tried and tried != (1,):
            fixed["parallelism"] = f"tp{tried[0]}"
        names = sorted({gpu.name for gpu in gpus})
        remarks.append(f"parallelism: what {len(gpus)} x {' and '.join(names)} can share of this model")
    return {**({"fixed": fixed} if fixed else {}), "parameters": parameters}


def _uses(wanted: Wanted, gpus: Sequence[Gpu]) -> bool:
    return wanted.engine in ("vllm", "sglang") and bool(gpus)
