"""Requests as bytes: prompts of a set length, the same for the same seed and number, unlike any other."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.load.generator import Row, Target, Workload
from pytest_autotune.load.lengths import Fixed, quantile_of
from pytest_autotune.load.prompts import HEAD, TOKEN_IDS, WORDS
from pytest_autotune.load.requests import Requests

URL = "http://127.0.0.1:8000"
IDS = Target(URL, "m", token_ids=True, ignore_eos=True)
TEXT = Target(URL, "m")
CHAT = Target(URL, "m", api="chat", token_ids=True)
EMBEDDINGS = Target(URL, "m", api="embeddings")
RERANK = Target(URL, "m", api="rerank")
TARGETS = {"ids": IDS, "text": TEXT, "chat": CHAT, "embeddings": EMBEDDINGS}
every_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@dataclass(frozen=True)
class Between:
    low: int
    high: int

    def at(self, quantile):
        return self.low + int(quantile * (self.high + 1 - self.low))


def workload(prompt_tokens=40, output_tokens=16, **fields):
    lengths = [Fixed(tokens) if isinstance(tokens, int) else tokens for tokens in (prompt_tokens, output_tokens)]
    return Workload(*lengths, 1.0, 0.0, 1.0, **fields)


def requests(target, prompt_tokens=40, seed=0, **fields):
    return Requests(target, workload(prompt_tokens, seed=seed, **fields))


class Reader(BaseHTTPRequestHandler):
    """Reads one request as the standard library's server does."""

    def __init__(self, payload):
        self.rfile = BytesIO(payload)
        self.wfile = BytesIO()
        self.client_address = ("test", 0)
        self.raw_requestline = self.rfile.readline()
        assert self.parse_request(), self.wfile.getvalue()
        self.body = json.loads(self.rfile.read(int(self.headers["content-length"])).decode("utf-8"))
        assert self.rfile.read() == b""

    def log_message(self, *arguments):
        pass


def body_of(request):
    return Reader(request.payload).body


def prompt_of(request):
    body = body_of(request)
    return body["messages"][-1]["content"] if "messages" in body else body["input" if "input" in body else "prompt"]


def tokens_of(request):
    prompt = prompt_of(request)
    return prompt.split(" ") if isinstance(prompt, str) else prompt


def test_there_are_256_distinct_plain_words():
    assert len(set(WORDS)) == len(WORDS) == 256
    assert all(word.isascii() and word.isalpha() for word in WORDS)
    assert max(map(len, WORDS)) <= 8  # one token of the embedded server


@given(st.integers(1, 3000), st.integers(0, 2**80), st.integers(0, 2**39))
@settings(max_examples=40, deadline=None)
@every_target
def test_prompts_have_exactly_the_length_asked_for(target, prompt_tokens, seed, number):
    request = requests(target, prompt_tokens, seed).build(number)
    assert len(tokens_of(request)) == request.prompt_tokens == prompt_tokens
    assert set(tokens_of(request)) <= {*TOKEN_IDS, *WORDS}


def test_prompts_may_be_longer_than_the_text_they_are_cut_from():
    built = requests(IDS, Between(1, 100_000))
    again = requests(IDS, Between(1, 100_000))
    numbers = range(30)
    expected = [built.build(number).payload.partition(b"\r\n\r\n")[2] for number in numbers]
    assert max(map(len, expected)) > 16384 * 4
    assert [len(json.loads(body)["prompt"]) for body in expected] == [
        built.build(number).prompt_tokens for number in numbers
    ]
    assert [again.build(number).payload.partition(b"\r\n\r\n")[2] for number in reversed(numbers)] == expected[::-1]


@every_target
def test_prompts_differ_within_their_first_block_and_between_seeds(target):
    heads = set()
    for seed in (1, 2):
        sequence = requests(target, 40, seed)
        heads.update(tuple(tokens_of(sequence.build(number))[:HEAD]) for number in range(2000))
    assert len(heads) == 4000


