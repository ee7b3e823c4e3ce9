"""The search for the largest load that complies."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.capacity import (
    Found,
    Incumbent,
    LoadSearch,
    Probe,
    brings_more_with_load,
    dominated,
    estimated,
    next_probe,
)
from pytest_autotune.samples import Level
from pytest_autotune.selection import judge_trial
from pytest_autotune.slo import Limit
from tests.make_records import Aim, batch, trial

WIDE = LoadSearch(1, 512)


def play(search, answer, incumbent=None):
    """Return the loads that are tried against a server, and what is found."""
    probes = []
    while True:
        answered = next_probe(search, probes, incumbent)
        if isinstance(answered, Found):
            return [probe.level.value for probe in probes], answered
        assert len(probes) < 100, "the search does not end"
        outcome = answer(answered.value)
        probes.append(outcome if isinstance(outcome, Probe) else Probe(answered, outcome))


def holds_up_to(capacity):
    return lambda load: "holds" if load <= capacity else "missed"


@pytest.mark.parametrize(
    ("search", "capacity", "tried", "found"),
    [
        pytest.param(
            WIDE,
            100,
            [23, 46, 92, 184, 130, 109, 100, 104],
            Found(Level(100), "the next load, concurrency 104, does not comply"),
            id="inside",
        ),
        pytest.param(
            WIDE,
            0,
            [23, 5, 2, 1],
            Found(None, "the smallest load of the search, concurrency 1, does not comply"),
            id="none",
        ),
        pytest.param(
            WIDE, 1, [23, 5, 2, 1], Found(Level(1), "the next load, concurrency 2, does not comply"), id="low"
        ),
        pytest.param(
            LoadSearch(1, 64),
            999,
            [8, 16, 32, 64],
            Found(Level(64), "the largest load of the search, concurrency 64, complies", bounded=True),
            id="the cap",
        ),
        pytest.param(
            LoadSearch(8, 8),
            9,
            [8],
            Found(Level(8), "the largest load of the search, concurrency 8, complies", bounded=True),
            id="one",
        ),
        pytest.param(
            LoadSearch(1, 512, probes=3),
            100,
            [23, 46, 92],
            Found(Level(92), "3 loads were tried", bounded=True),
            id="few",
        ),
        pytest.param(
            LoadSearch(0.5, 50, shape="rate", tolerance=0.2),
            7.3,
            [5, 10, 7.071, 8.409],
            Found(Level(7.071, "rate"), "the next load, rate 8.409/s, does not comply"),
            id="rates",
        ),
    ],
)
def test_loads_double_and_are_halved_to_the_tolerance(search, capacity, tried, found):
    assert play(search, holds_up_to(capacity)) == (tried, found)


def test_a_configuration_that_does_not_carry_the_incumbents_load_is_rejected_at_once():
    slower = lambda load: Probe(Level(load), "missed", 90.0)  # noqa: E731
    tried, found = play(WIDE, slower, Incumbent(64, 100.0))
    assert tried == [64]
    assert found == Found(None, "it does not carry concurrency 64, the load of the best so far", bounded=True)


@pytest.mark.parametrize("value", [None, 90.0], ids=["where less load may be better", "which brings less"])
def test_one_that_misses_a_limit_there_but_brings_more_is_looked_into(value):
    def faster(load):
        return Probe(Level(load), "holds" if load <= 40 else "missed", 3.0 * load)

    tried, found = play(WIDE, faster, Incumbent(64, value))
    assert tried[0] == 64
    assert found.capacity == Level(40)


def test_growth_begins_at_the_incumbents_load():
    assert play(WIDE, holds_up_to(150), Incumbent(100, 1.0))[0][:3] == [100, 200, 141]


def test_an_incumbent_beyond_the_range_is_brought_into_it():
    assert play(LoadSearch(1, 32), holds_up_to(100), Incumbent(64, 1.0))[0] == [32]


def test_the_death_of_the_server_ends_the_search_with_what_it_had_carried():
    tried, found = play(WIDE, lambda load: "holds" if load < 100 else "died")
    assert tried == [23, 46, 92, 184]
    assert found == Found(Level(92), "the server died at concurrency 184", bounded=True)


def test_a_load_without_an_answer_is_no_bound_and_is_not_tried_again():
    tried, found = play(WIDE, lambda load: "open" if load == 92 else holds_up_to(100)(load))
    assert tried[:4] == [23, 46, 92, 93]
    assert found.capacity == Level(99)
    assert len(set(tried)) == len(tried)


def test_a_load_that_is_not_shown_to_be_carried_bounds_the_capacity_from_above():
    tried, found = play(WIDE, lambda load: "unsure" if load == 92 else holds_up_to(100)(load))
    assert tried[:3] == [23, 46, 92]
    assert all(load < 92 for load in tried[3:])
    assert found.capacity is not None
    assert 46 <= found.capacity.value < 92


@pytest.mark.parametrize(("outcome", "words"), [("missed", "does not carry"), ("unsure", "is not shown to carry")])
def test_what_is_not_shown_to_carry_the_incumbents_load_and_brings_no_more_is_rejected(outcome, words):
    search, incumbent = LoadSearch(1, 512), Incumbent(64, 2.0)
    (found,) = {next_probe(search, [Probe(Level(64), outcome, value)], incumbent) for value in (None, 2.0)}
    assert found == Found(None, f"it {words} concurrency 64, the load of the best so far", bounded=True)
    assert isinstance(next_probe(search, [Probe(Level(64), outcome, 2.1)], incumbent), Level)


def test_a_server_that_never_answers_the_question_ends_the_search():
    tried, found = play(LoadSearch(1, 4), lambda _: "open")
    assert sorted(tried) == [1, 2, 3, 4]
    assert found == Found(None, "no load is left to try between those that gave no answer", bounded=True)


searches = st.builds(
    lambda low, span, shape, tolerance, probes: LoadSearch(low, low + span, shape, tolerance, probes),
    st.integers(1, 64),
    st.integers(0, 2000),
    st.sampled_from(["concurrency", "rate"]),
    st.floats(0.01, 0.5),
    st.integers(1, 30),
)
incumbents = st.none() | st.builds(Incumbent, st.floats(0.5, 3000), st.none() | st.just(1.0))


@given(searches, st.floats(0.1, 3000), incumbents)
def test_of_a_monotone_server_the_capacity_is_found_within_the_tolerance(search, capacity, incumbent):
    tried, found = play(search, holds_up_to(capacity), incumbent)
    assert len(tried) <= search.probes
    assert len(set(tried)) == len(tried)
    assert all(search.low <= load <= search.high for load in tried)
    if found.capacity is not None:
        assert found.capacity.value <= capacity
    if not found.bounded:
        lower = search.low if found.capacity is None else found.capacity.value
        above = math.floor(lower) + 1 if search.shape == "concurrency" else lower
        assert capacity < max(above, lower * (1 + search.tolerance)) + 1e-3 * lower


@given(
    searches,
    st.lists(st.sampled_from(["holds", "missed", "unsure", "open", "died"]), min_size=60, max_size=60),
    incumbents,
)
def test_whatever_the_server_does_the_search_ends_and_claims_only_what_held(search, outcomes, incumbent):
    answers = iter(outcomes)
    held = []

    def answer(load):
        outcome = next(answers)
        if outcome == "holds":
            held.append(load)
        return outcome

    tried, found = play(search, answer, incumbent)
    assert len(tried) <= search.probes
    assert len(set(tried)) == len(tried)
    assert found.capacity is None or found.capacity.value in held


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        (Aim(), True),
        (Aim(metric="request_throughput_per_gpu"), True),
        (Aim(metric="goodput"), False),
        (Aim("minimize", "e2e.p90"), False),
    ],
)
def test_only_throughput_grows_with_load(objective, told):
    assert brings_more_with_load(objective) is told


def judged_trial(*batches, aim=None):
    limits = (Limit("ttft.p90", 0.5), Limit("request_throughput", 5.0, floor=True))
    return judge_trial(trial(1, *batches), limits=limits, objective=aim or Aim())


def judged(*batches):
    return judged_trial(*batches).batches


def at(load, ttft=0.1, requests_s=9.0):
    return batch(load, output_throughput=float(load), ttft__p90=ttft, request_throughput=requests_s)


@pytest.mark.parametrize(
    ("load", "batches", "told"),
    [
        pytest.param(
            16, [at(8, ttft=0.6)], "concurrency=8 violates already: ttft.p90: 600 ms > 500 ms (+20 %)", id="above"
        ),
        pytest.param(4, [at(8, ttft=0.6)], "", id="below a violating one"),
        pytest.param(16, [at(8, requests_s=1.0)], "", id="a floor may be kept by a larger load"),
        pytest.param(4, [at(8)], "concurrency=8 complies, and less load brings less", id="below a compliant one"),
        pytest.param(16, [at(8)], "", id="above a compliant one"),
        pytest.param(16, [], "", id="nothing measured"),
    ],
)
def test_a_load_that_cannot_change_the_outcome_is_known(load, batches, told):
    assert dominated(Level(load), judged(*batches), Aim()) == told


def test_less_load_may_be_better_for_a_latency_and_bursts_are_no_scale():
    assert dominated(Level(4), judged(at(8)), Aim("minimize", "e2e.p90")) == ""
    assert dominated(Level(4, "burst"), judged(at(8)), Aim()) == ""
    assert dominated(Level(4, "rate"), judged(at(8)), Aim()) == ""


@pytest.mark.parametrize(
    ("aim", "batches", "to_beat", "told"),
    [
        (Aim(), [at(8, ttft=0.6)], 8.0, "concurrency=8 is no better than the best so far, and less load brings less"),
        (Aim(), [at(8, ttft=0.6)], 7.9, ""),
        (Aim(), [at(8, ttft=0.6)], None, ""),
        (Aim(), [at(2, ttft=0.1)], 8.0, ""),
        (Aim(), [replace(at(8, ttft=0.6), oversaturated="ttft grew")], 8.0, ""),
        (Aim("minimize", "ttft.p90"), [at(8, ttft=0.6)], -0.1, ""),
    ],
    ids=["brings no more", "brings more", "first trial", "of a smaller load", "fell behind", "a latency"],
)
def test_below_a_load_that_brings_no_more_than_the_best_nothing_can_win(aim, batches, to_beat, told):
    assert dominated(Level(4), judged(*batches), aim, to_beat) == told


@pytest.mark.parametrize(
    ("aim", "batches", "lowest", "told"),
    [
        (Aim(), [at(8, ttft=0.6)], 1, 8 / 1.2),
        (Aim(), [at(16, ttft=2.0), at(8, ttft=0.6)], 1, 8 / 1.2),
        (Aim(), [at(8, ttft=0.6)], 8, None),
        (Aim(), [at(8, ttft=0.6)], None, None),
        (Aim(), [at(8)], 1, None),
        (Aim(), [replace(at(8, ttft=0.6), oversaturated="ttft grew")], 1, None),
        (Aim("minimize", "ttft.p90"), [at(8, ttft=0.6)], 1, None),
    ],
    ids=["a fifth beyond", "the nearest", "carries nothing", "all loads", "complies", "fell behind", "a latency"],
)
def test_what_was_given_up_is_estimated_by_its_load_and_how_far_it_missed(aim, batches, lowest, told):
    found = estimated(judged_trial(*batches, aim=aim), aim, None if lowest is None else Level(lowest))
    assert found == (None if told is None else pytest.approx(told))
