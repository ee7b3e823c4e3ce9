"""What a roofline expects of the configurations of a suite, and what a search begins with by it."""

import json
import logging
from types import SimpleNamespace

import pytest

from benchmarks.replay.landscape import COLUMNS, Landscape, Setting
from benchmarks.replay.world import ReplayEngine, layout_of
from pytest_autotune.beginning import first_of
from pytest_autotune.engines.roofline import Layout
from pytest_autotune.engines.sim.engine import SimEngine
from pytest_autotune.engines.vllm import VllmEngine
from pytest_autotune.expectation import MOST, candidates, expectations, likeliest
from pytest_autotune.hardware import Gpu
from pytest_autotune.space import canonical
from pytest_autotune.suite_file import load_suite
from tests.test_engines_transformer import LLAMA

SUITE = """\
name: chat
engine: vllm
model: ./model
parameters:
  tensor-parallel-size: [1, 2, 4, 8]
  max_num_seqs: [8, 256]
load: {prompt_tokens: 1000, output_tokens: 200, concurrency: [1, 64]}
slo: {tpot.p90: 200ms}
objective: maximize output_throughput_per_gpu
search: {strategy: tpe, prior: 2, earlier: 0}
"""

EMBEDDING = "load: {api: embeddings, prompt_tokens: 9}\nobjective: maximize request_throughput\n"


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A suite of Llama 3.1 70B for four H100, with changes of its text."""
    have(monkeypatch, *["NVIDIA H100 80GB HBM3"] * 4)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(LLAMA))

    def load(*changes):
        text = SUITE
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        path = tmp_path / "chat.yaml"
        path.write_text(text)
        return load_suite(path)

    return load


def have(monkeypatch, *names):
    gpus = tuple(Gpu(index, f"GPU-{index}", name, 80 * 2**30, "1") for index, name in enumerate(names))
    monkeypatch.setattr("pytest_autotune.hardware._all_gpus", lambda: gpus)


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """Engine vllm as if it was installed, without a look at what is."""
    engine = VllmEngine(cache_dir=tmp_path / "cache")
    installation = SimpleNamespace(version="0.32.0", device="cuda", flags={})
    monkeypatch.setattr(engine, "_installation", lambda _suite: installation)
    return engine


def told(suite, engine):
    """What is expected of each candidate that anything is expected of, with the candidate."""
    worth = expectations(suite, engine, candidates(suite, engine))
    return {key: (one, worth[key]) for one in candidates(suite, engine) if (key := canonical(one)) in worth}


def by_setting(found):
    return {tuple(configuration.values()): value for configuration, value in found.values()}


def test_every_configuration_of_a_small_space_has_its_worth(suite, engine):
    found = told(suite(), engine)
    worth = by_setting(found)
    assert set(worth) == {(tp, seqs) for tp in (1, 2, 4) for seqs in (8, 256)}  # there are four GPUs
    assert worth[1, 256] == 0  # of 141 GB of weights
    assert worth[4, 256] > worth[2, 256] > worth[4, 8] > 0
    assert all(key == canonical(configuration) for key, (configuration, _) in found.items())


def test_what_the_suite_excludes_is_left_out(suite, engine):
    excluded = ("slo:", "constraints: ['tensor-parallel-size == 4 => max_num_seqs < 100']\nslo:")
    assert set(by_setting(told(suite(excluded), engine))) == {(1, 8), (1, 256), (2, 8), (2, 256), (4, 8)}
    nothing = ("slo:", "constraints: [max_num_seqs > 1000]\nslo:")
    assert told(suite(nothing), engine) == {}


def test_of_a_large_space_only_what_changes_the_layout_is_gone_through(suite, engine):
    large = """\
  enable-expert-parallel: [true, false]
  max_num_seqs: {int: [1, 4096], log: true}
  max-num-batched-tokens: {int: [512, 16384]}
  gpu-memory-utilization: {float: [0.5, 0.95]}
  quantization: [null, fp8]
