"""In which order trials that share GPUs are begun."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.packing import order_of, pack
from pytest_autotune.space import label
from pytest_autotune.suite_file import load_suite


def rounds(sizes, gpus=8, workers=4):
    needs = {f"{size}-{number}": size for number, size in enumerate(sizes)}
    return [needs[name] for name in pack(needs, gpus, workers)]


EIGHT_EACH = {
    "mixed": [1, 2, 4] * 8,
    "small first": [1] * 8 + [2] * 8 + [4] * 8,
    "large first": [4] * 8 + [2] * 8 + [1] * 8,
}


@pytest.mark.parametrize("sizes", EIGHT_EACH.values(), ids=EIGHT_EACH)
def test_rounds_fill_all_gpus_with_all_workers_while_there_is_something_to_fill_them_with(sizes):
    order = rounds(sizes)
    taken = [order[start : start + 4] for start in range(0, 20, 4)]
    assert [sum(each) for each in taken] == [8] * 5
    assert order[20:] == [4] * 4


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([1, 4, 4], [1, 4, 4]),
        ([2, 8, 1, 1], [2, 1, 1, 8]),
        ([1, 16, 1], [1, 1, 16]),
        ([16, 1], [16, 1]),
        ([0, 4, 0, 4], [0, 4, 4, 0]),
    ],
)
def test_what_takes_much_waits_for_a_round_and_the_reference_is_begun_first(sizes, expected):
    assert rounds(sizes) == expected


@given(st.lists(st.integers(0, 10), max_size=20), st.integers(1, 8), st.integers(1, 6))
def test_every_trial_is_begun_once_and_the_first_stays_first(sizes, gpus, workers):
    order = rounds(sizes, gpus, workers)
    assert sorted(order) == sorted(sizes)
    assert order[:1] == sizes[:1]


SUITE = """\
name: packed
engine: sim
model: llama-3.1-8b
gpus: {pretend: 8}
parameters: {tensor-parallel-size: [1, 4, 2], max-num-seqs: [16, 64]}
search: {defaults: false}
"""
NAMES = ("tp1-16", "tp1-64", "tp4-16", "tp4-64", "tp2-16", "tp2-64")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("{pretend: 8}", "auto", id="no GPUs are leased"),
        pytest.param("[1, 4, 2]", "[2]", id="all need as many"),
        pytest.param("{defaults: false}", "{defaults: false, patience: 3}", id="what is measured depends on it"),
        pytest.param("{defaults: false}", "{strategy: random}", id="nobody knows them yet"),
        pytest.param("name: packed", "name: [", id="what is wrong is told later"),
    ],
)
def test_the_order_of_the_file_stays_where_there_is_nothing_to_win(tmp_path, old, new):
    path = tmp_path / "packed.yaml"
    path.write_text(SUITE.replace(old, new))
    assert order_of(path, NAMES, 4) == NAMES


def test_trials_of_a_grid_are_begun_in_rounds_and_what_is_measured_again_last(tmp_path):
    path = tmp_path / "packed.yaml"
    path.write_text(SUITE)
    seen = set()
    names = []
    for configuration in load_suite(path).configurations():
        names.append(label(configuration, seen))
        seen.add(names[-1])
    begun = order_of(path, ["confirm-1", *names], 3)
    assert begun == (*(names[index] for index in (0, 2, 4, 3, 5, 1)), "confirm-1")
