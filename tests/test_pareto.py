"""What no other measurement beats."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.pareto import pareto_front, scalarised
from pytest_autotune.selection import judge_trial
from pytest_autotune.slo import Limit
from tests.make_records import Aim, batch, trial

OBJECTIVES = (Aim(), Aim("minimize", "ttft.p90"))


def judged(number, *points, state="finished"):
    batches = [
        batch(level, output_throughput=throughput, **({} if ttft is None else {"ttft__p90": ttft}))
        for level, (throughput, ttft) in enumerate(points, start=1)
    ]
    return judge_trial(
        trial(number, *batches, state=state), limits=(Limit("output_throughput", 1.0, floor=True),), objective=Aim()
    )


def front(*trials):
    return [(point.trial.trial.id, point.batch.level.value, point.values) for point in pareto_front(trials, OBJECTIVES)]


def test_each_level_of_a_trial_is_a_point_of_its_own():
    assert front(judged(1, (10.0, 0.1), (90.0, 0.4)), judged(2, (50.0, 0.2), (80.0, 0.5))) == [
        (1, 2, (90.0, 0.4)),
        (2, 1, (50.0, 0.2)),
        (1, 1, (10.0, 0.1)),
    ]


@pytest.mark.parametrize(
    "left_out",
    [
        pytest.param(judged(2, (0.5, 0.01)), id="violating"),
        pytest.param(judged(2, (99.0, 0.01), state="interrupted"), id="unfinished"),
        pytest.param(judged(2, (99.0, None)), id="without a metric"),
        pytest.param(judged(2, (10.0, 0.1)), id="equal to an earlier one"),
        pytest.param(judged(2, (10.0, 0.2)), id="as good in one and worse in the other"),
    ],
)
def test_what_is_no_choice_is_left_out(left_out):
    assert front(judged(1, (10.0, 0.1)), left_out) == [(1, 1, (10.0, 0.1))]


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), max_size=25))
def test_the_front_is_what_no_point_dominates(points):
    trials = [judged(number, (float(more), float(less))) for number, (more, less) in enumerate(points)]
    kept = {(more, less) for _, _, (more, less) in front(*trials)}
    dominated = {
        (more, less)
        for more, less in points
        for m, le in points
        if m >= more and le <= less and (m, le) != (more, less)
    }
    assert kept == set(points) - dominated
    assert len(front(*trials)) == len(kept)


def one_value(trials, seed):
    return scalarised(trials, OBJECTIVES, random.Random(seed))


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=20), st.integers(0, 50))
def test_what_is_beaten_in_every_objective_has_no_larger_value(points, seed):
    trials = [judged(number, (float(more), float(less))) for number, (more, less) in enumerate(points)]
    values = one_value(trials, seed)
    assert all(value <= 0.0 for value in values)
    for index, (more, less) in enumerate(points):
        for other, (m, le) in enumerate(points):
            if m >= more and le <= less:
                assert values[other] >= values[index]


def test_other_weights_look_for_other_parts_of_the_front():
    trials = [judged(1, (10.0, 0.1)), judged(2, (60.0, 0.3)), judged(3, (90.0, 0.9)), judged(4, (50.0, 0.9))]
    chosen = [max(range(4), key=one_value(trials, seed).__getitem__) for seed in range(60)]
    assert set(chosen) == {0, 1, 2}


def test_the_best_batch_of_a_trial_counts_and_without_one_there_is_no_value():
    both = judged(1, (10.0, 0.1), (90.0, 0.1))
    values = one_value([both, judged(2, (0.5, 0.01)), judged(3, (99.0, None)), judged(4)], 0)
    assert values == [0.0, None, None, None]
    assert one_value([], 0) == []
