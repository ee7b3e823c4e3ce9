"""`parallelism` in a suite: many spellings, one text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.parallelism import KEYS, MOST_GPUS, Parallelism, parallelism_of, read_parallelism

SIZES = st.integers(1, 8)
VALUES = st.builds(
    Parallelism,
    tp=SIZES,
    pp=SIZES,
    dp=SIZES,
    adp=SIZES,
    cp=st.integers(1, 2),
    dcp=SIZES,
    ep=st.one_of(st.booleans(), st.integers(2, 8)),
).filter(lambda sizes: sizes.gpus <= MOST_GPUS)


@pytest.mark.parametrize(
    ("written", "text", "gpus"),
    [
        ("tp1", "tp1", 1),
        ("tp4", "tp4", 4),
        ("tp2-pp2", "tp2-pp2", 4),
        ("pp2-tp2", "tp2-pp2", 4),
        ("pp2", "tp1-pp2", 2),
        ("dp2-tp1", "tp1-dp2", 2),
        ({"tp": 4, "dp": 2}, "tp4-dp2", 8),
        ({"dp": 2, "tp": 4, "pp": 1}, "tp4-dp2", 8),
        ({"tp": 8, "ep": True}, "tp8-ep", 8),
        ({"tp": 8, "ep": False}, "tp8", 8),
        ({"tp": 8, "ep": 1}, "tp8", 8),
        ("tp8-ep1", "tp8", 8),
        ("tp8-ep4", "tp8-ep4", 8),
        ({"tp": 8, "adp": 4, "dcp": 2}, "tp8-adp4-dcp2", 8),
        ({"tp": 2, "cp": 2}, "tp2-cp2", 4),
        ({"tp": 1}, "tp1", 1),
    ],
)
def test_spellings_of_one_division_are_one_text(written, text, gpus):
    assert read_parallelism(written) == text
    assert parallelism_of(text).gpus == gpus


@pytest.mark.parametrize("written", [None, "default"])
def test_engines_default_is_no_text(written):
    assert read_parallelism(written) is None
    assert parallelism_of(written) is None


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        (4, "4 is no parallelism; write e.g. tp4"),
        (True, "true is no parallelism"),
        ("", "'' is no parallelism: '' is not one of its parts"),
        ("tp4-", "'' is not one of its parts"),
        ("tp4 pp2", "'tp4 pp2' is not one of its parts"),
        ("xp4", "'xp4' is not one of its parts"),
        ("tp²", "is not one of its parts"),
        ("tp2-tp4", "'tp2-tp4' says tp twice"),
        ("tp", "true is not a whole number of at least 1"),
        ("tp0", "0 is not a whole number of at least 1"),
        ({}, "an empty mapping divides nothing"),
        ({"tp": "4"}, "'4' is not a whole number of at least 1"),
        ({"tp": 2.0}, "2.0 is not a whole number of at least 1"),
        ({"tp": -1}, "-1 is not a whole number of at least 1"),
        ({"ep": None}, "null is not a whole number of at least 1"),
        ({"tpp": 2}, "unknown key (did you mean 'tp'?); allowed: tp, pp, dp, adp, cp, dcp, ep"),
        ("tp64-pp2", "tp64-pp2 takes 128 GPUs, and one server at most 64"),
        ({"tp": 8, "dp": 16}, "tp8-dp16 takes 128 GPUs, and one server at most 64"),
    ],
)
def test_what_is_no_division_is_refused(written, problem):
    with pytest.raises(ValueError, match=re.escape(problem)):
        read_parallelism(written)


@given(VALUES, st.permutations(KEYS))
def test_a_text_and_a_mapping_in_any_order_say_the_same(sizes, order):
    text = read_parallelism({key: getattr(sizes, key) for key in order})
    assert text == str(sizes)
    assert read_parallelism("-".join(reversed(text.split("-")))) == text
    assert parallelism_of(text) == sizes


@given(VALUES, VALUES)
def test_different_divisions_have_different_texts(one, other):
    assert (str(one) == str(other)) is (one == other)


@given(st.one_of(st.text(alphabet="tpdce0189-", max_size=12), st.integers(), st.lists(st.integers(), max_size=2)))
def test_anything_is_read_or_refused(value):
    try:
        text = read_parallelism(value)
    except ValueError:
        assert parallelism_of(value) is None
    else:
        assert read_parallelism(text) == text
