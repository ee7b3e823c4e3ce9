"""Samples survive being stored."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.errors import StoreError
from pytest_autotune.sample_codec import CODEC, decode_samples, encode_samples
from pytest_autotune.samples import Sample

HALF_A_MICROSECOND = 0.501e-6  # and the rounding of floats of a few thousand seconds

FIRST = (  # two samples in the codec columns-1
    "78014d8f310ec2300c450d88895b784ea5a6020931b2710286aa42a50d2882262169c58058390747e0649c01bbb4852c895f5eec9f3700"
    "dcf0a44d19709562ad2b659b1a3381fa4b7214b8e7bab0e7a6326ca51894a9896f5024225ac4bc3291a232654fe703cc4db82aaff866cd"
    "7e6b1eb40fdc81881472709db795eb782296dc93d2380af4ff58796f7d4f22c9d63177bbc2366daadf14a281bc36663724bbc30b2e30a3"
    "6fc7b08529c0888e30a17d0cf08407d71f21be4487"
)

seconds = st.floats(-100, 5000)
counts = st.integers(0, 2**40)
some_samples = st.lists(
    st.builds(
        Sample,
        sent_s=seconds,
        first_s=st.none() | seconds,
        end_s=seconds,
        prompt_tokens=counts,
        output_tokens=counts,
        gaps_s=st.lists(st.floats(0, 5000), max_size=5).map(tuple),
        error=st.none() | st.text(max_size=5),
        id=st.just("") | st.text(max_size=5),
        due_s=st.none() | seconds,
        client_s=st.just(0.0) | st.floats(0, 10),
    ),
    max_size=12,
)


@given(some_samples)
def test_samples_come_back_within_half_a_microsecond(samples):
    decoded = decode_samples(CODEC, encode_samples(samples))
    assert len(decoded) == len(samples)
    for was, now in zip(samples, decoded, strict=True):
        assert (now.prompt_tokens, now.output_tokens) == (was.prompt_tokens, was.output_tokens)
        assert (now.error, now.id) == (was.error, was.id)
        assert now.sent_s == pytest.approx(was.sent_s, abs=HALF_A_MICROSECOND)
        assert now.end_s == pytest.approx(was.end_s, abs=HALF_A_MICROSECOND)
        assert now.gaps_s == pytest.approx(was.gaps_s, abs=HALF_A_MICROSECOND)
        assert now.client_s == pytest.approx(was.client_s, abs=HALF_A_MICROSECOND)
        assert (now.first_s is None, now.due_s is None) == (was.first_s is None, was.due_s is None)
        if was.due_s is not None:
            assert now.due_s == pytest.approx(was.due_s, abs=HALF_A_MICROSECOND)
        if was.first_s is not None:
            assert now.first_s == pytest.approx(was.first_s, abs=HALF_A_MICROSECOND)


@given(some_samples)
def test_what_was_decoded_encodes_to_the_same_bytes(samples):
    encoded = encode_samples(samples)
    assert encode_samples(decode_samples(CODEC, encoded)) == encoded


def test_large_batch_stays_small():
    chance = random.Random(1)
    samples = []
    for number in range(1000):
        gaps = tuple(abs(chance.gauss(0.025, 0.004)) for _ in range(128))
        sent = number * 0.01
        samples.append(Sample(sent, sent + 0.2, sent + 0.2 + sum(gaps), 512, 129, gaps))
    assert len(encode_samples(samples)) < 300_000, "10,000 requests of 128 tokens in less than 3 MB"


@pytest.mark.parametrize("time", [float("nan"), float("inf")])
def test_time_that_is_not_finite_is_refused(time):
    with pytest.raises((ValueError, OverflowError)):
        encode_samples([Sample(0.0, None, time, 1, 0)])


def test_damaged_samples_are_told():
    encoded = encode_samples([Sample(0.0, 0.1, 0.2, 8, 2, (0.1,))])
    for damaged in (encoded[:-1], b"", encoded[:9] + bytes([encoded[9] ^ 255]) + encoded[10:]):
        with pytest.raises(StoreError, match="damaged"):
            decode_samples(CODEC, damaged)


def test_samples_of_a_later_release_are_told():
    with pytest.raises(StoreError, match=r"stored as 'columns-3', .* upgrade pytest-autotune"):
        decode_samples("columns-3", b"")


def test_samples_that_the_first_release_stored_are_read():
    encoded = bytes.fromhex(FIRST)
    first, second = decode_samples("columns-1", encoded)
    assert first == Sample(-0.5, 0.1, 0.4, 8, 3, (0.1, 0.2), None, "a")
    assert second == Sample(0.25, None, 0.75, 8, 0, (), "timeout", "b")