@every_target
def test_the_same_seed_and_number_make_the_same_request_whatever_was_built_before(target):
    lengths = Between(1, 400)
    straight = Requests(target, workload(lengths, lengths, seed=7), name="n")
    split = [Requests(target, workload(lengths, lengths, seed=7), name="n") for _ in range(3)]
    assert [straight.build(number) for number in range(60)] == [
        split[number % 3].build(number) for number in [*range(59, -1, -1)]
    ][::-1]


def test_other_processes_build_the_same_requests():
    script = """
from pytest_autotune.load.generator import Target, Workload
from pytest_autotune.load.lengths import Fixed
from pytest_autotune.load.requests import Requests
workload = Workload(Fixed(60), Fixed(16), 1.0, 0.0, 1.0, seed=7, prefix_tokens=20, prefix_groups=4)
sequence = Requests(Target("http://127.0.0.1:8000", "m"), workload, name="n")
print(*(sequence.build(number).payload.hex() for number in range(50)))
"""
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    here = Requests(TEXT, workload(60, seed=7, prefix_tokens=20, prefix_groups=4), name="n")
    assert there == [here.build(number).payload.hex() for number in range(50)]


def test_workers_that_build_requests_load_the_standard_library_only():
    script = "import sys, pytest_autotune.load.requests; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in loaded if not name.startswith("_")} <= {*sys.stdlib_module_names, "pytest_autotune"}
    assert not {"asyncio", "multiprocessing", "ssl"} & set(loaded)


def test_names_of_batches_differ_and_make_ids_of_their_own():
    one, other = requests(TEXT, seed=7), requests(TEXT, seed=7)
    pairs = [(one.build(number), other.build(number)) for number in range(20)]
    assert all(prompt_of(a) == prompt_of(b) for a, b in pairs)
    assert len({request.id for pair in pairs for request in pair}) == 40
    assert Requests(TEXT, workload(), name="abc").build(5).id == "autotune-abc-5"


def test_a_server_that_wants_uuids_and_connections_of_their_own_gets_them():
    request = Requests(Target(URL, "m", uuids=True, keeps_connections=False), workload(), name="abc").build(5)
    sent = dict(Reader(request.payload).headers)
    assert (sent["connection"], sent["x-request-id"]) == ("close", request.id)
    assert str(uuid.UUID(request.id)) == request.id
    assert Requests(Target(URL, "m", uuids=True), workload(), name="abc").build(6).id != request.id


