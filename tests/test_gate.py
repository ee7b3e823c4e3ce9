from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_autotune.comparison import Comparison, Looks, Pair, Refusal, Tolerance, compare
from pytest_autotune.gate import Gate, Rule, judge_gate, judge_verification
from pytest_autotune.held import Held, Verification
from pytest_autotune.selection import judge_trial, select
from pytest_autotune.slo import Limit, Ruling, Status
from pytest_autotune.suite_gate import Terms
from tests.make_baselines import baseline
from tests.make_records import Aim, batch, died, trial


def gate(*trials, metric="output_throughput") -> Gate:
    limits = [Limit("ttft.p90", 0.5)]
    return judge_gate(select(judge_trial(t, limits=limits, objective=Aim(metric=metric)) for t in trials))


COMPLIANT = trial(
    1, batch(8, ttft__p90=0.4, output_throughput=231.7), batch(16, ttft__p90=0.7, output_throughput=300.0)
)
NEAR = trial(2, batch(1, ttft__p90=0.612), configuration={"tp": 2, "max-num-seqs": 64})
REFUSED = trial(3, status=Status.INFEASIBLE, reason="out of memory: 3 GiB short")


def test_the_gate_holds_when_a_configuration_complies():
    result = gate(COMPLIANT, NEAR, REFUSED)
    assert result.holds
    assert result.reason == ""
    assert result.rules == (
        Rule(
            "compliant-configuration",
            True,
            "max-num-seqs=64: output throughput 231.70 tok/s from concurrency 8 (1 of 2 batches compliant).",
        ),
    )


@pytest.mark.parametrize(
    ("trials", "metric", "explanation"),
    [
        pytest.param(
            [NEAR, REFUSED],
            "output_throughput",
            "No configuration meets the SLO: the binding limit is ttft.p90: 612 ms > 500 ms (+22 %) at concurrency 1 "
            "in max-num-seqs=64 tp=2. Relax that limit, add a lower load level, or widen the parameters.",
            id="all violate or are refused",
        ),
        pytest.param(
            [REFUSED, trial(4, died(1, reason="signal 11", cause="crash"))],
            "output_throughput",
            "No configuration could be measured: of 2 trials, 1 failed, 1 infeasible; max-num-seqs=64: out of memory: "
            "3 GiB short. Read the end of the server logs, and leave out settings that this machine cannot start.",
            id="none measured",
        ),
        pytest.param(
            [trial(1, replace(batch(8, ttft__p90=0.4), rulings={"ttft.p90": Ruling("open", 0.8, 0.9, 100)}))],
            "output_throughput",
            "No configuration is shown to meet the SLO, and 1 trial could not be told: max-num-seqs=64, concurrency=8: "
            "ttft.p90: 400 ms against 500 ms is not resolved after 100 requests, 90 % of which keep it. "
            "Measure longer (load: max_duration), ask for less confidence, or leave the limit more room.",
            id="not told",
        ),
        pytest.param(
            [COMPLIANT],
            "goodput",
            "1 configuration met the SLO, but no compliant batch has the objective goodput. "
            "Choose an objective that the engine and the load can measure.",
            id="no score",
        ),
        pytest.param(
            [trial(1, batch(8, ttft__p90=0.4, output_throughput=231.7), state="interrupted")],
            "output_throughput",
            "No trial was finished. Run the same command again: it continues where this run stopped.",
            id="interrupted",
        ),
    ],
)
def test_the_gate_says_why_nothing_complies_and_what_to_do(trials, metric, explanation):
    result = gate(*trials, metric=metric)
    assert not result.holds
    assert result.reason == f"compliant-configuration: {explanation}"


def test_the_gate_holds_only_when_every_rule_does():
    rules = (Rule("compliant-configuration", True, "fine"), Rule("not-slower", False, "slower"))
    assert not Gate(rules).holds
    assert Gate(rules).reason == "not-slower: slower"


@pytest.mark.parametrize(
    ("rules", "holds", "broken"),
    [
        ([], True, False),
        ([Rule("a", True, "fine")], True, False),
        ([Rule("a", False, "worse")], False, True),
        ([Rule("a", False, "untold", open=True)], False, False),
        ([Rule("a", False, "untold", open=True), Rule("b", False, "worse")], False, True),
    ],
)
def test_what_could_not_be_told_neither_holds_nor_breaks_the_gate(rules, holds, broken):
    result = Gate(tuple(rules))
    assert (result.holds, result.broken) == (holds, broken)


