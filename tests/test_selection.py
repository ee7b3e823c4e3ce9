from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_autotune.samples import ClientHealth, Level
from pytest_autotune.selection import JudgedTrial, judge_trial, select, slo_lines
from pytest_autotune.slo import DELIVERED, Limit, Status
from tests.make_records import Aim, batch, died, trial

E2E = (Limit("e2e.p90", 5.0),)
SATURATED = ClientHealth(0.5, 1.0, 0.5, 1.0, saturated="the client used a whole core; lower the load")


def judged(record, limits=E2E, **aim) -> JudgedTrial:
    return judge_trial(record, limits=limits, objective=Aim(**aim))


def good(number, throughput, **fields):
    return judged(trial(number, batch(8, e2e__p90=4.0, output_throughput=throughput), **fields))


SEED_0 = trial(
    1,
    batch(1, e2e__p90=7.9, output_throughput=30.1),
    batch(4, e2e__p90=6.61, output_throughput=120.5),
    batch(8, e2e__p90=5.71, output_throughput=231.70),
    batch(12, e2e__p90=7.54, output_throughput=264.48),
)
SEED_1 = trial(
    1,
    batch(1, e2e__p90=3.1, output_throughput=40.0),
    batch(4, e2e__p90=6.2, output_throughput=150.0),
    batch(6, e2e__p90=4.9, output_throughput=140.0),
    died(8),
)


def test_throughput_comes_from_a_compliant_batch_and_not_from_the_fastest():
    result = judged(SEED_0, [Limit("e2e.p90", 6.5)])
    assert (result.score, result.level, result.capacity) == (231.70, Level(8), Level(8))
    assert result.status is Status.COMPLIANT
    assert slo_lines(result) == [
        "[slo] 1/4 batches compliant",
        "[slo] concurrency=1 violates e2e.p90: 7.9 s > 6.5 s (+22 %)",
        "[slo] concurrency=4 violates e2e.p90: 6.61 s > 6.5 s (+1.7 %)",
        "[slo] concurrency=12 violates e2e.p90: 7.54 s > 6.5 s (+16 %)",
        "[slo] best output throughput 231.70 tok/s from concurrency 8 (1 of 4 batches compliant)",
    ]


def test_a_violating_and_a_dying_batch_leave_the_others_their_value():
    result = judged(SEED_1)
    assert [batch.level.concurrency for batch in result.compliant] == [1, 6]
    assert [batch.verdict.status for batch in result.batches] == [
        Status.COMPLIANT,
        Status.VIOLATING,
        Status.COMPLIANT,
        Status.INFEASIBLE,
    ]
    assert (result.status, result.score, result.capacity) == (Status.COMPLIANT, 140.0, Level(6))
    assert slo_lines(result) == [
        "[slo] 2/4 batches compliant",
        "[slo] concurrency=4 violates e2e.p90: 6.2 s > 5.0 s (+24 %)",
        "[slo] concurrency=8 not measured: out of memory: CUDA out of memory",
        "[slo] best output throughput 140.00 tok/s from concurrency 6 (2 of 4 batches compliant)",
    ]


def test_a_trial_without_a_compliant_batch_keeps_its_numbers_and_names_the_least_violating():
    result = judged(trial(1, batch(1, e2e__p90=5.5), batch(4, e2e__p90=5.2), batch(8, e2e__p90=9.0)))
    assert (result.status, result.score, result.capacity, result.best) == (Status.VIOLATING, None, None, None)
    assert result.least_violating is not None
    assert result.least_violating.level == Level(4)
    assert result.reason == "concurrency=4 violates e2e.p90: 5.2 s > 5.0 s (+4 %)"
    assert result.batches[2].record.metrics == {"e2e.p90": 9.0}
    assert (
        slo_lines(result)[-1] == "[slo] no batch complies; concurrency=4 violates least: e2e.p90: 5.2 s > 5.0 s (+4 %)"
    )


