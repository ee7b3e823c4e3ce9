"""A language model by its published ``config.json``: how many weights of which size, and what is kept of each token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# Bytes of a weight of four bits with its share of a scale: 8 bits for 32 weights (OCP Microscaling Formats 1.0, MXFP4).
FOUR_BITS = 4.25 / 8
_BYTES = {"bfloat16": 2.0, "float16": 2.0}
_PLAIN = frozenset({"llama", "mistral", "qwen2", "qwen3"})
_SPARSE = frozenset({"mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3"})
_OWN_HEAD = frozenset({"qwen3", "qwen3_moe", "gpt_oss"})  # the size of a head does not follow from the others


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts in the place of the MLP."""

    number: int
    active: int  # for each token
    size: int  # intermediate size of one
    shared: int = 0  # further ones of that size, for every token
    dense_layers: int = 0  # of the model, that have an MLP nevertheless


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention: one vector is kept of each token, for all heads (DeepSeek-V2, arXiv:2405.04434)."""

    rank: int  # of what keys and values are made of again
    rotary: int  # the part of a key with its position
    plain: int  # the part of a head's key without
    value: int  # size of a head's values
    query_rank: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformer:
    """A model that generates text. Small parts are left out: norms, biases, routers, heads that only draft."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    intermediate: int
    vocabulary: int
    tied: bool = False  # input and output embeddings are one matrix
    experts: Experts | None = None
    latent: Latent | None = None
    window: int = 0  # tokens back that the `windowed` layers attend to
    windowed: int = 0
    element_bytes: float = 2.0  # of what is not quantized, the embeddings above all
    weight_bytes: float = 2.0  # of attention, MLPs and shared experts
    expert_bytes: float = 2.0

    @property
    def sparse_layers(self) -> int:
        """Layers with a mixture of experts."""
        return 0 if self.experts is None else self.layers - self.experts.dense_layers

    @property
    def expert_parameters(self) -> int:
        """Parameters of one expert of one layer."""
        return 0 if self.experts is None else 3 * self.hidden * self.experts.size

    @property
    def dense_parameters(self) -> int:
        """Parameters that every token meets, embeddings apart: attention, MLPs, shared experts."""
        shared = 0 if self.experts is None else self.experts.shared * self.expert_parameters
        mlps = (self.layers - self.sparse_layers) * 3 * self.hidden * self.intermediate
        return self.layers * self._attention + mlps + self.sparse_layers * shared

    @property
    def embedding(self) -> int:
        """Parameters of one embedding matrix."""
        return self.vocabulary * self.hidden

    @property
    def embeddings(self) -> int:
        """Parameters of the input and the output embeddings."""
        return self.embedding * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All parameters."""
        number = 0 if self.experts is None else self.experts.number
        return self.dense_parameters + self.sparse_layers * number * self.expert_parameters + self.embeddings

    @property
    def active_parameters(self) -> int:
        """Parameters that work for one token, the input embeddings apart: they are only looked up."""
        active = 0 if self.experts is None else self.experts.active
        return self.dense_parameters + self.sparse_layers * active * self.expert_parameters + self.embedding

    @property
    def _attention(self) -> int:
        latent = self.latent
        if latent is None:
            return self.hidden * self.head * 2 * (self.heads + self.kv_heads)
        key = latent.plain + latent.rotary
        rank = latent.query_rank
        queries = self.hidden * self.heads * key if rank is None else rank * (self.hidden + self.heads * key)
        kept = self.hidden * (latent.rank + latent.rotary)
        return queries + kept + self.heads * (latent.rank * (latent.plain + latent.value) + latent.value * self.hidden)

    def attended(self, tokens: float) -> float:
        """Return how many tokens all layers together attend to, for one after so many."""
        return (self.layers - self.windowed) * tokens + self.windowed * min(self.window, tokens)

    def cached(self, tp: int) -> int:
        """Return the elements that one of `tp` GPUs keeps of a token in a layer; heads are never split, but copied."""
        if self.latent is not None:
            return self.latent.rank + self.latent.rotary
        return 2 * max(1, self.kv_heads // tp) * self.head

    def decoding_flops(self) -> int:
        """Return the FLOPs for a pair of tokens in one layer; in latent attention on the vectors as they are kept."""
        if self.latent is not None:
            return 2 * self.heads * (2 * self.latent.rank + self.latent.rotary)
        return 4 * self.heads * self.head

    def prefill_flops(self) -> int:
        """Return the FLOPs for a pair of tokens of a prompt in one layer."""
        if self.latent is not None:
            return 2 * self.heads * (self.latent.plain + self.latent.rotary + self.latent.value)
        return 4 * self.heads * self.head


def read_transformer(config: Mapping[str, Any]) -> Transformer | None:
    """Return what a ``config.json`` describes; None for what is not understood.

    That is another ``model_type`` than those of Llama, Mistral, Mixtral, Qwen2, Qwen3, gpt-oss and DeepSeek V3, a
    model with more parts than the language model (``text_config``), one that lacks a number, or an unknown
    quantization.
    """
    kind = config.get("model_type")
    if kind not in _PLAIN | _SPARSE or "text_config" in config:
        return None
    try:
        return _read(config, str(kind))
    except _Unclear:
        return None


class _Unclear(Exception):
    """Something is missing, or not as expected."""


def _read(config: Mapping[str, Any], kind: str) -> Transformer:
    layers, hidden, heads = (
        _whole(config, name) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")
    )
    own_head = kind in _OWN_HEAD or config.get("head_dim") is not None
    element = _BYTES.get(str(config.get("dtype") or config.get("torch_dtype")))
    if element is None:
        raise _Unclear
    weight, expert = _quantized(config.get("quantization_config"), element)
    window, windowed = _windows(config, kind, layers)
    return Transformer(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=heads if config.get("num_key_value_heads") is None else _whole(config, "num_key_value_heads"),
        head=_whole(config, "head_dim") if own_head and kind != "deepseek_v3" else hidden // heads,
        intermediate=_whole(config, "intermediate_size"),
        vocabulary=_whole(config, "vocab_size"),
        tied=config.get("tie_word_embeddings") is True,
        experts=_experts(config, kind) if kind in _SPARSE else None,
        latent=_latent(config) if kind == "deepseek_v3" else None,
        window=window,
        windowed=windowed,
        element_bytes=element,
        weight_bytes=weight,
        expert_bytes=expert,
    )


def _experts(config: Mapping[str, Any], kind: str) -> Experts:
    active = _whole(config, "num_experts_per_tok")
    if kind in ("mixtral", "gpt_oss"):
        return Experts(_whole(config, "num_local_experts"), active, _whole(config, "intermediate_size"))
    size = _whole(config, "moe_intermediate_size")
    if kind == "qwen3_moe":
        if config.get("decoder_sparse_step", 1) != 1:
            raise _Unclear
        return Experts(
            _whole(config, "num_experts"), active, size, dense_layers=len(config.get("mlp_only_layers") or ())
        )
    if config.get("moe_layer_freq", 1) != 1:
        raise _Unclear
    dense = config.get("first_k_dense_replace")
    if not isinstance(dense, int):
        raise _Unclear
    number, shared = _whole(config, "n_routed_experts"), config.get("n_shared_experts") or 0
    return Experts(number, active, size, shared=shared, dense_layers=dense)


def _latent(config: Mapping[str, Any]) -> Latent:
    names = ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
    rank, rotary, plain, value = (_whole(config, name) for name in names)
    query_rank = None if config.get("q_lora_rank") is None else _whole(config, "q_lora_rank")
    return Latent(rank, rotary, plain, value, query_rank)


def _windows(config: Mapping[str, Any], kind: str, layers: int) -> tuple[int, int]:
    """Return the window and how many layers have it; Qwen's are switched off unless it says otherwise."""
    if config.get("sliding_window") is None or (
        kind.startswith("qwen") and config.get("use_sliding_window") is not True
    ):
        return 0, 0
    window = _whole(config, "sliding_window")
    kinds = config.get("layer_types")
    if kinds is not None:
        return window, sum(one == "sliding_attention" for one in kinds)
    if kind.startswith("qwen"):
        return window, max(0, layers - _whole(config, "max_window_layers"))
    if kind == "gpt_oss":
        raise _Unclear
    return window, layers


