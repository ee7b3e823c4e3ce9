from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.slo import RATIO_CAP, Limit, Status, Verdict, explain, judge, penalised, request_limits

E2E = Limit("e2e.p90", 5.0)
TOLERANT = Limit("e2e.p90", 5.0, fail_ratio=0.2)
SOFT = Limit("e2e.p90", 5.0, hard_fail=False)
FLOOR = Limit("output_throughput", 100.0, floor=True)
ERRORS = Limit("error_rate", 0.0)


@pytest.mark.parametrize(
    ("limit", "actual", "breach", "text"),
    [
        pytest.param(E2E, 4.0, None, "e2e.p90: 4.0 s <= 5.0 s (-20 %)", id="below"),
        pytest.param(E2E, 5.0, None, "e2e.p90: 5.0 s <= 5.0 s (0 %)", id="equal passes"),
        pytest.param(E2E, 6.2, "hard", "e2e.p90: 6.2 s > 5.0 s (+24 %)", id="above"),
        pytest.param(E2E, 5.0004, "hard", "e2e.p90: 5.0004 s > 5.0 s (+<0.01 %)", id="barely above"),
        pytest.param(TOLERANT, 6.0, "soft", "e2e.p90: 6.0 s > 5.0 s (+20 %)", id="exactly fail_ratio is soft"),
        pytest.param(TOLERANT, 6.001, "hard", "e2e.p90: 6.0 s > 5.0 s (+20 %)", id="just beyond fail_ratio"),
        pytest.param(SOFT, 50.0, "soft", "e2e.p90: 50.0 s > 5.0 s (+900 %)", id="never hard"),
        pytest.param(FLOOR, 100.0, None, "output_throughput: 100.00 tok/s >= 100.00 tok/s (0 %)", id="equal floor"),
        pytest.param(FLOOR, 120.0, None, "output_throughput: 120.00 tok/s >= 100.00 tok/s (+20 %)", id="above floor"),
        pytest.param(FLOOR, 80.0, "hard", "output_throughput: 80.00 tok/s < 100.00 tok/s (-20 %)", id="below floor"),
        pytest.param(ERRORS, 0.0, None, "error_rate: 0 % <= 0 %", id="zero errors of zero allowed"),
        pytest.param(ERRORS, 0.02, "hard", "error_rate: 2 % > 0 %", id="errors of zero allowed"),
    ],
)
def test_a_limit_is_held_against_the_measured_value(limit, actual, breach, text):
    verdict = judge({limit.metric: actual}, [limit])
    (check,) = verdict.checks
    assert (check.breach, str(check)) == (breach, text)
    assert verdict.status is (Status.VIOLATING if breach == "hard" else Status.COMPLIANT)
    assert verdict.reason == (text if breach == "hard" else "")


@pytest.mark.parametrize(("bound", "ratio"), [(1.0, 0.1), (0.3, 0.1), (7.0, 0.3), (3.0, 0.7), (0.5, 0.2)])
def test_rounding_does_not_make_a_breach_at_exactly_fail_ratio_hard(bound, ratio):
    limit = Limit("ttft.p90", bound, fail_ratio=ratio)
    assert judge({"ttft.p90": bound * (1 + ratio)}, [limit]).status is Status.COMPLIANT
    assert judge({"ttft.p90": bound * (1 + ratio) * 1.0001}, [limit]).status is Status.VIOLATING


def test_the_excess_over_a_limit_of_zero_is_absolute():
    verdict = judge({"error_rate": 0.02}, [ERRORS])
    assert verdict.checks[0].ratio == pytest.approx(0.02)
    assert judge({"error_rate": 0.02}, [Limit("error_rate", 0.0, fail_ratio=0.05)]).status is Status.COMPLIANT


@pytest.mark.parametrize(
    ("metrics", "no_data", "reason"),
    [
        pytest.param({}, None, "no data: nothing was measured", id="nothing measured"),
        pytest.param({"e2e.p90": 1.0}, "client saturated", "no data: client saturated", id="saturated client"),
        pytest.param({"ttft.p90": 1.0}, None, "no data for e2e.p90", id="metric absent"),
        pytest.param({"e2e.p90": math.nan}, None, "no data for e2e.p90", id="nan"),
        pytest.param({"e2e.p90": -math.inf}, None, "no data for e2e.p90", id="infinite"),
    ],
)
def test_without_data_nothing_passes(metrics, no_data, reason):
    verdict = judge(metrics, [E2E], no_data=no_data)
    assert (verdict.status, verdict.reason) == (Status.FAILED, reason)
    assert verdict.checks[0].actual is None
    assert not verdict.checks[0].holds
    assert verdict.binding is None


def test_a_server_that_fails_every_request_violates_although_it_has_no_latencies():
    verdict = judge({"error_rate": 1.0}, [E2E, Limit("error_rate", 0.01)])
    assert verdict.status is Status.VIOLATING
    assert verdict.reason == "error_rate: 100 % > 1 % (+9900 %); no data for e2e.p90"


def test_the_reason_starts_with_the_limit_that_binds():
    verdict = judge({"e2e.p90": 6.0, "ttft.p90": 0.9}, [E2E, Limit("ttft.p90", 0.5)])
    assert verdict.reason == "ttft.p90: 900 ms > 500 ms (+80 %); e2e.p90: 6.0 s > 5.0 s (+20 %)"
    assert verdict.binding is verdict.checks[1]
    assert verdict.excess == pytest.approx(0.8)


