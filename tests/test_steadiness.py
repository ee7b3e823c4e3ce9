"""Steady states and queues without bound, found in simulated queues and told from what only wanders."""

from __future__ import annotations

import random
import time

import pytest

from pytest_autotune.samples import Sample
from pytest_autotune.steadiness import oversaturation, steady
from tests.queueing import queue, seconds_of

SERVERS = [  # (servers, seconds of service)
    pytest.param(1, 0.05, id="one fast server"),
    pytest.param(16, 1.0, id="16 of 1 s"),
    pytest.param(32, 2.0, id="32 of 2 s"),
    pytest.param(64, 1.0, id="64 of 1 s"),
]


def alarm(seed, *, load, servers, service_s, duration_s=60, burstiness=1.0):
    """When and how a queue was reported while it ran; None when it was not."""
    served = queue(seed, load=load, servers=servers, service_s=service_s, duration_s=duration_s, burstiness=burstiness)
    filled = min(request.end_s for request in served)
    for now, points, ttfts in seconds_of(served, duration_s):
        if why := oversaturation(points, ttfts, now, rate=load * servers / service_s, filled_s=filled):
            return now, why
    return None


@pytest.mark.parametrize(("servers", "service_s"), SERVERS)
@pytest.mark.parametrize("load", [0.8, 0.9])
def test_a_stable_open_loop_raises_no_alarm(load, servers, service_s):
    alarms = [found for seed in range(100) if (found := alarm(seed, load=load, servers=servers, service_s=service_s))]
    assert len(alarms) < 1, alarms


