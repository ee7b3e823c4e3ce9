"""What vLLM is known to refuse without being started."""

from __future__ import annotations

import json

import pytest

from pytest_autotune import hardware
from pytest_autotune.engines.command import CommandEngine
from pytest_autotune.engines.engine import CauseKind, Flag
from pytest_autotune.engines.installation import Installation
from pytest_autotune.engines.requirements import missing_gpus
from pytest_autotune.engines.vllm import VllmEngine
from pytest_autotune.engines.vllm_rules import GIB, Checkpoint, Device, contradiction, read_checkpoint, too_large
from pytest_autotune.space import Choice, Space
from pytest_autotune.suite import Suite

FLAGS = {
    "tensor-parallel-size": Flag("tensor-parallel-size", default=1),
    "max-num-seqs": Flag("max-num-seqs"),
    "gpu-memory-utilization": Flag("gpu-memory-utilization", default=0.9),
}
# Llama 3.1 8B, by its config.json: 128 KiB of keys and values a token.
LLAMA = {
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "vocab_size": 128256,
    "torch_dtype": "bfloat16",
}
WEIGHTS = 15 * GIB


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param({}, "", id="defaults"),
        pytest.param({"tensor-parallel-size": 8}, "", id="heads-shared"),
        pytest.param({"tensor-parallel-size": 3}, "32 attention heads cannot be shared by tensor-parallel-size 3", id="heads"),
        pytest.param({"tensor-parallel-size": 3, "hf-overrides": {"num_attention_heads": 33}}, "", id="heads-overridden"),
        pytest.param({"tensor-parallel-size": 3, "hf-overrides.num_attention_heads": 33}, "", id="heads-overridden-by-key"),
        pytest.param({"max-num-batched-tokens": 64, "max-num-seqs": 64}, "", id="tokens-and-sequences"),
        pytest.param({"max-num-batched-tokens": 64, "max-num-seqs": 65}, "max-num-batched-tokens 64 is less than max-num-seqs 65", id="tokens"),
        pytest.param({"max-num-batched-tokens": 64}, "", id="the-default-is-not-known"),
        pytest.param({"max-num-batched-tokens": 64, "max-model-len": 4096}, "", id="chunked-prefill"),
        pytest.param(
            {"max-num-batched-tokens": 64, "max-model-len": 65, "enable-chunked-prefill": False},
            "max-num-batched-tokens 64 is less than max-model-len 65 without chunked prefill",
            id="no-chunked-prefill",
        ),
        pytest.param({"max-num-batched-tokens": 64, "max-model-len": -1, "enable-chunked-prefill": False}, "", id="as-long-as-fits"),
        pytest.param({"max-num-batched-tokens": 64, "max-model-len": "1k", "enable-chunked-prefill": False}, "", id="text"),
    ],
)  # fmt: skip
def test_rules_between_settings(settings, said):
    assert contradiction(settings, LLAMA, flags=FLAGS, version="0.32.0") == said


@pytest.mark.parametrize(("version", "refused"), [("0.11.2", False), ("0.12.0", True), ("1.0", True), ("dev", False)])
def test_older_releases_turn_chunked_prefill_on_again(version, refused):
    settings = {"max-num-batched-tokens": 64, "max-model-len": 65, "enable-chunked-prefill": False}
    assert bool(contradiction(settings, {}, flags={}, version=version)) is refused


@pytest.mark.parametrize("config", [{}, {"num_attention_heads": None}, {"num_attention_heads": 32, "text_config": {}}])
def test_heads_that_are_not_known_make_no_refusal(config):
    assert contradiction({"tensor-parallel-size": 3}, config, flags={}, version="0.32.0") == ""


def estimate(settings, *, gib, config=LLAMA, stored=WEIGHTS):
    return too_large(settings, Checkpoint(config, stored), Device(int(gib * GIB), 0.9))


