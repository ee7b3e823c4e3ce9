"""What vLLM's settings make of a model."""

import pytest

from pytest_autotune.engines.engine import Flag
from pytest_autotune.engines.roofline import Layout
from pytest_autotune.engines.transformer import FOUR_BITS
from pytest_autotune.engines.vllm_layout import layout_of

FLAGS = {
    flag.name: flag
    for flag in (
        Flag("tensor-parallel-size", 1),
        Flag("quantization"),
        Flag("dtype", "auto"),
        Flag("kv-cache-dtype", "auto"),
        Flag("max-num-seqs", 256),
        Flag("gpu-memory-utilization", 0.9),
    )
}


def four(**others):
    return Layout(gpus=4, tp=4, expert_tp=4, **others)


@pytest.mark.parametrize(
    ("settings", "layout"),
    [
        ({}, Layout()),
        ({"tensor-parallel-size": 4}, four()),
        ({"tp": 4}, four()),
        ({"pipeline-parallel-size": 2}, Layout(gpus=2, pp=2)),
        ({"data-parallel-size": 2, "max-num-seqs": 64}, Layout(gpus=2, dp=2, expert_tp=2, max_sequences=128)),
        ({"tensor-parallel-size": 4, "enable-expert-parallel": True}, Layout(gpus=4, tp=4, expert_ep=4)),
        ({"tensor-parallel-size": 2, "data-parallel-size": 4, "enable-expert-parallel": True}, Layout(gpus=8, tp=2, dp=4, expert_ep=8)),
        ({"quantization": "fp8"}, Layout(weight_bytes=1.0)),
        ({"quantization": "bitsandbytes"}, Layout(weight_bytes=FOUR_BITS)),
        ({"quantization": "awq"}, Layout()),
        ({"quantization": None, "dtype": "half"}, Layout()),
        ({"kv-cache-dtype": "fp8_e4m3"}, Layout(kv_bytes=1.0)),
        ({"kv-cache-dtype": "bfloat16"}, Layout()),
        ({"gpu-memory-utilization": 0.5}, Layout(memory_share=0.5)),
        ({"gpu-memory-utilization": "much"}, Layout()),
        ({"max-num-seqs": 8}, Layout(max_sequences=8)),
        ({"quantization": "quark"}, None),
        ({"dtype": "float32"}, None),
        ({"kv-cache-dtype": "nvfp4"}, None),
        ({"prefill-context-parallel-size": 2}, None),
        ({"hf-overrides.num_hidden_layers": 2}, None),
        ({"speculative-config": {"method": "ngram"}}, None),
    ],
)  # fmt: skip
def test_settings_are_a_layout(settings, layout):
    assert layout_of(settings, {}, gpus=None) == layout


def test_what_is_not_set_is_the_default_of_what_is_installed():
    assert layout_of({}, FLAGS, gpus=None) == Layout(max_sequences=256, memory_share=0.9)
    assert layout_of({"max-num-seqs": 8}, FLAGS, gpus=None) == Layout(max_sequences=8, memory_share=0.9)


def test_a_suite_may_say_how_many_gpus_are_paid_for():
    assert layout_of({"tensor-parallel-size": 4}, {}, gpus=8).gpus == 8