@pytest.mark.parametrize(("servers", "service_s"), SERVERS)
def test_a_load_of_150_percent_raises_an_alarm_within_seconds(servers, service_s):
    found = [alarm(seed, load=1.5, servers=servers, service_s=service_s) for seed in range(40)]
    assert None not in found
    moments = sorted(moment for moment, _ in found)
    assert moments[len(moments) // 2] <= 20
    assert moments[-1] <= 40


def test_bursty_arrivals_raise_no_alarm_at_90_percent():
    alarms = [alarm(seed, load=0.9, servers=16, service_s=1.0, burstiness=0.3) for seed in range(100)]
    assert sum(found is not None for found in alarms) <= 1


def test_a_slight_overload_is_found_given_time():
    found = [alarm(seed, load=1.25, servers=64, service_s=1.0) for seed in range(20)]
    assert all(found)


def test_the_alarm_says_what_grew_and_by_how_much():
    points = [(float(n), 10.0 + 5 * n) for n in range(16)]
    ttfts = [(n / 10, 0.1 + n / 30) for n in range(150)]
    assert oversaturation(points, ttfts, 15.0, rate=15.0) == (
        "requests in flight grew from 10 to 85 in 15.0 s, by 5/s of the 15/s sent, and ttft from 100 ms to 5.07 s"
    )


@pytest.mark.parametrize(
    ("in_flight", "ttft"),
    [
        pytest.param(lambda n: 10 + 5 * n, lambda _: 0.1, id="the server fills up, ttft stays"),
        pytest.param(lambda _: 50, lambda s: 0.1 + s / 3, id="ttft grows, nothing stays behind"),
        pytest.param(lambda n: 10 + 0.2 * n, lambda s: 0.1 + s / 3, id="one request in 75 stays behind"),
        pytest.param(lambda n: 10 + 5 * n, lambda s: 0.1 + s / 100, id="ttft grows by 10 ms a second"),
        pytest.param(lambda n: min(10 + 10 * n, 60), lambda s: 0.1 + s / 3, id="full since a while"),
        pytest.param(lambda n: 85 - 5 * n, lambda s: 0.1 + s / 3, id="the queue shrinks"),
    ],
)
def test_one_sign_alone_raises_no_alarm(in_flight, ttft):
    points = [(float(n), float(in_flight(n))) for n in range(16)]
    ttfts = [(n / 10, ttft(n / 10)) for n in range(150)]
    assert oversaturation(points, ttfts, 15.0, rate=15.0) == ""


def test_nothing_is_said_before_there_is_enough_to_say():
    points = [(n / 2, 10.0 + 5 * n) for n in range(30)]
    ttfts = [(n / 10, 0.1 + n / 30) for n in range(150)]
    assert oversaturation([], [], 0.0, rate=15.0) == ""
    assert oversaturation(points, ttfts, 4.5, rate=15.0) == ""
    assert oversaturation(points, [], 14.0, rate=15.0) == ""
    assert oversaturation(points, ttfts, 14.0, rate=15.0, filled_s=10.0) == ""
    assert oversaturation(points, ttfts, 14.0, rate=15.0) != ""


def test_asking_costs_milliseconds_at_400_requests_per_second():
    points = [(float(n), 10.0 + 100 * n + n % 3) for n in range(60)]
    ttfts = [(n / 400, 0.1 + n / 1600) for n in range(60 * 400)]
    began = time.process_time()
    assert oversaturation(points, ttfts, 59.0, rate=400.0)
    assert time.process_time() - began < 0.5  # about 15 ms on an idle machine


def closed_loop(seed, *, drift=0.0, window_s=30.0, streams=8):
    """Requests of a closed loop whose latencies rise by `drift` along the window."""
    chance, samples = random.Random(seed), []
    for _ in range(streams):
        now = chance.uniform(-5, -4)
        while now < window_s:
            slower = 1 + drift * max(now, 0.0) / window_s
            first = now + slower * chance.gammavariate(4, 0.05)
            end = first + slower * chance.gammavariate(20, 0.025)
            samples.append(Sample(now, first, end, 10, 2, (end - first,)))
            now = end
    return [sample for sample in samples if sample.end_s > 0]


def open_loop(seed, *, load, servers, service_s, window_s=30.0, warmup_s=10.0):
    served = queue(seed, load=load, servers=servers, service_s=service_s, duration_s=warmup_s + window_s)
    return [
        Sample(start, start + request.ttft_s, end, 10, 2, (end - start - request.ttft_s,), due_s=start)
        for request in served
        if (start := request.start_s - warmup_s) is not None and (end := request.end_s - warmup_s) > 0
    ]


def drifting(batches):
    return sum(not steady(samples, 30.0).steady for samples in batches)


def test_a_level_load_is_steady():
    assert drifting(closed_loop(seed) for seed in range(60)) <= 2
    assert drifting(open_loop(seed, load=0.8, servers=64, service_s=1.0) for seed in range(60)) <= 3


@pytest.mark.parametrize(("drift", "expected"), [(0.05, True), (0.2, False)])
def test_a_drift_too_small_to_matter_is_steady_however_plain_it_is(drift, expected):
    samples = [Sample(n / 50, n / 50 + 0.2 * (1 + drift * n / 1500), n / 50 + 0.5, 10, 2, (0.1,)) for n in range(1500)]
    found = steady(samples, 30.0)
    assert found.drifts[0].low > 0, "beyond chance"
    assert found.steady is expected


def test_latencies_that_rise_by_a_third_are_drifting():
    assert drifting(closed_loop(seed, drift=0.35) for seed in range(40)) >= 38


def test_a_queue_that_grows_is_drifting():
    batches = [open_loop(seed, load=1.5, servers=16, service_s=1.0) for seed in range(20)]
    assert drifting(batches) == 20
    told = str(steady(batches[0], 30.0))
    assert told.startswith("drifting: ttft changed by +1")
    assert "in flight changed by +1" in told


def test_what_was_tested_is_told_with_its_interval():
    found = steady(closed_loop(1), 30.0)
    assert str(found) == "steady"
    assert [drift.figure for drift in found.drifts] == ["ttft", "e2e", "in_flight"]
    assert all(drift.low <= drift.change <= drift.high for drift in found.drifts)
    assert found.drifts[2].mean == pytest.approx(8.0)


def test_too_few_requests_are_not_called_steady():
    found = steady(closed_loop(1)[:59], 30.0)
    assert not found.steady
    assert "successful requests are too few, at least 60 are needed" in str(found)


def test_answers_without_tokens_are_tested_by_their_e2e_latency():
    samples = [Sample(n / 10, None, n / 10 + 0.05 + n % 3 / 100, 10, 0) for n in range(300)]
    assert [drift.figure for drift in steady(samples, 30.0).drifts] == ["e2e", "in_flight"]
