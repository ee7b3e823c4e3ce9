"""Numbers for what plots them: github-action-benchmark, Bencher, OpenMetrics, each by its own rules."""

import json
from dataclasses import replace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from pytest_autotune.held import Verification
from pytest_autotune.reporting.formats import WRITERS, write_export
from pytest_autotune.reporting.trends import bencher, github_benchmark, openmetrics
from pytest_autotune.settings import FORMATS
from pytest_autotune.suite import Objective, Price
from tests.make_baselines import baseline
from tests.make_records import trial
from tests.make_reports import BEST, DEFAULTS, REFUSED, good, report, suite

SURE = replace(good(8, 231.7), intervals={"output_throughput": (225.0, 238.0), "ttft.p90": (0.3, None)})
ONE = report(trial(1, SURE))


def test_every_format_of_the_option_has_a_writer(tmp_path):
    assert tuple(WRITERS) == FORMATS
    for kind in FORMATS:
        write_export(kind, tmp_path / "new" / kind, [ONE])
        assert (tmp_path / "new" / kind).read_text() == WRITERS[kind]([ONE])


def test_rates_are_for_the_tool_in_which_bigger_is_better():
    assert json.loads(github_benchmark([ONE], bigger=True)) == [
        {
            "name": "chat c8 output throughput",
            "unit": "tokens/s",
            "value": 231.7,
            "range": "225 to 238",
            "extra": "vllm 0.11.0, run 20260102-030405",
        }
    ]


def test_latencies_and_errors_are_for_the_tool_in_which_smaller_is_better():
    entries = json.loads(github_benchmark([ONE], bigger=False))
    assert [(entry["name"], entry["unit"], entry["value"]) for entry in entries] == [
        ("chat c8 ttft.p90", "s", 0.394),
        ("chat c8 tpot.mean", "s", 0.0123),
    ]
    assert "range" not in entries[0]  # an interval without an end


def test_bencher_gets_each_load_level_with_its_measures_and_bounds():
    found = json.loads(bencher([report(DEFAULTS, BEST)]))
    assert list(found) == ["chat/c1", "chat/c8", "chat/c16"]  # of the best, and no other trial
    assert json.loads(bencher([ONE]))["chat/c8"]["output-throughput"] == {
        "value": 231.7,
        "lower_value": 225.0,
        "upper_value": 238.0,
    }


def families(*reports):
    return {family.name: family for family in text_string_to_metric_families(openmetrics(reports))}


def test_openmetrics_is_text_that_prometheus_reads_with_units_and_labels():
    found = families(report(DEFAULTS, BEST))
    throughput = found["autotune_output_throughput_tokens_per_second"]
    assert (throughput.type, throughput.unit) == ("gauge", "tokens_per_second")
    labels = {"engine": "vllm", "engine_version": "0.11.0", "model": "meta/Llama 3", "suite": "chat"}
    values = {sample.labels["level"]: sample.value for sample in throughput.samples}
    assert values == {"c1": 45.0, "c8": 231.7, "c16": 264.48}
    assert throughput.samples[0].labels == labels | {"level": "c1"}
    assert found["autotune_ttft_p90_seconds"].unit == "seconds"
    assert [sample.value for sample in found["autotune_gate"].samples] == [1]


def test_other_peoples_words_are_labels_like_any_other():
    odd = report(BEST, of=suite(model='a "b" \\ c\nd'))
    (gate,) = families(odd)["autotune_gate"].samples
    assert gate.labels["model"] == 'a "b" \\ c d'


def test_a_cost_has_the_currency_of_the_price():
    priced = suite(
        slo=(),
        price=Price(per_gpu_hour=2.0, currency="USD"),
        objective=Objective(direction="minimize", metric="cost_per_million_tokens"),
    )
    batch = replace(good(8, 200.0), metrics={"cost_per_million_tokens": 0.5})
    (entry,) = json.loads(github_benchmark([report(trial(1, batch), of=priced)], bigger=False))
    assert (entry["unit"], entry["value"]) == ("USD", 0.5)


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "markdown"])
def test_a_search_that_selected_nothing_has_no_numbers_but_a_gate(kind):
    text = WRITERS[kind]([report(REFUSED)])
    assert "c8" not in text
    assert ("autotune_gate" in text) == (kind == "openmetrics")


def test_a_verification_tells_what_it_measured_even_when_it_violates():
    measured = report(trial(1, good(8, 5.0, ttft=0.9)))
    verified = replace(measured, verification=Verification(baseline(), ()))
    assert json.loads(bencher([verified]))["chat/c8"]["output-throughput"]["value"] == 5.0
    assert json.loads(bencher([measured])) == {}