def _quantized(quantization: Mapping[str, Any] | None, element: float) -> tuple[float, float]:
    """Return the bytes of a weight of attention and MLPs, and of one of the experts."""
    if quantization is None:
        return element, element
    match quantization.get("quant_method"):
        case "mxfp4":  # of the experts only: `modules_to_not_convert` has the rest
            return element, FOUR_BITS
        case "fp8":
            size = 1.0
        case "awq" | "gptq":
            size = _size(quantization.get("bits"), "int")
        case "modelopt":
            size = {"FP8": 1.0, "NVFP4": FOUR_BITS}.get(str(quantization.get("quant_algo")), 0.0)
        case "compressed-tensors":
            groups = [group.get("weights") or {} for group in (quantization.get("config_groups") or {}).values()]
            sizes = {_size(group.get("num_bits"), group.get("type")) for group in groups}
            size = sizes.pop() if len(sizes) == 1 else 0.0
        case _:
            size = 0.0
    if not size:
        raise _Unclear
    return size, size


def _size(bits: object, kind: object) -> float:
    """Return the bytes of a weight; 0 of one that is neither of four bits nor fp8."""
    if bits == 4:
        return FOUR_BITS
    return 1.0 if (bits, kind) == (8, "float") else 0.0


def _whole(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _Unclear
    return value
