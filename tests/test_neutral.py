"""What a server is told: shares of memory, rules of the model, GPUs, and what ran out of memory, all by the same flags."""

import json
import re

import pytest

from pytest_autotune.engines.command import CommandEngine
from pytest_autotune.engines.dialects import DIALECTS, SGLANG, TRTLLM, VLLM, Memory
from pytest_autotune.engines.engine import Address
from pytest_autotune.engines.flags import merged
from pytest_autotune.engines.neutral import told, unknown_memory
from pytest_autotune.engines.requirements import is_parallel, most_gpus, parallel_gpus
from pytest_autotune.engines.sim.engine import SimEngine, server_flags
from pytest_autotune.engines.validation import unknown_flags, unusable_settings
from pytest_autotune.engines.vllm_layout import layout_of
from pytest_autotune.errors import SuiteError
from pytest_autotune.feasibility import asks_no_less, settings_of
from pytest_autotune.hardware import Gpu
from pytest_autotune.modelling import expressed
from pytest_autotune.plan import make_plan
from pytest_autotune.seeding import at_each_degree
from pytest_autotune.space import Choice, Space
from pytest_autotune.suite_file import load_suite

GIB = 2**30
ADDRESS = Address("127.0.0.1", 8123, "m-1")
COMMAND = (
    "name: any\nengine: command\nmodel: ./model\ncommand: [serve, '{port}', '{flags}']\nsearch: {defaults: false}\n"
)
SIM = "name: any\nengine: sim\nmodel: llama-3.1-8b\nsearch: {defaults: false}\n"


@pytest.fixture
def load(tmp_path):
    def load_text(text):
        path = tmp_path / "any.yaml"
        path.write_text(text)
        return load_suite(path)

    return load_text


@pytest.fixture
def model(tmp_path):
    """A model beside the suite: its config.json, and weights of so many bytes, none of which is written."""

    def write(*, weights=0, **config):
        directory = tmp_path / "model"
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(config))
        if weights:
            with (directory / "model.safetensors").open("wb") as file:
                file.truncate(weights)

    return write


def have(monkeypatch, *sizes_gib):
    found = tuple(
        Gpu(index, f"GPU-{index}", "NVIDIA H100 80GB HBM3", size * GIB, "1") for index, size in enumerate(sizes_gib)
    )
    monkeypatch.setattr("pytest_autotune.hardware._all_gpus", lambda: found)


@pytest.mark.parametrize(
    ("share", "settings", "gpu_gib", "converted"),
    [
        # 512 + 1.5 * 8192 + 128 + 2 * 256 MiB of 80 GiB; with all of the memory it is what SGLang takes itself
        (1.0, {}, 80, 0.836),
        (0.9, {}, 80, 0.736),
        (0.9, {"chunked-prefill-size": 16384}, 80, 0.586),
        (1.0, {"chunked-prefill-size": 2048}, 80, 0.875),  # at least 10 GiB
        # 512 + 1.5 * 4096 + 128 + 2 * 48 MiB of 24 GiB
        (1.0, {}, 24, 0.72),
        (1.0, {"disable-cuda-graph": True}, 24, 0.724),
        (1.0, {"chunked-prefill-size": 512}, 24, 0.845),
        (1.0, {"tp-size": 4}, 24, 0.695),
    ],
)
def test_sglang_is_told_what_is_left_beside_a_step(share, settings, gpu_gib, converted):
    assert SGLANG.share.convert(share, settings, Memory(gpu_gib * GIB)) == {"mem-fraction-static": converted}


@pytest.mark.parametrize(
    ("share", "settings", "weights_gib", "converted"),
    [
        (0.9, {}, 16, 0.875),
        (1.0, {}, 16, 1.0),
        (0.9, {"tp-size": 4}, 160, 0.8),
        (0.9, {"tp-size": 2, "pp-size": 2}, 160, 0.8),
    ],
)
def test_trtllm_is_told_a_share_of_what_is_left_beside_the_weights(share, settings, weights_gib, converted):
    memory = Memory(80 * GIB, weights_gib * GIB)
    assert TRTLLM.share.convert(share, settings, memory) == {"free-gpu-memory-fraction": converted}


