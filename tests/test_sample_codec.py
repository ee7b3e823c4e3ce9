"""Samples survive being stored."""

import base64
import random
import subprocess
import sys
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.errors import StoreError
from pytest_autotune.sample_codec import CODEC, decode_samples, encode_samples
from pytest_autotune.samples import Sample

HALF_A_MICROSECOND = 0.501e-6  # and the rounding of floats of a few thousand seconds

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
        gaps_s=st.lists(st.floats(0, 5000), max_size=5).flatmap(
            lambda gaps: st.sampled_from([tuple(gaps), array("d", gaps)])
        ),
        error=st.none() | st.text(max_size=5),
        id=st.just("") | st.text(max_size=5),
        due_s=st.none() | seconds,
        client_s=st.floats(0, 10),
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
        assert list(now.gaps_s) == pytest.approx(list(was.gaps_s), abs=HALF_A_MICROSECOND)
        assert now.client_s == pytest.approx(was.client_s, abs=HALF_A_MICROSECOND)
        assert (now.due_s is None) == (was.due_s is None)
        if was.due_s is not None:
            assert now.due_s == pytest.approx(was.due_s, abs=HALF_A_MICROSECOND)
        assert (now.first_s is None) == (was.first_s is None)
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
    with pytest.raises(StoreError, match=r"stored as 'columns-3', .* reads 'columns-2': upgrade pytest-autotune"):
        decode_samples("columns-3", b"")


def test_samples_of_the_first_format_are_still_read():
    # Written by the release that called this format columns-1.
    encoded = base64.b64decode(
        "eAH7ysDAUK2UnZmXUqxkFa1Ukpmbml9aohSro5QJEUnUNVTSUUrUNQKSIOHk/JzS3DyQ4mil4tS8EqCwp5KOsY6ukakBEMTqRCul5qXA"
        "RA0NwcIg0cS84vLUolSQlBNIA1hpWmZRMdQIIx0zkFqQ0oKi/NwCkLAHSKE5SAjoqAKgu5D1phYV5RfBRHQNQarSEwvik/NLwa5CWAIU"
        "LQaqAzsT6p7YWoYNFxgKhRi4hYEBwPDjBkPkDgZeViCTEQhtGN4ziDIw/OQEshlYwELMQKkbWxh2HGFgZQEyAeypTXY="
    )
    assert decode_samples("columns-1", encoded) == (
        Sample(-0.25, 0.0625, 1.125, 512, 4, array("d", (0.125, 0.5, 0.4375)), None, "a-1"),
        Sample(0.5, None, 2.0, 16, 0, (), "timeout", "a-2"),
        Sample(1.0, 1.5, 1.5, 7, 1, (), None, ""),
    )


def test_ten_million_gaps_are_stored_and_read_in_under_500_megabytes():
    script = """
import random, time
from array import array
from tests.memory import peak_mb
from pytest_autotune.sample_codec import CODEC, decode_samples, encode_samples
from pytest_autotune.samples import Sample

chance = random.Random(1)
some = [array("d", (chance.gauss(0.01, 0.001) for _ in range(1000))) for _ in range(50)]
samples = [Sample(n / 170, n / 170 + 0.2, n / 170 + 13, 64, 1001, some[n % 50][:]) for n in range(10_000)]
began = time.process_time()
encoded = encode_samples(samples)
del samples
assert sum(len(sample.gaps_s) for sample in decode_samples(CODEC, encoded)) == 10_000_000
print(peak_mb(), time.process_time() - began)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    megabytes, seconds = map(float, told.split())
    assert megabytes < 500
    assert seconds < 20  # about two on an idle machine
