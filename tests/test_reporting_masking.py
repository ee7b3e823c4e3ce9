from __future__ import annotations

import pytest

from pytest_autotune.reporting.masking import is_secret, mask, mask_argv, mask_text, secret_values


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "--api-key",
        "OPENAI_API_KEY",
        "password",
        "DB_PASSWORD",
        "client_secret",
        "AWS_SECRET_ACCESS_KEY_ID",
        "token",
        "apikey",
    ],
)
def test_a_name_of_a_secret_is_recognised(name):
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "max-num-batched-tokens",
        "tokenizer",
        "eos-token",
        "--stop-token",
        "ssl-keyfile",
        "monkey",
        "",
        "--",
        "kv-cache-dtype",
        "port",
    ],
)
def test_a_name_that_only_looks_like_one_is_not(name):
    assert not is_secret(name)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://me:hunter2@db:5432/x", "postgresql://me:***@db:5432/x"),
        ("https://example.org:8000/a@b", "https://example.org:8000/a@b"),
        ("Bearer hf_abcdefghijklmnopqrst!", "Bearer ***!"),
        ("sk-abc", "sk-abc"),
        ('{"h": "Authorization: Bearer abc"}', '{"h": "Authorization: ***"}'),
        ("the long-secret-2 and long-secret", "the *** and ***"),
    ],
)
def test_secrets_in_running_text_are_masked(text, masked):
    assert (
        mask_text(text, secret_values([("A_TOKEN", "long-secret"), ("B_KEY", "long-secret-2"), ("PORT", "example")]))
        == masked
    )


def test_a_short_value_is_not_searched_for():
    assert secret_values([("A_TOKEN", "abc")]) == ()


def test_a_json_value_is_masked_at_any_depth_and_numbers_stay():
    value = {
        "a": [{"api_key": "x", "n": 1, "token": None}],
        "time_per_output_token": 0.1,
        "t": ("hunter22",),
        "api-key": ["x"],
    }
    assert mask(value, ("hunter22",)) == {
        "a": [{"api_key": "***", "n": 1, "token": None}],
        "time_per_output_token": 0.1,
        "t": ["***"],
        "api-key": "***",
    }


def test_a_command_line_is_masked_behind_the_flags_that_name_secrets():
    argv = [
        "serve",
        "--api-key",
        "x",
        "--hf-token=y",
        "--max-num-batched-tokens",
        "8192",
        "token",
        "z",
        "--url=http://a:b@c",
        "--key",
        "--x",
    ]
    assert mask_argv(argv) == [
        "serve",
        "--api-key",
        "***",
        "--hf-token=***",
        "--max-num-batched-tokens",
        "8192",
        "token",
        "z",
        "--url=http://a:***@c",
        "--key",
        "--x",
    ]
