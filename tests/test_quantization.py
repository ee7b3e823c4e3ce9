"""`quantization` in a suite: precisions in one text, and names of methods as they stand."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.quantization import (
    PARTS,
    PRECISIONS,
    PRESETS,
    Quantization,
    quantization_of,
    read_quantization,
)

VALUES = st.builds(Quantization, **{part: st.sampled_from(("", *PRECISIONS[part])) for part in PARTS})


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("bf16", "bf16"),
        ("bfloat16", "bf16"),
        ("half", "fp16"),
        ("fp8", "fp8"),
        ({"weights": "fp8"}, "fp8"),
        ({"weights": "fp8", "kv_cache": "fp8"}, "fp8-kv-fp8"),
        ("fp8-kv-fp8", "fp8-kv-fp8"),
        ("fp8-kv-fp8_e4m3", "fp8-kv-fp8"),
        ({"kv_cache": "fp8_e5m2", "weights": "bfloat16"}, "bf16-kv-fp8_e5m2"),
        ({"weights": "auto", "kv_cache": "fp8"}, "kv-fp8"),
        (
            {"weights": "bf16", "kv_cache": "fp8", "attention": "fp8", "moe": "mxfp4"},
            "bf16-kv-fp8-attention-fp8-moe-mxfp4",
        ),
        ("moe-mxfp4-kv-fp8", "kv-fp8-moe-mxfp4"),
        ("kv-cache-fp8", "kv-fp8"),
        ("dynamic-fp8", "fp8"),
        ("bf16-stable", "bf16-kv-bf16"),
        ("aggressive-moe", "kv-fp8-moe-mxfp4"),
    ],
)
def test_spellings_of_one_precision_are_one_text(written, text):
    assert read_quantization(written) == text
    assert str(quantization_of(text)) == text


@pytest.mark.parametrize(
    "written", [None, "default", "auto", {"weights": "default"}, {"kv_cache": "auto", "moe": "auto"}]
)
def test_engines_default_is_no_text(written):
    assert read_quantization(written) is None


@pytest.mark.parametrize(
    "written", ["awq", "gptq_marlin", "compressed-tensors", "fp8_per_block", "auto-round", 4, True]
)
def test_what_names_no_precision_is_the_engines_own(written):
    assert read_quantization(written) == written
    assert quantization_of(written) is None


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ({}, "an empty mapping names no precision"),
        ({"weight": "fp8"}, "unknown key (did you mean 'weights'?); allowed: weights, kv_cache, attention, moe"),
        ({"weights": "fp9"}, "'fp9' is not one of bf16, fp16, fp32, fp8, mxfp8, int8, int4 (did you mean 'fp8'?)"),
        ({"weights": 8}, "8 is not one of"),
        ({"kv_cache": "q8_0"}, "'q8_0' is not one of"),
        ("fp8-kv", "'fp8-kv' is no quantization"),
        ("fp8-kv_fp8", "'fp8-kv_fp8' is no quantization"),
        ("kv-fp8-kv-bf16", "'kv-fp8-kv-bf16' says kv twice"),
        ("kv-fp9", "'fp9' is not one of"),
    ],
)
def test_what_is_no_precision_is_refused(written, problem):
    with pytest.raises(ValueError, match=re.escape(problem)):
        read_quantization(written)
    assert quantization_of(written) is None


@given(VALUES)
def test_a_text_and_a_mapping_say_the_same(asked):
    written = read_quantization({part: getattr(asked, part) or "default" for part in PARTS})
    assert written == (str(asked) or None)
    if written:
        assert read_quantization(written) == written
        assert quantization_of(written) == asked


@given(VALUES, VALUES)
def test_different_precisions_have_different_texts(one, other):
    assert (str(one) == str(other)) is (one == other)


def test_presets_are_different_precisions():
    texts = [read_quantization(name) for name in PRESETS]
    assert all(one != other for one, other in itertools.combinations(texts, 2))
    assert None not in texts
