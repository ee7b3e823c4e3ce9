"""docs/ lists what the code has: every key of a suite file with its default, metrics, tables, fields, causes."""

import json
import re

import pytest

from pytest_autotune import tables
from pytest_autotune.baseline import Baseline
from pytest_autotune.constraints import Constraint
from pytest_autotune.engines.metric_names import COUNTERS, GAUGES, HISTOGRAMS
from pytest_autotune.metrics import COSTS, COUNTS, IN_FLIGHT, IN_FLIGHT_STATISTICS, RATES, SHARES, STATISTICS, TIMES
from pytest_autotune.reporting.export import best_document
from pytest_autotune.slo import Limit
from pytest_autotune.suite_file import PLACEHOLDERS
from pytest_autotune.suite_schema import suite_schema
from tests.documents import ROOT, table
from tests.make_reports import BEST, DEFAULTS, report

SUITES = (ROOT / "docs" / "suites.md").read_text()
METRICS = (ROOT / "docs" / "metrics.md").read_text()
GATE = (ROOT / "docs" / "gate.md").read_text()
RESULTS = (ROOT / "docs" / "results.md").read_text()
SCHEMA = suite_schema()
BLOCKS = {
    "The suite": SCHEMA["properties"],
    "Containers": SCHEMA["$defs"]["DockerBlock"]["properties"],
    "Load": SCHEMA["$defs"]["LoadBlock"]["properties"],
    "Search": SCHEMA["$defs"]["SearchBlock"]["properties"],
    "Timeouts": SCHEMA["$defs"]["TimeoutsBlock"]["properties"],
    "Limits": SCHEMA["$defs"]["LatencyLimit"]["anyOf"][1]["properties"],
}


def written(default):
    return default if isinstance(default, str) and default else json.dumps(default)


@pytest.mark.parametrize("heading", BLOCKS)
def test_every_key_of_a_block_is_documented_with_its_default(heading):
    documented = table(SUITES, heading)
    assert documented.keys() == BLOCKS[heading].keys()
    for key, field in BLOCKS[heading].items():
        if "default" in field:
            assert documented[key][0].strip("`") == written(field["default"]), key
    if heading == "The suite":
        assert {key for key, cells in documented.items() if cells[0] == "required"} == set(SCHEMA["required"])


def test_every_key_of_the_gate_is_documented_with_its_default():
    documented = table(GATE, "What may get worse")
    keys = SCHEMA["properties"]["gate"]["properties"].keys() - {"throughput"}
    assert documented.keys() == {"a metric", *keys}
    assert documented["pairs"][0] == f"`{SCHEMA['properties']['gate']['properties']['pairs']['default']}`"


@pytest.mark.parametrize(("heading", "key"), [("GPUs", "gpus"), ("Cores", "cores")])
def test_every_key_of_what_is_leased_is_documented_with_its_default(heading, key):
    documented = table(SUITES, heading)
    keys = SCHEMA["properties"][key]["anyOf"][-1]["properties"]
    assert documented.keys() == keys.keys()
    for key, field in keys.items():
        if "default" in field:
            assert documented[key][0].strip("`") == written(field["default"]), key


def test_every_field_of_a_record_is_documented():
    documented = table(GATE, "The record")
    names = {name.strip(" `") for key in documented for name in key.split(",")}
    assert names == {field.alias or name for name, field in Baseline.model_fields.items()}


def test_every_key_inside_a_load_is_documented_with_its_default():
    documented = table(SUITES, "Inside a load")
    inside = {}
    for path, block in {
        "stages": "StageBlock",
        "replay": "ReplayBlock",
        "dataset": "DatasetBlock",
        "dataset.columns": "ColumnsBlock",
        "prefix": "PrefixBlock",
        "conversation": "ConversationBlock",
        "stop": "StopBlock",
    }.items():
        definition = SCHEMA["$defs"][block]
        for key, field in definition["properties"].items():
            inside[f"{path}.{key}"] = "required" if key in definition.get("required", ()) else field.get("default")
    assert documented.keys() == inside.keys()
    for key, default in inside.items():
        if default is not None:
            assert documented[key][0].strip("`") == (default if default == "required" else written(default)), key


