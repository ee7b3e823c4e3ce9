"""What a search costs, when it ends for it, and what it saved."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.budget import Budget, Cost, cost_of, ending, saved_line
from tests.make_records import START, trial

NOTHING = Cost(0, 0.0, 0.0)


def lasting(number, begin_s, end_s, *, run_id="one", **more):
    begun = replace(trial(number, **more), run_id=run_id, started_at=START + timedelta(seconds=begin_s))
    return replace(begun, ended_at=None if end_s is None else START + timedelta(seconds=end_s))


def test_cost_counts_gpus_and_trials_side_by_side():
    trials = [lasting(1, 0, 60, gpus=8), lasting(2, 30, 90, gpus=0)]
    assert cost_of(trials, START) == Cost(deployments=2, gpu_time_s=8 * 60 + 60, time_s=90)


def test_time_between_two_runs_costs_nothing():
    trials = [lasting(1, 0, 60), lasting(2, 1000, 1010, run_id="two")]
    assert cost_of(trials, START).time_s == 70


def test_a_running_trial_costs_what_it_has_cost_so_far():
    running = lasting(1, 10, None, state="running", gpus=2)
    assert cost_of([running], START + timedelta(seconds=40)) == Cost(1, 60.0, 30.0)


def test_waiting_for_gpus_takes_time_and_no_gpu_time():
    waited = replace(lasting(1, 0, 60, gpus=8), waited_s=45.0)
    assert cost_of([waited], START) == Cost(deployments=1, gpu_time_s=8 * 15, time_s=60)


def test_a_trial_that_started_no_server_is_no_deployment():
    assert cost_of([replace(lasting(1, 0, 1), server_log="")], START).deployments == 0


@pytest.mark.parametrize(
    ("budget", "cost", "values", "told"),
    [
        pytest.param(Budget(), Cost(9, 1e6, 1e6), [1.0] * 99, "", id="no budget"),
        pytest.param(Budget(time_s=3600), Cost(1, 1, 3599), [], "", id="time left"),
        pytest.param(
            Budget(time_s=3600), Cost(1, 1, 3600), [], "its time is spent: 1 h 00 min of 1 h 00 min", id="time"
        ),
        pytest.param(
            Budget(gpu_time_s=60), Cost(1, 90, 1), [], "its GPU time is spent: 90.0 s of 60.0 s", id="GPU time"
        ),
        pytest.param(Budget(patience=2), NOTHING, [1.0, 2.0, 1.5], "", id="patience left"),
        pytest.param(
            Budget(patience=2), NOTHING, [2.0, None, 2.0], "2 trials in a row brought nothing better", id="patience"
        ),
        pytest.param(Budget(patience=2), NOTHING, [None] * 9, "", id="nothing to be better than"),
    ],
)
def test_a_search_ends_when_its_budget_is_spent(budget, cost, values, told):
    assert ending(budget, cost, values) == told


@given(st.lists(st.none() | st.floats(-1e6, 1e6), max_size=30), st.integers(1, 10))
def test_patience_never_ends_a_search_right_after_an_improvement(values, patience):
    better = max((value for value in values if value is not None), default=0.0) + 1.0
    assert ending(Budget(patience=patience), NOTHING, [*values, better]) == ""


@pytest.mark.parametrize(
    ("spent", "everything", "told"),
    [
        (
            Cost(6, 600, 600),
            Cost(24, 7200, 7200),
            "saved 18 of 24 deployments and about 1 h 50 min of 2 h 00 min GPU time, against the full grid with fixed durations",
        ),
        (Cost(24, 600, 600), Cost(24, 7200, 7200), ""),
        (Cost(6, 8000, 600), Cost(24, 7200, 7200), ""),
    ],
    ids=["saved", "as many deployments", "longer"],
)
def test_what_was_saved_is_said_only_when_something_was(spent, everything, told):
    assert saved_line(spent, everything) == told
