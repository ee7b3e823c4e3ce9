"""Why the best is the best."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.explanation import UNSET, Importance, explain_best, importances, step_words
from pytest_autotune.selection import judge_trial, select
from pytest_autotune.slo import Limit
from tests.make_records import Aim, batch, died, trial

LIMITS = (Limit("ttft.p90", 0.5),)


def judged(number, *batches, **configuration):
    of = trial(number, *batches, configuration={name.replace("_", "-"): value for name, value in configuration.items()})
    return judge_trial(of, limits=LIMITS, objective=Aim())


def explain(*trials, conditional=()):
    return explain_best(select(trials), conditional)


def good(concurrency, throughput, ttft=0.1):
    return batch(concurrency, output_throughput=throughput, ttft__p90=ttft)


def test_without_a_best_there_is_nothing_to_explain():
    assert explain(judged(1, good(1, 10.0, ttft=0.9), seqs=1)) is None


@pytest.mark.parametrize(
    ("batches", "told"),
    [
        pytest.param(
            [good(1, 10.0), good(8, 50.0), good(16, 90.0, ttft=0.6), good(32, 99.0, ttft=0.9)],
            "at concurrency 16: ttft.p90: 600 ms > 500 ms (+20 %)",
            id="a limit",
        ),
        pytest.param(
            [good(1, 10.0), died(8)], "at concurrency 8: out of memory: CUDA out of memory", id="the server's memory"
        ),
        pytest.param(
            [good(1, 10.0), good(8, 50.0)],
            "nothing: it complies at the highest load level that was measured, and a higher one may bring more",
            id="the levels",
        ),
        pytest.param(
            [good(1, 60.0), good(8, 50.0)], "nothing: concurrency 8 complies too, and brings no more", id="saturation"
        ),
    ],
)
def test_what_binds_the_best_is_said(batches, told):
    assert explain(judged(1, *batches, seqs=1)).binding == told


def test_steps_are_the_trials_that_differ_in_one_parameter():
    best = judged(1, good(8, 100.0), seqs=64, tp=1)
    slower = judged(2, good(8, 80.0), seqs=32, tp=1)
    missing = judged(3, good(8, 75.0), seqs=64)
    violating = judged(4, good(8, 200.0, ttft=1.0), seqs=128, tp=1)
    two_away = judged(5, good(8, 10.0), seqs=32, tp=2)
    steps = explain(best, slower, missing, violating, two_away).steps
    assert [step_words(step) for step in steps] == [
        ("seqs", "64 -> 32", "-20 %"),
        ("seqs", "64 -> 128", "violating: concurrency=8 violates ttft.p90: 1.0 s > 500 ms (+100 %)"),
        ("tp", "1 -> default", "-25 %"),
    ]
    assert steps[2].other is UNSET


def test_step_may_bring_parameters_with_it_or_take_them_away():
    best = judged(1, good(8, 100.0), method="ngram", tokens=4, tp=1)
    without = judged(2, good(8, 50.0), method="none", tp=1)
    fewer = judged(3, good(8, 90.0), method="ngram", tokens=2, tp=1)
    other = judged(4, good(8, 80.0), method="draft", tokens=4, layers=1, tp=1)
    two_away = judged(5, good(8, 80.0), method="none", tp=2)
    defaults = judged(6, good(8, 40.0))
    trials = (best, without, fewer, other, two_away, defaults)
    steps = explain(*trials, conditional=("tokens", "layers")).steps
    assert [step_words(step) for step in steps] == [
        ("method", "ngram -> draft with layers=1", "-20 %"),
        ("method", "ngram -> none", "-50 %"),
        ("tokens", "4 -> 2", "-10 %"),
    ]
    assert [step.parameter for step in explain(*trials).steps] == ["tokens"]  # others lack it for another reason


def test_parameter_with_a_condition_is_held_against_the_trials_that_have_it():
    trials = [
        judged(100 * tokens + noise, good(8, 100.0 + noise), method="ngram", tokens=tokens)
        for tokens in (2, 4)
        for noise in range(4)
    ]
    trials += [judged(900 + noise, good(8, 10.0 + noise), method="none") for noise in range(8)]
    method, tokens = importances(trials, ("tokens",))
    assert (method.parameter, tokens.parameter) == ("method", "tokens")
    assert method.share > 0.7
    assert tokens.share == 0.0  # both values are equally good, where there are any
    assert [one.parameter for one in importances(trials[3:], ("tokens",))] == ["method"]  # too few of them


def test_what_makes_all_the_difference_has_nearly_the_whole_share():
    trials = [
        judged(10 * seqs + noise, good(8, 100.0 * seqs + noise), seqs=seqs, noise=noise)
        for seqs in (1, 2, 3)
        for noise in (1, 2, 3, 4)
    ]
    first, second = importances(trials)
    assert (first.parameter, second.parameter) == ("seqs", "noise")
    assert first.share > 0.8
    assert first.low > 0.5
    assert second.low == 0.0
    assert second.share < 0.1


def test_crashes_count_as_the_worst_there_is():
    trials = [
        judged(seqs, *([died(8)] if seqs > 4 else [good(8, 100.0 + seqs % 2)]), seqs="high" if seqs > 4 else "low")
        for seqs in range(1, 9)
    ]
    (only,) = importances(trials)
    assert only.share > 0.5


@pytest.mark.parametrize(
    "trials",
    [
        pytest.param([judged(number, good(8, 1.0 * number), seqs=number) for number in range(1, 6)], id="too few"),
        pytest.param([judged(number, good(8, 7.0), seqs=number % 2) for number in range(1, 9)], id="all equal"),
        pytest.param([judged(number, good(8, 1.0 * number), seqs=64) for number in range(1, 9)], id="one value"),
    ],
)
def test_no_importance_is_made_up(trials):
    assert importances(trials) == ()


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from("ab"), st.none() | st.floats(0.1, 1e6)), max_size=15),
)
def test_importances_are_shares_with_an_interval_around_them(rows):
    trials = [
        judged(number, *([died(8)] if value is None else [good(8, value)]), seqs=seqs, mode=mode)
        for number, (seqs, mode, value) in enumerate(rows)
    ]
    for one in importances(trials):
        assert 0.0 <= one.low <= one.share <= one.high <= 1.0


def test_an_importance_is_written_with_its_interval():
    assert str(Importance("seqs", 0.714, 0.52, 0.85)) == "seqs 71 % (52 to 85 %)"