def test_a_share_that_leaves_nothing_is_told():
    with pytest.raises(ValueError, match=re.escape("0.1 of 80 GiB is less than the 13.1 GiB that a step takes")):
        SGLANG.share.convert(0.1, {}, Memory(80 * GIB))
    with pytest.raises(ValueError, match=re.escape("0.9 of 80 GiB does not hold 140.0 GiB of weights; write more, or")):
        TRTLLM.share.convert(0.9, {}, Memory(80 * GIB, 140 * GIB))


def test_a_share_of_memory_is_converted_by_the_gpus_and_the_files_of_the_model(load, model, monkeypatch):
    have(monkeypatch, 80, 80)
    model(weights=40 * GIB)
    suite = load(COMMAND + "dialect: trtllm\nfixed: {memory_fraction: 0.9}\nparameters: {parallelism: [tp1, tp2]}\n")
    assert unusable_settings(suite) == ()
    lines = [CommandEngine().command(suite, each, ADDRESS).argv[2:] for each in suite.configurations()]
    assert lines == [
        ("--tp_size", "1", "--free_gpu_memory_fraction", "0.8"),
        ("--tp_size", "2", "--free_gpu_memory_fraction", "0.867"),
    ]
    suite = load(COMMAND + "dialect: sglang\nfixed: {memory_fraction: 0.9}\n")
    assert told(suite, {}, SGLANG) == {"mem-fraction-static": 0.736}
    assert told(suite, {"mem_fraction_static": 0.5}, SGLANG) == {"mem-fraction-static": 0.5}


def test_a_share_that_cannot_be_converted_is_one_clear_error(load, model, monkeypatch):
    have(monkeypatch)
    suite = load(COMMAND + "dialect: sglang\nfixed:\n  memory_fraction: 0.9\n")
    (error,) = unusable_settings(suite)
    assert str(error).endswith(
        "any.yaml:8: fixed.memory_fraction: sglang counts shares of memory in another way, and the memory of the GPUs "
        "is not known here; write mem-fraction-static, the engine's own share, instead"
    )
    have(monkeypatch, 80)
    assert unusable_settings(suite) == ()
    without_files = load(COMMAND + "dialect: trtllm\nfixed: {memory_fraction: 0.9}\n")
    problem = unknown_memory(without_files, TRTLLM)
    assert "and the size of the weights is not known here; write free_gpu_memory_fraction" in problem


def test_a_share_that_does_not_hold_the_weights_is_refused_before_anything_starts(load, model, monkeypatch):
    have(monkeypatch, *[80] * 4)
    model(weights=140 * GIB)
    suite = load(COMMAND + "dialect: trtllm\nfixed: {memory_fraction: 0.8}\nparameters: {parallelism: [tp1, tp4]}\n")
    assert unusable_settings(suite) == ()
    small, large = (CommandEngine().refuses(suite, each) for each in suite.configurations())
    assert str(small).startswith("bad argument: memory_fraction: 0.8 of 80 GiB does not hold 140.0 GiB of weights")
    assert large is None


def test_vllm_and_tgi_count_shares_as_suites_do():
    assert VLLM.renamed["memory-fraction"] == "gpu-memory-utilization"
    assert DIALECTS["tgi"].renamed["memory-fraction"] == "cuda-memory-fraction"