@pytest.mark.parametrize(
    ("record", "status", "reason"),
    [
        pytest.param(
            trial(1, status=Status.INFEASIBLE, reason="out of memory: 3 GiB short", cause="out of memory"),
            Status.INFEASIBLE,
            "out of memory: 3 GiB short",
            id="refused at start",
        ),
        pytest.param(
            trial(1, cause="bad argument", reason="bad argument: --foo"),
            Status.INFEASIBLE,
            "bad argument: --foo",
            id="refused, by cause",
        ),
        pytest.param(
            trial(1, status=Status.FAILED, reason="port in use"), Status.FAILED, "port in use", id="failed at start"
        ),
        pytest.param(
            trial(1, cause="timeout", state="running"), Status.FAILED, "timeout", id="failed at start, by cause"
        ),
        pytest.param(trial(1), Status.FAILED, "no batch was measured", id="nothing measured"),
        pytest.param(
            trial(1, status=Status.SCREENED_OUT, reason="less than the best"),
            Status.SCREENED_OUT,
            "less than the best",
            id="screened out",
        ),
        pytest.param(
            trial(1, status=Status.SCREENED_OUT, reason="to be measured again", state="interrupted"),
            Status.NOT_RUN,
            "to be measured again",
            id="screened out by what counts no more",
        ),
        pytest.param(trial(1, state="running"), Status.NOT_RUN, "no batch was measured yet", id="not begun"),
        pytest.param(
            trial(1, died(1)),
            Status.INFEASIBLE,
            "concurrency=1: out of memory: CUDA out of memory",
            id="died of memory in the first batch",
        ),
        pytest.param(
            trial(1, died(1, reason="segmentation fault", cause="crash")),
            Status.FAILED,
            "concurrency=1: crash: segmentation fault",
            id="crashed in the first batch",
        ),
        pytest.param(
            trial(1, batch(1, client=SATURATED, e2e__p90=1.0)),
            Status.FAILED,
            "concurrency=1: no data: the client used a whole core; lower the load",
            id="client saturated",
        ),
        pytest.param(
            trial(1, batch(1, requests=0, e2e__p90=1.0)),
            Status.FAILED,
            "concurrency=1: no data: no request ended inside the measurement window",
            id="no requests",
        ),
        pytest.param(
            trial(1, batch(1, client=SATURATED, e2e__p90=1.0), batch(4, e2e__p90=6.0)),
            Status.VIOLATING,
            "concurrency=4 violates e2e.p90: 6.0 s > 5.0 s (+20 %)",
            id="violating with one batch lost",
        ),
        pytest.param(
            trial(1, batch(1, e2e__p90=4.0), state="running"),
            Status.COMPLIANT,
            "",
            id="still running, compliant so far",
        ),
    ],
)
def test_a_trial_is_judged_by_its_batches_and_else_by_what_stopped_it(record, status, reason):
    result = judged(record)
    assert (result.status, result.reason) == (status, reason)


@pytest.mark.parametrize(
    ("batch_", "line"),
    [
        (
            batch(8, status="failed", reason="timeout after 60 s"),
            "[slo] concurrency=8 not measured: timeout after 60 s",
        ),
        (died(8, reason="", cause="killed"), "[slo] concurrency=8 not measured: killed"),
        (died(8, reason="out of memory: KV cache"), "[slo] concurrency=8 not measured: out of memory: KV cache"),
        (batch(8, status="failed"), "[slo] concurrency=8 not measured: failed"),
        (batch(8, ttft__p90=1.0), "[slo] concurrency=8 has no verdict: no data for e2e.p90"),
    ],
)
def test_a_batch_without_numbers_says_why(batch_, line):
    assert slo_lines(judged(trial(1, batch_))) == ["[slo] 0/1 batches compliant", line]


def test_a_compliant_batch_without_the_objective_does_not_score():
    record = trial(
        1, batch(1, e2e__p90=4.0, goodput=2.0), batch(4, e2e__p90=4.5), batch(8, e2e__p90=4.6, goodput=math.nan)
    )
    result = judged(record, metric="goodput")
    assert (result.score, result.level, result.capacity) == (2.0, Level(1), Level(8))
    without = judged(record, metric="total_throughput")
    assert (without.status, without.score, without.eligible) == (Status.COMPLIANT, None, False)
    assert slo_lines(without)[-1] == (
        "[slo] no compliant batch has total_throughput: the trial has no score (3 of 3 batches compliant)"
    )


