"""Requests in flight, over the window and along it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.concurrency import concurrency_over_time, in_flight
from pytest_autotune.samples import Sample

WINDOW = 10.0


def spans(*pairs):
    return [Sample(sent, None, end, 1, 0) for sent, end in pairs]


@pytest.mark.parametrize(
    ("requests", "mean", "most"),
    [
        pytest.param([], 0.0, 0, id="none"),
        pytest.param([(-5, 20)], 1.0, 1, id="throughout the window"),
        pytest.param([(-5, 0), (10, 12)], 0.0, 0, id="beside the window"),
        pytest.param([(0, 5), (5, 10)], 1.0, 1, id="one begins as another ends"),
        pytest.param([(0, 5), (4, 10)], 1.1, 2, id="two overlap"),
        pytest.param([(-1, 2), (1, 4), (1.5, 1.6)], 0.51, 3, id="three overlap"),
    ],
)
def test_requests_in_flight_over_the_window(requests, mean, most):
    assert in_flight(spans(*requests), WINDOW) == (pytest.approx(mean), most)


def test_requests_in_flight_along_the_window():
    samples = spans((-1, 2.5), (5, 20))
    assert concurrency_over_time(samples, WINDOW, 4) == (
        (1.25, pytest.approx(1.0)),
        (3.75, pytest.approx(0.0)),
        (6.25, pytest.approx(1.0)),
        (8.75, pytest.approx(1.0)),
    )


some_requests = st.lists(st.tuples(st.floats(-20, 15), st.floats(0, 20)).map(lambda pair: (pair[0], sum(pair))))


@given(some_requests, st.integers(1, 7))
def test_the_slices_average_to_the_whole_and_never_pass_the_maximum(requests, points):
    samples = spans(*requests)
    mean, most = in_flight(samples, WINDOW)
    course = [number for _, number in concurrency_over_time(samples, WINDOW, points)]
    assert sum(course) / points == pytest.approx(mean, abs=1e-9)
    assert max(course) <= most + 1e-9


@given(some_requests)
def test_the_maximum_is_what_counting_at_each_start_finds(requests):
    counted = max(
        (
            sum(max(a, 0.0) <= t < min(b, WINDOW) for a, b in requests)
            for a0, _ in requests
            if (t := max(a0, 0.0)) < WINDOW
        ),
        default=0,
    )
    assert in_flight(spans(*requests), WINDOW)[1] == counted