def test_a_request_is_complete_http():
    target = Target("http://example.test:81/base", "mödel", headers={"Authorization": "Bearer x"}, ignore_eos=True)
    request = requests(target, 3).build(0)
    read = Reader(request.payload)
    assert (read.command, read.path, read.request_version) == ("POST", "/base/v1/completions", "HTTP/1.1")
    assert dict(read.headers) | {"content-length": "n"} == {
        "host": "example.test:81",
        "content-type": "application/json",
        "accept": "text/event-stream",
        "authorization": "Bearer x",
        "x-request-id": request.id,
        "content-length": "n",
    }
    assert len(read.body.pop("prompt").split()) == 3
    assert read.body == {
        "model": "mödel",
        "max_tokens": 16,
        "min_tokens": 16,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    assert (request.streamed, request.output_tokens, request.turn, request.pause_s) == (True, 16, 0, 0.0)


def test_chat_goes_as_one_user_message_to_its_own_path():
    read = Reader(requests(CHAT, 5).build(0).payload)
    assert read.path == "/v1/chat/completions"
    assert [message["role"] for message in read.body["messages"]] == ["user"]
    assert "ignore_eos" not in read.body


@pytest.mark.parametrize(("token_ids", "kind"), [(False, str), (True, list)], ids=["text", "ids"])
def test_embeddings_ask_for_one_input_without_a_stream(token_ids, kind):
    request = requests(Target(URL, "m", api="embeddings", token_ids=token_ids), 12).build(0)
    read = Reader(request.payload)
    assert (read.path, read.headers["accept"]) == ("/v1/embeddings", "application/json")
    assert set(read.body) == {"model", "input"}
    assert isinstance(read.body["input"], kind)
    assert (request.prompt_tokens, request.output_tokens, request.streamed) == (12, 0, False)


@pytest.mark.parametrize(("tokens", "query", "document"), [(2, 1, 1), (40, 10, 30), (512, 32, 480)])
def test_rerank_asks_for_distinct_documents_that_make_pairs_of_the_length_asked_for(tokens, query, document):
    request = requests(RERANK, tokens, documents=7).build(3)
    read = Reader(request.payload)
    assert (read.path, set(read.body)) == ("/v1/rerank", {"model", "query", "documents"})
    assert len(read.body["query"].split()) == query
    assert [len(text.split()) for text in read.body["documents"]] == [document] * 7
    assert len(set(read.body["documents"])) == 7
    assert (request.prompt_tokens, request.output_tokens, request.streamed) == (7 * tokens, 0, False)


def test_a_rerank_query_has_the_length_asked_for():
    body = body_of(requests(RERANK, prompt_tokens=Fixed(30), query_tokens=Fixed(7), documents=3).build(5))
    assert len(body["query"].split()) == 7
    assert [len(document.split()) for document in body["documents"]] == [30, 30, 30]


def test_rows_of_rerank_are_a_query_and_its_documents():
    body = body_of(requests(RERANK, rows=(Row(text='a "q"', turns=("ä", "b")),)).build(0))
    assert (body["query"], body["documents"]) == ('a "q"', ["ä", "b"])


@pytest.mark.parametrize(("template", "words"), [(0, 20), (7, 13), (19, 1), (30, 1)])
@pytest.mark.parametrize("api", ["completions", "chat", "embeddings"])
def test_what_the_server_adds_to_a_prompt_is_left_out_of_it(api, template, words):
    request = requests(Target(URL, "m", api=api, template_tokens=template), 20).build(0)
    assert len(tokens_of(request)) == words
    assert request.prompt_tokens == template + words


def test_lengths_follow_their_distributions_independently():
    """Chi-square over 100 cells of both lengths: 99 degrees of freedom, so that 149 is the 99.9th percentile."""
    sequence = Requests(TEXT, workload(Between(1, 10), Between(1, 10), seed=3))
    counts = {}
    for number in range(10_000):
        request = sequence.build(number)
        cell = (request.prompt_tokens, request.output_tokens)
        counts[cell] = counts.get(cell, 0) + 1
    assert len(counts) == 100
    assert 60 < sum((count - 100) ** 2 / 100 for count in counts.values()) < 149


@pytest.mark.parametrize("purpose", [0, 1000, 1001])
def test_quantiles_are_uniform(purpose):
    """Kolmogorov-Smirnov: the distance of 10,000 stays below 0.0195 with probability 0.999."""
    values = sorted(quantile_of(2, number, purpose) for number in range(10_000))
    distance = max(abs(value - (rank + 0.5) / 10_000) for rank, value in enumerate(values))
    assert distance < 0.0195
    assert values[0] > 0
    assert values[-1] < 1


@every_target
def test_groups_share_exactly_their_prefix(target):
    sequence = requests(target, 60, prefix_tokens=20, prefix_groups=3)
    prompts = [tokens_of(sequence.build(number)) for number in range(120)]
    groups = {}
    for prompt in prompts:
        groups.setdefault(tuple(prompt[:20]), []).append(prompt)
    assert all(len(prompt) == 60 for prompt in prompts)
    assert len(groups) == 3
    assert min(map(len, groups.values())) > 20
    assert len({prefix[0] for prefix in groups}) == 3
    for members in groups.values():
        assert len({member[20] for member in members}) == len(members)


def test_prefixes_of_other_batches_are_others():
    heads = {tuple(tokens_of(requests(IDS, 60, seed, prefix_tokens=30).build(0))[:HEAD]) for seed in range(50)}
    assert len(heads) == 50


@pytest.mark.parametrize("tokens", [1, 5, 20])
def test_a_prompt_within_its_prefix_keeps_a_token_of_its_own(tokens):
    sequence = requests(IDS, tokens, prefix_tokens=20)
    prompts = [tokens_of(sequence.build(number)) for number in range(200)]
    assert {len(prompt) for prompt in prompts} == {tokens}
    assert len({tuple(prompt[:-1]) for prompt in prompts}) == 1
    assert len({prompt[-1] for prompt in prompts}) == 200


def test_rows_share_the_blocks_they_share():
    rows = (
        Row(prompt_tokens=70, output_tokens=5, blocks=(10, 11, 12)),
        Row(prompt_tokens=90, blocks=(10, 11, 13)),
        Row(blocks=(20, 11)),
        Row(prompt_tokens=80, blocks=(20, 11)),
    )
    sequence = requests(IDS, rows=rows, block_tokens=32)
    built = [sequence.build(number) for number in range(4)]
    first, second, third, fourth = map(tokens_of, built)
    assert [request.prompt_tokens for request in built] == [70, 90, 64, 80] == [*map(len, map(tokens_of, built))]
    assert [request.output_tokens for request in built] == [5, 16, 16, 16]
    assert first[:64] == second[:64]
    assert first[64] != second[64]
    assert third[0] != first[0]
    assert third[32:64] == first[32:64]
    assert fourth[:64] == third
    assert fourth[64:] != first[:16]


def test_blocks_are_cut_to_the_prompt():
    sequence = requests(IDS, rows=(Row(prompt_tokens=40, blocks=(1, 2, 3)), Row(prompt_tokens=50, blocks=(1, 2))))
    assert tokens_of(sequence.build(1))[:40] == tokens_of(sequence.build(0))


def test_blocks_are_others_in_other_batches_and_when_the_rows_start_again():
    rows = (Row(prompt_tokens=64, blocks=(1, 2)),)
    heads = {
        tuple(tokens_of(requests(IDS, seed=seed, rows=rows, block_tokens=32).build(number))[:HEAD])
        for seed in range(10)
        for number in range(10)
    }
    assert len(heads) == 100


ROWS = tuple(Row(text=f"text {number}", prompt_tokens=number + 1) for number in range(40))


def test_texts_are_taken_in_order_and_again_from_a_place_by_the_seed():
    starts = set()
    for seed in range(20):
        sequence = requests(CHAT, seed=seed, rows=ROWS)
        start = sequence.build(0).prompt_tokens - 1
        starts.add(start)
        taken = [prompt_of(sequence.build(number)) for number in range(90)]
        assert taken == [f"text {(start + n) % 40}" for n in range(90)]
    assert len(starts) > 10


def test_rows_of_a_trace_begin_with_the_first():
    sequence = requests(CHAT, rows=ROWS, times_s=tuple(range(40)))
    assert [prompt_of(sequence.build(number)) for number in range(3)] == ["text 0", "text 1", "text 2"]


def test_shuffled_rows_are_each_taken_once_in_an_order_by_the_seed():
    orders = [
        [prompt_of(requests(TEXT, seed=seed, rows=ROWS, shuffle=True).build(number)) for number in range(40)]
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert [sorted(order) for order in orders] == [sorted(f"text {n}" for n in range(40))] * 3


def test_rows_of_lengths_only_are_made_up_and_distinct():
    sequence = requests(TEXT, rows=(Row(prompt_tokens=9),))
    prompts = {tuple(tokens_of(sequence.build(number))) for number in range(100)}
    assert {len(prompt) for prompt in prompts} == {9}
    assert len(prompts) == 100


def test_the_length_of_a_text_is_unknown_unless_told():
    sequence = requests(IDS, rows=(Row(text="a b c"), Row(text="a b c", prompt_tokens=3)))
    assert [sequence.build(number).prompt_tokens for number in range(2)] == [0, 3]


@given(st.text())
@settings(deadline=None)
@pytest.mark.parametrize("target", [TEXT, CHAT, EMBEDDINGS, RERANK], ids=["text", "chat", "embeddings", "rerank"])
def test_any_text_arrives_as_it_is(target, text):
    request = requests(target, rows=(Row(text=text),)).build(0)
    body = body_of(request)
    assert (body["query"] if target is RERANK else prompt_of(request)) == text


def test_texts_go_as_utf8_and_halves_of_surrogate_pairs_as_question_marks():
    request = requests(TEXT, rows=(Row(text="Grüße, \ud83d 世界"),)).build(0)
    assert "Grüße, ? 世界".encode() in request.payload
    assert prompt_of(request) == "Grüße, ? 世界"


@given(st.lists(st.text(min_size=1), min_size=2, max_size=4), st.text())
@settings(deadline=None)
def test_chats_carry_all_that_was_said(turns, reply):
    sequence = Requests(CHAT, workload(rows=(Row(turns=tuple(turns)),), think_s=2.5), name="n")
    request, said = sequence.build(0), []
    for turn, text in enumerate(turns):
        said.append({"role": "user", "content": text})
        assert body_of(request)["messages"] == said
        assert (request.turn, request.pause_s) == (turn, 2.5 if turn else 0.0)
        assert request.id == ("autotune-n-0" if turn == 0 else f"autotune-n-0-{turn}")
        said.append({"role": "assistant", "content": f"{reply}{turn}"})
        request = sequence.follow(request, f"{reply}{turn}")
    assert request is None


def test_completions_carry_on_the_text():
    sequence = requests(IDS, rows=(Row(turns=("One?", 'Two "ä"?', "Three?")),))
    second = sequence.follow(sequence.build(0), ' "1"\n')
    third = sequence.follow(second, " 2.")
    assert body_of(third)["prompt"] == 'One? "1"\n\nTwo "ä"? 2.\nThree?'
    assert body_of(third)["max_tokens"] == body_of(second)["min_tokens"] == 16
    assert sequence.follow(third, "3") is None


@pytest.mark.parametrize("target", [IDS, CHAT], ids=["completions", "chat"])
def test_made_up_conversations_have_turns_and_lengths_by_their_distributions(target):
    lengths = Between(5, 300)
    sequence = Requests(target, workload(lengths, lengths, turns=Between(1, 4), prefix_tokens=4), name="n")
    turns = []
    for number in range(80):
        request, texts = sequence.build(number), []
        expected = 0
        while request is not None:
            body = body_of(request)
            texts.append(body["prompt"] if target is IDS else body["messages"][-1]["content"])
            whole = (
                len(texts[-1].split()) if target is IDS else sum(len(m["content"].split()) for m in body["messages"])
            )
            assert request.prompt_tokens == whole
            assert request.prompt_tokens > expected
            expected = request.prompt_tokens + request.output_tokens
            request = sequence.follow(request, " yes" * request.output_tokens)
        turns.append(len(texts))
        assert len(set(texts)) == len(texts)
    assert {count: turns.count(count) > 8 for count in turns} == {1: True, 2: True, 3: True, 4: True}


@pytest.mark.parametrize(
    ("target", "fields", "conversational"),
    [
        (CHAT, {}, False),
        (CHAT, {"turns": Fixed(2)}, True),
        (CHAT, {"turns": Between(1, 2)}, True),
        (EMBEDDINGS, {"turns": Fixed(2)}, False),
        (CHAT, {"rows": (Row(text="a"), Row(turns=("a",)))}, False),
        (CHAT, {"rows": (Row(text="a"), Row(turns=("a", "b")))}, True),
        (CHAT, {"rows": (Row(text="a"),), "turns": Fixed(2)}, False),
    ],
)
def test_replies_are_needed_only_for_conversations(target, fields, conversational):
    sequence = requests(target, **fields)
    assert sequence.conversational is conversational
    if not conversational:
        assert sequence.follow(sequence.build(0), "reply") is None


def test_a_row_without_turns_ends_where_others_go_on():
    sequence = requests(CHAT, rows=(Row(text="a"), Row(turns=("a", "b"))))
    assert sequence.follow(sequence.build(0), "x") is None
    assert sequence.follow(sequence.build(1), "x") is not None