@pytest.mark.parametrize(
    ("dialect", "settings", "config", "problem"),
    [
        (
            "sglang",
            {"parallelism": "tp3"},
            {"num_attention_heads": 32},
            "32 attention heads cannot be shared by tp-size 3",
        ),
        ("trtllm", {"parallelism": "tp64"}, {"num_attention_heads": 32}, "cannot be shared by tp-size 64"),
        ("tgi", {"parallelism": "tp3"}, {"num_attention_heads": 32}, "cannot be shared by num-shard 3"),
        ("sglang", {"parallelism": "tp4"}, {"num_attention_heads": 32}, ""),
        ("llamacpp", {"parallelism": "tp3"}, {"num_attention_heads": 32}, ""),
        (
            "sglang",
            {"quantization": "fp8"},
            {"quantization_config": {"quant_method": "awq"}},
            "weights that are stored as awq",
        ),
        (
            "vllm",
            {"quantization": "fp8-kv-fp8"},
            {"quantization_config": {"quant_method": "gptq"}},
            "stored as gptq cannot be",
        ),
        ("tgi", {"quantization": "fp8"}, {"quantization_config": {"quant_method": "modelopt"}}, "stored as modelopt"),
        ("vllm", {"quantization": "kv-fp8"}, {"quantization_config": {"quant_method": "awq"}}, ""),
        ("vllm", {"quantization": "fp8"}, {"quantization_config": {"quant_method": "fp8"}}, ""),
        ("vllm", {"quantization": "fp8"}, {}, ""),
    ],
)
def test_what_contradicts_the_model_is_refused_before_anything_starts(
    load, model, monkeypatch, dialect, settings, config, problem
):
    have(monkeypatch, *[80] * 64)
    model(**config)
    refused = CommandEngine().refuses(load(COMMAND + f"dialect: {dialect}\n"), settings)
    assert (refused is None) is (not problem)
    assert problem in str(refused)


@pytest.mark.parametrize(
    ("settings", "gpus"),
    [
        ({"parallelism": "tp4"}, 4),
        ({"parallelism": "tp2-pp2-dp2"}, 8),
        ({"parallelism": "tp8-adp4-dcp2-ep"}, 8),
        ({"parallelism": "tp2-cp2"}, 4),
        ({"parallelism": "tp4", "tensor_parallel_size": 2}, 2),
        ({"parallelism": "tp4", "num-shard": 2}, 2),
        ({"parallelism": None}, 1),
    ],
)
def test_gpus_are_those_of_the_division(settings, gpus):
    """B17 of the earlier autotuner: what admits to GPUs saw none of it."""
    assert is_parallel(settings)
    assert parallel_gpus(merged(settings)) == gpus


def test_all_that_wants_gpus_sees_them(load, monkeypatch):
    have(monkeypatch, 80, 80)
    suite = load(COMMAND + "dialect: sglang\nparameters: {parallelism: [tp2, {tp: 2, pp: 2}]}\n")
    engine = CommandEngine()
    assert most_gpus(suite) == 4
    assert [engine.gpus(suite, each) for each in suite.configurations()] == [2, 4]
    refused = [str(engine.refuses(suite, each)) for each in suite.configurations()]
    assert refused == ["None", "bad argument: needs 4 GPUs, this machine has 2"]
    suite = load(SIM + "parameters: {parallelism: [tp2, tp4], max_sequences: [8, 16, 32]}\n")
    assert [SimEngine().gpus(suite, each) for each in suite.configurations()] == [2, 2, 2, 4, 4, 4]
    assert len(make_plan(suite, SimEngine(), nodeid="any").slots) == 6


def test_a_search_begins_at_each_division():
    space = Space((Choice("parallelism", ("tp4", None, "tp1", "tp2-pp4", "tp2")),))
    found = at_each_degree(space, {}, parallel=("parallelism",), default=lambda _: None, viable=lambda _: True)
    assert found == tuple({"parallelism": text} for text in ("tp2", "tp4", "tp2-pp4"))