@pytest.mark.parametrize(
    ("settings", "gib", "fits"),
    [
        pytest.param({}, 16.7, True, id="weights"),
        pytest.param({}, 16.6, False, id="no-weights"),
        pytest.param({"gpu-memory-utilization": 0.5}, 30.1, True, id="half"),
        pytest.param({"gpu-memory-utilization": 0.5}, 29.9, False, id="no-half"),
        pytest.param({"max-model-len": 8192}, 17.8, True, id="cache"),  # 1 GiB
        pytest.param({"max-model-len": 8192}, 17.7, False, id="no-cache"),
        pytest.param({"max-model-len": 8192, "kv-cache-dtype": "fp8"}, 17.3, True, id="cache-of-8-bits"),
        pytest.param({"max-model-len": 8192, "kv-cache-dtype": "new"}, 16.7, True, id="cache-of-unknown-size"),
        pytest.param({"max-model-len": "8k"}, 16.7, True, id="length-as-text"),
        pytest.param({"tensor-parallel-size": 2}, 8.4, True, id="tp"),
        pytest.param({"tensor-parallel-size": 2}, 8.3, False, id="no-tp"),
        pytest.param({"tensor-parallel-size": 2, "pipeline-parallel-size": 2}, 4.2, True, id="tp-pp"),
        pytest.param({"tensor-parallel-size": 2, "pipeline-parallel-size": 2}, 4.1, False, id="no-tp-pp"),
        pytest.param({"tensor-parallel-size": 16, "max-model-len": 8192}, 1.19, True, id="heads-are-copied"),
        pytest.param({"tensor-parallel-size": 16, "max-model-len": 8192}, 1.17, False, id="no-heads-are-copied"),
        pytest.param({"cpu-offload-gb": 8}, 1, True, id="a-setting-that-is-not-understood"),
        pytest.param({"quantization": "fp8"}, 1, True, id="quantized-while-loading"),
        pytest.param({}, 0, True, id="memory-unknown"),
    ],
)
def test_the_least_that_a_server_needs(settings, gib, fits):
    assert (estimate(settings, gib=gib) == "") is fits


@pytest.mark.parametrize(
    ("change", "stored", "least_gib"),
    [
        pytest.param({}, WEIGHTS, 15, id="16-bits"),
        pytest.param({"torch_dtype": "float32"}, 2 * WEIGHTS, 15, id="stored-in-32-bits"),
        pytest.param({"torch_dtype": None, "dtype": "float32"}, 2 * WEIGHTS, 15, id="newer-name"),
        pytest.param({"torch_dtype": None}, WEIGHTS, 7.5, id="stored-in-what"),
        pytest.param({"tie_word_embeddings": True, "vocab_size": 131072}, WEIGHTS, 14, id="tied"),
        pytest.param({"tie_word_embeddings": True, "vocab_size": None}, WEIGHTS, 0, id="tied-unknown"),
        pytest.param({}, 0, 0, id="no-files"),
        pytest.param({"model_type": "mamba"}, WEIGHTS, 0, id="another-architecture"),
        pytest.param({"quantization_config": {"bits": 4}}, WEIGHTS, 0, id="quantized"),
    ],
)
def test_the_least_that_weights_take(change, stored, least_gib):
    config = LLAMA | change
    assert estimate({}, gib=least_gib / 0.9 + 0.01, config=config, stored=stored) == ""
    if least_gib:
        assert estimate({}, gib=least_gib / 0.9 - 0.01, config=config, stored=stored)


@pytest.mark.parametrize(
    ("change", "bounded"),
    [
        ({"sliding_window": 4096}, True),
        ({"sliding_window": 4096, "use_sliding_window": False}, False),
        ({"layer_types": ["full_attention", "sliding_attention"]}, True),
        ({"layer_types": ["full_attention"]}, False),
    ],
)
def test_a_window_bounds_the_cache_of_a_sequence(change, bounded):
    assert (estimate({"max-model-len": 131072}, gib=20, config=LLAMA | change) == "") is bounded


def test_what_does_not_fit_is_said_in_figures():
    said = estimate({"max-model-len": 8192, "tensor-parallel-size": 2}, gib=8)
    assert said == (
        "7.50 GiB of weights and 0.50 GiB of KV cache for one sequence of 8192 tokens do not fit into 7.20 GiB per GPU"
    )


# --- the model's directory -----------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(LLAMA))
    return path


def test_the_files_of_the_index_count_where_a_model_is_stored_twice(directory):
    for name, size in (("model-1.safetensors", 10), ("model-2.safetensors", 20), ("consolidated.safetensors", 30)):
        (directory / name).write_bytes(b"x" * size)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert read_checkpoint(str(directory)) == Checkpoint(LLAMA, 30)


@pytest.mark.parametrize(("names", "size"), [([], 0), (["model"], 9), (["model-1", "model-2"], 0)])
def test_without_an_index_one_file_counts(directory, names, size):
    for name in names:
        (directory / f"{name}.safetensors").write_bytes(b"x" * 9)
    assert read_checkpoint(str(directory)).stored_bytes == size