def test_a_soft_breach_costs_rank_but_the_score_stays_what_was_measured():
    limits = [Limit("e2e.p90", 5.0, hard_fail=False)]
    record = trial(1, batch(4, e2e__p90=5.0, output_throughput=100.0), batch(8, e2e__p90=5.5, output_throughput=110.0))
    result = judged(record, limits)
    assert (result.score, result.level, result.capacity) == (100.0, Level(4), Level(8))
    assert result.batches[1].rank_value == pytest.approx(110 - math.expm1(1) * 110)
    assert slo_lines(result)[1] == "[slo] concurrency=8 misses soft e2e.p90: 5.5 s > 5.0 s (+10 %)"


def test_a_penalty_makes_a_minimised_score_worse_too():
    limits = [Limit("e2e.p90", 5.0, hard_fail=False)]
    record = trial(1, batch(4, e2e__p90=5.5, ttft__p90=0.4), batch(8, e2e__p90=5.0, ttft__p90=0.5))
    result = judged(record, limits, direction="minimize", metric="ttft.p90")
    assert (result.score, result.rank_value, result.level) == (0.5, -0.5, Level(8))
    assert slo_lines(result)[-1] == "[slo] best ttft.p90 500 ms from concurrency 8 (2 of 2 batches compliant)"


def test_the_best_trial_has_the_highest_compliant_value_and_never_a_violating_one():
    slow, fast = good(1, 100.0), good(2, 200.0)
    violating = judged(trial(3, batch(8, e2e__p90=9.0, output_throughput=900.0)))
    refused = judged(trial(4, status=Status.INFEASIBLE, reason="out of memory"))
    result = select([refused, violating, slow, fast])
    assert result.best is fast
    assert result.ranking == (fast, slow, violating, refused)
    assert result.closest is None
    assert result.binding is None


def test_a_latency_objective_prefers_the_lower_value():
    fast, slow = (
        judged(trial(n, batch(1, e2e__p90=4.0, ttft__p90=t)), direction="minimize", metric="ttft.p90")
        for n, t in ((1, 0.2), (2, 0.3))
    )
    assert select([slow, fast]).ranking == (fast, slow)


def test_only_a_finished_trial_is_selected():
    running, interrupted = good(1, 300.0, state="running"), good(2, 400.0, state="interrupted")
    done = good(3, 100.0)
    result = select([running, interrupted, done])
    assert result.best is done
    assert result.ranking[0] is done
    assert select([running, interrupted]).best is None


@pytest.mark.parametrize(
    ("candidates", "best"),
    [
        pytest.param([(1, 100.0, {"a": 1, "b": 2}, 1), (2, 99.1, {"a": 1}, 8)], 2, id="fewer overrides within 1 %"),
        pytest.param([(1, 100.0, {"a": 1, "b": 2}, 1), (2, 98.9, {}, 1)], 1, id="beyond 1 % the objective decides"),
        pytest.param([(1, 100.0, {"a": 1}, 4), (2, 99.5, {"a": 2}, 2)], 2, id="then fewer GPUs"),
        pytest.param([(2, 100.0, {"a": 1}, 2), (1, 99.5, {"a": 2}, 2)], 1, id="then the earlier"),
        pytest.param(
            [
                (1, 100.0, {"a": 1, "b": 2, "c": 3}, 1),
                (2, 99.2, {"a": 1, "b": 2}, 1),
                (3, 98.4, {"a": 1}, 1),
                (4, 97.6, {}, 1),
            ],
            2,
            id="a chain of small steps is measured from the top",
        ),
        pytest.param([(1, 0.0, {"a": 1}, 1), (2, 0.0, {}, 1)], 2, id="zero ties with zero"),
    ],
)
def test_a_tie_within_noise_goes_to_the_simpler_configuration(candidates, best):
    trials = [good(number, value, configuration=settings, gpus=gpus) for number, value, settings, gpus in candidates]
    for order in (trials, trials[::-1]):
        result = select(order)
        assert result.best is not None
        assert result.best.trial.id == best
        assert result.tied[0] is result.best


