"""The truth server that other tests and the benchmarks trust (benchmarks/truthserver.c)."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import time
from itertools import pairwise

import pytest

from tests.load_servers import in_peace

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not there to build the truth server"),
]


def post(server, path, body, **headers):
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    try:
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def events(body):
    return [json.loads(line[6:]) for line in body.split(b"\n\n") if line.startswith(b"data: {")]


@pytest.mark.parametrize(
    ("given", "items", "tokens"),
    [
        ("one two three", 1, 3),
        (["one two", "three", "four five six"], 3, 6),
        ([11, 12, 13, 14], 1, 4),
        ([[11, 12], [13, 14, 15]], 2, 5),
        ([], 0, 0),
    ],
    ids=["text", "texts", "ids", "lists of ids", "nothing"],
)
def test_embeddings_answer_each_input_and_count_its_tokens(serve, given, items, tokens):
    answer, body = post(serve(), "/v1/embeddings", {"model": "m", "input": given})
    told = json.loads(body)
    assert answer.status == 200
    assert [entry["index"] for entry in told["data"]] == list(range(items))
    assert all(len(entry["embedding"]) == 4 for entry in told["data"])
    assert told["usage"]["prompt_tokens"] == tokens


@pytest.mark.parametrize(("top", "results"), [({}, 3), ({"top_n": 2}, 2), ({"top_n": 9}, 3)])
def test_rerank_scores_each_document_and_counts_the_query_too(serve, top, results):
    documents = ["one two", "three, [four", "five"]
    _, body = post(serve(), "/v1/rerank", {"model": "m", "query": "what is", "documents": documents} | top)
    told = json.loads(body)
    assert [result["index"] for result in told["results"]] == list(range(results))
    scores = [result["relevance_score"] for result in told["results"]]
    assert scores == sorted(scores, reverse=True)
    assert told["usage"]["prompt_tokens"] == 2 + 5


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank"])
def test_whole_answers_take_the_set_time_and_are_written_down(serve, path):
    server = serve(ttft_ms=80)

    def measure():
        server.reset()
        began = time.monotonic()
        post(server, path, {"model": "m", "input": "a", "documents": ["a"], "query": "b"}, **{"x-request-id": "me"})
        assert time.monotonic() - began >= 0.08
        return server.log()["me"]

    truth = in_peace(measure, lambda truth: truth.ttft_s < 0.2)
    assert truth.end == "ok"
    assert 0.0799 <= truth.ttft_s < 0.2
    assert truth.tpot_s is None


def test_a_whole_completion_is_unlike_a_streamed_one_only_in_form(serve):
    server = serve(ttft_ms=5, itl_ms=1)
    for path, text in (
        ("/v1/completions", lambda choice: choice["text"]),
        ("/v1/chat/completions", lambda choice: choice["message"]["content"]),
    ):
        prompt = {"prompt": "a b", "messages": [{"role": "user", "content": "a b"}]}
        _, body = post(server, path, {"model": "m", "max_tokens": 3} | prompt)
        told = json.loads(body)
        assert text(told["choices"][0]) == " the the the"
        assert told["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("per_event", [1, 3])
@pytest.mark.parametrize("asked_by", ["request", "setting"])
def test_continuous_usage_counts_up_with_every_event(serve, path, per_event, asked_by):
    server = serve(tokens_per_chunk=per_event, role=0, usage_continuous=int(asked_by == "setting"))
    options = {"include_usage": True, "continuous_usage_stats": True} if asked_by == "request" else {}
    body = {"model": "m", "prompt": [1, 2], "max_tokens": 7, "stream": True, "stream_options": options}
    _, answer = post(server, path, body)
    counts = [event["usage"]["completion_tokens"] for event in events(answer) if event["choices"]]
    assert counts == [*range(per_event, 7, per_event), 7]


def test_usage_is_left_out_when_the_server_has_none(serve):
    body = {"prompt": "a", "max_tokens": 3, "stream": True, "stream_options": {"continuous_usage_stats": True}}
    _, answer = post(serve(usage_off=1), "/v1/completions", body)
    assert not any("usage" in event for event in events(answer))


@pytest.mark.parametrize(
    ("fault", "after", "expected"),
    [("http429", "2", "2"), ("http503", "1", "1"), ("http500", "2", None), ("http429", "", None)],
)
def test_retry_after_comes_with_429_and_503_alone(serve, fault, after, expected):
    server = serve(fault=fault, retry_after=after)
    answer, body = post(server, "/v1/completions", {"prompt": "a"})
    assert answer.status == int(fault[4:])
    assert answer.getheader("retry-after") == expected
    assert json.loads(body)["error"]["code"] == answer.status


@pytest.mark.parametrize("fault", ["close_mid", "rst_mid", "truncated_chunk", "close_before"])
def test_whole_answers_are_cut_by_the_faults_that_cut(serve, fault):
    with pytest.raises((http.client.IncompleteRead, http.client.RemoteDisconnected, ConnectionError)):
        post(serve(fault=fault), "/v1/embeddings", {"input": "a b c"})


@pytest.mark.parametrize("fault", ["malformed", "empty", "error_event"])
def test_whole_answers_are_spoiled_by_the_faults_that_spoil(serve, fault):
    answer, body = post(serve(fault=fault), "/v1/embeddings", {"input": "a b c"})
    assert answer.status == 200
    if fault == "error_event":
        assert json.loads(body).keys() == {"error"}
    else:
        with pytest.raises(json.JSONDecodeError):
            json.loads(body)


def test_it_listens_on_a_unix_socket_too(serve):
    server = serve()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(60)
        connection.connect(server.unix_url.removeprefix("unix://"))
        body = b'{"prompt": "a", "max_tokens": 1}'
        head = b"POST /v1/completions HTTP/1.1\r\nx-request-id: local\r\ncontent-length: %d\r\n\r\n"
        connection.sendall(head % len(body) + body)
        received = b""
        while not received.endswith(b"}}"):
            received += connection.recv(1000)
    assert received.startswith(b"HTTP/1.1 200")
    assert server.log()["local"].end == "ok"


def test_a_stall_stops_everything_once_and_is_written_down(serve):
    server = serve(ttft_ms=5, itl_ms=5, stall_at_ms=200, stall_ms=300)

    def measure():
        server.reset()
        began = time.monotonic()
        while time.monotonic() - began < 0.8 or not server.stalls():
            post(server, "/v1/completions", {"prompt": "a", "max_tokens": 4, "stream": True})
        ((begin_s, end_s),) = server.stalls()
        return begin_s - began, begin_s, end_s, server.requests()

    def met(truths):
        return sum(truth.ttft_s > 0.2 or truth.late_s > 0.2 for truth in truths)

    after_s, begin_s, end_s, truths = in_peace(
        measure, lambda seen: seen[0] < 0.4 and seen[2] - seen[1] < 0.5 and met(seen[3]) == 1
    )
    assert 0.19 < after_s < 0.4
    assert 0.3 <= end_s - begin_s < 0.5
    assert not [truth for truth in truths for at in (truth.first_s, truth.last_s) if begin_s < at < end_s - 0.001]
    assert met(truths) == 1, "one at a time met it"


def test_a_request_that_the_busy_server_reads_late_has_arrived_when_it_arrived(serve):
    """The truth must not begin when a server that is late gets round to it."""
    server = serve(ttft_ms=1, stall_at_ms=100, stall_ms=600)

    def measure():
        server.reset()
        time.sleep(0.2)
        post(server, "/v1/completions", {"prompt": "a", "max_tokens": 2, "stream": True})
        (truth,) = server.requests()
        return truth, server.stalls()

    def during(seen):
        truth, stalls = seen
        return stalls and stalls[0].begin_s < truth.arrived_s < stalls[0].end_s - 0.06

    truth, ((begin_s, end_s),) = in_peace(measure, during)
    assert begin_s < truth.arrived_s < end_s <= truth.received_s
    assert truth.ttft_s > end_s - truth.arrived_s > 0.05


def test_what_a_client_does_not_take_is_marked(serve):
    server = serve(tokens_per_chunk=1)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        body = b'{"prompt": "a", "max_tokens": 60000, "stream": true}'
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        deadline = time.monotonic() + 60
        while not server.stats()["eagain"] and time.monotonic() < deadline:
            time.sleep(0.02)
        connection.settimeout(60)
        received = b""
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received = received[-10:] + connection.recv(1 << 20)
    (truth,) = server.requests()
    assert (truth.end, truth.tokens, truth.blocked) == ("ok", 60000, True)


def test_requests_of_before_the_reset_are_not_in_the_new_log(serve):
    server = serve(ttft_ms=300)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        body = b'{"prompt": "a", "max_tokens": 1, "stream": true}'
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.05)
        server.reset()
        post(server, "/v1/completions", {"prompt": "a", "max_tokens": 1, "stream": True}, **{"x-request-id": "new"})
        connection.recv(1000)
    assert [truth.id for truth in server.requests()] == ["new"]


def test_tokens_are_written_when_they_are_due(serve):
    server = serve(ttft_ms=20, itl_ms=5)

    def measure():
        server.reset()
        for _ in range(5):
            post(server, "/v1/completions", {"prompt": "a", "max_tokens": 9, "stream": True})
        return server.requests()

    truths = in_peace(measure, lambda truths: min(truth.late_s for truth in truths) < 0.005)
    assert len(truths) == 5
    assert all(truth.ttft_s >= 0.0199 for truth in truths)
    assert min(truth.ttft_s for truth in truths) < 0.03
    assert min(abs(truth.tpot_s - 0.005) for truth in truths) < 0.001
    assert all(one.arrived_s < other.arrived_s for one, other in pairwise(truths))


def test_tokens_are_counted_by_the_moment_they_are_written(serve):
    server = serve(ttft_ms=20, itl_ms=10, stall_at_ms=100, stall_ms=200)

    def measure():
        server.reset()
        began = time.monotonic()
        post(server, "/v1/completions", {"prompt": "a", "max_tokens": 20, "stream": True})
        (truth,) = server.requests()
        return began, truth, server.stalls()

    def early(begin_s, truth):
        return (begin_s - truth.first_s) / 0.01 + 0.5

    def peaceful(seen):
        began, truth, stalls = seen
        if len(stalls) != 1 or truth.last_s - began > 0.8:
            return False
        before = server.tokens_between(began - 1, stalls[0].begin_s)
        return before == pytest.approx(early(stalls[0].begin_s, truth), abs=3)

    began, truth, ((begin_s, end_s),) = in_peace(measure, peaceful)
    before = server.tokens_between(began - 1, begin_s)
    assert before == pytest.approx(early(begin_s, truth), abs=3)
    assert server.tokens_between(begin_s + 0.001, end_s - 0.001) == 0
    assert server.tokens_between(began - 1, end_s + 5) == 20
    parts = [server.tokens_between(began + 0.0137 * n, began + 0.0137 * (n + 1)) for n in range(60)]
    assert sum(parts) == pytest.approx(20)
    server.reset()
    assert server.tokens_between(began, end_s + 5) == 0
