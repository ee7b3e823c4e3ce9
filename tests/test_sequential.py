"""A limit on a percentile or a mean, decided while requests come in."""

import math
import random
from dataclasses import replace
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.gate import judge_gate
from pytest_autotune.samples import Sample
from pytest_autotune.selection import judge_trial, select
from pytest_autotune.sequential import LEAST, ending, resolved, rule
from pytest_autotune.slo import Certainty, Limit, Ruling, Status, certified_statistic, explain, judge
from tests.make_records import Aim, batch, trial

BOUND_S = 0.5
CERTAINTY = Certainty(0.95)
P95, P99 = Limit("ttft.p95", BOUND_S), Limit("ttft.p99", BOUND_S)
MEAN = Limit("ttft.mean", BOUND_S)


def samples(latencies, *, every_s=0.1, failed=()):
    return [
        Sample(
            sent_s=index * every_s,
            first_s=None if index in failed else index * every_s + ttft_s,
            end_s=index * every_s + ttft_s,
            prompt_tokens=1,
            output_tokens=1,
            error="reset" if index in failed else None,
        )
        for index, ttft_s in enumerate(latencies)
    ]


def ruling(latencies, limit=P95, *, confidence=0.95, between=0.0):
    return rule(samples(latencies), 1e6, [limit], Certainty(confidence, between))[limit.metric]


def spread(count, *, bad=0):
    """Return latencies of which every so manieth is beyond the bound, and the others differ."""
    every = count // bad if bad else count + 1
    return [0.7 if index % every == every - 1 else 0.1 + 0.001 * (index * 7 % 11) for index in range(count)]


@pytest.mark.parametrize(
    ("latencies", "limit", "decision"),
    [
        pytest.param(spread(LEAST - 1), P95, "open", id="too few"),
        pytest.param([0.9] * (LEAST - 1), P95, "open", id="too few, all slow"),
        pytest.param(spread(120), P95, "holds", id="none slow"),
        pytest.param(spread(120), P99, "open", id="not enough for a p99"),
        pytest.param(spread(600), P99, "holds", id="enough for a p99"),
        pytest.param([0.9] * 60, P95, "missed", id="all slow"),
        pytest.param(spread(400, bad=80), P95, "missed", id="a fifth slow"),
        pytest.param(spread(2000, bad=100), P95, "open", id="at the limit"),
    ],
)
def test_a_limit_is_decided_by_the_share_of_requests_that_keep_it(latencies, limit, decision):
    told = ruling(latencies, limit)
    assert told.decision == decision
    assert told.requests == len(latencies)
    assert told.share == pytest.approx(sum(value <= BOUND_S for value in latencies) / len(latencies))
    if decision != "open":
        assert told.confidence >= 0.95


def test_more_confidence_takes_more_requests():
    enough = {
        confidence: next(n for n in range(LEAST, 2000) if ruling(spread(n), confidence=confidence).decision == "holds")
        for confidence in (0.8, 0.95, 0.999)
    }
    assert enough[0.8] < enough[0.95] < enough[0.999] < 300


def test_requests_that_follow_their_neighbours_count_for_less():
    values = [0.1 + 0.001 * index for index in range(160)]
    slowly = [values[2 * index] if index < 80 else values[-2 * (index - 80) - 1] for index in range(160)]
    mixed = list(values)
    random.Random(1).shuffle(mixed)
    assert ruling(mixed).decision == "holds"
    assert ruling(slowly).decision == "open"


def test_failed_requests_have_no_latency():
    told = rule(samples([0.1] * 200, failed=range(0, 200, 2)), 1e6, [P95], CERTAINTY)["ttft.p95"]
    assert told.requests == 100


def test_of_several_limits_a_miss_takes_more():
    seen = spread(400, bad=45)
    alone = rule(samples(seen), 1e6, [P95], CERTAINTY)["ttft.p95"]
    many = rule(samples(seen), 1e6, [P95, *(Limit(f"e2e.p{q}", 9.0) for q in range(50, 90))], CERTAINTY)["ttft.p95"]
    assert alone.confidence > many.confidence


