"""One answer from its bytes: framing, times, and that how it is cut into parts changes nothing."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.load.answer import Answer, pack_stamp, unpack_stamp

OFFSET_NS = 1_700_000_000_000_000_000
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


def token(word):
    return b'data: {"choices": [{"index": 0, "text": "%b", "finish_reason": null}]}\n\n' % word


LAST = b'data: {"choices": [{"index": 0, "text": " z", "finish_reason": "length"}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 4}}\n\n'
DONE = b"data: [DONE]\n\n"
EVENTS = (token(b" a"), token(b" b"), token(b' \\"c'), LAST, USAGE, DONE)


def chunked(pieces, *, extension=b"", trailer=b""):
    framed = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces if piece)
    return HEAD + b"transfer-encoding: chunked\r\n\r\n" + framed + b"0\r\n" + trailer + b"\r\n"


def with_length(body):
    return HEAD + b"content-length: %d\r\n\r\n" % len(body) + body


def read(parts, *, closed=False, each=True, **options):
    """Digest parts that arrived at 1 s, 2 s, ..., each at once or all at the end."""
    answer = Answer(offset_ns=OFFSET_NS, sizes={}, **options)
    for number, part in enumerate(parts, 1):
        answer.parts.append(part)
        answer.stamps.append(pack_stamp(OFFSET_NS + number * 1_000_000_000))
        answer.reads.append(number + 0.25)
        if each:
            answer.digest()
    answer.digest()
    if closed:
        answer.close()
    return answer


def test_stamps_are_those_of_the_kernel():
    assert unpack_stamp(pack_stamp(1_234_567_890_123_456_789)) == 1_234_567_890_123_456_789
    assert len(pack_stamp(0)) == 16


@pytest.mark.parametrize("each", [True, False], ids=["each part digested", "all at once"])
def test_tokens_have_the_time_of_the_part_that_completed_them(each):
    parts = [HEAD + b"transfer-encoding: chunked\r\n\r\n"]
    parts += [b"%x\r\n%b\r\n" % (len(event), event) for event in EVENTS]
    parts[2:3] = [parts[2][:10], parts[2][10:-4], parts[2][-4:]]  # the second token's event ends in the last of them
    answer = read([*parts, b"0\r\n\r\n"], each=each)
    assert answer.verdict is None
    assert list(answer.stream.arrivals) == [2.0, 5.0, 6.0, 7.0]
    assert answer.last_s == 10.0
    assert answer.client_s == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("raw", "closed", "keep_alive"),
    [
        pytest.param(chunked(EVENTS), False, True, id="chunks"),
        pytest.param(chunked([b"".join(EVENTS)]), False, True, id="one chunk"),
        pytest.param(chunked(EVENTS, extension=b';a="b"'), False, True, id="extension"),
        pytest.param(chunked(EVENTS, trailer=b"x-cost: 3\r\ny: 0\r\n"), False, True, id="trailer"),
        pytest.param(chunked([event.replace(b"\n", b"\r\n") for event in EVENTS]), False, True, id="line ends"),
        pytest.param(with_length(b"".join(EVENTS)), False, True, id="length"),
        pytest.param(HEAD + b"\r\n" + b"".join(EVENTS), True, False, id="until the end"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + chunked(EVENTS), False, True, id="interim"),
        pytest.param(chunked(EVENTS).replace(b"1.1", b"1.0"), False, False, id="HTTP/1.0"),
        pytest.param(
            chunked(EVENTS).replace(b"OK\r\n", b"OK\r\nConnection: Close\r\n"), False, False, id="connection: close"
        ),
        pytest.param(chunked(EVENTS) + b"HTTP/1.1 200", False, False, id="more than the answer"),
    ],
)
def test_every_framing_gives_the_same_tokens(raw, closed, keep_alive):
    for size in (1, 2, 3, 7, 50, len(raw)):
        answer = read([raw[n : n + size] for n in range(0, len(raw), size)], closed=closed)
        assert answer.ended
        assert answer.verdict is None
        assert len(answer.stream.arrivals) == 4
        assert (answer.stream.prompt_tokens, answer.stream.output_tokens) == (5, 4)
        assert answer.keep_alive is keep_alive


@pytest.mark.parametrize(
    ("raw", "verdict"),
    [
        pytest.param(b"SSH-2.0-OpenSSH\r\n", "malformed", id="another protocol"),
        pytest.param(b"HTTP/2 200\r\n\r\n", "malformed", id="HTTP/2"),
        pytest.param(b"HTTP/1.1 2x0 OK\r\n\r\n", "malformed", id="status"),
        pytest.param(b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "malformed", id="field"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "malformed", id="upgrade"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000, "malformed", id="endless head"),
        pytest.param(HEAD + b"content-length: -1\r\n\r\n", "malformed", id="negative length"),
        pytest.param(HEAD + b"content-length: 1e3\r\n\r\n", "malformed", id="length in words"),
        pytest.param(HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n", "malformed", id="encoding"),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\n0x5\r\nhello\r\n", "malformed", id="0x size"),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\n 5\r\nhello\r\n", "malformed", id="space before"),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\n1_0\r\n", "malformed", id="underscore in size"),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\n-5\r\n", "malformed", id="negative size"),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\n\r\n", "malformed", id="empty size"),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"1" * 5000, "malformed", id="endless size"),
        pytest.param(HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\nhelloXY", "malformed", id="longer than said"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", "http-204", id="204"),
        pytest.param(b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nno", "http-503", id="503"),
        pytest.param(chunked([]), "empty", id="no chunk"),
        pytest.param(chunked(EVENTS[:2]), "cut", id="no end of the stream"),
        pytest.param(chunked([b'data: {"error": {"message": "OOM"}}\n\n', DONE]), "error-event", id="error event"),
    ],
)
def test_bad_answers_have_a_verdict(raw, verdict):
    for size in (1, 5, len(raw)):
        answer = read([raw[n : n + size] for n in range(0, len(raw), size)])
        assert answer.ended
        assert answer.verdict == verdict


@pytest.mark.parametrize("raw", [chunked(EVENTS), with_length(b"".join(EVENTS))], ids=["chunks", "length"])
def test_an_answer_is_complete_with_its_last_byte_and_not_before(raw):
    for end in range(len(raw)):
        assert not read([raw[:end]], closed=True).ended, raw[:end]


def test_the_end_of_a_chunked_answer_can_only_come_with_its_ending():
    raw = chunked(EVENTS)
    answer = read([raw[:200]])
    assert answer.chunked
    assert raw.endswith(b"\r\n\r\n")
    assert not read([with_length(b"".join(EVENTS))[:200]]).chunked, "any part may be the last"


@pytest.mark.parametrize(
    ("status", "value", "seconds"),
    [
        (429, b"3", 3.0),
        (503, b"0", 0.0),
        (429, b"Wed, 21 Oct 2026 07:28:00 GMT", None),
        (429, b"-1", None),
        (500, b"3", None),
    ],
)
def test_retry_after_is_read(status, value, seconds):
    raw = b"HTTP/1.1 %d Busy\r\nretry-after: %b\r\ncontent-length: 0\r\n\r\n" % (status, value)
    assert read([raw]).retry_after_s == seconds


def test_the_text_of_an_answer_is_kept_when_it_is_needed():
    answer = read([chunked(EVENTS)], keep_text=True)
    assert answer.stream.texts == [" a", " b", ' "c', " z"]
    assert len(answer.stream.arrivals) == 4
    assert read([chunked(EVENTS)]).stream.texts == []


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (b'{"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 7, "total_tokens": 7}}', None),
        (b'{"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"prompt_tokens": 7}}', None),
        (b'{"data": []}', "empty"),
        (b'{"error": {"message": "OOM"}}', "error-event"),
        (b'{"data": [', "malformed"),
        (b"[]", "malformed"),
    ],
)
def test_an_answer_that_is_one_document_is_read(body, verdict):
    answer = read([with_length(body)[:90], with_length(body)[90:]], streamed=False)
    assert answer.verdict == verdict
    if verdict is None:
        assert answer.stream.prompt_tokens == 7
        assert list(answer.stream.arrivals) == [2.0]


words = st.sampled_from([b" a", b" bc", b"", b' \\"', b"\\\\", b" \xc3\xa9", b"\\u00e9", b" 0\\r\\n"])
bodies = st.lists(st.one_of(words.map(token), st.sampled_from([LAST, USAGE, DONE, b": ping\n\n", b"x"])), max_size=10)
framings = st.sampled_from(["chunks", "some chunks", "length", "close"])


def frame(pieces, framing):
    body = b"".join(pieces)
    if framing == "chunks":
        return chunked(pieces)
    if framing == "some chunks":
        return chunked([body[n : n + 17] for n in range(0, len(body), 17)], extension=b";x", trailer=b"a: b\r\n")
    return with_length(body) if framing == "length" else HEAD + b"\r\n" + body


def outcome(answer):
    stream = answer.stream
    return answer.ended, answer.verdict, len(stream.arrivals), stream.prompt_tokens, stream.output_tokens


@settings(deadline=None, max_examples=300)
@given(bodies, framings, st.lists(st.integers(0, 2000), max_size=12), st.booleans())
def test_any_split_of_any_answer_gives_the_same_samples(pieces, framing, cuts, each):
    raw = frame(pieces, framing)
    edges = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    parts = [raw[begin:end] for begin, end in pairwise(edges)]
    answer = read(parts, closed=True, each=each)
    assert outcome(answer) == outcome(read([raw], closed=True))
    edges_s = dict.fromkeys(edges[1:], 0)
    assert all(1 <= at_s <= len(edges_s) for at_s in answer.stream.arrivals)
    assert list(answer.stream.arrivals) == sorted(answer.stream.arrivals)


@settings(deadline=None, max_examples=300)
@given(bodies, framings, st.integers(0, 3000), st.binary(max_size=6), st.integers(1, 40))
def test_damaged_answers_never_raise_and_never_gain_tokens_by_splitting(pieces, framing, place, damage, size):
    raw = frame(pieces, framing)
    raw = raw[:place] + damage + raw[place + len(damage) :]
    split = read([raw[n : n + size] for n in range(0, len(raw), size)], closed=True)
    assert outcome(split) == outcome(read([raw], closed=True))
