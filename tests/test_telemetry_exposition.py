"""Reading Prometheus pages, held against Prometheus' own client."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pytest_autotune.telemetry.exposition import read_page


@pytest.mark.parametrize(
    ("page", "values"),
    [
        pytest.param("a 1", {(): 1.0}, id="without labels"),
        pytest.param('a{x="1",b="2"} 3e2', {(("b", "2"), ("x", "1")): 300.0}, id="labels by name"),
        pytest.param('a{x="1",} 3', {(("x", "1"),): 3.0}, id="a comma behind the last label"),
        pytest.param('a { x = "1" }  3', {(("x", "1"),): 3.0}, id="spaces"),
        pytest.param("a 1 1700000000000", {(): 1.0}, id="with a time"),
        pytest.param('a{x="} 9"} 1', {(("x", "} 9"),): 1.0}, id="a brace in a label"),
        pytest.param(r'a{x="\"q\" \\ \n"} 1', {(("x", '"q" \\ \n'),): 1.0}, id="escapes"),
        pytest.param('a{x="1",le="+Inf"} 1', {(("le", "+Inf"), ("x", "1")): 1.0}, id="a bucket"),
        pytest.param("a 1\na 2", {(): 2.0}, id="twice: the last"),
        pytest.param("a 1\r", {(): 1.0}, id="lines of Windows"),
    ],
)
def test_lines_are_read(page, values):
    assert read_page(page, {"a"}) == {"a": values}


@pytest.mark.parametrize(
    "page",
    [
        "",
        "# HELP a text\n# TYPE a gauge",
        "b 1",
        "ab 1",
        "a_total 1",
        "a",
        "a one",
        "a NaN",
        "a +Inf",
        'a{x="1" 2',
        "a{x=1} 2",
        "<html>a 1</html>",
    ],
)
def test_what_is_no_finite_value_of_a_wanted_name_is_left_out(page):
    assert read_page(page, {"a"}) == {}


label = st.text(st.characters(codec="utf-8", exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), max_size=8)


@given(st.lists(st.tuples(label, label, st.floats(0, 1e6)), max_size=5))
def test_what_prometheus_client_writes_is_read_as_it_reads_it_itself(values):
    registry = CollectorRegistry()
    gauge = Gauge("e:gauge", "text", ["model", "engine"], registry=registry)
    counter = Counter("e:counter", "text", ["model", "engine"], registry=registry)
    histogram = Histogram("e:seconds", "text", ["model", "engine"], registry=registry, buckets=(0.1, 1, 10))
    for model, engine, value in values:
        gauge.labels(model, engine).set(value)
        counter.labels(model, engine).inc(value)
        histogram.labels(model, engine).observe(value)
    page = generate_latest(registry).decode()
    names = {"e:gauge", "e:counter_total", "e:seconds_bucket", "e:seconds_sum", "e:seconds_count"}
    expected = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            if sample.name in names and math.isfinite(sample.value):
                expected.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    assert read_page(page, names) == expected