@pytest.mark.parametrize(
    ("limit", "statistic"),
    [
        (Limit("ttft.p99.9", 1.0), 99.9),
        (Limit("itl.p50", 1.0), 50.0),
        (Limit("ttft.p100", 1.0), None),
        (Limit("ttft.max", 1.0), None),
        (Limit("ttft.mean", 1.0), "mean"),
        (Limit("ttft.mean", 1.0, hard_fail=False), None),
        (Limit("ttft.std", 1.0), None),
        (Limit("in_flight.mean", 1.0), None),
        (Limit("ttft.p99", 1.0, hard_fail=False), None),
        (Limit("ttft.p99", 1.0, floor=True), None),
        (Limit("error_rate", 0.01), None),
        (Limit("client.p99", 1.0), None),
    ],
)
def test_hard_limits_on_percentiles_and_means_of_latencies_are_tested(limit, statistic):
    assert certified_statistic(limit) == statistic
    assert (limit.metric in rule(samples([0.1] * 50), 1e6, [limit], CERTAINTY)) is (statistic is not None)


def test_a_limit_with_a_tolerance_is_tested_where_a_miss_is_hard():
    seen = [value + 0.41 for value in spread(200)]
    assert ruling(seen, Limit("ttft.p95", BOUND_S)).decision == "missed"
    assert ruling(seen, Limit("ttft.p95", BOUND_S, fail_ratio=0.1)).decision == "holds"


def look(latencies, *, elapsed_s, limits=(P95,), least_s=0.0):
    ended = [sample for sample in samples(latencies) if sample.end_s <= elapsed_s]
    return ending(resolved(ended, elapsed_s, limits, certainty=CERTAINTY, least_s=least_s))


def test_a_batch_ends_when_every_limit_is_decided():
    assert look(spread(300), elapsed_s=31.0).startswith("every limit that is tested holds at 9")
    assert look(spread(300), elapsed_s=31.0, limits=(P95, P99)) == ""
    assert look([0.9] * 300, elapsed_s=31.0, limits=(P95, P99)).startswith("ttft.p95 is missed at 9")
    slow = samples(spread(400, bad=80))
    far = Limit("e2e.p99.9", 9.0)
    assert resolved(slow, 100.0, (P95, far), certainty=CERTAINTY, least_s=0.0).keys() == {"ttft.p95"}


def test_a_batch_does_not_end_before_its_least_time_or_without_requests():
    assert look(spread(300), elapsed_s=31.0, least_s=31.5) == ""
    assert look([], elapsed_s=31.0) == ""
    assert look(spread(300), elapsed_s=31.0, limits=(Limit("ttft.max", 1.0),)) == ""


def test_slow_requests_that_have_not_ended_do_not_flatter():
    # Every second request takes 20 s: after 30 s only those of the first 10 s have had the time to end.
    slow = [20.0 if index % 2 else 0.1 for index in range(300)]
    assert look(slow, elapsed_s=30.0).startswith("ttft.p95 is missed")
    assert look([0.1] * 250 + [20.0] * 50, elapsed_s=30.0).startswith("every limit")  # none of them is known yet


@settings(max_examples=60)
@given(st.lists(st.sampled_from([0.1, 0.2, 0.9]), min_size=LEAST, max_size=400), st.integers(0, 399))
def test_another_slow_request_never_makes_a_miss_hold(latencies, place):
    worse = list(latencies)
    worse[place % len(worse)] = 0.9
    before, after = ruling(latencies), ruling(worse)
    assert after.share <= before.share
    assert not (before.decision == "missed" and after.decision == "holds")
    for told in (before, after):
        assert 0.0 <= told.confidence <= 1.0
        assert math.isfinite(told.confidence)


@pytest.mark.parametrize(("attainment", "wrong"), [(0.945, "holds"), (0.955, "missed")])
def test_looking_all_the_time_does_not_inflate_the_error_rates(attainment, wrong):
    chance = random.Random(7)
    bound = math.exp(NormalDist().inv_cdf(attainment))
    limit = Limit("ttft.p95", bound)
    errors = 0
    for _ in range(150):
        seen = [math.exp(chance.gauss(0, 1)) for _ in range(600)]
        decisions = (ruling(seen[:n], limit).decision for n in range(50, 601, 50))
        errors += next((decision for decision in decisions if decision != "open"), "open") == wrong
    assert errors <= 14  # of 150; at the nominal 5 % there would be more in 1 of 100 runs


def lognormal(chance, count, *, mean, likeness=0.0, sigma=0.6):
    """Return latencies of which each is like the one before."""
    value, values = chance.gauss(0, 1), []
    for _ in range(count):
        values.append(mean * math.exp(sigma * value - sigma**2 / 2))
        value = likeness * value + math.sqrt(1 - likeness**2) * chance.gauss(0, 1)
    return values


