"""The models and GPUs of the landscapes, by their published ``config.json`` and the GPUs' data sheets."""

from __future__ import annotations

from pytest_autotune.engines.sim.hardware import GPUS
from pytest_autotune.engines.transformer import FOUR_BITS, Experts, Latent, Transformer

SYSTEMS = {"h100_sxm": GPUS["H100"], "h200_sxm": GPUS["H200"]}
MODELS = {
    # config.json of Qwen/Qwen3-32B
    "Qwen/Qwen3-32B": Transformer(
        layers=64, hidden=5120, heads=64, kv_heads=8, head=128, intermediate=25600, vocabulary=151936
    ),
    # config.json of meta-llama/Llama-3.1-70B
    "meta-llama/Llama-3.1-70B": Transformer(
        layers=80, hidden=8192, heads=64, kv_heads=8, head=128, intermediate=28672, vocabulary=128256
    ),
    # config.json of Qwen/Qwen3-235B-A22B-FP8
    "Qwen/Qwen3-235B-A22B-FP8": Transformer(
        layers=94,
        hidden=4096,
        heads=64,
        kv_heads=4,
        head=128,
        intermediate=12288,
        vocabulary=151936,
        experts=Experts(128, 8, 1536),
        weight_bytes=1.0,
        expert_bytes=1.0,
    ),
    # config.json of openai/gpt-oss-120b
    "openai/gpt-oss-120b": Transformer(
        layers=36,
        hidden=2880,
        heads=64,
        kv_heads=8,
        head=64,
        intermediate=2880,
        vocabulary=201088,
        experts=Experts(128, 4, 2880),
        window=128,
        windowed=18,
        expert_bytes=FOUR_BITS,
    ),
    # config.json of deepseek-ai/DeepSeek-R1
    "deepseek-ai/DeepSeek-R1": Transformer(
        layers=61,
        hidden=7168,
        heads=128,
        kv_heads=128,
        head=56,
        intermediate=18432,
        vocabulary=129280,
        experts=Experts(256, 8, 2048, shared=1, dense_layers=3),
        latent=Latent(rank=512, rotary=64, plain=128, value=128, query_rank=1536),
        weight_bytes=1.0,
        expert_bytes=1.0,
    ),
}