"""
    found = told(suite(("  max_num_seqs: [8, 256]\n", large)), engine)
    assert 1 < len(found) <= MOST
    names = {name for configuration, _ in found.values() for name in configuration}
    assert names == {
        "tensor-parallel-size",
        "enable-expert-parallel",
        "max_num_seqs",
        "gpu-memory-utilization",
        "quantization",
    }
    assert "{}" in found
    best, value = max(found.values(), key=lambda one: one[1])
    assert best["quantization"] == "fp8"
    assert value > found[canonical({"tensor-parallel-size": 4})][1] > 0


def test_a_parameter_with_too_many_values_is_left_to_the_engine(suite, engine):
    seqs = ("max_num_seqs: [8, 256]", f"max_num_seqs: {list(range(1, 2000))}")
    found = told(suite(seqs), engine)
    assert set(found) == {"{}", *(canonical({"tensor-parallel-size": tp}) for tp in (1, 2, 4))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("maximize output_throughput_per_gpu", "minimize error_rate"), "knows no error_rate"),
        (("concurrency: [1, 64]", "burst: [64]"), "no load of the kind burst"),
        (("concurrency: [1, 64]", "concurrency: [1], conversation: {turns: 2}"), "no load of the kind conversation"),
        ((SUITE[SUITE.index("load:") : SUITE.index("search:")], EMBEDDING), "no load of the kind embeddings"),
        (("model: ./model", "model: some/where-else"), "no config.json that is understood"),
        (("tensor-parallel-size: [1, 2, 4, 8]", "kv-cache-dtype: [nvfp4, turboquant_k8v4]"), "no layout of any"),
        (("engine: vllm", "engine: vllm\ndeploy: cluster"), "does not say what it serves"),
    ],
)
def test_where_nothing_is_expected_the_log_says_why(suite, engine, caplog, change, message):
    caplog.set_level(logging.INFO, logger="pytest_autotune")
    assert told(suite(change), engine) == {}
    assert message in caplog.text


@pytest.mark.parametrize(
    "names", [[], ["NVIDIA H100 PCIe"], ["NVIDIA H100 80GB HBM3", "NVIDIA H200"], ["NVIDIA GeForce RTX 4090"]]
)
def test_gpus_of_one_known_kind_are_needed(suite, engine, monkeypatch, caplog, names):
    caplog.set_level(logging.INFO, logger="pytest_autotune")
    have(monkeypatch, *names)
    assert told(suite(), engine) == {}
    assert f"no figures of {' and '.join(names) or 'no GPUs'}" in caplog.text


def test_layouts_are_those_of_the_suite_and_not_of_a_build_for_cpus(suite, engine, monkeypatch):
    given = suite(("load:", "fixed: {kv-cache-dtype: fp8}\nload:"))
    expected = Layout(gpus=2, tp=2, expert_tp=2, kv_bytes=1.0, max_sequences=8)
    configuration = {"tensor-parallel-size": 2, "max_num_seqs": 8}
    assert engine.layout(given, configuration) == expected
    monkeypatch.setattr(engine, "_installation", lambda _: SimpleNamespace(device="cpu", flags={}))
    assert engine.layout(given, configuration) is None
    absent = VllmEngine()
    assert absent.layout(suite(("model:", "engine_python: ./no-such-python\nmodel:")), configuration).tp == 2


def test_each_way_to_divide_a_model_is_proposed_once_and_none_that_is_known(suite, engine):
    small = suite(("./model", "./small"))
    model = small.path.parent / "small"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({**LLAMA, "num_hidden_layers": 16}))
    wide = {"max_num_seqs": 256}
    ways = likeliest(small, engine, ())
    assert sorted(way["tensor-parallel-size"] for way in ways) == [1, 2, 4]
    assert all(way["max_num_seqs"] == 256 for way in ways)
    known = likeliest(small, engine, ({}, {"tensor-parallel-size": 4}))
    assert known == ({"tensor-parallel-size": 2, **wide},)
    shared = suite(("max_num_seqs: [8, 256]", "enable-expert-parallel: [true, false]"))
    assert [way["tensor-parallel-size"] for way in likeliest(shared, engine, ())] == [4, 2]
    # The whole model does not fit into one GPU.
    assert [way["tensor-parallel-size"] for way in likeliest(suite(), engine, ())] == [4, 2]


@pytest.mark.parametrize(
    ("search", "answer", "prior"),
    [
        ("prior: 1", None, [{"tensor-parallel-size": 4, "max_num_seqs": 256}]),
        ("prior: 1", [], []),
        ("seed: 0", None, []),
    ],
    ids=["asked for", "a plugin's is none", "not asked for"],
)
def test_a_search_begins_with_what_is_expected_where_the_suite_says_prior(suite, engine, search, answer, prior):
    plan = SimpleNamespace(suite=suite(("prior: 2", search)), engine=engine, first=({},))
    found = first_of(plan, None, ask=lambda suite, configurations: answer, fresh=False)  # noqa: ARG005 - of the hook
    assert found == {"earlier": [], "prior": prior}


def test_an_engine_that_says_nothing_gives_none(suite):
    sim = suite(("engine: vllm", "engine: sim"), ("./model", "llama-3.1-8b"), ("max_num_seqs", "max-num-seqs"))
    assert told(sim, SimEngine()) == {}
    assert SimEngine().layout(sim, {}) is None


ENGINE = """
from pytest_autotune.engines.flags import merged
from pytest_autotune.engines.roofline import Served
from pytest_autotune.engines.sim.engine import SimEngine
from pytest_autotune.engines.sim.hardware import GPUS
from pytest_autotune.engines.transformer import Transformer
from pytest_autotune.engines.vllm_layout import layout_of