@pytest.mark.parametrize(
    ("mean", "count", "decision"),
    [
        pytest.param(0.3, LEAST - 1, "open", id="too few"),
        pytest.param(0.3, 100, "holds", id="clear pass"),
        pytest.param(0.9, 100, "missed", id="clear miss"),
        pytest.param(0.45, 100, "open", id="close to the limit"),
        pytest.param(0.45, 2000, "holds", id="close to the limit, many"),
        pytest.param(0.55, 2000, "missed", id="just beyond the limit, many"),
        pytest.param(0.5, 2000, "open", id="at the limit"),
    ],
)
def test_a_limit_on_a_mean_is_decided_by_the_mean(mean, count, decision):
    told = ruling(lognormal(random.Random(3), count, mean=mean), MEAN)
    assert told.decision == decision
    assert (told.share, told.requests) == (None, count)
    if decision != "open":
        assert told.confidence >= 0.95


def test_a_mean_of_few_slow_requests_is_missed_although_nearly_all_are_fast():
    assert ruling([20.0 if index % 10 == 5 else 0.1 for index in range(300)], MEAN).decision == "missed"
    assert (
        ruling([20.0 if index % 10 == 5 else 0.1 for index in range(300)], Limit("ttft.p80", BOUND_S)).decision
        == "holds"
    )


def test_the_mean_of_gaps_is_over_gaps_and_each_request_counts_once():
    # Long answers have short gaps: the mean over gaps is 12 ms, that of the requests' means 20 ms.
    few = Sample(0.0, 0.1, 1.0, 1, 5, gaps_s=(0.03,) * 4)
    many = Sample(0.0, 0.1, 1.0, 1, 37, gaps_s=(0.01,) * 36)
    seen = [replace(many if index % 2 else few, sent_s=0.1 * index) for index in range(400)]
    for bound, decision in ((0.016, "holds"), (0.008, "missed")):
        told = rule(seen, 1e6, [Limit("itl.mean", bound)], CERTAINTY)["itl.mean"]
        assert (told.decision, told.requests) == (decision, 400)
    assert rule(seen[: LEAST - 1], 1e6, [Limit("itl.mean", 0.1)], CERTAINTY)["itl.mean"].decision == "open"


@pytest.mark.parametrize("likeness", [0.0, 0.5])
@pytest.mark.parametrize(("place", "wrong"), [(1.0, "holds"), (1.05, "holds"), (1.0, "missed"), (0.95, "missed")])
def test_looking_all_the_time_does_not_inflate_the_error_rates_of_means(place, wrong, likeness):
    chance = random.Random(11)
    errors = 0
    for _ in range(100):
        seen = lognormal(chance, 600, mean=place * BOUND_S, likeness=likeness)
        decisions = (ruling(seen[:n], MEAN).decision for n in range(50, 601, 50))
        errors += next((decision for decision in decisions if decision != "open"), "open") == wrong
    assert errors <= 5  # of 100, nominal


@settings(max_examples=60)
@given(
    st.lists(st.floats(0.01, 2.0), min_size=LEAST, max_size=300),
    st.sampled_from([MEAN, P95]),
    st.lists(st.floats(0.0, 0.49), min_size=2, max_size=2),
)
def test_more_spread_between_batches_never_decides_more(latencies, limit, spreads):
    narrow, wide = (ruling(latencies, limit, between=between) for between in sorted(spreads))
    assert wide.decision in (narrow.decision, "open")


@settings(max_examples=60)
@given(
    st.lists(st.floats(0.01, 2.0), min_size=LEAST, max_size=300),
    st.sampled_from([MEAN, P95]),
    st.sampled_from([0.125, 4.0, 64.0]),
)
def test_the_unit_of_the_latencies_does_not_matter(latencies, limit, factor):
    scaled = replace(limit, bound=limit.bound * factor)
    before, after = ruling(latencies, limit), ruling([factor * value for value in latencies], scaled)
    assert (before.decision, before.requests) == (after.decision, after.requests)
    assert after.confidence == pytest.approx(before.confidence, abs=1e-6)


@pytest.mark.parametrize("limit", [P95, MEAN])
def test_within_the_spread_of_batches_nothing_is_decided(limit):
    chance = random.Random(5)
    # Nearly all of the latencies are so close to 0.49 (or 0.51) that the requests alone would tell at once.
    for place, decision in ((0.49, "holds"), (0.51, "missed")):
        seen = [chance.gauss(place, 0.0003) for _ in range(400)]
        assert ruling(seen, limit).decision == decision
        assert ruling(seen, limit, between=0.01).decision == decision  # z = 1.645: 0.4919 and 0.5082
        assert ruling(seen, limit, between=0.02).decision == "open"


