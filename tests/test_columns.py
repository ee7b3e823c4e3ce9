"""What each slice of a window delivered."""

import numpy as np
import pytest

from pytest_autotune.columns import amounts
from pytest_autotune.samples import Sample

REQUESTS = 600  # more than are placed at once
FIRST_S = 0.053  # no token arrives at an edge: 0.1 has no exact binary fraction


def requests(*, gaps):
    """One begins every hundredth of a second, with ten tokens a tenth of a second apart and two tokens for each."""
    return [
        Sample(
            sent_s=0.01 * number,
            first_s=0.01 * number + FIRST_S,
            end_s=0.01 * number + FIRST_S + 0.9,
            prompt_tokens=3,
            output_tokens=20,
            gaps_s=(0.1,) * 9 if gaps else (),
        )
        for number in range(REQUESTS)
    ]


def test_tokens_count_in_the_slice_in_which_they_arrived():
    edges = np.linspace(0.0, 8.0, 33)
    arrivals = [0.01 * number + FIRST_S + 0.1 * place for number in range(REQUESTS) for place in range(10)]
    expected = 2 * np.histogram(arrivals, edges)[0]
    found = amounts(requests(gaps=True), edges, {})["output_throughput"]
    assert found == pytest.approx(expected)
    assert found.sum() == pytest.approx(20 * REQUESTS)


def test_without_gaps_tokens_come_evenly():
    edges = np.linspace(0.0, 8.0, 33)
    found = amounts(requests(gaps=False), edges, {})["output_throughput"]
    assert found.sum() == pytest.approx(20 * REQUESTS)
    assert found[8:20] == pytest.approx(25 * 20)  # a request a hundredth, in slices of a quarter


def test_what_arrives_outside_of_the_window_does_not_count():
    edges = np.array([1.0, 2.0])
    found = amounts(requests(gaps=True), edges, {})["output_throughput"]
    assert found[0] == pytest.approx(100 * 20)
