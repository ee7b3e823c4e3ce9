"""Event streams: what carries a token, how a stream ends, and that its splitting does not matter."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.load.events import EventStream


def event(message, *, end="\n\n"):
    return f"data: {message if isinstance(message, str) else json.dumps(message)}{end}".encode()


def chat(delta, *, finish=None, **more):
    return event({"id": "chatcmpl-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more})


def text(words, *, finish=None, **more):
    return event({"id": "cmpl-1", "choices": [{"index": 0, "text": words, "finish_reason": finish}], **more})


DONE = event("[DONE]")
USAGE = event({"id": "cmpl-1", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}})


def read(*fragments):
    """Feed the fragments at 1 s, 2 s, ... and end the body."""
    stream = EventStream()
    for number, fragment in enumerate(fragments, 1):
        stream.feed(fragment, float(number))
    stream.end(float(len(fragments) + 1))
    return stream


@pytest.mark.parametrize(
    ("fragments", "arrivals"),
    [
        pytest.param([text(" a"), text(" b"), text(" c"), DONE], [1, 2, 3], id="completions"),
        pytest.param([chat({"role": "assistant", "content": ""}), chat({"content": "x"}), DONE], [2], id="role first"),
        pytest.param([chat({"role": "assistant", "content": "x"}), DONE], [1], id="role with the first token"),
        pytest.param([chat({"reasoning_content": "x"}), chat({"content": "y"}), DONE], [1, 2], id="reasoning_content"),
        pytest.param([chat({"reasoning": "x"}), chat({"content": "y"}), DONE], [1, 2], id="reasoning"),
        pytest.param([chat({"tool_calls": [{"index": 0}]}), DONE], [1], id="tool call"),
        pytest.param([chat({"content": None}), chat({"content": "y"}), DONE], [2], id="null content"),
        pytest.param([text(" a"), text(""), text(" b"), DONE], [1, 3], id="empty text between"),
        pytest.param([text(" a"), text('"'), text("\\"), text("\n"), DONE], [1, 2, 3, 4], id="escaped text"),
        pytest.param([b": ping\n\n", text(" a"), b": ping\n\n", DONE], [2], id="comments"),
        pytest.param([text(" a") + text(" b"), text(" c") + DONE], [1, 1, 2], id="several in a fragment"),
        pytest.param([text(" a", finish="length"), USAGE, DONE], [1], id="finish reason on a token"),
        pytest.param([text(" a"), text(" b", finish="stop")], [1, 2], id="finish reason without DONE"),
        pytest.param([text(" a"), b"data: [DONE]\n"], [1], id="no blank line at the end"),
        pytest.param([text(" a"), b"data:[DONE]\r\r"], [1], id="no space, carriage returns"),
        pytest.param([b'data: {"choices":\ndata: [{"text": "x"}]}\n\n', DONE], [1], id="data on two lines"),
        pytest.param([b"event: chunk\nid: 1\n" + text(" a"), DONE], [1], id="other fields"),
    ],
)
def test_good_streams(fragments, arrivals):
    stream = read(*fragments)
    assert list(stream.arrivals) == arrivals
    assert stream.verdict is None


@pytest.mark.parametrize(
    ("fragments", "verdict"),
    [
        pytest.param([DONE], "empty", id="only DONE"),
        pytest.param([], "empty", id="nothing"),
        pytest.param([chat({"role": "assistant"}), chat({}, finish="stop"), DONE], "empty", id="no token"),
        pytest.param([text(" a"), text(" b")], "cut", id="no end"),
        pytest.param(
            [text(" a"), b'data: {"choices": [{"text": "bro\n\n', text(" b"), DONE], "malformed", id="half JSON"
        ),
        pytest.param([text(" a"), text(" a")[:-5], b"\n\n", DONE], "malformed", id="half of a known shape"),
        pytest.param([event("[" * 100_000)], "malformed", id="deeply nested"),
        pytest.param([event("17"), DONE], "malformed", id="a number"),
        pytest.param([event({"choices": 3}), DONE], "malformed", id="choices no list"),
        pytest.param([event({"choices": ["x"]}), DONE], "malformed", id="choice no object"),
        pytest.param([event({"usage": [1], "choices": []}), DONE], "malformed", id="usage no object"),
        pytest.param([b'{"choices": [{"text": "x"}]}'], "malformed", id="JSON instead of a stream"),
        pytest.param([b"<html>\n\n</html>"], "malformed", id="HTML"),
        pytest.param([b"data: " + b"x" * 5_000_000], "malformed", id="an event without end"),
        pytest.param([text(" a"), event({"error": {"message": "OOM"}}), DONE], "error-event", id="error object"),
        pytest.param([event({"object": "error", "message": "bad"}), DONE], "error-event", id="error by type"),
        pytest.param([b"event: error\n" + text("bad"), DONE], "error-event", id="error by event"),
        pytest.param([text(" a"), text("", finish="abort"), DONE], "error-event", id="aborted by the engine"),
    ],
)
def test_bad_streams(fragments, verdict):
    assert read(*fragments).verdict == verdict


def test_counts_are_those_of_the_server():
    stream = read(text(" a", usage={"prompt_tokens": 7, "completion_tokens": 1}), text(" b", usage=None), USAGE, DONE)
    assert (stream.prompt_tokens, stream.output_tokens) == (7, 9)


def test_counts_are_unknown_when_the_server_does_not_tell():
    stream = read(text(" a"), event({"choices": [], "usage": {"prompt_tokens": None}}), DONE)
    assert (stream.prompt_tokens, stream.output_tokens) == (None, None)
    assert stream.verdict is None


words = st.text(alphabet=st.sampled_from('ab "\\\n\r\u2028é{}[]:,'), max_size=4)
pieces = st.one_of(
    words.map(text),
    words.map(lambda word: chat({"content": word})),
    words.map(lambda word: chat({"reasoning_content": word})),
    words.map(lambda word: text(word, finish="length")),
    words.map(lambda word: f": {word.strip()}\n\n".encode().replace(b"\r", b"")),
    words.map(lambda word: text(word).replace(b"\n", b"\r\n")),
    words.map(lambda word: text(word).replace(b"\n", b"\r")),
    st.sampled_from([DONE, USAGE, b"\n", b"data: {\n\n", event({"error": "x"}), b"event: x\nid: 3\n", text("a")[:-9]]),
    st.binary(max_size=12),
)


def state(stream):
    return (len(stream.arrivals), stream.verdict, stream.complete, stream.prompt_tokens, stream.output_tokens)


@settings(deadline=None)
@given(st.lists(pieces, max_size=12).map(b"".join), st.lists(st.integers(0, 1000), max_size=12))
def test_any_split_of_a_stream_gives_the_same_events(body, cuts):
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    fragments = [body[begin:end] for begin, end in pairwise(edges)]
    assert state(read(*fragments)) == state(read(body))
    assert state(read(*(body[n : n + 1] for n in range(len(body))))) == state(read(body))


@settings(deadline=None)
@given(st.lists(words, max_size=12))
def test_events_of_a_known_shape_count_as_parsing_each_would(texts):
    stream = read(*map(text, texts), DONE)
    assert list(stream.arrivals) == [number for number, word in enumerate(texts, 1) if word]


def test_time_of_an_event_is_that_of_its_last_fragment():
    whole = text(" a")
    assert read(whole[:20], whole[20:-1], whole[-1:], DONE).arrivals.tolist() == [3.0]