def test_every_form_of_a_parameter_is_documented():
    forms = SCHEMA["properties"]["parameters"]["additionalProperties"]["anyOf"]
    keys = {key for form in forms for key in form.get("properties", {})}
    section = SUITES.split("## Parameters")[1].split("\n##")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == keys


FAMILIES = {*TIMES, IN_FLIGHT, *RATES, *SHARES, *COUNTS}


def test_every_metric_is_documented():
    assert table(METRICS, "The metrics").keys() == FAMILIES
    section = METRICS.split("## The metrics")[1].split("\n## ")[0]
    assert all(f"`{name}`" in section for name in STATISTICS if not name.startswith("p"))
    assert all(f"`{IN_FLIGHT}.{name}`" in section for name in IN_FLIGHT_STATISTICS)
    assert all(f"`{name}`" in section for name in COSTS)
    assert {name: cells[0].split("`")[1] for name, cells in table(SUITES, "Price").items()} == COSTS


def test_every_metric_is_compared_with_that_of_other_tools():
    compared = table(METRICS, "Differences to other tools")
    assert compared.keys() == FAMILIES
    assert all(len(tools) == 3 and all(tools) for tools in compared.values())


def test_every_figure_of_a_server_is_documented():
    documented = table(METRICS, "What the server says").keys()
    assert {name for name in documented if name.startswith("engine.")} == {
        *(f"engine.{kind}" for kind in (*GAUGES, *COUNTERS, *HISTOGRAMS)),
        *(f"engine.{name}" for name in ("prefix_hit_rate", "from_s", "to_s", "scrapes", "failed_scrapes")),
    }


def test_every_placeholder_of_a_command_is_documented():
    assert table(SUITES, "Commands").keys() == {*(f"{{{name}}}" for name in PLACEHOLDERS), "{<setting>}"}


def test_the_documented_grammar_of_constraints_is_read():
    section = SUITES.split("## Constraints")[1].split("\n## ")[0]
    values = {"a": 1, "b": 2, "max-num-seqs": 4}
    for text in ("a => b", "1 <= a < b", "a in [1, 2]", "a not in [1, 2]", "min(a, b)", "max(a, b)", "abs(a)"):
        assert text.removeprefix("a ") in section
    for text, holds in (
        ("a == 1 => b == 2", True),
        ("1 <= a < b", True),
        ("a in [1, 2]", True),
        ("a not in [1, 2]", False),
        ("min(a, b) + max(a, b) * 2 == 5 and not abs(a) != 1", True),
        ("unset >= max-num-seqs", True),
    ):
        assert Constraint(text).holds(values) is holds


def test_every_table_of_the_store_is_documented_with_its_columns():
    documented = table(RESULTS, "The store")
    assert documented.keys() == tables.METADATA.tables.keys()
    for name, stored in tables.METADATA.tables.items():
        assert re.findall(r"`(\w+)`", documented[name][-1]) == [column.name for column in stored.columns]


def test_every_field_of_the_export_is_documented():
    told = report(BEST, DEFAULTS, tiers={"chat": (Limit("ttft.p90", 0.2),)})
    document = best_document(told, told.selection.best)
    documented = table(RESULTS, "best.json")
    assert documented.keys() == document.keys()
    for field in ("suite", "engine", "measured", "run"):
        assert re.findall(r"`(\w+)`", documented[field][0]) == list(document[field])
    (tier,) = document["tiers"]
    assert re.findall(r"`(\w+)`", documented["tiers"][0]) == list(tier)
    section = RESULTS.split("## best.json")[1].split("\n## ")[0]
    about_tier = section.split("The best of a tier has ")[1].split(", each as")[0]
    assert re.findall(r"`(\w+)`", about_tier) == list(tier["best"])
    about_trial, about_batch = section.split("A trial has ")[1].split("A batch has ")
    assert set(re.findall(r"`(\w+)`", about_trial)) == document["best"].keys()
    assert set(re.findall(r"`(\w+)`", about_batch.split("\n\n")[0])) == document["best"]["batches"][0].keys()