MODEL = Transformer(layers=4, hidden=256, heads=4, kv_heads=2, head=64, intermediate=1024, vocabulary=4096)

class Open(SimEngine):
    name = "open"

    def served(self, suite):
        return Served(MODEL, GPUS["H100"])

    def layout(self, suite, configuration):
        return layout_of(merged(suite.fixed, configuration), {}, gpus=None)

def pytest_autotune_engine(name):
    return Open() if name == "open" else None
"""


def test_an_engine_of_a_plugin_may_say_what_to_expect(project):
    project.pytester.makeconftest(ENGINE)
    project.suite("""\
name: quick
engine: open
model: tiny
fixed: {gpu: H100, time-scale: 0.05, max-model-len: 4096}
parameters: {tensor-parallel-size: [1, 2, 4], max-num-seqs: [2, 64]}
load: {prompt_tokens: 32, output_tokens: 8, concurrency: [8], duration: 300ms, warmup: 50ms}
objective: maximize output_throughput_per_gpu
search: {strategy: tpe, trials: 2, defaults: false, prior: 2}
""")
    result = project.run("suites", "--autotune")
    assert result.ret == 0, result.stdout.str()
    with project.store() as store:
        tried = {trial.slot: dict(trial.configuration) for trial in store.trials_of_run(store.runs()[0].id)}
    assert tried == {
        "trial-000": {"tensor-parallel-size": 1, "max-num-seqs": 64},
        "trial-001": {"tensor-parallel-size": 2, "max-num-seqs": 64},
    }


def setting(**columns):
    return Setting(tuple(columns.get(name, 1 if name.endswith("_size") else "") for name in COLUMNS), {})


@pytest.mark.parametrize(
    ("columns", "layout"),
    [
        ({"tp_size": 4}, Layout(gpus=4, tp=4)),
        ({"tp_size": 2, "moe_tp_size": 0, "moe_ep_size": 0}, Layout(gpus=2, tp=2)),
        ({"tp_size": 2, "pp_size": 2, "precision": "fp8"}, Layout(gpus=4, tp=2, pp=2, weight_bytes=1.0)),
        ({"attention_dp_size": 8, "moe_ep_size": 8}, Layout(gpus=8, dp=8, expert_ep=8)),
        ({"tp_size": 2, "moe_tp_size": 4, "precision": "fp4"}, Layout(gpus=4, tp=2, dp=2, expert_tp=4)),
    ],
)
def test_the_columns_of_a_landscape_are_a_layout(columns, layout):
    assert layout_of(setting(**columns)) == layout


def test_the_replayed_engine_serves_what_its_landscape_is_of(monkeypatch):
    key = SimpleNamespace(model_path="Qwen/Qwen3-32B", system="h200_sxm")
    one, two = setting(tp_size=1), setting(tp_size=2)
    monkeypatch.setattr("benchmarks.replay.world.landscape_of", lambda _: Landscape(key, (one, two)))
    engine = ReplayEngine()
    assert engine.served(None).gpu.name == "H200"
    assert engine.layout(None, {"tp_size": 2}) == Layout(gpus=2, tp=2)
    assert engine.layout(None, {"tp_size": 4}) is None
    key.model_path = "some/other"
    assert engine.served(None) is None
