"""What a published config.json says, for each family of models."""

import pytest

from benchmarks.replay.models import MODELS
from pytest_autotune.engines.sim.hardware import SHAPES
from pytest_autotune.engines.transformer import FOUR_BITS, Experts, Latent, read_transformer

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 28672,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
QWEN3 = {
    "model_type": "qwen3",
    "num_hidden_layers": 64,
    "hidden_size": 5120,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 25600,
    "vocab_size": 151936,
    "sliding_window": None,
    "use_sliding_window": False,
    "max_window_layers": 64,
    "dtype": "bfloat16",
}
QWEN3_MOE = {
    **QWEN3,
    "model_type": "qwen3_moe",
    "num_hidden_layers": 94,
    "hidden_size": 4096,
    "num_key_value_heads": 4,
    "intermediate_size": 12288,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 1536,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3"},
}
GPT_OSS = {
    "model_type": "gpt_oss",
    "num_hidden_layers": 36,
    "hidden_size": 2880,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 2880,
    "vocab_size": 201088,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 18,
    "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "mxfp4"},
}
DEEPSEEK = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 61,
    "hidden_size": 7168,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "intermediate_size": 18432,
    "vocab_size": 129280,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "fp8"},
}
MISTRAL = {**LLAMA, "model_type": "mistral", "sliding_window": 4096}
MIXTRAL = {
    **LLAMA,
    "model_type": "mixtral",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "intermediate_size": 14336,
    "vocab_size": 32000,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": None,
}
TINY = {**LLAMA, "num_hidden_layers": 28, "hidden_size": 1536, "num_attention_heads": 12, "num_key_value_heads": 2}
QWEN2 = {**TINY, "model_type": "qwen2", "intermediate_size": 8960, "vocab_size": 151936, "tie_word_embeddings": True}


@pytest.mark.parametrize(
    ("config", "billions", "active"),
    [
        pytest.param(LLAMA, 70.6, 69.5, id="Llama-3.1-70B"),
        pytest.param(QWEN2, 1.54, 1.54, id="Qwen2.5-1.5B"),
        pytest.param(QWEN3, 32.8, 32.0, id="Qwen3-32B"),
        pytest.param(QWEN3_MOE, 235, 22, id="Qwen3-235B-A22B"),
        pytest.param(MIXTRAL, 46.7, 12.9, id="Mixtral-8x7B"),
        pytest.param(GPT_OSS, 116.8, 5.13, id="gpt-oss-120b"),
        pytest.param(DEEPSEEK, 671, 37, id="DeepSeek-R1"),
    ],
)
def test_models_have_the_published_numbers_of_parameters(config, billions, active):
    model = read_transformer(config)
    assert model.parameters / 1e9 == pytest.approx(billions, rel=0.01)
    assert model.active_parameters / 1e9 == pytest.approx(active, rel=0.03)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("meta-llama/Llama-3.1-70B", LLAMA),
        ("Qwen/Qwen3-32B", QWEN3),
        ("Qwen/Qwen3-235B-A22B-FP8", QWEN3_MOE),
        ("openai/gpt-oss-120b", GPT_OSS),
        ("deepseek-ai/DeepSeek-R1", DEEPSEEK),
    ],
)
def test_the_models_of_the_replayed_landscapes_are_what_their_files_say(name, config):
    assert read_transformer(config) == MODELS[name]


def test_parts_of_a_model_are_read():
    deepseek = read_transformer(DEEPSEEK)
    assert deepseek.experts == Experts(256, 8, 2048, shared=1, dense_layers=3)
    assert deepseek.latent == Latent(512, 64, 128, 128, 1536)
    assert (deepseek.sparse_layers, deepseek.cached(1), deepseek.cached(8)) == (58, 576, 576)
    oss = read_transformer(GPT_OSS)
    assert (oss.window, oss.windowed, oss.attended(1000)) == (128, 18, 18 * 1128)
    assert (oss.weight_bytes, oss.expert_bytes) == (2, FOUR_BITS)
    llama = read_transformer(LLAMA)
    assert [llama.cached(tp) for tp in (1, 8, 16)] == [2048, 256, 256]
    assert read_transformer({**DEEPSEEK, "q_lora_rank": None}).parameters > deepseek.parameters


@pytest.mark.parametrize(
    ("config", "windows"),
    [
        (MISTRAL, (4096, 80)),
        ({**MISTRAL, "sliding_window": None}, (0, 0)),
        ({**QWEN2, "sliding_window": 4096, "max_window_layers": 21}, (0, 0)),
        ({**QWEN2, "sliding_window": 4096, "max_window_layers": 21, "use_sliding_window": True}, (4096, 7)),
    ],
)
def test_windows_are_those_that_are_switched_on(config, windows):
    model = read_transformer(config)
    assert (model.window, model.windowed) == windows


GROUPS = {"group_0": {"weights": {"num_bits": 8, "type": "float"}}}


@pytest.mark.parametrize(
    ("quantization", "size"),
    [
        (None, 2),
        ({"quant_method": "fp8"}, 1),
        ({"quant_method": "awq", "bits": 4}, FOUR_BITS),
        ({"quant_method": "gptq", "bits": 4}, FOUR_BITS),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, 1),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, FOUR_BITS),
        ({"quant_method": "compressed-tensors", "config_groups": GROUPS}, 1),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 4}}}}, FOUR_BITS),
        ({"quant_method": "compressed-tensors"}, None),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 8, "type": "int"}}}}, None),
        ({"quant_method": "gptq", "bits": 8}, None),
        ({"quant_method": "modelopt", "quant_algo": "W4A8"}, None),
        ({"quant_method": "bitnet"}, None),
    ],
)  # fmt: skip
def test_quantization_says_what_a_weight_takes(quantization, size):
    model = read_transformer({**LLAMA, "quantization_config": quantization})
    assert (None if model is None else model.weight_bytes) == size


@pytest.mark.parametrize(
    "config",
    [
        {},
        {**LLAMA, "model_type": "mamba"},
        {**LLAMA, "text_config": {}},
        {**LLAMA, "hidden_size": None},
        {**LLAMA, "num_hidden_layers": "80"},
        {**LLAMA, "torch_dtype": "float32"},
        {name: value for name, value in QWEN3.items() if name != "head_dim"},
        {**QWEN3_MOE, "decoder_sparse_step": 2},
        {**DEEPSEEK, "moe_layer_freq": 2},
        {name: value for name, value in DEEPSEEK.items() if name != "first_k_dense_replace"},
        {**GPT_OSS, "layer_types": None},
    ],
)
def test_what_is_not_understood_is_no_model(config):
    assert read_transformer(config) is None


@pytest.mark.parametrize("name", ["llama-3.1-70b", "qwen2.5-1.5b"])
def test_a_dense_model_has_the_parameters_of_the_embedded_engine(name):
    config = {"llama-3.1-70b": LLAMA, "qwen2.5-1.5b": QWEN2}[name]
    assert read_transformer(config).parameters == SHAPES[name].parameters
