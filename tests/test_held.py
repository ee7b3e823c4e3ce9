"""A measurement of today, held against a stored one."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.held import Held, hold
from tests.make_records import batch

THROUGHPUT, TTFT, ERRORS, DELIVERED = "output_throughput", "ttft.p99", "error_rate", "delivered"


def held_of(then, now, *, metric=TTFT, tolerance=0.1, width=None):
    """Hold metrics by concurrency; with `width` each batch knows its metric to so many times either way."""
    records = []
    for concurrency, value in now.items():
        known = {} if width is None else {metric: (value / width, value * width)}
        records.append(replace(batch(concurrency, **{metric.replace(".", "__"): value}), intervals=known))
    levels = {f"c{concurrency}": {metric: value} for concurrency, value in then.items()}
    return hold(levels, records, metrics=[metric], tolerances={} if tolerance is None else {metric: tolerance})


@pytest.mark.parametrize(
    ("metric", "now", "width", "outcome"),
    [
        pytest.param(TTFT, 1.2, 1.01, "regression", id="slower"),
        pytest.param(TTFT, 1.05, 1.01, "no change", id="slower, within the tolerance"),
        pytest.param(TTFT, 1.1, 1.01, "open", id="slower, at the tolerance"),
        pytest.param(TTFT, 1.2, 1.2, "open", id="slower, by noise"),
        pytest.param(TTFT, 0.95, 1.01, "no change", id="a little faster"),
        pytest.param(TTFT, 0.8, 1.01, "improvement", id="faster"),
        pytest.param(THROUGHPUT, 0.8, 1.01, "regression", id="less"),
        pytest.param(THROUGHPUT, 0.95, 1.01, "no change", id="less, within the tolerance"),
        pytest.param(THROUGHPUT, 0.9, 1.01, "open", id="less, at the tolerance"),
        pytest.param(THROUGHPUT, 1.2, 1.01, "improvement", id="more"),
        pytest.param(THROUGHPUT, 0.5, None, "open", id="no interval"),
    ],
)
def test_a_change_beyond_the_tolerance_counts_only_when_all_of_its_interval_is(metric, now, width, outcome):
    (held,) = held_of({8: 1.0}, {8: now}, metric=metric, width=width)
    assert held.outcome == outcome
    (unjudged,) = held_of({8: 1.0}, {8: now}, metric=metric, width=width, tolerance=None)
    assert unjudged.outcome == "not judged"


def test_the_change_is_the_geometric_mean_over_the_levels():
    (held,) = held_of({4: 0.1, 16: 0.4}, {4: 0.11, 16: 0.6})
    assert held.change == pytest.approx(math.sqrt(1.1 * 1.5) - 1)
    assert held.levels == {"c4": (0.1, 0.11), "c16": (0.4, 0.6)}
    assert (held.low, held.high) == (None, None)


def test_the_interval_is_of_both_sides_and_of_the_mean_over_the_levels():
    (one,) = held_of({4: 1.0}, {4: 1.0}, width=1.1)
    assert math.log1p(one.high) == pytest.approx(math.sqrt(2) * math.log(1.1))
    (four,) = held_of(dict.fromkeys((1, 2, 4, 8), 1.0), dict.fromkeys((1, 2, 4, 8), 1.0), width=1.1)
    assert math.log1p(four.high) == pytest.approx(math.sqrt(2) * math.log(1.1) / 2)
    assert math.log1p(four.low) == pytest.approx(-math.log1p(four.high))


@pytest.mark.parametrize(
    ("then", "now"),
    [
        pytest.param({4: 1.0, 16: 1.0}, {4: 1.0}, id="a level is missing"),
        pytest.param({4: 0.0}, {4: 1.0}, id="nothing then"),
        pytest.param({4: 1.0}, {4: 0.0}, id="nothing now"),
        pytest.param({4: 1.0}, {4: math.inf}, id="not finite"),
        pytest.param({4: 1.0}, {}, id="no batch"),
    ],
)
def test_what_either_side_lacks_at_a_level_is_left_out(then, now):
    assert held_of(then, now) == ()


def test_levels_that_the_baseline_does_not_have_are_not_looked_at():
    assert held_of({4: 1.0}, {4: 1.5, 16: 9.0}) == held_of({4: 1.0}, {4: 1.5})


def test_metrics_that_are_neither_better_nor_worse_are_left_out():
    assert held_of({4: 10.0}, {4: 20.0}, metric="requests") == ()
    assert hold({"c4": {TTFT: 1.0}}, [batch(4, ttft__p99=1.0)], metrics=["e2e.p99"], tolerances={"e2e.p99": 0.1}) == ()


@pytest.mark.parametrize(
    "interval",
    [(None, 1.0), (1.0, None), (0.0, 1.0), (2.0, 1.0), (1.0, math.inf)],
)
def test_an_interval_without_two_bounds_says_nothing(interval):
    record = replace(batch(4, ttft__p99=1.0), intervals={TTFT: interval})
    (held,) = hold({"c4": {TTFT: 1.0}}, [record], metrics=[TTFT], tolerances={TTFT: 0.1})
    assert (held.low, held.high, held.outcome) == (None, None, "open")


@pytest.mark.parametrize(
    ("metric", "then", "now", "outcome", "change"),
    [
        pytest.param(ERRORS, 0.0, 0.0, "no change", 0.0, id="none then and now"),
        pytest.param(ERRORS, 0.0, 0.03, "regression", 0.03, id="some now"),
        pytest.param(ERRORS, 0.03, 0.0, "improvement", -0.03, id="none any more"),
        pytest.param(ERRORS, 0.001, 0.003, "no change", 0.002, id="thrice as many of few"),
        pytest.param(ERRORS, 0.0, 0.01, "open", 0.01, id="at the tolerance"),
        pytest.param(DELIVERED, 1.0, 0.9, "regression", -0.1, id="less is delivered"),
    ],
)
def test_shares_are_held_by_their_difference(metric, then, now, outcome, change):
    known = {metric: (max(0.0, now - 0.002), now + 0.002)}
    record = replace(batch(4, **{metric: now}), intervals=known)
    (held,) = hold({"c4": {metric: then}}, [record], metrics=[metric], tolerances={metric: 0.01})
    assert held.change == pytest.approx(change)
    assert held.outcome == outcome


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (
            Held(THROUGHPUT, -0.2, -0.25, -0.15, 0.05, {}),
            "output throughput fell by 20 % (-25 % to -15 % by the noise within the batches), more than the 5 % allowed",
        ),
        (
            Held(TTFT, -0.2, -0.25, -0.15, 0.05, {}),
            "ttft.p99 fell by 20 % (-25 % to -15 % by the noise within the batches): better",
        ),
        (
            Held(TTFT, 0.02, 0.01, 0.03, 0.05, {}),
            "ttft.p99 rose by 2 % (+1 % to +3 % by the noise within the batches), within the 5 % allowed",
        ),
        (
            Held(TTFT, 0.05, 0.03, 0.07, 0.05, {}),
            "ttft.p99 rose by 5 % (+3 % to +7 % by the noise within the batches), which is not told from the 5 % allowed",
        ),
        (
            Held(TTFT, 0.2, None, None, 0.05, {}),
            "ttft.p99 rose by 20 %, which is not told from the 5 % allowed: too few requests",
        ),
        (Held(TTFT, 0.0, 0.0, 0.0, None, {}), "ttft.p99 is what it was (0 % to 0 % by the noise within the batches)"),
        (Held(TTFT, -0.1, None, None, None, {}), "ttft.p99 fell by 10 %"),
        (
            Held(ERRORS, 0.03, 0.02, 0.04, 0.01, {}),
            "error rate rose by 3 pp (+2 pp to +4 pp by the noise within the batches), more than the 1 pp allowed",
        ),
    ],
)
def test_a_change_is_told_with_how_sure_it_is_and_what_was_allowed(held, words):
    assert held.words == words


VALUES = st.floats(1e-2, 1e2)
SIDES = st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=4)


@given(SIDES, st.sampled_from([TTFT, THROUGHPUT]), st.floats(1.0, 2.0))
def test_swapped_sides_mirror_the_change_and_its_interval(sides, metric, width):
    then = {2**index: pair[0] for index, pair in enumerate(sides)}
    now = {2**index: pair[1] for index, pair in enumerate(sides)}
    (there,) = held_of(then, now, metric=metric, width=width)
    (back,) = held_of(now, then, metric=metric, width=width)
    for end, mirrored in ((there.change, back.change), (there.low, back.high), (there.high, back.low)):
        assert (1 + end) * (1 + mirrored) == pytest.approx(1, rel=1e-9)
    assert not (there.outcome == "regression" and back.outcome == "regression")


@given(SIDES, st.sampled_from([TTFT, THROUGHPUT]), st.floats(1.0, 2.0), st.floats(0.001, 0.9), st.floats(0.001, 0.9))
def test_more_tolerance_never_makes_a_regression(sides, metric, width, one, other):
    then = {2**index: pair[0] for index, pair in enumerate(sides)}
    now = {2**index: pair[1] for index, pair in enumerate(sides)}
    (strict,), (lenient,) = (
        held_of(then, now, metric=metric, width=width, tolerance=tolerance) for tolerance in sorted((one, other))
    )
    assert lenient.outcome != "regression" or strict.outcome == "regression"
    assert strict.outcome != "no change" or lenient.outcome == "no change"


@given(st.lists(VALUES, min_size=1, max_size=4), st.sampled_from([TTFT, THROUGHPUT]), st.floats(1.0, 3.0))
def test_what_is_as_it_was_is_never_a_regression(values, metric, width):
    same = {2**index: value for index, value in enumerate(values)}
    (held,) = held_of(same, same, metric=metric, width=width)
    assert held.change == 0
    assert held.outcome in ("no change", "open")