def test_what_ran_out_of_memory_counts_by_flags():
    def no_less(asked, known):
        sides = (settings_of({}, each, VLLM) for each in (asked, known))
        return asks_no_less(*sides, knobs=SimEngine.memory_knobs, flags=server_flags())

    assert no_less({"max_sequences": 64}, {"max-num-seqs": 32})
    assert not no_less({"max_sequences": 16}, {"max-num-seqs": 32})
    assert no_less({"parallelism": "tp2", "max_sequences": 64}, {"tensor-parallel-size": 2, "max_sequences": 64})
    assert not no_less({"parallelism": "tp2"}, {"parallelism": "tp4"})
    assert settings_of({}, {"parallelism": "tp2-adp2"}, VLLM) == {"parallelism": "tp2-adp2"}


def test_a_configuration_of_another_version_that_means_nothing_is_an_error_of_the_suite(load):
    with pytest.raises(SuiteError, match="parallelism: 'tp2x' is none"):
        SimEngine().command(load(SIM), {"parallelism": "tp2x"}, ADDRESS)


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ("parameters: {parallelism: [tp2, tp2-pp2]}", "parameters.parallelism: 'tp2-pp2' is nothing for sim"),
        ("parameters: {parallelism: [tp2-dp2]}", "it has no flag 'data-parallel-size'"),
        ("fixed: {quantization: fp8}", "fixed.quantization: 'fp8' is nothing for sim"),
        ("fixed: {kv_cache_type: bf16}", "'bfloat16' is not one of auto, fp8"),
        ("fixed: {quantization: awq}", "has no flag 'quantization'"),
        ("constraints: [\"quantization == 'fp8'\"]", "constraints[0]: sim"),
    ],
)
def test_what_the_installed_engine_has_no_flag_for_is_told(load, block, problem):
    suite = load(SIM + block + "\n")
    assert unusable_settings(suite) == ()
    (error,) = unknown_flags(suite, SimEngine().inspect(suite))
    assert problem in str(error)


def test_what_the_installed_engine_has_is_accepted(load):
    text = "parameters: {parallelism: [tp2, null], quantization: [kv-cache-fp8, null], eager: [true, false]}\n"
    text += "constraints: [\"parallelism == 'tp2' => eager\"]\nfixed: {memory_fraction: 0.9, graph_sizes: null}\n"
    suite = load(SIM + text)
    assert unusable_settings(suite) == ()
    assert unknown_flags(suite, SimEngine().inspect(suite)) == ()


def test_a_placeholder_gets_the_setting_as_it_stands_and_flags_the_rest(load):
    text = COMMAND.replace("'{flags}'", "-np, '{max_sequences}', '{flags}'")
    suite = load(text + "dialect: llamacpp\nfixed: {max_sequences: 4, max_batched_tokens: 512}\n")
    assert CommandEngine().command(suite, {}, ADDRESS).argv == ("serve", "8123", "-np", "4", "--batch-size", "512")


def test_layouts_are_of_what_is_told(load):
    suite = load("name: any\nengine: vllm\nmodel: org/model\nfixed: {quantization: fp8-kv-fp8, memory_fraction: 0.8}\n")
    layout = layout_of(told(suite, {"parallelism": "tp4-dp2-ep", "max_sequences": 8}, VLLM), {}, gpus=None)
    assert (layout.gpus, layout.tp, layout.dp, layout.expert_ep) == (8, 4, 2, 8)
    assert (layout.weight_bytes, layout.kv_bytes, layout.memory_share, layout.max_sequences) == (1.0, 1.0, 0.8, 16)


def test_a_prior_is_expressed_by_divisions(load):
    text = "name: any\nengine: vllm\nmodel: org/model\nsearch: {strategy: bayes}\n"
    suite = load(text + "parameters: {parallelism: [{tp: 2}, tp2-pp2], max_sequences: [8, 64]}\n")
    rows = [
        {"tp": 2, "pp": 1, "dp": 1, "bs": 40},
        {"tp": 2, "pp": 2, "dp": 1, "bs": 4},
        {"tp": 8, "pp": 1, "dp": 1, "bs": 4},
    ]
    assert expressed(rows, suite) == (
        {"parallelism": "tp2", "max_sequences": 64},
        {"parallelism": "tp2-pp2", "max_sequences": 8},
    )