def test_the_noise_of_a_minimised_objective_is_measured_from_the_lowest():
    def candidate(number, ttft, configuration):
        record = trial(number, batch(1, e2e__p90=4.0, ttft__p90=ttft), configuration=configuration)
        return judged(record, direction="minimize", metric="ttft.p90")

    lowest, close, far = candidate(1, 0.1, {"a": 1}), candidate(2, 0.1009, {}), candidate(3, 0.1011, {})
    assert select([far, close, lowest]).ranking == (close, lowest, far)


def test_the_reference_is_the_empty_configuration():
    defaults, tuned = good(1, 100.0, configuration={}), good(2, 200.0)
    assert select([tuned, defaults]).reference is defaults
    assert select([tuned]).reference is None


def test_when_nothing_complies_the_closest_trial_and_its_binding_limit_are_named():
    limits = [Limit("ttft.p90", 0.5), Limit("e2e.p90", 5.0)]
    near = judged(trial(1, batch(1, ttft__p90=0.612, e2e__p90=5.5), batch(4, ttft__p90=0.9, e2e__p90=5.0)), limits)
    far = judged(trial(2, batch(1, ttft__p90=0.2, e2e__p90=8.0)), limits)
    refused = judged(trial(3, status=Status.INFEASIBLE, reason="out of memory"), limits)
    result = select([refused, far, near])
    assert result.best is None
    assert result.closest is not None
    assert (result.closest.trial, result.closest.batch.level) == (near, Level(1))
    assert str(result.binding) == "ttft.p90: 612 ms > 500 ms (+22 %)"
    assert result.ranking == (near, far, refused)


def test_nothing_is_selected_from_nothing():
    result = select([])
    assert (result.best, result.ranking, result.reference, result.closest) == (None, (), None, None)


latency = st.floats(0.001, 100.0)
rate = st.floats(0.0, 1e6)
batches = st.one_of(
    st.builds(lambda c, e, r: batch(c, e2e__p90=e, output_throughput=r), st.integers(1, 64), latency, rate),
    st.builds(died, st.integers(1, 64)),
    st.builds(lambda c: batch(c, status="failed", reason="timeout"), st.integers(1, 64)),
)
overrides = st.dictionaries(st.sampled_from("abc"), st.integers(0, 3))
limits_ = st.sampled_from([E2E, (Limit("e2e.p90", 5.0, hard_fail=False),), ()])


@st.composite
def trials_(draw, max_size=6):
    limits = draw(limits_)
    states = st.sampled_from(["finished", "finished", "finished", "running", "interrupted"])
    return [
        judged(
            trial(
                n,
                *draw(st.lists(batches, max_size=3)),
                configuration=draw(overrides),
                state=draw(states),
                gpus=draw(st.integers(0, 8)),
            ),
            limits,
        )
        for n in range(draw(st.integers(0, max_size)))
    ]


@given(trials_(), st.randoms())
def test_the_order_of_the_trials_does_not_matter(trials, random):
    shuffled = list(trials)
    random.shuffle(shuffled)
    assert select(shuffled) == select(trials)


@given(trials_())
def test_a_trial_that_does_not_comply_never_outranks_one_that_does(trials):
    result = select(trials)
    assert sorted(map(id, result.ranking)) == sorted(map(id, trials))
    ranks = [judged.eligible for judged in result.ranking]
    assert ranks == sorted(ranks, reverse=True)
    assert (result.best is not None) == any(ranks)
    assert result.best is None or result.best.status is Status.COMPLIANT


@given(trials_())
def test_the_best_is_within_noise_of_the_highest_value(trials):
    result = select(trials)
    assume(result.best is not None)
    top = max(judged.rank_value for judged in trials if judged.eligible)
    assert result.best.rank_value >= top - 0.01 * abs(top)


