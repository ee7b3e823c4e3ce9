from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_autotune.formatting import (
    amount,
    change,
    count,
    duration,
    in_unit,
    points,
    quantities,
    quantity,
    seconds,
    settings,
    title,
    unit,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (6.2, "6.2 s"),
        (5.0, "5.0 s"),
        (7.54, "7.54 s"),
        (0.394, "394 ms"),
        (0.0504, "50.4 ms"),
        (0.05, "50 ms"),
        (0.00025, "0.25 ms"),
        (0.9996, "1.0 s"),
        (0.0, "0 ms"),
        (10.0, "10.0 s"),
        (123.4, "123 s"),
    ],
)
def test_a_latency_has_three_digits_and_its_unit(value, text):
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (6.2, "6.2 s"),
        (99.4, "99.4 s"),
        (125.2, "2 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (3725, "1 h 02 min"),
        (90000, "25 h 00 min"),
    ],
)
def test_a_long_duration_is_told_in_minutes_and_hours(value, text):
    assert duration(value) == text


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.24, "+24 %"),
        (-0.2, "-20 %"),
        (0.035, "+3.5 %"),
        (0.05, "+5 %"),
        (0.0008, "+0.08 %"),
        (0.00001, "+<0.01 %"),
        (-0.00001, "-<0.01 %"),
        (0.0, "0 %"),
        (0.0996, "+10 %"),
        (12.5, "+1250 %"),
    ],
)
def test_a_change_has_a_sign_and_is_never_zero_by_rounding(fraction, text):
    assert change(fraction) == text


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("ttft.p90", 0.394, "394 ms"),
        ("e2e.p99", 6.2, "6.2 s"),
        ("output_throughput", 231.7, "231.70 tok/s"),
        ("output_throughput_per_gpu", 115.85, "115.85 tok/s/GPU"),
        ("request_throughput", 1.5, "1.50 req/s"),
        ("request_throughput", 0.0123, "0.0123 req/s"),
        ("goodput", 0.0, "0.00 req/s"),
        ("total_throughput", 123456.7, "123457 tok/s"),
        ("error_rate", 0.012, "1.2 %"),
        ("error_rate", 1.0, "100 %"),
        ("tokens_per_joule", 3.25, "3.25"),
    ],
)
def test_a_metric_is_written_with_its_unit(metric, value, text):
    assert quantity(metric, value) == text


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("ttft.p90", 0.394, "394 ms"),
        ("tpot.mean", 0.0123, "12.30 ms"),
        ("output_throughput", 231.7, "231.70 tok/s"),
        ("error_rate", 0.012, "1.2 %"),
        ("custom", 2.5, "2.5 "),
    ],
)
def test_a_bare_amount_goes_with_the_unit_of_its_column(metric, value, text):
    assert f"{amount(metric, value)} {unit(metric)}" == text


def test_a_metric_is_named_in_words_but_a_latency_keeps_its_spelling():
    assert title("output_throughput_per_gpu") == "output throughput per GPU"
    assert title("ttft.p90") == "ttft.p90"


def test_one_thing_is_singular_and_several_are_plural():
    assert [count(1, "batch"), count(4, "batch"), count(0, "trial")] == ["1 batch", "4 batches", "0 trials"]


def test_a_configuration_is_sorted_words_and_the_empty_one_is_the_defaults():
    assert (
        settings({"tp": 4, "chunked": True, "kv": "fp8", "spec": {"k": [1]}})
        == 'chunked=true kv=fp8 spec={"k":[1]} tp=4'
    )
    assert settings({}) == "engine defaults"


metrics = st.sampled_from(["ttft.p90", "error_rate", "output_throughput", "request_throughput", "custom"])
values = st.floats(min_value=0, max_value=1e9, allow_subnormal=False)


@given(metrics, values, values)
def test_two_different_values_never_look_the_same(metric, first, second):
    assume(first == second or not math.isclose(first, second, rel_tol=1e-12))
    texts = quantities(metric, first, second)
    assert (texts[0] == texts[1]) == (first == second)


@given(metrics, values)
def test_the_text_is_ascii_and_close_to_the_value(metric, value):
    text = quantity(metric, value)
    assert text.isascii()
    number, _, suffix = text.partition(" ")
    scale = {"ms": 1e-3, "%": 1e-2}.get(suffix, 1)
    assert float(number) * scale == pytest.approx(value, rel=0.006, abs=1e-300)


@pytest.mark.parametrize(
    ("metric", "value", "drawn"),
    [("ttft.p90", 0.25, 250.0), ("error_rate", 0.02, 2.0), ("output_throughput", 7.5, 7.5), ("requests", 3.0, 3.0)],
)
def test_values_are_in_the_unit_of_the_axis(metric, value, drawn):
    assert in_unit(metric, value) == drawn


@pytest.mark.parametrize(("difference", "text"), [(0.019, "+1.9 pp"), (-0.5, "-50 pp"), (0.0, "0 pp")])
def test_a_difference_of_shares_is_in_percentage_points(difference, text):
    assert points(difference) == text
