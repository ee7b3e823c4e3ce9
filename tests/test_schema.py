import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

import pytest_autotune
from pytest_autotune.notation import read_metric
from pytest_autotune.suite_file import load_suite
from pytest_autotune.suite_schema import schema_text, suite_schema
from pytest_autotune.yaml_source import read_yaml

ROOT = Path(pytest_autotune.__file__).parent
SUITES = sorted((ROOT.parent / "suites").glob("*.yaml"))
VALIDATOR = Draft202012Validator(suite_schema())


def test_shipped_schema_is_current():
    shipped = (ROOT / "suite.schema.json").read_text()
    assert shipped == schema_text(), "run: python -m pytest_autotune schema > pytest_autotune/suite.schema.json"


def test_schema_is_a_valid_schema():
    Draft202012Validator.check_schema(suite_schema())


def test_every_key_is_described():
    schema = suite_schema()
    undescribed = [
        f"{block}.{name}"
        for block, definition in (
            ("", schema),
            *((name, schema["$defs"][name]) for name in ("LoadBlock", "SearchBlock", "TimeoutsBlock")),
        )
        for name, field in definition["properties"].items()
        if "description" not in field
    ]
    assert undescribed == []


def test_every_metric_of_the_schema_can_be_read():
    for metric in set(suite_schema()["properties"]["slo"]["properties"]) - {
        "preset",
        "steepness",
        "confidence",
        "spread",
    }:
        read_metric(metric)


def test_default_durations_are_written_as_a_suite_would():
    assert suite_schema()["$defs"]["TimeoutsBlock"]["properties"]["start"]["default"] == "600s"


@pytest.mark.parametrize("file", [pytest.param(file, id=file.name) for file in SUITES])
def test_suites_of_the_project_are_valid(file):
    load_suite(file)
    VALIDATOR.validate(read_yaml(file).value)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({"paramters": {}}, id="unknown key"),
        pytest.param({"parameters": {"tp": 4}}, id="scalar parameter"),
        pytest.param({"parameters": {"tp": []}}, id="no values"),
        pytest.param({"parameters": {"tp": {"int": [1]}}}, id="half a range"),
        pytest.param({"parameters": {"tp": {"choice": [1], "when": True}}}, id="condition that is no text"),
        pytest.param({"forbidden": {"tp": 1}}, id="forbidden that is no list"),
        pytest.param({"forbidden": [{}]}, id="combination of nothing"),
        pytest.param({"load": {"duration": 30}}, id="duration without a unit"),
        pytest.param({"load": {"concurrency": [0]}}, id="no concurrency"),
        pytest.param({"slo": {"ttft": "500ms"}}, id="metric without a statistic"),
        pytest.param({"slo": {"ttft.p90": "50 parsecs"}}, id="not a duration"),
        pytest.param({"slo": {"ttft.p90": {"weight": 1}}}, id="limit without a side"),
        pytest.param({"slo": {"error_rate": 2}}, id="not a share"),
        pytest.param({"objective": "output_throughput"}, id="no direction"),
        pytest.param({"search": {"strategy": "tpee"}}, id="unknown strategy"),
        pytest.param({"name": "a/b"}, id="unsafe name"),
        pytest.param({"price": "2 USD"}, id="price that is text"),
        pytest.param({"price": {"currency": "USD"}}, id="currency without a price"),
        pytest.param({"tiers": {"chat": {"ttft.p99": 500}}}, id="limit of a tier without a unit"),
        pytest.param({"tiers": {"chat": {"confidence": "95%"}}}, id="confidence of a tier"),
        pytest.param({"slo": {"confidence": "95%", "spread": True}}, id="spread that is no share"),
        pytest.param({"tiers": {"slo": {}}}, id="tier called slo"),
        pytest.param({"parameters": "vllm-quick"}, id="preset without its prefix"),
        pytest.param({"parameters": {"preset": "vllm-quick", "merge": "first"}}, id="unknown way to merge"),
        pytest.param({"parameters": {"preset": [1]}}, id="preset that is no name"),
        pytest.param({"slo": {"preset": ["chat", "rag"]}}, id="limits of two presets"),
    ],
)
def test_schema_finds_mistakes_while_typing(broken):
    suite = json.loads(json.dumps({"name": "chat", "engine": "sim", "model": "llama"}))
    assert VALIDATOR.is_valid(suite)
    assert not VALIDATOR.is_valid({**suite, **broken})


@pytest.mark.parametrize(
    "blocks",
    [
        {"parameters": "preset:sim-quick", "slo": "preset:chat"},
        {"parameters": {"preset": "sim-quick"}, "slo": {"preset": "chat", "ttft.p99": "1s"}},
        {"parameters": {"preset": ["sim-quick", "own"], "merge": "last", "block-size": [16, 32]}},
        {"parameters": {"preset": {"choice": ["a", "b"]}, "merge": ["a", "b"]}},
    ],
)
def test_schema_allows_presets_and_settings_that_are_called_like_their_keys(blocks):
    assert VALIDATOR.is_valid({"name": "chat", "engine": "sim", "model": "llama", **blocks})
