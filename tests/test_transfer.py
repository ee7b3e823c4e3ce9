"""What earlier searches say together: one scale, whatever each of them measured and left out."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.selection import judge_trial, select
from pytest_autotune.slo import Limit
from pytest_autotune.space import Choice, Constraint, Forbidden, Integer, Space, canonical
from pytest_autotune.transfer import Worths, agreed, most_promising, nearness, worths
from tests.make_records import Aim, batch, died, trial

SPACE = Space(
    (Choice("tp", (4, 1, 2)), Integer("seqs", 1, 256, step=1, levels=3), Choice("dtype", ("auto", "fp8"))),
    (Constraint("seqs >= tp * 2"),),
    (Forbidden({"tp": (4,), "dtype": ("fp8",)}),),
)


def judged(number, configuration, throughput, *, ttft=0.1, aim=None, batches=None, **options):
    measured = (batch(4, output_throughput=throughput, ttft__p90=ttft),) if batches is None else batches
    return judge_trial(
        trial(number, *measured, configuration=configuration, **options),
        limits=(Limit("ttft.p90", 0.2),),
        objective=aim or Aim(),
    )


def test_what_complies_has_its_value_and_what_does_not_has_none():
    ranking = select(
        [
            judged(1, {}, 900.0),
            judged(2, {"tp": 2}, 300.0),
            judged(3, {"seqs": 64, "tp": 1}, 700.0, ttft=0.5),  # violates
            judged(4, {"tp": 2, "other": 1}, 600.0),  # is not of this space
            judged(5, {"dtype": "fp8", "tp": 4}, 800.0),  # forbidden
            judged(6, {"tp": 4}, 0, batches=(died(4),), state="finished"),
            judged(7, {"seqs": 3}, 0, batches=(), status="failed", reason="no port was free"),
        ]
    ).ranking
    found = worths(ranking, Aim(), SPACE, {})
    by = {"{}": 900.0, canonical({"tp": 2}): 300.0, canonical({"tp": 1, "seqs": 64}): 0.0, canonical({"tp": 4}): 0.0}
    assert found == by


def test_a_search_in_which_nothing_complies_says_nothing():
    assert worths(select([judged(1, {"tp": 2}, 300.0, ttft=0.5)]).ranking, Aim(), SPACE, {}) == {}


def test_what_was_given_up_counts_by_its_estimate_and_never_for_more_than_the_best():
    def given_up(number, configuration, throughput):
        return judged(number, configuration, 0, batches=(batch(8, output_throughput=throughput, ttft__p90=0.3),))

    best = judged(1, {"tp": 2}, 300.0)
    ranking = select([best, given_up(2, {"tp": 1}, 300.0), given_up(3, {"tp": 4}, 900.0)]).ranking
    found = worths(ranking, Aim(), SPACE, {})
    assert [found[canonical({"tp": tp})] for tp in (2, 1, 4)] == pytest.approx([300.0, 200.0, 300.0])


@pytest.mark.parametrize(
    ("aim", "values", "expected"),
    [
        (Aim("minimize", "ttft.p90"), (0.1, 0.05), (10.0, 20.0)),
        (Aim("maximize", "output_throughput"), (0.0, 0.0), (1.0, 1.0)),
    ],
    ids=["less is better", "nothing is brought"],
)
def test_values_of_every_objective_end_at_zero(aim, values, expected):
    one, other = (judged(n, {"tp": n}, value, ttft=value, aim=aim) for n, value in enumerate(values, 1))
    found = worths(select([one, other]).ranking, aim, SPACE, {})
    assert [found[canonical({"tp": n})] for n in (1, 2)] == pytest.approx(expected)


def test_searches_are_put_on_one_scale_before_they_are_averaged():
    """The second search is ten times as fast in everything and did not try the best of the first."""
    first = Worths(1.0, {"a": 10.0, "b": 6.0, "c": 5.0})
    second = Worths(1.0, {"b": 62.0, "c": 50.0, "d": 70.0})
    found = agreed([first, second])
    assert sorted(found, key=found.__getitem__, reverse=True) == ["a", "d", "b", "c"]
    assert found["d"] / found["b"] == pytest.approx(70 / 61, rel=0.02)


SCALES = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=5)
TRUE = st.lists(st.floats(0.1, 1.0), min_size=2, max_size=6)


@given(SCALES, TRUE, st.data())
def test_without_noise_the_true_ratios_are_found_again_whatever_is_left_out(scales, true, data):
    names = [str(number) for number in range(len(true))]
    searches = []
    for scale in scales:
        tried = data.draw(st.sets(st.sampled_from(names), min_size=1)) | {"0"}  # the defaults, in all of them
        searches.append(Worths(data.draw(st.floats(0.1, 1.0)), {name: scale * true[int(name)] for name in tried}))
    searches.append(Worths(1.0, dict(zip(names, true, strict=True))))
    found = agreed(searches)
    order = sorted(names, key=lambda name: found[name])
    for low, high in itertools.pairwise(order):
        assert true[int(low)] <= true[int(high)] * 1.2


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), st.floats(0, 1e6), max_size=4), max_size=5))
def test_whatever_is_told_the_worths_are_finite_and_nothing_useless_is_proposed(told):
    found = agreed([Worths(0.5, each) for each in told])
    assert all(math.isfinite(value) and value >= 0 for value in found.values())
    useful = {name for each in told for name, value in each.items() if value > 0}
    assert {name for name, value in found.items() if value > 0} <= useful


def test_a_search_in_which_nothing_complied_and_one_without_weight_tell_nothing():
    assert agreed([Worths(1.0, {"a": 0.0}), Worths(0.0, {"b": 3.0}), Worths(1.0, {})]) == {}


def test_the_best_come_first_equal_ones_in_their_order_and_useless_ones_not_at_all():
    known = [{"tp": 1}, {"tp": 2}, {"tp": 4}, {"seqs": 8}]
    found = most_promising([Worths(1.0, dict(zip(map(canonical, known), (3.0, 5.0, 0.0, 3.0), strict=True)))], known)
    assert found == ({"tp": 2}, {"tp": 1}, {"seqs": 8})


def test_what_is_expected_decides_between_what_was_compared_by_no_search():
    known = [{"tp": 1}, {"tp": 2}]
    searches = [Worths(1.0, {canonical({"tp": 1}): 7.0}), Worths(1.0, {canonical({"tp": 2}): 5.0})]
    expected = Worths(0.05, {canonical({"tp": 1}): 1.0, canonical({"tp": 2}): 2.0})
    assert most_promising(searches, known) == tuple(known)
    assert most_promising(searches, known, expected) == tuple(reversed(known))


@pytest.mark.parametrize(
    ("one", "other", "weight"),
    [
        ((100.0, 20.0), (100.0, 20.0), 1.0),
        ((100.0, 20.0), (100.0 * math.e, 20.0), 1 / math.e),
        ((100.0, 20.0), (100.0 / math.e, 20.0 * math.e), math.exp(-2)),
        ((0.0, 20.0), (100.0, 20.0), 1.0),
        ((100.0, 20.0), (0.0, 0.0), 1.0),
    ],
)
def test_a_search_counts_the_more_the_nearer_its_load(one, other, weight):
    assert nearness(one, other) == pytest.approx(weight)
