"""Changes of level: found where they are, not in noise, whatever the unit."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.changepoints import FEWEST, change_points


def noisy(*levels, each=10, seed=1):
    chance = random.Random(seed)
    return [level + chance.gauss(0.0, 1.0) for level in levels for _ in range(each)]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        pytest.param(noisy(0.0, 6.0), (10,), id="one change"),
        pytest.param(noisy(0.0, 6.0, -2.0), (10, 20), id="two changes"),
        pytest.param(noisy(0.0), (), id="none"),
        pytest.param([*noisy(0.0), 50.0, *noisy(0.0, seed=2)], (), id="one value that is off"),
        pytest.param(noisy(0.0, 40.0, each=3), (), id="too few values"),
        pytest.param([1.0] * 20, (), id="no noise"),
        pytest.param([], (), id="nothing"),
    ],
)
def test_changes_are_found_where_they_are(values, found):
    assert change_points(values) == found


@given(st.lists(st.floats(-1e3, 1e3), min_size=FEWEST, max_size=30), st.floats(-1e3, 1e3), st.integers(-8, 8))
def test_neither_unit_nor_zero_of_a_scale_matters(values, shift, power):
    scaled = [value * 2.0**power for value in values]
    assert change_points(scaled) == change_points(values)
    assert len(change_points([value + shift for value in values])) <= len(values) // 3


@given(st.lists(st.floats(-1e3, 1e3), max_size=30))
def test_every_level_has_three_values_at_least(values):
    bounds = (0, *change_points(values), len(values))
    assert len(bounds) == 2 or all(end - start >= 3 for start, end in pairwise(bounds))


def test_noise_is_seldom_taken_for_a_change():
    series = (noisy(0.0, each=20, seed=seed) for seed in range(300))
    assert sum(bool(change_points(values)) for values in series) <= 15  # 2.1 % of them, simulated
