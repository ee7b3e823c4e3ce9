import math
import pickle
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.load.lengths import (
    AtLeast,
    Empirical,
    Fixed,
    LogNormal,
    Normal,
    Uniform,
    _middle_of_bin,
    _mix,
    longest,
    mean_length,
    quantile_of,
)

SMALLEST, LARGEST = 2.0**-53, 1 - 2.0**-53
QUANTILES = [(point + 0.5) / 2000 for point in range(2000)]

whole = st.integers(1, 10**6)
bounds = st.tuples(st.integers(1, 5000), st.none() | st.integers(0, 5000)).map(
    lambda pair: (pair[0], None if pair[1] is None else pair[0] + pair[1])
)
distributions = st.one_of(
    whole.map(Fixed),
    st.tuples(whole, st.integers(0, 10**6)).map(lambda pair: Uniform(pair[0], pair[0] + pair[1])),
    st.builds(
        lambda mean, sd, bounds, clamped: Normal(mean, sd, *bounds, clamped=clamped),
        st.floats(0.1, 1e6),
        st.floats(0, 1e6),
        bounds,
        st.booleans(),
    ),
    st.builds(
        lambda median, sigma, bounds: LogNormal(median, sigma, *bounds),
        st.floats(0.1, 1e6),
        st.floats(0, 50),
        bounds,
    ),
    st.lists(st.tuples(whole, st.floats(0.01, 100)), min_size=1).map(
        lambda pairs: Empirical(*zip(*pairs, strict=True))
    ),
    st.lists(whole, min_size=1).map(lambda values: Empirical(tuple(values))),
)
quantiles = st.floats(SMALLEST, LARGEST)


@given(lengths=distributions, one=quantiles, other=quantiles)
def test_longer_lengths_lie_at_higher_quantiles_and_none_is_below_one(lengths, one, other):
    low, high = sorted([one, other])
    assert 1 <= lengths.at(low) <= lengths.at(high) <= longest(lengths)


@given(lengths=distributions, quantile=quantiles)
def test_lengths_are_hashable_and_survive_the_way_to_a_worker(lengths, quantile):
    copy = pickle.loads(pickle.dumps(lengths))
    assert copy == lengths
    assert hash(copy) == hash(lengths)
    assert copy.at(quantile) == lengths.at(quantile)


@pytest.mark.parametrize(
    ("lengths", "at"),
    [
        pytest.param(Fixed(32), {0.01: 32, 0.99: 32}, id="fixed"),
        pytest.param(Uniform(1, 4), {SMALLEST: 1, 0.2499: 1, 0.2501: 2, 0.75: 4, LARGEST: 4}, id="uniform"),
        pytest.param(Uniform(7, 7), {SMALLEST: 7, LARGEST: 7}, id="uniform over one length"),
        pytest.param(Normal(480, 0), {0.1: 480, 0.9: 480}, id="normal without spread"),
        pytest.param(Normal(480, 24), {0.5: 480, 0.8413447: 504, 0.0227501: 432}, id="normal at -2, 0 and 1 sd"),
        pytest.param(Normal(100, 100, clamped=True), {0.15: 1, 0.16: 1, 0.5: 100}, id="clamped piles up at the bound"),
        pytest.param(Normal(100, 100, high=150, clamped=True), {0.7: 150, 0.99: 150}, id="clamped at the upper bound"),
        pytest.param(LogNormal(500, 1), {0.5: 500, 0.8413447: 1359, 0.1586553: 184}, id="a factor of e each side"),
        pytest.param(LogNormal(500, 0), {0.1: 500, 0.9: 500}, id="log-normal without spread"),
        pytest.param(Empirical((30, 10, 20)), {0.33: 10, 0.34: 20, 0.66: 20, 0.67: 30}, id="a third each"),
        pytest.param(Empirical((10, 20), (1, 3)), {0.25: 10, 0.26: 20, LARGEST: 20}, id="weighted"),
        pytest.param(Empirical((10, 20, 30), (1, 0, 1)), {0.5: 10, 0.51: 30}, id="a weight of zero is never met"),
        pytest.param(AtLeast(2, Uniform(1, 4)), {0.1: 2, 0.3: 2, 0.6: 3}, id="at least"),
    ],
)
def test_length_at_a_quantile(lengths, at):
    assert {quantile: lengths.at(quantile) for quantile in at} == at


@pytest.mark.parametrize(
    ("lengths", "mean", "tolerance"),
    [
        pytest.param(Fixed(32), 32, 0, id="fixed"),
        pytest.param(Uniform(100, 500), 300, 0.1, id="uniform"),
        pytest.param(Normal(480, 24), 480, 0.1, id="normal"),
        # A truncated normal's mean: mean + sd * (pdf(a) - pdf(b)) / (cdf(b) - cdf(a)), here a = -2, b infinite.
        pytest.param(Normal(480, 240), 480 + 240 * 0.0539910 / 0.9772499, 1, id="normal cut off at -2 sd"),
        pytest.param(LogNormal(500, 0.5), 500 * math.exp(0.125), 1, id="log-normal"),
        pytest.param(LogNormal.of_mean(800, 400), 800, 2, id="log-normal by mean and sd"),
        pytest.param(Empirical((10, 20), (1, 3)), 17.5, 0, id="empirical"),
    ],
)
def test_mean_length_is_that_of_the_formula(lengths, mean, tolerance):
    assert mean_length(lengths) == pytest.approx(mean, abs=tolerance + 1e-9)


