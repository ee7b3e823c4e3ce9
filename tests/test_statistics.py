"""Percentiles, window arithmetic and the metrics of a batch."""

from __future__ import annotations

import math
import random
import subprocess
import sys
import time
from array import array
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.samples import Sample
from pytest_autotune.statistics import measured, percentile, summarise

values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60).map(sorted)
quantile = st.floats(0, 100)


def request(sent, first, end, *, tokens=11, prompt=100, gaps=None, error=None):
    """A request whose tokens come evenly, unless its gaps are given."""
    if gaps is None:
        gaps = () if first is None or tokens < 2 else ((end - first) / (tokens - 1),) * (tokens - 1)
    return Sample(sent, first, end, prompt, tokens, tuple(gaps), error)


def metrics(samples, window=10.0, *, gpus=1, limits=None, also=(), delivered=None):
    return summarise(samples, window, gpus=gpus, request_limits=limits or {}, also=also, delivered=delivered)


@settings(deadline=None)
@given(values, quantile)
def test_percentile_equals_that_of_numpy(ordered, q):
    assert percentile(ordered, q) == pytest.approx(np.percentile(ordered, q), rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(values, quantile, quantile)
def test_percentile_rises_with_q_and_stays_inside_the_values(ordered, one, other):
    low, high = sorted((one, other))
    assert ordered[0] <= percentile(ordered, low) <= percentile(ordered, high) <= ordered[-1]


def test_percentile_interpolates_between_neighbours():
    assert percentile([1.0, 2.0, 3.0, 4.0], 50) == 2.5
    assert percentile([1.0, 2.0, 3.0, 4.0], 90) == pytest.approx(3.7)
    assert percentile([7.0], 99.9) == 7.0


def test_latencies_are_those_of_successful_requests_sent_inside_the_window():
    batch = [
        request(-1.0, -0.5, 0.5),  # sent during warm-up
        request(1.0, 1.2, 2.2),
        request(2.0, 2.4, 12.4),  # ended after the window, but was waited for
        request(3.0, 3.1, 3.2, error="cut"),
        request(10.0, 10.9, 11.9),  # sent after it
    ]
    result = metrics(batch)
    assert (result["requests"], result["failed"]) == (3, 1)
    assert result["error_rate"] == pytest.approx(1 / 3)
    assert result["ttft.mean"] == pytest.approx(0.3)
    assert (result["ttft.min"], result["ttft.max"]) == (pytest.approx(0.2), pytest.approx(0.4))
    assert result["ttft.std"] == pytest.approx(math.sqrt(0.02))
    assert result["e2e.p50"] == pytest.approx((1.2 + 10.4) / 2)
    assert result["tpot.max"] == pytest.approx(1.0)
    assert result["itl.p50"] == pytest.approx((0.1 + 1.0) / 2)


def test_a_request_in_flight_throughout_the_window_counts():
    hung = request(-1.0, None, 20.0, tokens=0, error="timeout")
    good = request(1.0, 1.1, 2.1)
    assert measured([hung, good], 10.0) == [hung, good]
    assert metrics([hung, good])["error_rate"] == 0.5


def test_tokens_count_where_they_arrive():
    # Ten gaps of one second: arrivals at -5, -4 ... 5; six of eleven lie in [0, 10).
    early = request(-6.0, -5.0, 5.0, tokens=22, gaps=(1.0,) * 10)
    late = request(8.0, 8.5, 18.5, tokens=11)  # arrivals at 8.5 and 9.5, of eleven
    result = metrics([early, late])
    assert result["output_throughput"] == pytest.approx((22 * 6 / 11 + 2) / 10)
    assert result["input_throughput"] == pytest.approx(100 / 10)  # only the second was prefilled inside
    assert result["total_throughput"] == pytest.approx(result["output_throughput"] + result["input_throughput"])
    assert result["request_throughput"] == pytest.approx(1 / 10)  # only the first ended inside


def test_tokens_of_a_sample_without_gaps_count_evenly():
    early, inside = request(-6.0, -5.0, 5.0, tokens=20, gaps=()), request(1.0, 2.0, 3.0, tokens=5, gaps=())
    assert metrics([early, inside])["output_throughput"] == pytest.approx((10 + 5) / 10)


def test_tokens_of_failed_requests_are_not_throughput():
    result = metrics([request(1.0, 1.1, 2.0, error="cut")])
    assert result["output_throughput"] == 0.0
    assert result["error_rate"] == 1.0
    assert "ttft.mean" not in result


def closed_loop(streams, *, ttft, gap, tokens, until):
    """The requests of a steady closed loop, its streams spread evenly."""
    e2e = ttft + gap * (tokens - 1)
    samples = []
    for stream in range(streams):
        sent = -5 * e2e + e2e * stream / streams
        while sent < until:
            samples.append(request(sent, sent + ttft, sent + e2e, tokens=tokens, gaps=(gap,) * (tokens - 1)))
            sent += e2e
    return [sample for sample in samples if sample.end_s >= 0]


@pytest.mark.parametrize("window", [0.37, 1.0, 2.9, 30.0])
def test_throughput_of_a_short_window_is_as_unbiased_as_that_of_a_long_one(window):
    samples = closed_loop(20, ttft=0.5, gap=0.01, tokens=64, until=window)
    ideal = 20 * 64 / (0.5 + 0.63)
    assert metrics(samples, window)["output_throughput"] == pytest.approx(ideal, rel=0.03)


def test_mean_latency_is_unbiased_when_requests_are_not_short_against_the_window():
    # Half of the streams serve requests of 1 s, half of 4 s; by requests sent, one in five is long.
    short = closed_loop(10, ttft=0.5, gap=0.5, tokens=2, until=8.0)
    long = closed_loop(10, ttft=2.0, gap=2.0, tokens=2, until=8.0)
    assert metrics(short + long, 8.0)["e2e.mean"] == pytest.approx(0.8 * 1.0 + 0.2 * 4.0)


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        ({}, 4),
        ({"ttft": 0.25}, 3),
        ({"e2e": 1.25}, 3),
        ({"tpot": 0.15}, 3),
        ({"itl": 0.15}, 3),
        ({"ttft": 0.25, "itl": 0.15}, 2),
        ({"ttft": 0.01}, 0),
    ],
    ids=str,
)
def test_goodput_counts_requests_that_meet_every_limit(limits, good):
    batch = [
        request(1.0, 1.2, 2.2),
        request(2.0, 2.4, 3.0),
        request(3.0, 3.2, 4.0, tokens=1),
        request(4.0, 4.2, 6.2, gaps=(0.1,) * 5 + (0.3,) * 5),
        request(5.0, 5.0, 5.0, error="cut"),
    ]
    assert metrics(batch, limits=limits)["goodput"] == pytest.approx(good / 10)