@pytest.mark.parametrize("content", [None, "no JSON", "[]"])
def test_a_directory_that_cannot_be_read_tells_nothing(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert read_checkpoint(str(tmp_path)) == Checkpoint()


# --- the engine ----------------------------------------------------------------------------------------------------


def gpu(index, gib):
    return hardware.Gpu(index, f"GPU-{index}", "NVIDIA L4", int(gib * GIB), "1")


@pytest.fixture
def machine(monkeypatch):
    """Two GPUs, of which the suite sees what it says, and an installed vLLM."""
    found = [gpu(0, 16), gpu(1, 22)]
    device = ["cuda"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(hardware, "_all_gpus", lambda: tuple(found))
    monkeypatch.setattr(VllmEngine, "_installation", lambda _self, _suite: Installation("0.32.0", device[0], FLAGS))
    return device


def make(directory, **given):
    given.setdefault("space", Space(()))
    return Suite(name="chat", engine="vllm", model=str(directory), path=directory.parent / "chat.yaml", **given)


def refused(suite, configuration):
    cause = VllmEngine().refuses(suite, configuration)
    return "" if cause is None else str(cause)


def test_vllm_refuses_what_it_cannot_start(machine, directory):
    with (directory / "model.safetensors").open("wb") as file:
        file.truncate(WEIGHTS)
    suite = make(directory, fixed={"max_num_seqs": 64})
    assert refused(suite, {}) == ""
    assert refused(suite, {"tensor-parallel-size": 3}).startswith("bad argument: 32 attention heads")
    assert refused(suite, {"max-num-batched-tokens": 32}).startswith("bad argument: max-num-batched-tokens 32")
    assert refused(suite, {"tensor-parallel-size": 4}) == "bad argument: needs 4 GPUs, this machine has 2"
    assert refused(suite, {"max-model-len": 65536}).startswith("out of memory: 15.00 GiB of weights and 8.00 GiB")
    assert refused(suite, {"max-model-len": 65536, "tensor-parallel-size": 2}) == ""
    assert refused(suite, {"gpu-memory-utilization": 0.5}).startswith("out of memory: 15.00 GiB of weights do not")
    one = make(directory, env={"CUDA_VISIBLE_DEVICES": "0"})
    assert refused(one, {}).endswith("do not fit into 14.40 GiB per GPU")


def test_where_the_server_does_not_run_here_or_on_cpus_its_memory_is_not_known(machine, directory):
    with (directory / "model.safetensors").open("wb") as file:
        file.truncate(100 * WEIGHTS)
    assert refused(make(directory), {})
    assert refused(make(directory, deploy="cluster"), {"tensor-parallel-size": 4}) == ""
    assert refused(make(directory, deploy="cluster"), {"tensor-parallel-size": 3})
    assert refused(make(directory, deploy="endpoint"), {"tensor-parallel-size": 3}) == ""
    machine[:] = ["cpu"]
    assert refused(make(directory), {"tensor-parallel-size": 4}) == ""


def test_a_model_on_a_hub_is_not_looked_into(machine, tmp_path):
    suite = Suite(name="chat", engine="vllm", model="org/model", path=tmp_path / "chat.yaml")
    assert refused(suite, {"tensor-parallel-size": 2}) == ""


@pytest.mark.parametrize(
    ("sizes", "missing"),
    [((1, 2), None), ((2, 4), None), ((4, 8), "needs 4 GPUs, this machine has 2")],
)
def test_a_suite_is_skipped_only_when_all_its_configurations_take_more_gpus_than_there_are(
    machine, directory, sizes, missing
):
    suite = make(directory, space=Space((Choice("tensor-parallel-size", sizes),)))
    assert missing_gpus(suite) == missing


def test_a_command_with_parallel_sizes_is_refused_single_configurations_too(machine, directory):
    space = Space((Choice("tp-size", (1, 4)),))
    suite = Suite(name="chat", engine="command", command=("serve", "{tp-size}", "{port}"), space=space)
    engine = CommandEngine()
    assert engine.refuses(suite, {"tp-size": 1}) is None
    cause = engine.refuses(suite, {"tp-size": 4})
    assert (cause.kind, cause.message) == (CauseKind.BAD_ARGUMENT, "needs 4 GPUs, this machine has 2")
    assert engine.refuses(Suite(name="chat", engine="command", command=("serve", "{port}")), {}) is None
