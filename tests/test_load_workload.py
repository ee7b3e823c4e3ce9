"""Requests as bytes: distinct prompts of a set length, the same for the same seed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.errors import BenchmarkError
from pytest_autotune.load.generator import Target, Workload
from pytest_autotune.load.workload import TOKEN_IDS, WORDS, Requests

IDS = Target("http://127.0.0.1:8000", "m", token_ids=True, ignore_eos=True)
TEXT = Target("http://127.0.0.1:8000", "m")
CHAT = Target("http://127.0.0.1:8000", "m", api="chat", token_ids=True)


def requests(target, prompt_tokens, seed=0):
    return Requests(target, Workload(prompt_tokens, 16, 1.0, 0.0, 1.0, seed=seed))


def parse(request):
    head, _, body = request.payload.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return first, dict(line.split(": ", 1) for line in lines), json.loads(body), len(body)


def prompt_of(request):
    body = parse(request)[2]
    return body["messages"][0]["content"] if "messages" in body else body["prompt"]


def test_there_are_256_distinct_plain_words():
    assert len(set(WORDS)) == len(WORDS) == 256
    assert all(word.isascii() and word.isalpha() for word in WORDS)


@given(st.integers(1, 3000), st.integers(0, 2**40))
@settings(max_examples=40, deadline=None)
def test_token_id_prompts_have_exactly_the_length_asked_for(prompt_tokens, seed):
    prompt = prompt_of(requests(IDS, prompt_tokens, seed).build())
    assert len(prompt) == prompt_tokens
    assert all(token in TOKEN_IDS for token in prompt)


@given(st.integers(1, 3000))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("target", [TEXT, CHAT], ids=["completions", "chat"])
def test_text_prompts_have_a_word_per_token(target, prompt_tokens):
    assert len(prompt_of(requests(target, prompt_tokens).build()).split(" ")) == prompt_tokens


@pytest.mark.parametrize("target", [IDS, TEXT, CHAT], ids=["ids", "text", "chat"])
def test_prompts_differ_within_their_first_block_and_between_seeds(target):
    sequences = [requests(target, 40, seed) for seed in (1, 2)]
    heads = set()
    for sequence in sequences:
        for _ in range(2000):
            prompt = prompt_of(sequence.build())
            heads.add(tuple(prompt.split(" ") if isinstance(prompt, str) else prompt)[:16])
    assert len(heads) == 4000


def test_equal_seeds_give_equal_prompts_with_ids_of_their_own():
    one, other = requests(IDS, 30, 7), requests(IDS, 30, 7)
    pairs = [(one.build(), other.build()) for _ in range(20)]
    assert all(prompt_of(a) == prompt_of(b) for a, b in pairs)
    assert len({request.id for pair in pairs for request in pair}) == 40


def test_a_request_is_complete_http():
    target = Target("http://example.test:81/base", "my model", headers={"authorization": "Bearer x"}, ignore_eos=True)
    request = requests(target, 3).build()
    first, fields, body, length = parse(request)
    assert first == "POST /base/v1/completions HTTP/1.1"
    assert fields["host"] == "example.test:81"
    assert fields["authorization"] == "Bearer x"
    assert fields["x-request-id"] == request.id
    assert int(fields["content-length"]) == length
    assert len(body.pop("prompt").split()) == 3
    assert body == {
        "model": "my model",
        "max_tokens": 16,
        "min_tokens": 16,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }


def test_chat_goes_as_one_user_message_to_its_own_path():
    first, _, body, _ = parse(requests(CHAT, 5).build())
    assert first == "POST /v1/chat/completions HTTP/1.1"
    assert [message["role"] for message in body["messages"]] == ["user"]
    assert "ignore_eos" not in body


def test_a_header_that_would_break_the_request_is_refused():
    with pytest.raises(BenchmarkError, match="header 'x-key' holds a character that HTTP does not allow"):
        requests(Target("http://h", "m", headers={"x-key": "a\r\nb: c"}), 5)