@pytest.mark.parametrize(("gpus", "share"), [(0, 1), (1, 1), (4, 4)])
def test_rates_per_gpu_divide_by_the_gpus(gpus, share):
    result = metrics([request(1.0, 1.2, 2.2)], gpus=gpus)
    for rate in ("output_throughput", "total_throughput", "input_throughput", "request_throughput", "goodput"):
        assert result[f"{rate}_per_gpu"] == pytest.approx(result[rate] / share)


def test_a_metric_without_data_is_absent():
    assert metrics([]) == {"requests": 0, "failed": 0}
    one_token = metrics([request(1.0, 1.2, 1.2, tokens=1)])
    assert one_token["ttft.p99"] == pytest.approx(0.2)
    assert not [name for name in one_token if name.startswith(("tpot", "itl")) or name.endswith("std")]


def test_latencies_of_an_open_loop_count_from_the_intended_time_and_are_kept_from_the_actual_one_too():
    punctual, held_back = Sample(1.0, 1.2, 2.0, 8, 2, (0.8,), due_s=1.0), Sample(4.0, 4.2, 5.0, 8, 2, (0.8,), due_s=2.0)
    result = metrics([punctual, held_back])
    assert (result["ttft.max"], result["ttft_sent.max"]) == (pytest.approx(2.2), pytest.approx(0.2))
    assert (result["e2e.max"], result["e2e_sent.max"]) == (pytest.approx(3.0), pytest.approx(1.0))
    assert not [name for name in metrics([request(1.0, 1.2, 2.0)]) if "_sent" in name], "a closed loop has one reading"


@pytest.mark.parametrize(("due", "sent", "counts"), [(9.9, 12.0, True), (-0.1, 0.5, False), (0.0, 0.1, True)], ids=str)
def test_a_request_of_an_open_loop_belongs_to_the_window_in_which_it_was_due(due, sent, counts):
    assert bool(measured([Sample(sent, sent + 0.1, sent + 0.2, 8, 2, (0.1,), due_s=due)], 10.0)) is counts


def test_what_the_client_left_unread_is_told_apart_from_the_latency():
    batch = [Sample(1.0, 1.2, 2.0, 8, 2, (0.8,), client_s=0.001), Sample(2.0, 2.2, 3.0, 8, 2, (0.8,), client_s=0.003)]
    result = metrics(batch)
    assert (result["client.mean"], result["client.max"]) == (pytest.approx(0.002), pytest.approx(0.003))
    assert result["ttft.max"] == pytest.approx(0.2)
    assert "client.mean" not in metrics([request(1.0, 1.2, 2.0)]), "zero everywhere is not measured"


