"""What no other measurement beats."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.pareto import pareto_front
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