def test_no_limits_are_kept_by_whatever_was_measured():
    assert judge({"e2e.p90": 1.0}, []) == Verdict(Status.COMPLIANT)


@pytest.mark.parametrize(
    ("bound", "fields"),
    [
        (math.nan, {}),
        (math.inf, {}),
        (-1.0, {}),
        (1.0, {"weight": math.inf}),
        (1.0, {"weight": -1}),
        (1.0, {"fail_ratio": -0.1}),
    ],
)
def test_a_limit_that_cannot_be_compared_with_is_refused(bound, fields):
    with pytest.raises(ValueError, match=r"e2e\.p90: .* must be a finite number >= 0"):
        Limit("e2e.p90", bound, **fields)


@pytest.mark.parametrize("steepness", [0.0, -1.0, math.nan])
def test_a_steepness_that_is_not_positive_is_refused(steepness):
    with pytest.raises(ValueError, match="steepness"):
        judge({"e2e.p90": 1.0}, [E2E], steepness=steepness)


def test_a_soft_breach_costs_weight_times_expm1_of_ratio_over_steepness():
    verdict = judge({"e2e.p90": 5.5}, [Limit("e2e.p90", 5.0, hard_fail=False, weight=2.0)])
    assert verdict.penalty == pytest.approx(2 * math.expm1(1.0))
    assert penalised(-3.0, verdict.penalty) == pytest.approx(-3.0 - 3.0 * 2 * math.expm1(1.0))


def test_penalties_of_several_soft_breaches_add_up_and_hard_ones_cost_nothing():
    limits = [SOFT, Limit("ttft.p90", 1.0, hard_fail=False), Limit("tpot.mean", 0.05)]
    verdict = judge({"e2e.p90": 5.5, "ttft.p90": 1.1, "tpot.mean": 0.5}, limits)
    assert verdict.penalty == pytest.approx(2 * math.expm1(1.0))
    assert verdict.status is Status.VIOLATING


def test_the_tightest_latency_bound_of_each_family_is_the_limit_of_a_good_request():
    limits = [Limit("ttft.p90", 0.5), Limit("ttft.p99", 2.0), E2E, FLOOR, ERRORS, Limit("tpot.mean", 0.05, floor=True)]
    assert request_limits(limits) == {"ttft": 0.5, "e2e": 5.0}


def test_the_explanation_names_every_limit_with_what_was_measured_and_by_how_much():
    metrics = {"ttft.p90": 0.394, "e2e.p90": 6.2, "tpot.mean": 0.0525, "output_throughput": 231.7, "error_rate": 0.0}
    limits = [
        Limit("ttft.p90", 0.5),
        E2E,
        Limit("tpot.mean", 0.05, hard_fail=False),
        FLOOR,
        Limit("error_rate", 0.0),
        Limit("itl.p99", 0.1),
    ]
    assert explain(judge(metrics, limits)).splitlines() == [
        "violating: e2e.p90: 6.2 s > 5.0 s (+24 %); no data for itl.p99",
        "  ttft.p90                 394 ms <= 500 ms         -21 %  holds",
        "  e2e.p90                   6.2 s >  5.0 s          +24 %  MISSED",
        "  tpot.mean               52.5 ms >  50 ms           +5 %  missed, soft",
        "  output_throughput  231.70 tok/s >= 100.00 tok/s  +132 %  holds",
        "  error_rate                  0 % <= 0 %                   holds",
        "  itl.p99                 no data >  100 ms                MISSED",
    ]


def test_a_verdict_without_checks_is_explained_in_one_line():
    assert explain(Verdict(Status.FAILED, reason="timeout")) == "failed: timeout"


sizes = st.floats(min_value=0, max_value=sys.float_info.max)
limits_ = st.builds(
    Limit,
    st.sampled_from(["e2e.p90", "error_rate", "output_throughput"]),
    sizes,
    floor=st.booleans(),
    hard_fail=st.booleans(),
    fail_ratio=st.floats(0, 10),
    weight=sizes,
)
anything = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(limits_, max_size=4), anything, anything, st.floats(1e-300, 1e3), sizes)
def test_whatever_is_measured_no_ratio_penalty_or_score_is_infinite(limits, first, second, steepness, score):
    verdict = judge({"e2e.p90": first, "error_rate": second}, limits, steepness=steepness)
    assert all(-RATIO_CAP <= check.ratio <= RATIO_CAP for check in verdict.checks)
    assert verdict.penalty >= 0
    assert math.isfinite(penalised(score, verdict.penalty))
    assert math.isfinite(penalised(-score, verdict.penalty))
    assert explain(verdict).isascii()


@given(limits_, sizes)
def test_a_limit_holds_exactly_when_the_value_is_on_its_right_side(limit, actual):
    (check,) = judge({limit.metric: actual}, [limit]).checks
    assert check.holds == (actual >= limit.bound if limit.floor else actual <= limit.bound)
    assert check.holds == (check.ratio <= 0)


@given(st.floats(0, 1e-9))
def test_the_penalty_is_continuous_at_the_limit(ratio):
    assert judge({"e2e.p90": 5.0 * (1 + ratio)}, [SOFT]).penalty <= 2e-8


@given(st.floats(0, 3), st.floats(0, 3), st.floats(-1e6, 1e6))
def test_a_worse_soft_breach_never_scores_better_whatever_the_sign_of_the_score(one, other, score):
    lesser, greater = sorted([one, other])
    scores = [penalised(score, judge({"e2e.p90": 5.0 * (1 + ratio)}, [SOFT]).penalty) for ratio in (lesser, greater)]
    assert scores[0] >= scores[1]