def test_means_and_percentiles_share_the_chance_of_a_false_miss():
    seen = lognormal(random.Random(3), 100, mean=0.6)
    alone = rule(samples(seen), 1e6, [MEAN], CERTAINTY)["ttft.mean"]
    many = rule(samples(seen), 1e6, [MEAN, *(Limit(f"e2e.p{q}", 9.0) for q in range(50, 90))], CERTAINTY)["ttft.mean"]
    assert alone.confidence > many.confidence


def test_a_batch_goes_on_until_means_are_decided_too():
    seen = [value * 1.6 for value in lognormal(random.Random(3), 300, mean=0.3)]
    assert look(seen, elapsed_s=31.0, limits=(Limit("ttft.p95", 9.0),)).startswith("every limit")
    assert look(seen, elapsed_s=31.0, limits=(Limit("ttft.p95", 9.0), MEAN)) == ""
    assert look(seen, elapsed_s=31.0, limits=(Limit("ttft.p95", 9.0), Limit("ttft.mean", 0.2))).startswith(
        "ttft.mean is missed"
    )


def test_an_open_mean_says_nothing_of_shares():
    undecided = Ruling("open", 0.6, None, 812)
    verdict = judge({"tpot.mean": 0.048}, (Limit("tpot.mean", 0.05),), rulings={"tpot.mean": undecided})
    assert verdict.reason == "tpot.mean: 48 ms against 50 ms is not resolved after 812 requests"


def test_an_open_limit_makes_the_batch_inconclusive_unless_another_is_missed():
    undecided = Ruling("open", 0.6, 0.984, 812)
    limits = (P99, Limit("error_rate", 0.01))
    verdict = judge({"ttft.p99": 0.48, "error_rate": 0.0}, limits, rulings={"ttft.p99": undecided})
    assert verdict.status is Status.INCONCLUSIVE
    assert verdict.reason == (
        "ttft.p99: 480 ms against 500 ms is not resolved after 812 requests, 98.4 % of which keep it"
    )
    assert verdict.binding is None
    worse = judge({"ttft.p99": 0.48, "error_rate": 0.5}, limits, rulings={"ttft.p99": undecided})
    assert worse.status is Status.VIOLATING


@pytest.mark.parametrize(
    ("decision", "actual", "status"),
    [
        ("holds", 0.49, Status.COMPLIANT),
        ("holds", 0.51, Status.COMPLIANT),
        ("missed", 0.51, Status.VIOLATING),
        ("missed", 0.49, Status.VIOLATING),
    ],
)
def test_where_a_limit_was_tested_the_test_decides(decision, actual, status):
    ruled = {"ttft.p99": Ruling(decision, 0.97, 0.99, 900)}
    verdict = judge({"ttft.p99": actual}, (P99,), rulings=ruled)
    assert verdict.status is status
    assert str(verdict.checks[0].ruling) == f"{decision} at 97 % confidence"


def test_a_trial_without_a_compliant_batch_is_inconclusive_and_the_gate_says_what_to_do():
    undecided = replace(batch(8, ttft__p99=0.48), rulings={"ttft.p99": Ruling("open", 0.6, 0.984, 812)})
    judged = judge_trial(trial(1, batch(1, ttft__p99=0.9), undecided), limits=(P99,), objective=Aim())
    assert judged.status is Status.INCONCLUSIVE
    assert judged.reason.startswith("concurrency=8: ttft.p99: 480 ms against 500 ms is not resolved")
    gate = judge_gate(select([judged]))
    assert not gate.holds
    assert "No configuration is shown to meet the SLO, and 1 trial could not be told: max-num-seqs=64" in gate.reason
    assert "Measure longer" in gate.reason


def test_a_compliant_batch_makes_up_for_one_that_could_not_be_told():
    undecided = replace(batch(8, ttft__p99=0.48), rulings={"ttft.p99": Ruling("open", 0.6, 0.984, 812)})
    judged = judge_trial(trial(1, batch(1, ttft__p99=0.1), undecided), limits=(P99,), objective=Aim())
    assert judged.status is Status.COMPLIANT


def test_the_table_of_limits_says_how_sure_each_verdict_is():
    told = explain(judge({"ttft.p99": 0.48}, (P99,), rulings={"ttft.p99": Ruling("holds", 0.9712, 0.999, 900)}))
    assert told.endswith("holds at 97.12 % confidence")
