"""What is measured again, and what a configuration is worth that was."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.confirmation import confirmation_lines, confirms, slot_name, to_confirm
from pytest_autotune.selection import judge_trial, select
from pytest_autotune.slo import Limit, Status
from tests.make_records import START, Aim, batch, died, trial

LIMITS = (Limit("ttft.p90", 0.5),)


def judged(number, throughput, seqs, *, again=None, ttft=0.1, state="finished"):
    batches = [] if throughput is None else [batch(8, output_throughput=throughput, ttft__p90=ttft)]
    configuration = {} if seqs is None else {"seqs": seqs}
    slot = f"trial-{number:03d}" if again is None else slot_name(*again)
    record = trial(number, *batches, configuration=configuration, slot=slot, state=state)
    record = replace(record, started_at=START + timedelta(minutes=number))
    return judge_trial(record, limits=LIMITS, objective=Aim())


FIRST = (judged(1, 50.0, None), judged(2, 100.0, 64), judged(3, 99.5, 32), judged(4, 80.0, 16), judged(5, 10.0, 8))


def chosen(trials, **options):
    return [dict(configuration) for configuration in to_confirm(select(trials), **{"repeat": 0, "seed": 0} | options)]


def test_the_best_and_the_defaults_are_measured_again_in_an_order_of_each_round():
    rounds = [chosen(FIRST, top=3, repeat=repeat) for repeat in range(8)]
    assert all(sorted(map(str, order)) == ["{'seqs': 16}", "{'seqs': 32}", "{'seqs': 64}", "{}"] for order in rounds)
    assert len({str(order) for order in rounds}) > 3
    assert rounds[2] == chosen(FIRST, top=3, repeat=2)
    assert rounds != [chosen(FIRST, top=3, repeat=repeat, seed=1) for repeat in range(8)]


def test_nothing_is_measured_again_when_nothing_complies():
    assert chosen([judged(1, 50.0, None, ttft=0.9), judged(2, None, 64)], top=3) == []


def test_defaults_that_were_never_measured_are_left_out():
    refused = judge_trial(trial(1, died(8), configuration={}, status=Status.INFEASIBLE), limits=LIMITS, objective=Aim())
    assert chosen([replace(refused, batches=()), judged(2, 9.0, 64)], top=3) == [{"seqs": 64}]


def test_the_worst_of_the_repeats_counts():
    again = (judged(6, 70.0, 64, again=(0, 0)), judged(7, 98.0, 32, again=(0, 1)), judged(8, 97.0, 32, again=(1, 0)))
    selection = select((*FIRST, *again))
    assert [(one.trial.configuration.get("seqs"), one.score, len(one.repeats)) for one in selection.ranking] == [
        (32, 97.0, 2),
        (64, 70.0, 1),
        (16, 80.0, 0),
        (None, 50.0, 0),
        (8, 10.0, 0),
    ]
    assert selection.best is selection.ranking[0]


def test_a_configuration_that_misses_a_limit_when_measured_again_is_not_selected():
    selection = select((*FIRST, judged(6, 120.0, 64, again=(0, 0), ttft=0.6), judged(7, 90.0, 32, again=(0, 1))))
    assert selection.best.trial.configuration == {"seqs": 32}
    worst = next(one for one in selection.ranking if one.trial.configuration == {"seqs": 64})
    assert (worst.status, worst.score) == (Status.VIOLATING, None)


def test_without_any_confirmed_configuration_the_best_is_said_to_be_unconfirmed():
    selection = select((*FIRST, judged(6, 120.0, 64, again=(0, 0), ttft=0.6)))
    assert selection.best.trial.configuration == {"seqs": 32}
    assert confirmation_lines(selection) == [
        "measured again: 1 configuration, in changing order and with other prompts; of each the worst counts",
        "the best is not confirmed: every configuration that was measured again fell behind its limits",
    ]


def test_an_interrupted_repeat_counts_for_nothing():
    selection = select((*FIRST, judged(6, 1.0, 64, again=(0, 0), state="interrupted")))
    assert selection.best.score == 100.0
    assert confirmation_lines(selection) == []


def test_drift_is_what_the_defaults_lost_on_the_way():
    selection = select((*FIRST, judged(6, 51.0, None, again=(0, 0)), judged(7, 49.0, None, again=(1, 0))))
    assert confirmation_lines(selection)[-1] == (
        "drift: the engine's defaults had 50.00 tok/s first and 49.00 tok/s last (-2 %), of 3 measurements"
    )


@pytest.mark.parametrize(("slot", "told"), [("confirm-1-2", True), ("trial-001", False), ("confirm:1", False)])
def test_a_slot_that_confirms_is_known_by_its_name(slot, told):
    assert confirms(slot) is told


@given(st.lists(st.tuples(st.sampled_from((8, 16, 64)), st.none() | st.floats(1.0, 200.0)), max_size=12))
def test_measuring_again_never_makes_a_configuration_better(repeats):
    again = [judged(10 + index, value, seqs, again=(index, 0)) for index, (seqs, value) in enumerate(repeats)]
    before = {one.trial.configuration.get("seqs"): one for one in select(FIRST).ranking}
    for one in select((*FIRST, *again)).ranking:
        earlier = before[one.trial.configuration.get("seqs")]
        assert one.score is None or one.score <= earlier.score