SINCE = "since run 20260101-020304 of 2026-01-01"
AGAIN = "To see it again: pytest chat.yaml."
KEPT = trial(1, batch(8, ttft__p90=0.4, output_throughput=231.7))


def verified(verification, terms=None, *, of=KEPT):
    judged = judge_trial(of, limits=[Limit("ttft.p90", 0.5)], objective=Aim())
    return judge_verification(judged, verification, terms or Terms(), again="pytest chat.yaml")


def judged_rules(verification, terms=None):
    """The rules beside the one on limits."""
    slo, *rules = verified(verification, terms).rules
    assert slo == Rule("slo", True, "max-num-seqs=64: 1 of 1 batch compliant.")
    return rules


@pytest.mark.parametrize(
    ("of", "explanation"),
    [
        pytest.param(
            trial(1, batch(8, ttft__p90=0.4), batch(16, ttft__p90=0.6), died(32)),
            "max-num-seqs=64 does not keep its limits: concurrency 16: violating, ttft.p90: 600 ms > 500 ms (+20 %); "
            f"concurrency 32: infeasible, out of memory: CUDA out of memory. {AGAIN}",
            id="violates and dies",
        ),
        pytest.param(REFUSED, f"Nothing was measured: out of memory: 3 GiB short. {AGAIN}", id="refused"),
    ],
)
def test_a_verified_configuration_keeps_its_limits_at_every_load_level(of, explanation):
    result = verified(Verification(baseline(), ()), of=of)
    assert result.rules == (Rule("slo", False, explanation),)
    assert result.broken


def held(outcome, metric="output_throughput"):
    low, high = {
        "regression": (-0.25, -0.15),
        "open": (-0.1, 0.1),
        "no change": (-0.01, 0.01),
        "improvement": (0.1, 0.2),
    }[outcome]
    one = Held(metric, (low + high) / 2, low, high, 0.05, {})
    assert one.outcome == outcome
    return one


def test_too_few_requests_for_any_interval_break_the_gate_unless_it_only_warns():
    untold = replace(held("open"), low=None, high=None)
    verification = Verification(baseline(), (untold,))
    (rule,) = judged_rules(verification, Terms({"output_throughput": 0.05}))
    assert not rule.holds
    assert rule.explanation.endswith(f"Measure longer (load: duration), or write gate: {{inconclusive: warn}}. {AGAIN}")
    (rule,) = judged_rules(verification, Terms({"output_throughput": 0.05}, inconclusive="warn"))
    assert rule.holds


@pytest.mark.parametrize(
    ("outcome", "holds", "explanation"),
    [
        (
            "regression",
            False,
            (
                "Output throughput fell by 20 % (-25 % to -15 % by the noise within the batches), more than the 5 % allowed, "
                f"{SINCE}. {AGAIN}"
            ),
        ),
        (
            "open",
            True,
            (
                "Output throughput is what it was (-10 % to +10 % by the noise within the batches), which is not told from "
                f"the 5 % allowed, {SINCE}."
            ),
        ),
        (
            "no change",
            True,
            (
                "Output throughput is what it was (-1 % to +1 % by the noise within the batches), within the 5 % allowed, "
                f"{SINCE}."
            ),
        ),
        (
            "improvement",
            True,
            f"Output throughput rose by 15 % (+10 % to +20 % by the noise within the batches): better, {SINCE}.",
        ),
    ],
)
def test_against_one_stored_measurement_only_a_clear_regression_breaks_the_gate(outcome, holds, explanation):
    rules = judged_rules(Verification(baseline(), (held(outcome),)), Terms({"output_throughput": 0.05}))
    assert rules == [Rule("not-worse.output_throughput", holds, explanation)]


def test_metrics_without_a_tolerance_have_no_rule():
    assert judged_rules(Verification(baseline(), (Held("ttft.p99", 9.0, 8.0, 10.0, None, {}),))) == []


@pytest.mark.parametrize(("inconclusive", "holds"), [(None, False), ("fail", False), ("warn", True)])
def test_what_may_not_be_compared_breaks_the_gate_unless_the_suite_only_warns(inconclusive, holds):
    refused = Verification(baseline(), (), refused=("hardware: H100 then, L4 now", "model: a then, b now"))
    assert judged_rules(refused, Terms({"goodput": 0.05}, inconclusive=inconclusive)) == [
        Rule(
            "comparable",
            holds,
            "The baseline of run 20260101-020304 of 2026-01-01 is no measure of this: hardware: H100 then, L4 now; "
            "model: a then, b now. Record it anew here (--autotune --autotune-record), or write "
            "gate: {inconclusive: warn}.",
        )
    ]
    assert judged_rules(refused, Terms(inconclusive=inconclusive)) == []
    lacking = Verification(baseline({"c8": {}, "c16": {}}), (), lacking=("goodput",))
    assert judged_rules(lacking, Terms({"goodput": 0.05}, inconclusive=inconclusive)) == [
        Rule(
            "not-worse.goodput",
            holds,
            "Goodput was not measured on both sides at each of the load levels c8, c16, so it is not compared. "
            "Record the baseline anew.",
        )
    ]


