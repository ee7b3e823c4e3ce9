"""The embedded server's command line: vLLM's names and defaults, and checks that need no model of memory."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from pytest_autotune.engines.sim.faults import Fault, parse_fault
from pytest_autotune.engines.sim.hardware import GPUS, SHAPES, InvalidSettingsError, UnknownModelError, find_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_autotune.engines.sim.hardware import Gpu, Shape

MANAGED = ("host", "port", "model", "served-model-name")  # set by whoever starts the server, not tuned


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One server's settings; the defaults are vLLM's for GPUs of less than 70 GiB."""

    host: str = "127.0.0.1"
    port: int = 8000
    model: str = "meta-llama/Llama-3.1-8B-Instruct"
    served_model_name: str | None = None
    gpu: str = "H100"
    tensor_parallel_size: int = 1
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    gpu_memory_utilization: float = 0.92
    max_model_len: int = 0  # 0 until `resolve` takes the model's
    block_size: int = 16
    kv_cache_dtype: str = "auto"
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    enforce_eager: bool = False
    seed: int = 0
    time_scale: float = 1.0
    noise: float = 0.0
    fault: tuple[Fault, ...] = ()

    @property
    def name(self) -> str:
        """The model name that clients must use."""
        return self.served_model_name or self.model

    def hardware(self) -> tuple[Gpu, Shape]:
        """Return the GPU and the model's shape; raise `UnknownModelError` when there is none of that name."""
        shape = find_shape(self.model)
        if shape is None:
            raise UnknownModelError(
                f"{self.model} is not a local folder and is not a valid model identifier (known: {', '.join(SHAPES)})"
            )
        return GPUS[self.gpu], shape


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; unknown and abbreviated flags are errors."""
    parser = argparse.ArgumentParser(
        prog="pytest_autotune.engines.sim",
        description="An OpenAI-compatible server whose scheduler is a model of continuous batching.",
        allow_abbrev=False,
    )
    default = {field.name: field.default for field in fields(Settings)} | {"fault": []}

    def add(flag: str, **keywords: Any) -> None:
        name = flag.removeprefix("--").replace("-", "_")
        parser.add_argument(flag, default=default[name], **keywords)

    switch = argparse.BooleanOptionalAction
    add("--host", help="address to listen on")
    add("--port", type=_whole, help="port to listen on; 0 takes a free one and logs it")
    add("--model", help=f"model shape: {', '.join(SHAPES)}, also as a Hugging Face name")
    add("--served-model-name", help="model name of the API; default: --model")
    add("--gpu", choices=tuple(GPUS), help="GPU of the node")
    add("--tensor-parallel-size", type=_positive, help="GPUs that share the work")
    add("--max-num-seqs", type=_positive, help="sequences in one step")
    add("--max-num-batched-tokens", type=_positive, help="tokens in one step")
    add("--gpu-memory-utilization", type=_fraction, help="share of the GPU's memory for weights, activations, KV cache")
    parser.add_argument("--max-model-len", type=_positive, help="longest sequence; default: the model's")
    add("--block-size", type=int, choices=(8, 16, 32, 64, 128), help="tokens in a block of the KV cache")
    add("--kv-cache-dtype", choices=("auto", "fp8"), help="auto is bf16")
    add("--enable-prefix-caching", action=switch, help="reuse the KV cache of equal prefixes")
    add("--enable-chunked-prefill", action=switch, help="split prompts over steps")
    add("--enforce-eager", action=switch, help="no CUDA graphs: less memory, slower small steps")
    add("--seed", type=_whole, help="seed of output lengths, texts and noise")
    add("--time-scale", type=_scale, help="simulated time is multiplied by this; 0.1 is ten times faster")
    add("--noise", type=_noise, help="standard deviation of a step's time, relative")
    repeated: dict[str, Any] = {"default": [], "nargs": "+", "action": "extend"}
    parser.add_argument("--fault", type=_fault, metavar="SPEC", help="inject a fault, see faults.py", **repeated)
    return parser


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Read the command line; a wrong one ends the process with status 2 and a message on stderr."""
    namespace = vars(build_parser().parse_args(arguments))
    namespace["max_model_len"] = namespace["max_model_len"] or 0
    namespace["fault"] = tuple(namespace["fault"])
    return Settings(**namespace)


def resolve(settings: Settings) -> Settings:
    """Fill in what depends on the model, and raise `InvalidSettingsError` when settings contradict each other."""
    _, shape = settings.hardware()
    tp = settings.tensor_parallel_size
    if shape.heads % tp:
        raise InvalidSettingsError(
            f"Total number of attention heads ({shape.heads}) must be divisible by tensor parallel size ({tp})."
        )
    length = settings.max_model_len or shape.context
    if length > shape.context:
        raise InvalidSettingsError(
            f"User-specified max_model_len ({length}) is greater than the derived max_model_len "
            f"(max_position_embeddings={shape.context})"
        )
    tokens = settings.max_num_batched_tokens
    if not settings.enable_chunked_prefill and tokens < length:
        raise InvalidSettingsError(
            f"max_num_batched_tokens ({tokens}) is smaller than max_model_len ({length}). This effectively limits the "
            "maximum sequence length to max_num_batched_tokens. Please increase max_num_batched_tokens or decrease "
            "max_model_len."
        )
    if tokens < settings.max_num_seqs:
        raise InvalidSettingsError(
            f"max_num_batched_tokens ({tokens}) must be greater than or equal to max_num_seqs "
            f"({settings.max_num_seqs})."
        )
    values = {field.name: getattr(settings, field.name) for field in fields(Settings)}
    return Settings(**{**values, "max_model_len": length})


def non_default(settings: Settings) -> dict[str, Any]:
    """Return what differs from the defaults, by flag name, as JSON values."""
    changed: dict[str, Any] = {}
    for field in fields(Settings):
        value = getattr(settings, field.name)
        if value != field.default:
            changed[field.name.replace("_", "-")] = [str(fault) for fault in value] if field.name == "fault" else value
    return changed


def _number(low: float, high: float, what: str, *, kind: type[int | float] = float) -> Any:
    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    return convert


_whole = _number(0, 2**63, "a whole number", kind=int)
_positive = _number(1, 2**31, "a whole number of at least 1", kind=int)
_fraction = _number(0.01, 1.0, "a number in (0, 1]")
_scale = _number(1e-6, 1e3, "a positive number")
_noise = _number(0.0, 1.0, "a number in [0, 1]")


def _fault(text: str) -> Fault:
    try:
        return parse_fault(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
