"""The comparison of a candidate with its baseline over pairs of deployments."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.gate_model import EQUAL, LOSS, SCENARIOS, signed_ranks, simulate
from pytest_autotune.comparison import Comparison, Looks, Noise, Pair, Tolerance, automatic, compare
from pytest_autotune.distributions import student_quantile

THROUGHPUT, TTFT, ERRORS = "output_throughput", "ttft.p99", "error_rate"
TOLERANCES = {THROUGHPUT: Tolerance(0.02), TTFT: Tolerance(0.07), ERRORS: Tolerance(0.005)}
USUAL = {THROUGHPUT: 1000.0, TTFT: 0.4, ERRORS: 0.0}
JITTER = (0.003, -0.002, 0.001, -0.004, 0.002, 0.0, -0.001, 0.004, -0.003, 0.001)


def pairs_of(metric, ratios, *, levels=("c4", "c16")):
    """Return pairs in which the candidate has so many times the usual value, at every level."""
    usual = USUAL[metric]
    return [
        Pair({level: {metric: usual} for level in levels}, {level: {metric: usual * ratio} for level in levels})
        for ratio in ratios
    ]


def around(ratio, count=6):
    return [ratio * (1 + jitter) for jitter in JITTER[:count]]


def only(pairs, metric, **options):
    (effect,) = compare(pairs, {metric: TOLERANCES[metric]}, **options).effects
    return effect


@pytest.mark.parametrize(
    ("metric", "ratios", "outcome"),
    [
        pytest.param(THROUGHPUT, around(1.0), "no change", id="the same throughput"),
        pytest.param(THROUGHPUT, around(0.95), "regression", id="less throughput"),
        pytest.param(THROUGHPUT, around(1.05), "improvement", id="more throughput"),
        pytest.param(THROUGHPUT, around(0.99), "no change", id="less throughput, within the tolerance"),
        pytest.param(THROUGHPUT, around(0.98), "open", id="throughput at the tolerance"),
        pytest.param(THROUGHPUT, around(0.95, 3), "open", id="less throughput, few pairs"),
        pytest.param(THROUGHPUT, [1.0, 0.9, 1.1, 0.92, 1.08, 1.0], "open", id="throughput that varies"),
        pytest.param(THROUGHPUT, [1.0] * 4, "no change", id="identical"),
        pytest.param(TTFT, around(1.15), "regression", id="slower"),
        pytest.param(TTFT, around(0.85), "improvement", id="faster"),
        pytest.param(TTFT, around(1.05), "no change", id="slower, within the tolerance"),
        pytest.param(TTFT, around(1.07), "open", id="slower, at the tolerance"),
        pytest.param(TTFT, [*around(1.0, 5), 1.5], "open", id="one pair disturbed"),
    ],
)
def test_the_place_of_the_interval_decides(metric, ratios, outcome):
    found = compare(pairs_of(metric, ratios), {metric: TOLERANCES[metric]})
    assert found.outcome == outcome
    assert [effect.outcome for effect in found.effects] == [outcome]
    assert found.settled is (outcome != "open")


def test_the_effect_is_the_geometric_mean_over_pairs_and_levels():
    pairs = [
        Pair({"c4": {TTFT: 0.1}, "c16": {TTFT: 0.4}}, {"c4": {TTFT: 0.1 * first}, "c16": {TTFT: 0.4 * second}})
        for first, second in ((1.1, 1.3), (1.2, 1.4))
    ]
    effect = only(pairs, TTFT)
    assert effect.change == pytest.approx((1.1 * 1.3 * 1.2 * 1.4) ** 0.25 - 1)
    assert effect.by_level == {"c4": pytest.approx(math.sqrt(1.1 * 1.2) - 1), "c16": pytest.approx(math.sqrt(1.82) - 1)}
    assert effect.levels == ("c4", "c16")
    assert effect.noise.freedom == 1
    assert effect.noise.deviation == pytest.approx(math.log(1.2 * 1.4 / (1.1 * 1.3)) / 2 / math.sqrt(2))


def test_the_interval_is_students_with_its_part_of_the_chance():
    ratios = around(1.1, 4)
    looks = Looks(first=4, budget=4)
    found = compare(
        [Pair({"c4": {TTFT: 1.0, THROUGHPUT: 1.0}}, {"c4": {TTFT: ratio, THROUGHPUT: 1.0}}) for ratio in ratios],
        TOLERANCES,
        confidence=0.9,
        looks=looks,
    )
    logs = np.log(ratios)
    error = logs.std(ddof=1) / 2
    effect = found.effects[1]
    assert effect.metric == TTFT
    assert math.log1p(effect.low) == pytest.approx(logs.mean() - student_quantile(0.95, 3) * error)  # of two metrics
    assert math.log1p(effect.high) == pytest.approx(logs.mean() + student_quantile(0.9, 3) * error)
    assert math.log1p(effect.detectable) == pytest.approx(
        math.log1p(0.07) + (student_quantile(0.95, 3) + student_quantile(0.9, 3)) * error
    )


def test_shares_are_compared_by_their_difference():
    pairs = [
        Pair({"c4": {ERRORS: 0.0}, "c16": {ERRORS: 0.01}}, {"c4": {ERRORS: 0.0}, "c16": {ERRORS: 0.03 + jitter / 10}})
        for jitter in JITTER[:6]
    ]
    effect = only(pairs, ERRORS)
    assert effect.change == pytest.approx(0.01, abs=1e-4)
    assert effect.outcome == "regression"
    assert only(pairs_of(ERRORS, [1.0] * 4), ERRORS).outcome == "no change"  # none on both sides
    delivered = [Pair({"r5": {"delivered": 1.0}}, {"r5": {"delivered": 0.9 + jitter}}) for jitter in JITTER]
    assert compare(delivered, {"delivered": Tolerance(0.005)}).outcome == "regression"


def test_one_pair_tells_nothing_of_chance():
    for metric, ends in ((TTFT, (-1.0, math.inf)), (THROUGHPUT, (-1.0, math.inf)), (ERRORS, (-math.inf, math.inf))):
        effect = only(pairs_of(metric, [1.3]), metric)
        assert effect.outcome == "open"
        assert effect.noise is None
        assert (effect.low, effect.high) == ends
    assert str(only(pairs_of(TTFT, [1.3]), TTFT)) == (
        "ttft.p99 is not resolved: +30.0 % in one pair, which says nothing of chance"
    )


def test_ends_are_infinite_where_floats_are():
    wild = only(pairs_of(TTFT, [1e-3, 1e3]), TTFT)
    assert (wild.low, wild.high) == (-1.0, math.inf)
    assert wild.outcome == "open"


def without(side, level, metric):
    return {
        name: {key: v for key, v in metrics.items() if (name, key) != (level, metric)} for name, metrics in side.items()
    }


def with_value(side, level, metric, value):
    return {name: {**metrics, **({metric: value} if name == level else {})} for name, metrics in side.items()}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(
            lambda pair: replace(pair, candidate=without(pair.candidate, "c16", TTFT)),
            "the candidate lacks it at c16 (pair 2)",
            id="no metric",
        ),
        pytest.param(
            lambda pair: replace(pair, baseline={"c4": pair.baseline["c4"]}),
            "the baseline lacks it at c16 (pair 2)",
            id="no level",
        ),
        pytest.param(
            lambda pair: Pair({"c4": pair.baseline["c4"]}, {"c4": pair.candidate["c4"]}),
            "the baseline lacks it at c16 (pair 2); the candidate lacks it at c16 (pair 2)",
            id="a level that both lack, in one pair",
        ),
        pytest.param(
            lambda pair: replace(pair, candidate=with_value(pair.candidate, "c4", TTFT, math.nan)),
            "the candidate lacks it at c4 (pair 2)",
            id="not a number",
        ),
        pytest.param(
            lambda pair: replace(pair, candidate=with_value(pair.candidate, "c4", TTFT, math.inf)),
            "the candidate lacks it at c4 (pair 2)",
            id="infinite",
        ),
        pytest.param(
            lambda pair: replace(pair, baseline=with_value(pair.baseline, "c4", TTFT, 0.0)),
            "the baseline has no ratio, not being above 0, at c4 (pair 2)",
            id="zero",
        ),
    ],
)
def test_what_one_side_lacks_is_not_compared(change, reason):
    first, second, *rest = pairs_of(TTFT, around(1.0))
    found = compare([first, change(second), *rest], TOLERANCES)
    assert found.effects == ()
    assert [str(refusal) for refusal in found.refusals] == [f"ttft.p99 is not compared: {reason}"]
    assert found.outcome == "open"
    assert found.settled


def test_a_refusal_names_all_levels_and_pairs():
    pairs = [Pair(pair.baseline, {}) for pair in pairs_of(TTFT, [1.0, 1.0])]
    (refusal,) = compare(pairs, TOLERANCES).refusals
    assert refusal.reason == "the candidate lacks it at c4 (pairs 1, 2), c16 (pairs 1, 2)"


def both(ttft_ratios, throughput_ratios):
    return [
        Pair({"c4": {TTFT: 1.0, THROUGHPUT: 1.0}}, {"c4": {TTFT: ttft, THROUGHPUT: throughput}})
        for ttft, throughput in zip(ttft_ratios, throughput_ratios, strict=True)
    ]


@pytest.mark.parametrize(
    ("ttft", "throughput", "outcome", "settled"),
    [
        (around(1.0), around(1.0), "no change", True),
        (around(1.0), around(1.05), "improvement", True),
        (around(1.0), around(0.95), "regression", True),
        (around(0.8), around(0.95), "regression", True),
        (around(1.07), around(0.95), "regression", True),  # further pairs would not take it back
        (around(1.07), around(1.05), "open", False),
    ],
)
def test_the_worst_metric_decides(ttft, throughput, outcome, settled):
    found = compare(both(ttft, throughput), TOLERANCES)
    assert (found.outcome, found.settled) == (outcome, settled)


def test_metrics_that_neither_side_has_are_left_out():
    found = compare(pairs_of(TTFT, around(1.0)), TOLERANCES)
    assert [effect.metric for effect in found.effects] == [TTFT]
    assert found.refusals == ()


def test_a_refused_metric_keeps_a_comparison_from_passing_but_not_from_failing():
    lacking = [Pair(pair.baseline, without(pair.candidate, "c4", TTFT)) for pair in both(around(1.0), around(0.95))]
    assert compare(lacking, TOLERANCES).outcome == "regression"
    equal = [Pair(pair.baseline, without(pair.candidate, "c4", TTFT)) for pair in both(around(1.0), around(1.0))]
    assert compare(equal, TOLERANCES).outcome == "open"


def test_nothing_is_open():
    assert compare([], TOLERANCES) == Comparison((), ())
    assert compare([], TOLERANCES).outcome == "open"
    assert not compare([], TOLERANCES).settled


@pytest.mark.parametrize(
    ("metric", "ratios", "words"),
    [
        (
            THROUGHPUT,
            around(0.95),
            "output throughput fell by 5.00 % (4.60 to 5.40 % at 95 % confidence, 6 pairs), more than the 2 % allowed",
        ),
        (TTFT, around(0.85), "ttft.p99 fell by 15.00 % (14.64 to 15.36 % at 95 % confidence, 6 pairs)"),
        (
            TTFT,
            [1.0, 1.02, 0.99, 1.03, 1.01, 1.0],
            "no change shown in ttft.p99: +0.8 % (-1.5 to +3.2 % at 95 % confidence, 6 pairs); a rise of 11 % would have been seen",
        ),
        (
            TTFT,
            around(1.05),
            "ttft.p99 rose by 5.00 % (4.55 to 5.45 % at 95 % confidence, 6 pairs), within the 7 % allowed",
        ),
        (
            THROUGHPUT,
            around(0.98),
            "output throughput is not resolved: -2.00 % (-2.42 to -1.58 % at 95 % confidence, 6 pairs), against the 2 % allowed; a fall of 2.6 % would have been seen",
        ),
        (
            TTFT,
            [0.9, 1.1, 1.3, 0.8],
            "ttft.p99 is not resolved: +1 % (-63 to +176 % at 95 % confidence, 4 pairs), against the 7 % allowed; a rise of 250 % would have been seen",
        ),
        (
            THROUGHPUT,
            [1.0] * 4,
            "no change shown in output throughput: +0.00 % (+0.00 to +0.00 % at 95 % confidence, 4 pairs); a fall of 2 % would have been seen",
        ),
        (
            ERRORS,
            around(0.99),
            "error rate rose by 1.00 pp (0.58 to 1.42 pp at 95 % confidence, 6 pairs), more than the 0.5 pp allowed",
        ),
    ],
)
def test_an_effect_says_what_how_much_and_how_sure(metric, ratios, words):
    pairs = pairs_of(metric, ratios)
    if metric == ERRORS:
        pairs = [Pair({"c4": {ERRORS: 0.01}}, {"c4": {ERRORS: 0.01 + 1 - ratio}}) for ratio in ratios]
    assert str(only(pairs, metric)) == words


@pytest.mark.parametrize(
    ("looks", "schedule"),
    [
        (Looks(), (4, 6, 8, 10)),
        (Looks(budget=8), (4, 6, 8)),
        (Looks(budget=7), (4, 6, 7)),
        (Looks(budget=4), (4,)),
        (Looks(budget=3), (3,)),
        (Looks(first=3, every=3, budget=9), (3, 6, 9)),
    ],
)
def test_looks_end_with_the_budget_and_spend_the_chance_once(looks, schedule):
    assert looks.schedule == schedule
    assert math.fsum(looks.share(pairs) for pairs in schedule) == pytest.approx(1.0)


def test_a_look_between_those_planned_spends_what_is_left_until_then():
    looks = Looks()
    assert 0 < looks.share(5) < looks.share(6)
    assert looks.share(2) == pytest.approx(0.2**4)


@pytest.mark.parametrize(
    ("metric", "least"),
    [
        ("output_throughput", 0.02),
        ("request_throughput_per_gpu", 0.02),
        ("cost_per_million_tokens", 0.02),
        ("goodput", 0.05),
        ("goodput_per_gpu", 0.05),
        ("ttft.mean", 0.05),
        ("ttft.p50", 0.05),
        ("e2e.p90", 0.05),
        ("tpot.p95", 0.07),
        ("ttft.p99.9", 0.07),
        ("itl.max", 0.07),
        ("itl.std", 0.07),
        ("error_rate", 0.005),
        ("delivered", 0.005),
    ],
)
def test_automatic_tolerances_lie_between_the_least_and_twice_that(metric, least):
    assert automatic(metric) == Tolerance(least, automatic=True)
    assert automatic(metric, Noise(0.0, 9)).worse == least
    assert automatic(metric, Noise(10.0, 9)).worse == 2 * least


def test_an_automatic_tolerance_is_one_that_equal_candidates_keep():
    looks, chance = Looks(), np.random.default_rng(5)
    deviation = 0.06
    tolerance = automatic(TTFT, Noise(deviation, 200))
    assert 0.07 < tolerance.worse < 0.14
    kept = 0
    for values in chance.normal(0.0, deviation, (400, looks.budget)):
        effect = compare(pairs_of(TTFT, np.exp(values).tolist()), {TTFT: tolerance}, looks=looks).effects[0]
        kept += effect.outcome != "open"
    assert kept / 400 == pytest.approx(0.98, abs=0.02)


def test_a_smaller_sample_of_noise_widens_the_tolerance():
    few, many = (automatic(THROUGHPUT, Noise(0.018, freedom)).worse for freedom in (4, 100))
    assert 0.02 < many < few < 0.04


def test_intervals_cover_as_often_as_they_say():
    chance = np.random.default_rng(11)
    looks, true = Looks(), 0.1
    missed = {"better": 0, "worse": 0}
    for values in chance.normal(true, 0.03, (1000, looks.budget)):
        found = [
            only(pairs_of(TTFT, np.exp(values[:number]).tolist(), levels=("c4",)), TTFT, looks=looks)
            for number in looks.schedule
        ]
        missed["better"] += any(math.log1p(effect.low) > true for effect in found)
        missed["worse"] += any(math.log1p(effect.high) < true for effect in found)
    # At most 5 % each, over all looks together; adding up what looks spend leaves it near 4 %.
    assert 20 <= missed["better"] <= 60
    assert 20 <= missed["worse"] <= 60


def simulated(name, gates):
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
    return list(simulate(scenario, gates, np.random.default_rng(2)))


def test_equal_sides_pass_and_a_loss_is_caught_under_the_noise_of_real_servers():
    equal, lost = simulated(EQUAL, 60), simulated(LOSS, 60)
    assert [gate.outcome for gate in equal].count("no change") >= 57
    assert all(gate.outcome != "regression" for gate in equal)
    assert [gate.outcome for gate in lost] == ["regression"] * 60
    assert max(gate.pairs for gate in (*equal, *lost)) <= Looks().budget
    assert 0 < sum(gate.alarm for gate in equal) < 30  # those of the usual comparison


def test_twice_the_noise_leaves_equal_sides_open_and_is_no_alarm():
    noisy = [gate.outcome for gate in simulated("equal, noise doubled", 60)]
    assert set(noisy) == {"no change", "open"}
    known = [gate.outcome for gate in simulated("equal, noise doubled and known", 60)]
    assert known.count("no change") > noisy.count("no change")


def test_signed_ranks_have_no_end_for_few_pairs_and_the_tables_for_ten():
    values = np.arange(1.0, 11.0)[np.newaxis] ** 2
    low, high = signed_ranks(values)
    # P(T <= 3) = 0.0049 for ten: Hollander and Wolfe 1999, table A.4. The four smallest means are 1, 2.5, 4 and 5.
    assert (low[0], high[0]) == (5.0, 81.0)
    assert not np.isfinite(signed_ranks(values[:, :6])).any()


CLOSE = st.lists(st.floats(0.9, 1.1), min_size=4, max_size=10)
RATIOS = st.lists(st.floats(0.5, 2.0), min_size=2, max_size=10)


@given(RATIOS, st.sampled_from([TTFT, THROUGHPUT]))
def test_the_interval_contains_the_estimate(ratios, metric):
    effect = only(pairs_of(metric, ratios), metric)
    assert effect.low <= effect.change <= effect.high
    assert effect.detectable >= TOLERANCES[metric].worse * 0.999


@given(CLOSE)
def test_swapping_the_sides_of_a_latency_is_a_throughput(ratios):
    slower = pairs_of(TTFT, ratios)
    less = [
        Pair(*({level: {THROUGHPUT: metrics[TTFT]} for level, metrics in side.items()} for side in sides))
        for sides in ((pair.candidate, pair.baseline) for pair in slower)
    ]
    latency, throughput = only(slower, TTFT), only(less, THROUGHPUT)
    for end, mirrored in (
        (latency.change, throughput.change),
        (latency.low, throughput.high),
        (latency.high, throughput.low),
    ):
        assert 1 + mirrored == pytest.approx(1 / (1 + end), rel=1e-9)


@given(CLOSE)
def test_swapping_the_sides_mirrors_the_effect(ratios):
    pairs = pairs_of(TTFT, ratios)
    there, back = only(pairs, TTFT), only([Pair(pair.candidate, pair.baseline) for pair in pairs], TTFT)
    assert 1 + back.change == pytest.approx(1 / (1 + there.change), rel=1e-9)
    assert back.noise.deviation == pytest.approx(there.noise.deviation, abs=1e-12)
    # Of one metric both ends have the same chance, so the interval is mirrored too.
    assert (1 + back.low) * (1 + there.high) == pytest.approx(1, rel=1e-9)
    assert not (there.outcome == "regression" and back.outcome == "regression")


@given(CLOSE, st.sampled_from([0.125, 4.0, 1024.0]))
def test_the_unit_does_not_matter(ratios, factor):
    pairs = pairs_of(TTFT, ratios)
    scaled = [
        Pair(
            *(
                {level: {TTFT: factor * m[TTFT]} for level, m in side.items()}
                for side in (pair.baseline, pair.candidate)
            )
        )
        for pair in pairs
    ]
    before, after = only(pairs, TTFT), only(scaled, TTFT)
    assert (after.low, after.change) == (pytest.approx(before.low, abs=1e-9), pytest.approx(before.change, abs=1e-9))


@given(RATIOS, st.randoms())
def test_the_order_of_pairs_does_not_matter(ratios, chance):
    pairs = pairs_of(TTFT, ratios)
    mixed = list(pairs)
    chance.shuffle(mixed)
    assert only(mixed, TTFT) == only(pairs, TTFT)


@given(st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=10), st.sampled_from([TTFT, THROUGHPUT, "delivered"]))
def test_identical_sides_are_never_a_regression(values, metric):
    pairs = [Pair({"c4": {metric: value}}, {"c4": {metric: value}}) for value in values]
    assert compare(pairs, {metric: Tolerance(0.0)}).outcome == "no change"


@given(RATIOS, st.sampled_from([TTFT, THROUGHPUT]), st.lists(st.floats(0.0, 1.5), min_size=2, max_size=2))
def test_more_tolerance_never_makes_a_regression(ratios, metric, tolerances):
    pairs = pairs_of(metric, ratios)
    strict, lenient = (compare(pairs, {metric: Tolerance(worse)}).outcome for worse in sorted(tolerances))
    assert lenient != "regression" or strict == "regression"
    assert strict != "no change" or lenient == "no change"


@settings(max_examples=60)
@given(RATIOS, st.integers(1, 8), st.booleans())
def test_another_metric_never_narrows_an_interval(ratios, others, lacking):
    pairs = pairs_of(TTFT, ratios)
    more = {f"e2e.p{50 + number}": Tolerance(0.05) for number in range(others)}
    wider = [
        Pair(
            with_value(pair.baseline, "c4", "e2e.p50", 1.0)
            if lacking
            else {level: {**metrics, **dict.fromkeys(more, 1.0)} for level, metrics in pair.baseline.items()},
            pair.candidate
            if lacking
            else {level: {**metrics, **dict.fromkeys(more, 1.0)} for level, metrics in pair.candidate.items()},
        )
        for pair in pairs
    ]
    alone = only(pairs, TTFT)
    among = next(effect for effect in compare(wider, {**TOLERANCES, **more}).effects if effect.metric == TTFT)
    assert among.low <= alone.low
    assert among.high >= alone.high
    assert among.change == alone.change