@given(trials_(), batches, overrides)
def test_adding_a_worse_trial_never_changes_the_best(trials, extra, configuration):
    before = select(trials)
    assume(before.best is not None)
    added = judged(trial(99, extra, configuration=configuration))
    top = max(judged.rank_value for judged in before.tied)
    assume(not added.eligible or added.rank_value < top - 0.01 * abs(top))
    assert select([*trials, added]).best is before.best


@given(trials_())
def test_every_score_is_finite_and_comes_from_a_compliant_batch(trials):
    for judged_ in trials:
        assert (judged_.score is None) == (judged_.rank_value is None)
        if judged_.best is not None:
            assert math.isfinite(judged_.rank_value)
            assert judged_.best.compliant
            assert judged_.best.rank_value == max(b.rank_value for b in judged_.batches if b.rank_value is not None)


RATE = Level(10, "rate")


def at_rate(delivered=1.0, oversaturated="", level=RATE, **metrics):
    metrics = {"e2e__p90": 4.0, "output_throughput": 50.0, "delivered": delivered, **metrics}
    return replace(batch(1, **metrics), level=level, delivered=delivered, oversaturated=oversaturated)


@pytest.mark.parametrize(
    ("batch_", "reason"),
    [
        (
            at_rate(0.91),
            "delivered: 91 % < 98 % (-7.1 %) (asked for 10 requests/s, 9.1 reached the server)",
        ),
        (
            at_rate(0.5, level=Level(200, "burst")),
            "delivered: 50 % < 98 % (-49 %) (of the burst 200 that was asked for, 50.0% reached the server in time)",
        ),
        (at_rate(oversaturated="ttft grew"), "over-saturated: ttft grew"),
        (
            at_rate(oversaturated="ttft grew", e2e__p90=6.0),
            "over-saturated: ttft grew; e2e.p90: 6.0 s > 5.0 s (+20 %)",
        ),
    ],
    ids=["a rate that was not delivered", "a burst that was not delivered", "over-saturated", "and slow"],
)
def test_a_load_that_did_not_arrive_or_grew_without_bound_is_not_compliant(batch_, reason):
    result = judged(trial(1, batch_), [Limit("e2e.p90", 5.0), DELIVERED])
    assert (result.status, result.best, result.capacity) == (Status.VIOLATING, None, None)
    assert result.batches[0].verdict.reason == reason
    assert slo_lines(result)[1] == f"[slo] {batch_.level} violates {reason}"


def test_a_load_that_arrived_is_compliant_and_its_highest_rate_is_the_capacity():
    batches = [at_rate(0.98, level=Level(rate, "rate")) for rate in (5, 12.5, 10)]
    result = judged(trial(1, *batches, at_rate(0.97, level=Level(20, "rate"))), [Limit("e2e.p90", 5.0), DELIVERED])
    assert (result.status, result.capacity) == (Status.COMPLIANT, Level(12.5, "rate"))
    assert "from rate 12.5/s (3 of 4 batches compliant)" in result.headline


def test_an_over_saturated_batch_that_measured_nothing_has_failed_all_the_same():
    nothing = replace(at_rate(oversaturated="ttft grew"), requests=0, metrics={})
    assert judged(trial(1, nothing)).status is Status.FAILED


def test_what_was_screened_out_is_never_selected_and_comes_after_what_was_measured():
    dropped = judged(trial(1, status=Status.SCREENED_OUT, reason="less than the best", configuration={}))
    slow = judged(trial(2, batch(1, e2e__p90=1.0, output_throughput=1.0)))
    missed = judged(trial(3, batch(1, e2e__p90=99.0, output_throughput=9.0)))
    refused = judged(trial(4, cause="bad argument", reason="bad argument: --foo"))
    selection = select([refused, dropped, missed, slow])
    assert [each.trial.id for each in selection.ranking] == [2, 3, 1, 4]
    assert select([dropped]).best is None
    assert (dropped.eligible, dropped.rank_value) == (False, None)