def test_spread_is_that_of_the_parameters():
    logs = [math.log(LogNormal.of_mean(8000, 4000).at(quantile)) for quantile in QUANTILES]
    centre = sum(logs) / len(logs)
    sigma = math.sqrt(sum((value - centre) ** 2 for value in logs) / len(logs))
    assert sigma == pytest.approx(math.sqrt(math.log(1.25)), rel=0.01)
    lengths = [Normal(4000, 300).at(quantile) for quantile in QUANTILES]
    assert math.sqrt(sum((length - 4000) ** 2 for length in lengths) / len(lengths)) == pytest.approx(300, rel=0.01)


@pytest.mark.parametrize(
    "lengths",
    [Normal(100, 200, 20, 150), LogNormal(100, 2, 20, 150)],
    ids=["normal", "log-normal"],
)
def test_bounded_lengths_spread_inside_and_do_not_pile_up_at_the_bounds(lengths):
    seen = Counter(lengths.at(quantile) for quantile in QUANTILES)
    assert min(seen) == 20
    assert max(seen) == 150
    # Each bound is as frequent as its neighbour: neither more, for what is cut off, nor half as much, for rounding.
    assert seen[20] == pytest.approx(seen[21], rel=0.25)
    assert seen[150] == pytest.approx(seen[149], rel=0.25)


def test_bounds_beyond_all_mass_still_bound():
    assert Normal(10, 1, 1000, 1010).at(0.5) == 1000
    assert Normal(10_000, 1, 1, 20).at(0.5) == 20
    assert LogNormal(10, 0.01, 1000, 1010).at(0.5) == 1000


def test_empirical_lengths_are_equal_whatever_their_order():
    assert Empirical((3, 1, 2), (30, 10, 20)) == Empirical((1, 2, 3), (10, 20, 30))


def test_longest_is_what_no_request_exceeds():
    assert longest(Uniform(100, 500)) == 500
    assert longest(Normal(480, 240, high=1000)) == 1000
    assert longest(Empirical((10, 500, 20))) == 500
    assert 480 + 8 * 240 < longest(Normal(480, 240)) < 480 + 9 * 240


# Of the reference implementation (Sebastiano Vigna, splitmix64.c): the first outputs from the state 0 and 1234567.
def test_mixing_is_splitmix64():
    assert _mix(0) == 0xE220A8397B1DCDAF
    assert _mix(1234567) == 6457827717110365317


@given(seed=st.integers(-(2**80), 2**80), number=st.integers(0, 2**40), purpose=st.integers(0, 100))
def test_quantile_excludes_both_ends(seed, number, purpose):
    assert SMALLEST <= quantile_of(seed, number, purpose) <= LARGEST


def test_quantiles_reach_to_half_a_bin_from_both_ends_of_the_interval():
    assert _middle_of_bin(0) == SMALLEST
    assert _middle_of_bin(2**64 - 1) == LARGEST


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(lambda n: quantile_of(7, n, 1), id="numbers"),
        pytest.param(lambda n: quantile_of(n, 0, 1), id="seeds"),
        pytest.param(lambda n: quantile_of(7, 0, n), id="purposes"),
        pytest.param(lambda n: quantile_of(7, 2 * n, 1), id="every second number, as one of two workers sees them"),
    ],
)
def test_quantiles_are_evenly_spread(draw):
    drawn = sorted(draw(number) for number in range(20_000))
    distance = max(
        max((place + 1) / len(drawn) - value, value - place / len(drawn)) for place, value in enumerate(drawn)
    )
    assert distance < 1.63 / math.sqrt(len(drawn))  # Kolmogorov-Smirnov at 1 %


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(lambda n: quantile_of(7, n, 1), lambda n: quantile_of(7, n + 1, 1), id="neighbours"),
        pytest.param(lambda n: quantile_of(7, n, 1), lambda n: quantile_of(7, n, 2), id="purposes"),
        pytest.param(lambda n: quantile_of(7, n, 1), lambda n: quantile_of(8, n, 1), id="seeds"),
        pytest.param(lambda n: quantile_of(7, n, 1), lambda n: quantile_of(7, n + 1, 0), id="number against purpose"),
    ],
)
def test_quantiles_know_nothing_of_each_other(one, other):
    count = 20_000
    product = sum((one(number) - 0.5) * (other(number) - 0.5) for number in range(count)) / count
    assert abs(product * 12) < 3 / math.sqrt(count)  # the correlation, three standard errors


def test_worker_imports_no_statistics_for_lengths_that_are_fixed():
    script = (
        "import sys; from pytest_autotune.load.lengths import Fixed, Normal; Fixed(3).at(0.5);"
        " print('statistics' in sys.modules, end=' '); Normal(9, 1).at(0.5); print('statistics' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["False", "True"]
