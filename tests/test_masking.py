"""What is a secret is hidden wherever it stands, and what only looks like one is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.masking import (
    holds_secret,
    is_secret,
    mask,
    mask_argv,
    mask_text,
    name_of,
    secret_values,
    split_setting,
)

SECRETS = [
    "--api-key",
    "--hf_token",
    "APIKEY",
    "APIKeys",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SECRET_ACCESS_KEY_ID",
    "CREDENTIALS",
    "DB_PASSWORD",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "MY_TOKEN_PROD",
    "OPENAI_API_KEY",
    "PGPASSWORD",
    "PROXY_AUTH",
    "apiKey",
    "api_key",
    "apikey",
    "aws_secret_access_key",
    "client.secret",
    "clientSecret",
    "client_secret",
    "db.password",
    "hf-token",
    "password",
    "token",
]
PLAIN_NAMES = [
    "",
    "--",
    "--stop-token",
    "AUTHOR_NAME",
    "CUDA_VISIBLE_DEVICES",
    "HF_HOME",
    "TOKENIZERS_PARALLELISM",
    "VLLM_USE_V1",
    "eos-token",
    "keyboard",
    "kv-cache-dtype",
    "max-num-batched-tokens",
    "monkey",
    "port",
    "prompt_tokens",
    "ssl-key-file",
    "ssl-keyfile",
    "time_to_first_token",
    "tokenizer",
    "tokenizer-mode",
]
PLAIN = [
    *((name, "S0METHING") for name in PLAIN_NAMES),
    ("prompt_tokens", 512),
    ("max-num-batched-tokens", "8192"),
    ("long-prefill-token-threshold", "2048"),
    ("another-token-threshold", 2048),
    ("time_per_output_token", 0.1),
    ("require-api-key", "true"),
    ("require-api-key", True),
    ("url", "http://user@host:8000/v1?model=a@b"),
    ("api_key", None),
    ("api_key", ""),
]


@pytest.mark.parametrize("name", SECRETS)
def test_value_of_a_secret_name_is_masked_wherever_it_stands(name):
    assert is_secret(name)
    assert mask({name: "S3CRET", "env": {name: "S3CRET"}, "list": [{name: ["S3CRET"]}]}) == {
        name: "***",
        "env": {name: "***"},
        "list": [{name: ["***"]}],
    }
    flag = f"--{name.lstrip('-')}"
    assert mask_argv(["serve", flag, "S3CRET", "rest"]) == ("serve", flag, "***", "rest")
    assert mask_argv([f"{flag}=S3CRET", f"{name}=S3CRET"]) == (f"{flag}=***", f"{name}=***")
    assert mask_text(f"refused {name}=S3CRET") == f"refused {name}=***"
    assert mask_text(f"args: {{'{name}': 'S3CRET', 'a': 'b'}}") == f"args: {{'{name}': '***', 'a': 'b'}}"


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_name_that_only_looks_like_a_secret_is_none(name):
    assert not is_secret(name)


@pytest.mark.parametrize(("name", "value"), PLAIN)
def test_what_is_no_secret_is_kept(name, value):
    assert mask({name: value}) == {name: value}
    if value and name:
        flag = f"--{name.lstrip('-')}"
        assert mask_argv([flag, str(value)]) == (flag, str(value))
        assert mask_argv([f"{flag}={value}", f"{name}={value}"]) == (f"{flag}={value}", f"{name}={value}")
        assert mask_text(f"{name}={value}") == f"{name}={value}"


def test_json_value_keeps_its_shape_and_its_numbers():
    value = {
        "a": [{"api_key": "x", "n": 1, "token": None}],
        "time_per_output_token": 0.1,
        "t": ("hunter22",),
        "api-key": ["x"],
        "password": 123456,
        "credentials": {"user": "x", "more": ["y", 1]},
        "b": ["hf_" + "a" * 20, 1],
    }
    assert mask(value, ("hunter22",)) == {
        "a": [{"api_key": "***", "n": 1, "token": None}],
        "time_per_output_token": 0.1,
        "t": ["***"],
        "api-key": ["***"],
        "password": "***",
        "credentials": {"user": "***", "more": ["***", "***"]},
        "b": ["***", 1],
    }


@pytest.mark.parametrize(
    ("argv", "masked"),
    [
        pytest.param(["--api-key", "x", "y"], ("--api-key", "***", "y"), id="next argument"),
        pytest.param(["--api-key=x", "--hf-token="], ("--api-key=***", "--hf-token="), id="same argument"),
        pytest.param(["-api-key", "-x1"], ("-api-key", "***"), id="value with a dash"),
        pytest.param(["--api-key", "--fast"], ("--api-key", "--fast"), id="no value"),
        pytest.param(["--api-key", "-p", "80"], ("--api-key", "-p", "80"), id="no value, short flag next"),
        pytest.param(["--api-key", "12345"], ("--api-key", "***"), id="number"),
        pytest.param(["--title", "sk-" + "a" * 20], ("--title", "***"), id="by its form"),
        pytest.param(["--title", "my hunter22"], ("--title", "my ***"), id="by its value"),
        pytest.param(["--max-num-batched-tokens", "9"], ("--max-num-batched-tokens", "9"), id="no secret"),
        pytest.param(["token", "z", "--url=http://a:b@c"], ("token", "z", "--url=http://a:***@c"), id="no flag"),
        pytest.param(["env", "A=1", "HF_TOKEN=x", "s"], ("env", "A=1", "HF_TOKEN=***", "s"), id="variable"),
        pytest.param(['--x={"api_key": "k", "n": 2}'], ('--x={"api_key": "***", "n": 2}',), id="JSON"),
    ],
)
def test_command_line_hides_the_values_of_secret_settings_only(argv, masked):
    assert mask_argv(argv, ("hunter22",)) == masked
    assert mask_argv(masked, ("hunter22",)) == masked


TEXTS = [
    ("postgresql://me:hunter2@db:5432/x", "postgresql://me:***@db:5432/x"),
    ("postgresql+psycopg://me:S3:C/RET@host/db", "postgresql+psycopg://me:***@host/db"),
    ("see https://:S3CRET@host and http://a:S3CRET@b", "see https://:***@host and http://a:***@b"),
    ("postgresql://host/db?user=me&password=S3CRET&x=1", "postgresql://host/db?user=me&password=***&x=1"),
    ("connect(password='S3CRET', port=1)", "connect(password='***', port=1)"),
    ("Authorization: Bearer S3CRET-12345", "Authorization: Bearer ***"),
    ('{"h": "Authorization: Bearer abc"}', '{"h": "Authorization: Bearer ***"}'),
    ("{'Authorization': 'Basic abc='}", "{'Authorization': '***'}"),
    ("proxy-authorization: abc def ghi", "proxy-authorization: *** ghi"),
    ("X-Api-Key: abc", "X-Api-Key: ***"),
    ("sent Bearer S3CRET-12345 to it", "sent Bearer *** to it"),
    ("Bearer hf_abcdefghijklmnopqrst!", "Bearer ***!"),
    ("got hf_S3CRETabcdefghijklmnop for it", "got *** for it"),
    ("glpat-abcdefghijklmnopqrst", "***"),
    ("the long-secret-2 and long-secret", "the *** and ***"),
]
PLAIN_TEXTS = [
    "http://127.0.0.1:8000/v1",
    "http://host:8000/a and b@c",
    "https://example.org:8000/a@b",
    '{"url":"http://host:8000","mail":"a@b"}',
    "12:30 a@b",
    "sk-abc",
    "hf_hub_transfer_is_not_enabled",
    "max-num-seqs=64 eos-token=x",
    "a basic benchmark of the bearer",
    "the API key is wrong",
]


@pytest.mark.parametrize(("text", "shown"), [*TEXTS, *((text, text) for text in PLAIN_TEXTS)])
def test_secrets_in_running_text_are_masked(text, shown):
    secrets = secret_values([("A_TOKEN", "long-secret"), ("B_KEY", "long-secret-2"), ("PORT", "example")])
    assert mask_text(text, secrets) == shown
    assert mask({"url": [text]}, secrets) == {"url": [shown]}
    assert holds_secret("--url", text, secrets) is (text != shown)


@given(st.lists(st.sampled_from([*(text for text, _ in TEXTS), *PLAIN_TEXTS, "api-key=x", "***", "Authorization:"])))
def test_what_is_masked_stays_as_it_is(parts):
    masked = mask_text(" ".join(parts))
    assert mask_text(masked) == masked


def test_what_was_masked_before_is_a_secret():
    assert holds_secret("--title", "***")
    assert holds_secret("--url", "http://me:***@host")
    assert not holds_secret("--url", "http://host")


def test_short_and_plain_values_are_not_searched_for():
    assert secret_values([("A_TOKEN", "abc"), ("B_TOKEN_LIMIT", "20480000"), ("C", "example")]) == ()


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--port=1"], "--port", "1"),
        (["PORT=a=b"], "PORT", "a=b"),
        (["--port", "1"], "--port", "1"),
        (["--port=2", "1"], "", "1"),
        (["port", "1"], "", "1"),
        (["--port", "--fast"], "", "--fast"),
        (["http://h/?a=b"], "", "http://h/?a=b"),
    ],
)
def test_a_value_is_told_with_its_name(argv, name, value):
    assert name_of(argv, len(argv) - 1) == name
    assert split_setting(argv[-1])[1] == value
