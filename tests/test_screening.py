"""Candidates held against the best so far by their first requests."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.search_screening import Kind, dropped_s
from pytest_autotune.samples import Level, Sample
from pytest_autotune.screening import (
    CONFIDENCE,
    Incumbent,
    Rules,
    Screening,
    incumbent_among,
    pair,
    rules_at,
    still_stands,
)
from pytest_autotune.selection import judge_trial
from pytest_autotune.sequential import LEAST
from pytest_autotune.slo import Limit
from tests.make_records import Aim, batch, trial

MOST = Aim()
QUICKEST = Aim("minimize", "e2e.mean")
WORSE = Rules(worse=True)
LEVELS = tuple(map(Level, (1, 4, 16)))
RATES = tuple(Level(rate, "rate") for rate in (1, 4, 16))


def requests(seconds, *, tokens=None, every_s=0.1, ttft=0.5):
    tokens = [100] * len(seconds) if tokens is None else tokens
    return tuple(
        Sample(
            sent_s=index * every_s,
            first_s=index * every_s + ttft * taken_s,
            end_s=index * every_s + taken_s,
            prompt_tokens=10,
            output_tokens=output,
        )
        for index, (taken_s, output) in enumerate(zip(seconds, tokens, strict=True))
    )


def noisy(count, seed=0, *, around=0.5, deviation=0.1):
    chance = random.Random(seed)
    return [around * math.exp(deviation * chance.gauss(0, 1)) for _ in range(count)]


def screening(before, *, rules=WORSE, objective=MOST, limits=(), until_s=1e6, **more):
    known = {"trial": 7, "words": "a=1", "level": Level(4), "score": 200.0, "highest": None, "gpus": 1}
    incumbent = Incumbent(samples=tuple(before), **(known | more))
    return Screening(incumbent, rules, objective=objective, limits=limits, gpus=1, until_s=until_s)


# What may be concluded at a level


@pytest.mark.parametrize(
    ("level", "levels", "objective", "expected"),
    [
        pytest.param(16, LEVELS, MOST, Rules(worse=True, missed="with no more"), id="throughput, highest"),
        pytest.param(4, LEVELS, MOST, Rules(missed="with no more"), id="throughput, in between: may comply above"),
        pytest.param(1, LEVELS, MOST, Rules(missed="alone"), id="throughput, lowest: complies nowhere if not here"),
        pytest.param(4, LEVELS[1:2], MOST, Rules(worse=True, missed="alone"), id="throughput, the only level"),
        pytest.param(1, LEVELS, QUICKEST, Rules(worse=True, missed="alone"), id="latency, lowest"),
        pytest.param(4, LEVELS, QUICKEST, Rules(), id="latency, in between: may be quicker below"),
        pytest.param(16, LEVELS, QUICKEST, Rules(), id="latency, highest"),
        pytest.param(16, LEVELS, Aim(metric="goodput"), Rules(), id="goodput: more load may bring less"),
        pytest.param(16, LEVELS, Aim("minimize", "output_throughput"), Rules(), id="a throughput to be minimised"),
        pytest.param(1, LEVELS, Aim("minimize", "itl.mean"), Rules(missed="alone"), id="gaps have no pairs"),
        pytest.param(1, LEVELS, Aim("minimize", "e2e.max"), Rules(missed="alone"), id="a maximum is not tested"),
        pytest.param(1, LEVELS, Aim("minimize", "ttft.p90"), Rules(worse=True, missed="alone"), id="percentile"),
        pytest.param(8, LEVELS, MOST, Rules(), id="not a level of the list"),
    ],
)
def test_what_a_finding_at_a_level_settles(level, levels, objective, expected):
    assert rules_at(Level(level), levels, objective, thinks=False, more_per_gpu=False) == expected


def test_in_an_open_loop_the_throughput_is_what_is_asked_for():
    assert rules_at(RATES[2], RATES, MOST, thinks=False, more_per_gpu=False) == Rules(missed="with no more")
    assert rules_at(RATES[2], RATES, MOST, thinks=False, more_per_gpu=True) == Rules()
    assert rules_at(RATES[0], RATES, QUICKEST, thinks=False, more_per_gpu=False) == Rules(worse=True, missed="alone")
    burst = (Level(50, "burst"),)
    assert rules_at(burst[0], burst, MOST, thinks=False, more_per_gpu=False) == Rules()


def test_pauses_between_requests_are_not_the_servers():
    assert rules_at(Level(16), LEVELS, MOST, thinks=True, more_per_gpu=False) == Rules()
    assert rules_at(Level(1), LEVELS, MOST, thinks=True, more_per_gpu=False) == Rules(missed="alone")


# Pairs


def test_a_pair_says_how_much_longer_the_same_takes():
    before = noisy(200)
    paired = pair(requests([1.25 * one for one in before]), requests(before), "output_throughput")
    assert paired.pairs == 200
    assert math.exp(paired.excess) == pytest.approx(1.25)
    assert paired.error == pytest.approx(0, abs=0.01)


def test_tokens_count_not_requests():
    seconds, tokens = noisy(200), [2 * random.Random(index).randrange(25, 75) for index in range(200)]
    halved = requests([0.5 * one for one in seconds], tokens=[one // 2 for one in tokens])
    whole = requests(seconds, tokens=tokens)
    assert pair(halved, whole, "output_throughput").excess == pytest.approx(0, abs=0.01)
    assert pair(halved, whole, "request_throughput").excess == pytest.approx(math.log(0.5))
    assert pair(halved, whole, "e2e.mean").excess == pytest.approx(math.log(0.5))


def test_a_steadier_server_is_not_a_slower_one():
    # The mean of the logarithms would be 12 % higher.
    uneven = [0.5 * math.exp(0.5 * random.Random(index).gauss(0, 1) - 0.125) for index in range(400)]
    even = [float(np.mean(uneven))] * 400
    paired = pair(requests(even), requests(uneven), "output_throughput")
    assert paired.excess == pytest.approx(0)
    assert paired.evidence(0.01) < 0


@pytest.mark.parametrize("count", [0, 1, LEAST - 1])
def test_few_requests_say_nothing(count):
    assert pair(requests(noisy(count)), requests(noisy(100)), "output_throughput") is None


def test_requests_without_tokens_say_nothing_of_throughput():
    silent = requests(noisy(50), tokens=[0] * 50)
    assert pair(silent, silent, "output_throughput") is None


def test_requests_of_one_round_are_alike_and_no_proof():
    # The incumbent's rounds differ by 20 %: that all of one round took longer is nothing.
    rounds = [one for one in noisy(40, deviation=0.2) for _ in range(32)]
    slow_round = [0.75 + 0.001 * index for index in range(32)]
    paired = pair(requests(slow_round), requests(rounds), "output_throughput")
    assert paired.excess > 0.1
    assert paired.evidence(0.01) < 1


seconds = st.lists(st.floats(0.001, 100.0), min_size=LEAST, max_size=120)


@settings(max_examples=60, deadline=None)
@given(candidate=seconds, before=seconds, margin=st.floats(-0.1, 0.1))
def test_no_number_is_ever_undefined(candidate, before, margin):
    for metric in ("output_throughput", "input_throughput", "total_throughput_per_gpu", "ttft.mean", "e2e.mean"):
        paired = pair(requests(candidate), requests(before), metric)
        assert math.isfinite(paired.excess)
        assert math.isfinite(paired.error)
        assert math.isfinite(paired.evidence(margin))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), slower=st.sampled_from([1.0, 1.5]))
def test_the_order_of_pairs_within_a_batch_mean_does_not_matter(seed, slower):
    before, now = noisy(160, seed), [slower * one for one in noisy(160, seed + 5000)]
    order = [10 * start + place for start in range(16) for place in random.Random(seed).sample(range(10), 10)]
    shuffled = [[values[index] for index in order] for values in (now, before)]
    plain = pair(requests(now), requests(before), "output_throughput")
    mixed = pair(*map(requests, shuffled), "output_throughput")
    assert mixed.excess == pytest.approx(plain.excess)
    assert (mixed.evidence(0.01) > 3) == (plain.evidence(0.01) > 3) == (slower > 1)


def test_evidence_grows_with_the_excess_and_with_certainty():
    plain = pair(requests(noisy(100)), requests(noisy(100)), "output_throughput")
    by_excess = [replace(plain, excess=excess, error=0.02).evidence(0.01) for excess in (0.0, 0.02, 0.1, 0.5)]
    assert by_excess == sorted(by_excess)
    assert by_excess[0] < 0
    by_error = [replace(plain, excess=0.2, error=error).evidence(0.01) for error in (0.5, 0.1, 0.05, 0.0)]
    assert by_error == sorted(by_error)


# Decisions


def test_equal_servers_are_dropped_at_most_at_the_nominal_rate():
    kind = Kind("correlated", likeness=0.7, deviation=0.1, lengths=0.3)
    found = [dropped_s(number, kind, streams=8, slower=1.0) for number in range(500)]
    assert sum(moment is not None for moment in found) <= 500 * (1 - CONFIDENCE)


def test_servers_that_are_a_fifth_slower_are_dropped_in_most_cases():
    kind = Kind("correlated", likeness=0.5, deviation=0.1, lengths=0.3)
    found = [dropped_s(number, kind, streams=16, slower=1.25) for number in range(60)]
    assert sum(moment is not None for moment in found) >= 50
    assert min(moment for moment in found if moment is not None) < 6  # before the end of what is looked at


def test_a_reason_has_the_numbers_and_the_incumbent():
    before = noisy(300)
    asked = screening(requests(before))
    reason = asked.look(requests([1.25 * one for one in before]), 40.0)
    assert reason == asked.dropped
    assert reason.startswith("output throughput 160.00 tok/s instead of 200.00 tok/s (-20 %) at concurrency 4, by ")
    assert reason.endswith("requests in 40.0 s, against a=1 [trial 7, c4]")


def test_what_is_still_on_its_way_is_not_looked_at():
    # Of those that began last only the quick ones have ended.
    before = noisy(300, deviation=0.01)
    now = requests(before)
    asked = screening(requests([0.5 * one for one in before]))
    assert asked.look([sample for sample in now if sample.end_s < 1.0], 1.0) == ""
    assert asked.look([sample for sample in now if sample.end_s < 20.0], 20.0) != ""


def test_it_looks_no_further_than_it_was_asked_to():
    before = noisy(300)
    slow = requests([2 * one for one in before])
    asked = screening(requests(before), until_s=2.0)
    assert asked.look(slow[:10], 2.5) == ""
    assert asked.look(slow, 40.0) == ""
    assert asked.dropped == ""


def test_every_stream_is_waited_for():
    before = noisy(300)
    slow = requests([2 * one for one in before])
    assert screening(requests(before), level=Level(500)).look(slow, 40.0) == ""
    assert screening(requests(before), level=Level(200)).look(slow, 40.0) != ""


def test_failed_requests_and_those_of_the_warm_up_are_left_out():
    before = noisy(300)
    failed = [replace(sample, error="reset") for sample in requests([5 * one for one in before])]
    early = [replace(sample, sent_s=sample.sent_s - 100) for sample in requests([5 * one for one in before])]
    assert screening(requests(before)).look([*failed, *early, *requests(before)], 40.0) == ""


def test_with_half_the_gpus_it_may_take_longer():
    before = noisy(300)
    slow = requests([1.5 * one for one in before])
    per_gpu = Aim(metric="output_throughput_per_gpu")
    assert screening(requests(before), objective=per_gpu, gpus=2).look(slow, 40.0) == ""
    assert screening(requests(before), objective=per_gpu, gpus=1).look(slow, 40.0) != ""
    assert screening(requests(before), gpus=2).look(slow, 40.0) != ""


@pytest.mark.parametrize(
    ("slower", "rules", "reason"),
    [
        (1.2, Rules(missed="alone"), "e2e.p90 above 500 ms is 9*% sure at concurrency 4, by "),
        (1.2, Rules(missed="with no more"), "e2e.p90 above 500 ms is 9*% sure, with no more output throughput than *"),
        (0.8, Rules(missed="with no more"), ""),  # it brings more here: a lower level may be enough
        (1.2, Rules(missed="never"), ""),
    ],
)
def test_a_limit_that_is_missed(slower, rules, reason):
    from fnmatch import fnmatch

    before = noisy(400, around=0.8, deviation=0.05)
    asked = screening(requests(before), rules=rules, limits=[Limit("e2e.p90", 0.5)])
    told = asked.look(requests([slower * one for one in before]), 60.0)
    assert fnmatch(told, f"{reason}*") if reason else told == ""


def test_at_a_rate_nobody_brings_more():
    before = noisy(400, around=0.8, deviation=0.05)
    asked = screening(
        requests(before), rules=Rules(missed="with no more"), limits=[Limit("e2e.p90", 0.5)], level=Level(10, "rate")
    )
    assert "at rate 10/s" in asked.look(requests([0.8 * one for one in before]), 60.0)


@pytest.mark.parametrize(
    ("highest", "dropped"),
    [pytest.param(0.5, True, id="beyond the interval"), pytest.param(0.9, False), pytest.param(None, False)],
)
def test_a_percentile_is_held_against_the_upper_end_of_the_interval(highest, dropped):
    now = requests(noisy(400, around=0.8, deviation=0.1))
    asked = screening(now, objective=Aim("minimize", "e2e.p50"), highest=highest, score=0.45)
    reason = asked.look(now, 60.0)
    assert bool(reason) == dropped
    assert not dropped or reason.startswith("e2e.p50 worse than 450 ms is 9")


# Who is up against whom


def judged(number, *batches, objective=MOST, limits=(), **more):
    return judge_trial(trial(number, *batches, **more), limits=limits, objective=objective)


def test_the_incumbent_is_the_best_compliant_trial_that_was_finished():
    trials = [
        judged(1, batch(4, output_throughput=100.0)),
        judged(2, batch(4, output_throughput=300.0), batch(16, output_throughput=200.0)),
        judged(3, batch(4, output_throughput=900.0), state="running"),
        judged(4, batch(8, status="failed")),
    ]
    assert incumbent_among(trials, LEVELS).trial.id == 2
    assert incumbent_among(trials, LEVELS[:1]) is None  # its level is not in the list
    assert incumbent_among(trials[2:], LEVELS) is None
    assert incumbent_among([], LEVELS) is None


def test_a_value_that_soft_misses_have_lowered_is_no_yardstick():
    soft = Limit("ttft.p90", 0.1, hard_fail=False)
    assert incumbent_among([judged(1, batch(4, output_throughput=9.0, ttft__p90=0.1), limits=[soft])], LEVELS)
    assert not incumbent_among([judged(1, batch(4, output_throughput=9.0, ttft__p90=0.2), limits=[soft])], LEVELS)


def test_a_drop_stands_while_what_it_was_against_complies():
    limit = Limit("ttft.p90", 0.1)
    against = judged(7, batch(4, output_throughput=9.0, ttft__p90=0.1), limits=[limit])
    reason = "output throughput 1 instead of 2 at concurrency 4, against a=1 [trial 7, c4]"
    assert still_stands(reason, [judged(1), against])
    assert not still_stands(reason, [judged(1)])
    assert not still_stands(reason.replace("c4", "c8"), [against])
    assert not still_stands("something else", [against])
    missed = judged(7, batch(4, output_throughput=9.0, ttft__p90=0.2), limits=[limit])
    assert not still_stands(reason, [missed])