def test_delivered_is_what_the_load_generator_says():
    assert metrics([request(1.0, 1.2, 2.2)], delivered=0.97)["delivered"] == 0.97
    assert "delivered" not in metrics([request(1.0, 1.2, 2.2)])


def test_requests_in_flight_are_weighted_by_time_whatever_became_of_them():
    early = request(-5.0, -4.0, 4.0)  # 4 s inside
    inside, hung = request(2.0, 2.5, 6.0), request(3.0, None, 30.0, tokens=0, error="timeout")  # 4 s and 7 s
    result = metrics([early, inside, hung])
    assert result["in_flight.mean"] == pytest.approx((4 + 4 + 7) / 10)
    assert result["in_flight.max"] == 3


def test_further_percentiles_are_added_when_asked_for():
    batch = [request(float(second), second + 0.1 * second, second + 2.0) for second in range(5)]
    result = metrics(batch, also=("ttft.p97", "e2e.p90", "goodput"))
    assert result["ttft.p97"] == pytest.approx(np.percentile([0.0, 0.1, 0.2, 0.3, 0.4], 97))
    assert "e2e.p97" not in result


samples_strategy = st.lists(
    st.builds(
        lambda sent, wait, gaps, error: request(
            sent, sent + wait, sent + wait + sum(gaps), tokens=len(gaps) + 1, gaps=gaps, error=error
        ),
        st.floats(-20, 20),
        st.floats(0, 30),
        st.lists(st.floats(0, 5), max_size=8),
        st.sampled_from([None, None, "timeout"]),
    ),
    max_size=20,
)


@settings(deadline=None)
@given(samples_strategy, st.floats(0.1, 15))
def test_metrics_are_finite_and_consistent(samples, window):
    result = metrics(samples, window)
    assert all(math.isfinite(value) for value in result.values())
    assert 0 <= result["failed"] <= result["requests"] <= len(samples)
    if result["requests"]:
        assert result["error_rate"] == result["failed"] / result["requests"]
        assert result["goodput"] <= result["request_throughput"]
        assert result["output_throughput"] * window <= sum(s.output_tokens for s in samples) + 1e-6
    for family in ("ttft", "tpot", "itl", "e2e"):
        if f"{family}.mean" in result:
            steps = [
                result[f"{family}.{name}"] for name in ("min", "p25", "p50", "p75", "p90", "p95", "p99", "p99.9", "max")
            ]
            assert steps == sorted(steps)
            assert steps[0] <= result[f"{family}.mean"] <= steps[-1]


def test_ten_thousand_requests_are_summarised_in_seconds_not_minutes():
    generator = random.Random(1)
    gaps = [tuple(generator.gauss(0.01, 0.001) for _ in range(127)) for _ in range(100)]
    batch = [request(n / 1000, n / 1000 + 0.05, n / 1000 + 1.3, tokens=128, gaps=gaps[n % 100]) for n in range(10_000)]
    began = time.process_time()
    assert metrics(batch)["requests"] == 10_000
    assert time.process_time() - began < 5  # about half a second on an idle machine


def test_gaps_in_an_array_give_the_same_metrics_as_in_a_tuple():
    tuples = [request(-0.5 + n / 10, n / 10, n / 10 + 1.5, gaps=(0.1, 0.2, 0.3 + n / 100, 0.5)) for n in range(150)]
    arrays = [replace(sample, gaps_s=array("d", sample.gaps_s)) for sample in tuples]
    limits = {"itl": 0.8}
    assert metrics(arrays, limits=limits) == metrics(tuples, limits=limits)


def test_ten_million_tokens_are_summarised_in_under_500_megabytes():
    script = """
import random, time
from array import array
from tests.memory import peak_mb
from pytest_autotune.intervals import confidence_intervals
from pytest_autotune.samples import Sample
from pytest_autotune.statistics import summarise

chance = random.Random(1)
some = [array("d", (chance.gauss(0.01, 0.001) for _ in range(1000))) for _ in range(50)]
samples = [Sample(n / 170, n / 170 + 0.2, n / 170 + 13, 64, 1001, some[n % 50][:]) for n in range(10_000)]
began = time.process_time()
metrics = summarise(samples, 60.0, gpus=1, request_limits={})
intervals = confidence_intervals(samples, 60.0, gpus=1)
low, high = intervals["itl.p99"]
assert low <= metrics["itl.p99"] <= high
print(peak_mb(), time.process_time() - began)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    megabytes, seconds = map(float, told.split())
    assert megabytes < 500
    assert seconds < 20  # about one and a half on an idle machine
