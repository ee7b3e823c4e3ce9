"""Confidence intervals: they hold the true value as often as they say, and say when there is none."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.intervals import (
    confidence_intervals,
    effective_size,
    mean_interval,
    percentile_interval,
    requests_to_certify,
    share_interval,
    time_intervals,
)
from pytest_autotune.samples import Sample
from pytest_autotune.statistics import summarise

REPETITIONS = 400
LEAST = 0.93  # of 400 repetitions at 95 %: two standard errors below


def exponential(chance, count):
    return chance.exponential(size=count)


def autoregressive(likeness):
    """Log-normal values whose logarithms follow each other with this correlation."""

    def series(chance, count):
        shocks = chance.normal(size=count) * math.sqrt(1 - likeness**2)
        values = np.empty(count)
        value = chance.normal()
        for number, shock in enumerate(shocks.tolist()):
            value = likeness * value + shock
            values[number] = value
        return np.exp(0.5 * values)

    return series


def exponential_truth(statistic):
    return 1.0 if statistic == "mean" else -math.log(1 - float(statistic[1:]) / 100)


def lognormal_truth(statistic):
    if statistic == "mean":
        return math.exp(0.125)
    return math.exp(0.5 * NormalDist().inv_cdf(float(statistic[1:]) / 100))


@pytest.mark.parametrize(
    ("series", "truth", "count"),
    [
        pytest.param(exponential, exponential_truth, 300, id="300 independent"),
        pytest.param(exponential, exponential_truth, 2000, id="2000 independent"),
        pytest.param(autoregressive(0.5), lognormal_truth, 2000, id="2000 with correlation 0.5"),
        pytest.param(autoregressive(0.8), lognormal_truth, 2000, id="2000 with correlation 0.8"),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(series, truth, count):
    chance = np.random.default_rng(20)
    held = dict.fromkeys(("mean", "p25", "p50", "p90", "p95", "p99"), 0)
    for _ in range(REPETITIONS):
        for statistic, (low, high) in time_intervals(series(chance, count), held).items():
            value = truth(statistic)
            held[statistic] += (low is None or low <= value) and (high is None or value <= high)
    assert {name: hits / REPETITIONS for name, hits in held.items() if hits < LEAST * REPETITIONS} == {}


def test_intervals_that_took_correlated_requests_for_independent_ones_would_not():
    chance, truth = np.random.default_rng(20), lognormal_truth("p50")
    naive = 0
    for _ in range(REPETITIONS):
        low, high = percentile_interval(np.sort(autoregressive(0.8)(chance, 2000)), 50)
        naive += low <= truth <= high
    assert naive < 0.7 * REPETITIONS


def test_standard_deviations_are_held_nearly_as_often():
    chance, held = np.random.default_rng(20), 0
    for _ in range(REPETITIONS):
        low, high = time_intervals(exponential(chance, 2000), ["std"])["std"]
        held += low <= 1.0 <= high
    assert held >= 0.9 * REPETITIONS


@pytest.mark.parametrize(
    ("share", "likeness"), [(0.01, 0.0), (0.2, 0.0), (0.2, 0.7)], ids=["1 %", "20 %", "20 % in bursts"]
)
def test_shares_are_held_as_often_as_they_say(share, likeness):
    chance, held = np.random.default_rng(21), 0
    for _ in range(REPETITIONS):
        fresh, stays, events = chance.random(2000) < share, chance.random(2000) < likeness, np.empty(2000, dtype=bool)
        for number in range(2000):  # a Markov chain with this share and correlation
            events[number] = events[number - 1] if number and stays[number] else fresh[number]
        low, high = share_interval(events)
        held += low <= share <= high
    assert held >= 0.92 * REPETITIONS


def test_299_clean_requests_certify_a_p99_and_298_do_not():
    # One-sided at 95 % is the upper side of a two-sided interval at 90 %.
    assert requests_to_certify(99) == 299
    assert percentile_interval(np.arange(299.0), 99, confidence=0.9)[1] == 298.0
    assert percentile_interval(np.arange(298.0), 99, confidence=0.9)[1] is None


@pytest.mark.parametrize(
    ("q", "confidence", "count"), [(50, 0.95, 5), (90, 0.95, 29), (95, 0.95, 59), (99, 0.99, 459), (99.9, 0.95, 2995)]
)
def test_requests_that_certify_a_percentile(q, confidence, count):
    assert requests_to_certify(q, confidence=confidence) == count


def test_a_percentile_without_enough_requests_has_no_upper_bound():
    batch = [request(n / 20, 0.1 + (n * 37 % 100) / 1000) for n in range(100)]
    intervals = confidence_intervals(batch, 10.0, gpus=1)
    low, high = intervals["ttft.p99"]
    assert low is not None
    assert high is None
    assert intervals["ttft.max"] == (pytest.approx(0.199), None)
    assert intervals["ttft.min"] == (None, pytest.approx(0.1))
    assert None not in intervals["ttft.p50"]


@pytest.mark.parametrize(("count", "q"), [(100, 90), (100, 50), (40, 10), (12, 50), (299, 99), (1000, 99.9)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_ranks_are_the_closest_that_binomial_sums_allow(count, q, confidence):
    def below(rank):  # P(B < rank), summed term by term
        return math.fsum(math.comb(count, k) * (q / 100) ** k * (1 - q / 100) ** (count - k) for k in range(rank))

    low, high = percentile_interval(np.arange(1.0, count + 1.0), q, confidence=confidence)
    rest = (1 - confidence) / 2
    assert below(int(low or 0)) <= rest < below(int(low or 0) + 1)
    upper = count + 1 if high is None else int(high)
    assert 1 - below(upper) <= rest < 1 - below(upper - 1)


@pytest.mark.parametrize(
    ("failed", "count", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998), table I.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
    ],
)
def test_wilson_intervals_are_those_of_newcombe(failed, count, low, high):
    # Spread evenly, so that the requests count as independent.
    events = np.diff(np.floor(np.arange(count + 1) * failed / count)) > 0
    assert share_interval(events) == (pytest.approx(low, abs=0.0001), pytest.approx(high, abs=0.0001))


def test_failures_in_a_burst_say_less_than_the_same_spread():
    spread, burst = np.zeros(1000, dtype=bool), np.zeros(1000, dtype=bool)
    spread[::10], burst[400:500] = True, True
    assert effective_size(spread) == 1000
    assert effective_size(burst) < 50
    assert share_interval(burst)[1] > 2 * share_interval(spread)[1]


def request(sent, ttft, *, gaps=(0.1,) * 4, error=None):
    return Sample(sent, sent + ttft, sent + ttft + sum(gaps), 100, len(gaps) + 1, gaps, error)


def steady_batch(count=1000, window=20.0):
    chance = np.random.default_rng(5)
    return [request(sent, chance.gamma(4, 0.05)) for sent in np.sort(chance.uniform(-1, window, count)).tolist()]


def test_every_metric_that_can_have_an_interval_has_one_around_it():
    batch = steady_batch()
    metrics = summarise(batch, 20.0, gpus=2, request_limits={"ttft": 0.2}, also=("ttft.p97",))
    intervals = confidence_intervals(batch, 20.0, gpus=2, request_limits={"ttft": 0.2}, also=("ttft.p97",))
    assert metrics.keys() - intervals.keys() == {"requests", "failed", "in_flight.max"}
    assert intervals.keys() <= metrics.keys()
    for name, (low, high) in intervals.items():
        assert low is None or low <= metrics[name] + 1e-9, name
        assert high is None or metrics[name] - 1e-9 <= high, name
    assert intervals["output_throughput"][1] == pytest.approx(2 * intervals["output_throughput_per_gpu"][1])
    low, high = intervals["output_throughput"]
    assert high - low < 0.2 * metrics["output_throughput"]


def test_throughput_is_held_as_often_as_it_says():
    chance, held = np.random.default_rng(22), 0
    for _ in range(REPETITIONS // 2):
        moments = np.cumsum(chance.exponential(0.05, size=600))
        batch = [Sample(moment - 0.1, moment, moment, 10, 1) for moment in moments.tolist()]
        low, high = confidence_intervals(batch, 20.0, gpus=1, only=["request_throughput"])["request_throughput"]
        held += low <= 20.0 <= high
    assert held >= 0.9 * REPETITIONS / 2


def test_a_few_metrics_can_be_asked_for_alone():
    batch = steady_batch()
    whole = confidence_intervals(batch, 20.0, gpus=1)
    for only in (["ttft.p90"], ["error_rate", "e2e.p99"], ["output_throughput"], ["in_flight.mean"], ["requests"]):
        assert confidence_intervals(batch, 20.0, gpus=1, only=only) == {n: whole[n] for n in only if n in whole}
    assert confidence_intervals(batch, 20.0, gpus=1, only=["ttft.p97"]).keys() == {"ttft.p97"}


def test_more_confidence_is_a_wider_interval():
    batch = steady_batch()
    narrow, wide = (confidence_intervals(batch, 20.0, gpus=1, confidence=share) for share in (0.8, 0.99))
    for name in ("ttft.mean", "ttft.p90", "output_throughput", "ttft.std", "error_rate"):
        assert wide[name][0] <= narrow[name][0] <= narrow[name][1] <= wide[name][1]
    assert wide["ttft.mean"] != narrow["ttft.mean"]


def test_nothing_and_one_request_have_no_bounds_that_the_data_does_not_give():
    assert confidence_intervals([], 10.0, gpus=1) == {}
    one = confidence_intervals([replace(request(1.0, 0.2), gaps_s=())], 10.0, gpus=1)
    assert one["ttft.mean"] == (None, None)
    assert one["ttft.p50"] == (None, None)
    assert "ttft.std" not in one
    assert one["error_rate"] == (0.0, pytest.approx(0.7935, abs=1e-4))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=80), st.sampled_from([0.0, 10.0, 50.0, 99.0, 100.0]))
def test_a_percentile_lies_in_its_interval(values, q):
    ordered = np.sort(np.array(values))
    low, high = percentile_interval(ordered, q, effective=effective_size(np.array(values) <= np.percentile(values, q)))
    value = float(np.percentile(ordered, q))
    assert low is None or low <= value + 1e-9
    assert high is None or value <= high + 1e-9


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e3), min_size=2, max_size=80))
def test_a_mean_lies_in_its_interval(values):
    low, high = mean_interval(np.array(values))
    assert 0 <= low <= np.mean(values) * (1 + 1e-9) + 1e-9
    assert high >= np.mean(values) * (1 - 1e-9)