def paired(ratios, tolerance):
    pairs = [Pair({"c8": {"goodput": 10.0}}, {"c8": {"goodput": 10.0 * ratio}}) for ratio in ratios]
    comparison = compare(pairs, {"goodput": tolerance}, looks=Looks(budget=10))
    return Verification(baseline(), (), comparison=comparison)


WORSE = (0.80, 0.81, 0.79, 0.80)
NOISY = (0.8, 1.2, 1.1, 0.9)
GIVEN, AUTOMATIC = Tolerance(0.05), Tolerance(0.05, automatic=True)
REMEDY = " Measure longer (load: duration), or more often (gate: pairs)."


@pytest.mark.parametrize(
    ("ratios", "tolerance", "terms", "holds", "untold"),
    [
        pytest.param(WORSE, GIVEN, Terms({"goodput": 0.05}), False, False, id="worse"),
        pytest.param(WORSE, AUTOMATIC, Terms(), False, False, id="worse than by itself allowed"),
        pytest.param(WORSE, GIVEN, Terms({"goodput": 0.05}, "warn"), False, False, id="worse, what is open only warns"),
        pytest.param((1.0,) * 4, GIVEN, Terms({"goodput": 0.05}), True, False, id="the same"),
        pytest.param(NOISY, GIVEN, Terms({"goodput": 0.05}), False, False, id="open"),
        pytest.param(NOISY, GIVEN, Terms({"goodput": 0.05}, "fail"), False, False, id="open, which fails"),
        pytest.param(NOISY, GIVEN, Terms({"goodput": 0.05}, "warn"), True, False, id="open, which warns"),
        pytest.param(NOISY, AUTOMATIC, Terms(), False, True, id="open, and nobody has said what follows"),
        pytest.param(NOISY, AUTOMATIC, Terms(inconclusive="fail"), False, False, id="open by itself, which fails"),
        pytest.param(NOISY, AUTOMATIC, Terms(inconclusive="warn"), True, False, id="open by itself, which warns"),
    ],
)
def test_a_paired_comparison_breaks_the_gate_by_what_is_worse_or_open(ratios, tolerance, terms, holds, untold):
    verification = paired(ratios, tolerance)
    (effect,) = verification.comparison.effects
    remedy = REMEDY if ratios is NOISY else ""
    told = f"{str(effect)[0].upper()}{str(effect)[1:]}, {SINCE}."
    assert judged_rules(verification, terms) == [
        Rule("not-worse.goodput", holds, told if holds else f"{told}{remedy} {AGAIN}", open=untold)
    ]


@pytest.mark.parametrize("terms", [Terms({"goodput": 0.05}), Terms({"goodput": 0.05}, "warn")])
def test_a_metric_that_was_refused_or_never_measured_breaks_the_gate_unless_the_suite_only_warns(terms):
    holds = terms.inconclusive == "warn"
    refused = Comparison((), (Refusal("goodput", "the candidate lacks it at c8 (pair 1)"),))
    assert judged_rules(Verification(baseline(), (), comparison=refused), terms) == [
        Rule("not-worse.goodput", holds, f"Goodput is not compared: the candidate lacks it at c8 (pair 1). {AGAIN}")
    ]
    nothing = Verification(baseline(), (), comparison=Comparison((), ()))
    assert judged_rules(nothing, terms) == [Rule("comparable", holds, f"Nothing was measured on both sides. {AGAIN}")]
    other = Comparison((), (Refusal("ttft.p99", "the candidate lacks it at c8 (pair 1)"),))
    assert judged_rules(Verification(baseline(), (), comparison=other), terms) == [
        Rule("not-worse.ttft.p99", holds, f"ttft.p99 is not compared: the candidate lacks it at c8 (pair 1). {AGAIN}"),
        Rule(
            "not-worse.goodput",
            holds,
            "Goodput was measured on neither side, so it is not compared. Remove it from gate:.",
        ),
    ]
