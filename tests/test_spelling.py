import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.spelling import closest, misspelled, nearest, show

FLAGS = ("max-num-seqs", "max-num-batched-tokens", "tensor-parallel-size", "tp")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        pytest.param("max-num-seq", " (did you mean 'max-num-seqs'?)", id="letter missing"),
        pytest.param("MAX_NUM_SEQS", " (did you mean 'max-num-seqs'?)", id="capitals and underscores"),
        pytest.param("tensor-paralel", " (did you mean 'tensor-parallel-size'?)", id="cut short"),
        pytest.param("quantization", "", id="nothing like it"),
        pytest.param("", "", id="empty"),
    ],
)
def test_nearest_spelling_is_a_hint_or_nothing(word, hint):
    assert nearest(word, FLAGS) == hint


def test_closest_keeps_the_spelling_of_the_candidate():
    assert closest("ttft_P90", ["TTFT.p90", "ttft-p90"]) == "ttft-p90"


@pytest.mark.parametrize(
    ("word", "typo_of"),
    [
        pytest.param("max-num-seq", "max-num-seqs", id="one edit in a long name"),
        pytest.param("max-nmu-seqs", "max-num-seqs", id="swapped neighbours"),
        pytest.param("max_num_seqs", "max-num-seqs", id="underscores"),
        pytest.param("max-num-seqs", None, id="the name itself"),
        pytest.param("pp", None, id="short names differ on purpose"),
        pytest.param("data-parallel-size", None, id="another flag"),
        pytest.param("max-model-len", None, id="begins the same"),
    ],
)
def test_only_an_evident_typo_is_called_one(word, typo_of):
    assert misspelled(word, FLAGS) == typo_of


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param("it's", '"it\'s"', id="text"),
        pytest.param(True, "true", id="boolean"),
        pytest.param(None, "null", id="null"),
        pytest.param([1, {"a": 2}], '[1, {"a": 2}]', id="list"),
        pytest.param("x" * 100, f"'{'x' * 60}'...", id="long text"),
        pytest.param(list(range(100)), f"{str(list(range(100)))[:60]}...", id="long list"),
        pytest.param({1, 2}, "{1, 2}", id="not JSON"),
    ],
)
def test_value_is_shown_on_one_short_line(value, shown):
    assert show(value) == shown


@settings(deadline=None)  # the machine may be busy
@given(st.text(alphabet="abc-", max_size=12), st.text(alphabet="abc-", max_size=12))
def test_typos_are_mutual_among_names_of_one_length_class(left, right):
    if len(left.strip()) >= 8 and len(right.strip()) >= 8:
        assert (misspelled(left, [right]) is None) == (misspelled(right, [left]) is None)
