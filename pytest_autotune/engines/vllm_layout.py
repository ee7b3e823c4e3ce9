"""What vLLM's settings make of a model: how it is divided, in which precision, and how many sequences run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_autotune.engines.requirements import parallel_sizes
from pytest_autotune.engines.roofline import Layout
from pytest_autotune.engines.transformer import FOUR_BITS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.engines.engine import Flag
    from pytest_autotune.space import Value

# Names of vLLM's `QuantizationMethods`, read in 0.32: the bytes of a weight that it quantizes while it loads, and those
# of checkpoints that are quantized already: how, their config.json says.
_LOADED = {
    **dict.fromkeys(("fp8", "fp8_per_tensor", "fp8_per_block", "fp8_per_channel"), 1.0),
    "bitsandbytes": FOUR_BITS,
}
_STORED = frozenset(
    (
        *("awq", "auto_awq", "awq_marlin", "gptq", "auto_gptq", "gptq_marlin"),
        *("compressed-tensors", "modelopt", "modelopt_fp4", "mxfp4", "gpt_oss_mxfp4"),
    )
)
_SIXTEEN_BITS = frozenset({"auto", "half", "float16", "bfloat16"})


def layout_of(settings: Mapping[str, Value], flags: Mapping[str, Flag], *, gpus: int | None) -> Layout | None:
    """Return the layout of a server with `settings`, by the names of their flags; `gpus` when the suite says them.

    None for what has no figures: prefill-context parallelism, a precision that is not known, a model that is
    overridden, drafts of speculative decoding.
    """
    known = {name: flag.default for name, flag in flags.items()} | {
        name: value for name, value in settings.items() if value is not None
    }
    tp, pp, of_prefill, dp = parallel_sizes(known)
    weights, kept = _weight_bytes(known), _kept_bytes(known)
    unclear = any(name.partition(".")[0] in ("hf-overrides", "speculative-config") for name in settings)
    if of_prefill > 1 or unclear or weights is None or kept is None:
        return None
    sequences, share = known.get("max-num-seqs"), known.get("gpu-memory-utilization")
    own = Layout()
    # With data parallelism experts are shared by all GPUs of a stage (vLLM's docs, "Expert Parallel Deployment").
    sharing = {"expert_ep" if known.get("enable-expert-parallel") is True else "expert_tp": tp * dp}
    return Layout(
        gpus=gpus or math.prod((tp, pp, dp)),
        tp=tp,
        pp=pp,
        dp=dp,
        weight_bytes=weights or None,
        kv_bytes=kept,
        # Each copy has its own scheduler, and so its own limit.
        max_sequences=sequences * dp if isinstance(sequences, int) and not isinstance(sequences, bool) else None,
        memory_share=float(share) if isinstance(share, int | float) and 0 < share <= 1 else own.memory_share,
        **sharing,
    )


def _weight_bytes(settings: Mapping[str, Value]) -> float | None:
    """Return the bytes of a weight, 0 when they are the checkpoint's; None when they are not known."""
    if settings.get("dtype", "auto") not in _SIXTEEN_BITS:
        return None
    method = settings.get("quantization")
    if method is None or method in _STORED:
        return 0.0
    return _LOADED.get(str(method))


def _kept_bytes(settings: Mapping[str, Value]) -> float | None:
    kept = str(settings.get("kv-cache-dtype", "auto"))
    if kept in ("auto", "bfloat16", "float16"):
        return 2.0
    return 1.0 if kept.startswith("fp8") else None
