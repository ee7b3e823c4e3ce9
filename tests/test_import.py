"""`python -m pytest_autotune import`: task files of the earlier autotuner as suites of the same meaning."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_autotune.__main__ import main
from pytest_autotune.earlier.task import import_task
from pytest_autotune.errors import SuiteError
from pytest_autotune.suite_file import load_suite
from pytest_autotune.yaml_source import read_yaml

TASKS = Path(__file__).parent / "data" / "tasks"
EXPECTED = TASKS / "expected"  # written with the command itself, and read by people
TYPED = ("--engine", "sglang")  # its base_runtime names none

TASK = {
    "task_name": "t",
    "model": {"id_or_path": "org/small"},
    "base_runtime": "vllm",
    "deployment_mode": "local",
    "parameters": {"max-num-seqs": [64, 128]},
    "optimization": {"strategy": "grid_search"},
    "benchmark": {"traffic_scenarios": ["D(100,100)"], "num_concurrency": [1, 4]},
}


def tasks():
    return sorted(path for path in TASKS.iterdir() if path.is_file())


def written(path, into, *options):
    assert main(["import", str(path), "--into", str(into), *options]) == 0
    return sorted(into.iterdir())


@pytest.fixture
def task(tmp_path):
    """A function that writes a task with other keys, and imports it."""

    def importing(*, engine=None, **keys):
        path = tmp_path / "task.json"
        path.write_text(json.dumps({**TASK, **keys}, indent=2))
        return import_task(path, engine=engine)

    return importing


@pytest.mark.parametrize("path", tasks(), ids=lambda path: path.stem)
def test_every_shape_comes_to_the_suites_that_were_looked_at(path, tmp_path, capsys):
    options = TYPED if path.stem == "typed" else ()
    suites = written(path, tmp_path / "suites", *options)
    assert [suite.read_text() for suite in suites] == [(EXPECTED / suite.name).read_text() for suite in suites]
    assert capsys.readouterr().out.endswith("".join(f"written: {suite}\n" for suite in suites))


def test_every_suite_that_is_expected_belongs_to_a_task(tmp_path):
    for path in tasks():
        written(path, tmp_path / "suites", *(TYPED if path.stem == "typed" else ()))
    assert sorted(p.name for p in (tmp_path / "suites").iterdir()) == sorted(p.name for p in EXPECTED.iterdir())


def grids():
    return [path for path in tasks() if read_yaml(path).value["optimization"]["strategy"] == "grid_search"]


@pytest.mark.parametrize("path", grids(), ids=lambda path: path.stem)
def test_a_grid_tries_as_many_configurations_as_the_earlier_system_described(path, tmp_path):
    document = read_yaml(path).value
    lists = [spec["values"] if isinstance(spec, dict) else spec for spec in document["parameters"].values()]
    combined = math.prod(map(len, lists))
    for block in (document.get("quant_config", {}), document.get("parallel_config", {})):
        combined *= math.prod(len(value) for value in block.values() if isinstance(value, list))
    for suite in written(path, tmp_path / "suites", *(TYPED if path.stem == "typed" else ())):
        assert len(list(load_suite(suite).configurations())) == combined


def test_a_model_without_a_slash_is_where_one_says(tmp_path):
    (suite,) = written(TASKS / "named-model.json", tmp_path / "suites", "--models", "/data/")
    assert load_suite(suite).model == "/data/small"


def test_what_ran_counts(task):
    """B9 of the earlier system: its time was said to be in seconds, and was in minutes."""
    load = task(benchmark={**TASK["benchmark"], "max_time_per_iteration": 0.5}).suites["t"]["load"]
    assert load == {
        "scenario": "D(100,100)",
        "concurrency": [1, 4],
        "duration": "0.5m",
        "max_requests": 50,
        "api": "chat",
    }


def test_a_switch_that_is_false_is_left_out_as_it_was(task):
    parameters = {"enable-prefix-caching": [True, False], "enforce-eager": [False], "a": [1, True, 1], "b": []}
    suite = task(parameters=parameters).suites["t"]
    assert suite["parameters"] == {"enable-prefix-caching": [True, None], "a": [1, True]}
    assert "fixed" not in suite


def test_presets_may_be_overridden_beside_them_and_what_no_flag_says_is_left_out(task):
    imported = task(quant_config={"preset": "dynamic-fp8", "kvcache_dtype": ["auto", "fp8_e5m2"]})
    quantization = [{"weights": "fp8", "moe": "fp8"}, {"weights": "fp8", "kv_cache": "fp8_e5m2", "moe": "fp8"}]
    assert imported.suites["t"]["parameters"]["quantization"] == quantization
    (remark,) = (remark for remark in imported.remarks if remark.startswith("quant_config"))
    assert remark.startswith(
        "quant_config.attention_dtype: fp8 is left out, as it was: attention fp8: vllm has no flag"
    )


def test_what_one_engine_was_told_by_a_name_is_what_it_is_told_now(task):
    fields = {"gemm_dtype": "bfloat16", "kvcache_dtype": "fp8"}
    told = {engine: task(engine=engine, quant_config=fields).suites["t"]["fixed"] for engine in ("vllm", "sglang")}
    assert told["vllm"]["quantization"] == {"weights": "bf16", "kv_cache": "fp8"}
    assert told["sglang"]["quantization"] == {"weights": "bf16", "kv_cache": "fp8_e5m2"}


def test_a_division_that_the_engine_has_not_is_left_out(task):
    imported = task(engine="sglang", parallel_config={"tp": [2, 4], "cp": [1, 2], "moe_dense_tp": 1})
    assert imported.suites["t"]["parameters"]["parallelism"] == [{"tp": 2}, {"tp": 4}]
    said = [remark for remark in imported.remarks if remark.startswith("parallel_config")]
    assert said[0].startswith("parallel_config.moe_dense_tp: is left out")
    assert [remark.partition(" is left out: ")[0] for remark in said[1:]] == [
        "parallel_config: tp2-cp2",
        "parallel_config: tp4-cp2",
    ]


def test_what_has_no_equivalent_is_said(task):
    remarks = task(
        model={"id_or_path": "org/small", "namespace": "n"},
        optimization={"strategy": "random", "study_name": "s", "storage": "sqlite:///x"},
        benchmark={**TASK["benchmark"], "additional_params": {"temperature": 0.7, "ignore_eos": True}},
        slo={"latency": {"p95": {"threshold": 1}}},
        storrage={},
    ).remarks
    said = {remark.partition(": ")[0] for remark in remarks}
    assert said >= {
        "model.namespace",
        "optimization.study_name",
        "optimization.storage",
        "benchmark.additional_params.temperature",
        "slo.latency.p95",
        "storrage",
    }
    assert "benchmark.additional_params.ignore_eos" not in said
    assert "storrage: is no key that was read (did you mean 'storage'?): left out" in remarks


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (
            {"base_runtime": "small-rt"},
            "base_runtime: 'small-rt' names no engine; say --engine sglang or --engine vllm",
        ),
        ({"task_name": "!!"}, "task_name: '!!' has no letter or digit"),
        ({"model": {}}, "model: id_or_path is null"),
        ({"model": "small"}, "model: 'small' is not a mapping"),
        ({"deployment_mode": "k8s"}, "deployment_mode: 'k8s' is not known; there are docker, local, ome"),
        ({"parameters": {"tp": 1}}, "parameters.tp: 1 is neither a list nor a mapping with a type"),
        ({"parameters": {"tp": {"type": "choice"}}}, "parameters.tp: null is not a list of values"),
        ({"parameters": {"tp": {"type": "int"}}}, "parameters.tp: 'int' is no type"),
        (
            {"parameters": {"x": {"type": "integer", "low": 1, "high": 2}}},
            "parameters.x: a grid has no integer parameters",
        ),
        ({"quant_config": {"preset": "fp8"}}, "quant_config.preset: 'fp8' is no preset"),
        ({"quant_config": {"gem_dtype": "fp8"}}, "quant_config.gem_dtype: is not known (did you mean 'gemm_dtype'?)"),
        ({"parallel_config": {"presets": ["single"]}}, "parallel_config.presets: 'single' is no preset"),
        ({"parallel_config": [1]}, "parallel_config: [1] is not a mapping"),
        ({"optimization": {"strategy": "grid"}}, ""),
        (
            {"optimization": {"strategy": "gird_search"}},
            "optimization.strategy: 'gird_search' is not known (did you mean 'grid_search'?)",
        ),
        ({"optimization": {"objective": "best"}}, "optimization.objective: 'best' is not known"),
        (
            {"benchmark": {"task": "image-to-text"}},
            "benchmark.task: 'image-to-text' is not known (did you mean 'text-to-text'?); there are",
        ),
        ({"benchmark": {"traffic_scenarios": []}}, "benchmark.traffic_scenarios: [] is not a list of scenarios"),
        (
            {"benchmark": {"max_time_per_iteration": "10"}},
            "benchmark.max_time_per_iteration: '10' is no number of minutes",
        ),
        ({"slo": {"ttft": 1}}, "slo.ttft: 1 is not a mapping with a threshold"),
        ({"slo": {"ttft": {"threshold": 0}}}, "slo.ttft.threshold: 0 is no number of seconds above 0"),
        ({"slo": {"ttft": {"threshold": 1, "wieght": 2}}}, "slo.ttft.wieght: is not known (did you mean 'weight'?)"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(task, keys, problem):
    if not problem:
        assert task(**keys).suites
        return
    with pytest.raises(SuiteError) as caught:
        task(**keys)
    where, _, text = str(caught.value).partition(": ")
    assert text.startswith(problem)
    lines = caught.value.path.read_text().splitlines()
    last = problem.partition(": ")[0].rpartition(".")[2]
    assert f'"{last}"' in lines[int(where.rpartition(":")[2]) - 1]


def test_a_suite_that_would_be_refused_is_not_written(tmp_path, capsys):
    path = tmp_path / "task.json"
    path.write_text(json.dumps({**TASK, "benchmark": {"traffic_scenarios": ["I(1,2)"]}}))
    with pytest.raises(SystemExit) as ended:
        main(["import", str(path), "--into", str(tmp_path / "suites")])
    assert ended.value.code == 4
    assert "task.json: comes to a suite that is refused: load.scenario: " in capsys.readouterr().err
    assert not (tmp_path / "suites").exists()


def test_what_is_there_is_replaced_only_by_force(tmp_path, capsys):
    into = tmp_path / "suites"
    (suite,) = written(TASKS / "grid.json", into)
    suite.write_text("mine")
    with pytest.raises(SystemExit):
        main(["import", str(TASKS / "grid.json"), "--into", str(into)])
    assert f"{suite} is there; --force replaces it" in capsys.readouterr().err
    assert suite.read_text() == "mine"
    written(TASKS / "grid.json", into, "--force")
    assert load_suite(suite).name == "grid"


def test_a_file_that_is_none_is_one_line(tmp_path, capsys):
    for content, problem in (("[1]", "[1] is not a task"), ("", "the file is empty")):
        path = tmp_path / "task.json"
        path.write_text(content)
        with pytest.raises(SystemExit):
            main(["import", str(path)])
        assert problem in capsys.readouterr().err


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.sampled_from(["", "x", "fp8", "docker", "grid_search"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["p90", "type", "a"]), inner, max_size=2)
    ),
    max_leaves=4,
)
PLACES = [
    *((key,) for key in ("task_name", "model", "base_runtime", "runtime_image_tag", "deployment_mode", "parameters")),
    *((key,) for key in ("quant_config", "parallel_config", "optimization", "benchmark", "slo", "storage")),
    *(("quant_config", key) for key in ("gemm_dtype", "moe_dtype", "preset", "presets")),
    *(("parallel_config", key) for key in ("tp", "dp", "enable_expert_parallel", "presets")),
    *(("optimization", key) for key in ("strategy", "objective", "max_iterations", "timeout_per_iteration", "seed")),
    *(("benchmark", key) for key in ("task", "traffic_scenarios", "num_concurrency", "max_time_per_iteration")),
    *(("benchmark", key) for key in ("dataset_url", "additional_params", "max_requests_per_iteration")),
    *(("slo", key) for key in ("latency", "ttft", "steepness")),
    *(("model", "id_or_path"), ("parameters", "x"), ("storage", "mount_path")),
]


@pytest.mark.parametrize("value", [True, 3, "x", ["p90"]])
def test_latencies_that_are_no_mapping_are_refused(task, value):
    with pytest.raises(SuiteError, match=r"slo\.latency: .* is not a mapping"):
        task(slo={"latency": value})


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PLACES), VALUES)
def test_values_of_any_shape_are_imported_or_refused_in_one_line(task, place, value):
    key, *inside = place
    said = ""
    try:
        task(**{key: {**TASK.get(key, {}), inside[0]: value} if inside else value})
    except SuiteError as error:
        said = str(error)
    assert "\n" not in said
