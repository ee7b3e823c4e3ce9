"""The embedded server over real sockets: API, streams, disconnects, start-up failures, metrics."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from tests.simserver import ROOT, events, failed_start, sim_server

SLOW = ("--time-scale", "20")
TEXT = "The quick brown fox jumps over the lazy dog"


@pytest.fixture(scope="module")
def server():
    with sim_server() as server:
        yield server


@pytest.fixture(scope="module")
def slow_server():
    """Two thousand tokens take half a minute: what happens to answers in progress has the time to happen."""
    with sim_server(*SLOW) as server:
        yield server


def raw_exchange(server, data):
    """Send bytes as they are and return what comes back until the connection closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(data)
        return b"".join(iter(lambda: client.recv(65536), b""))


def http_request(path, body=None, *, headers=""):
    method = "GET" if body is None else "POST"
    content = b"" if body is None else json.dumps(body).encode()
    return f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n{headers}\r\n".encode() + content


def test_health_version_and_models_answer(server):
    assert server.get("/health") == (200, b"")
    assert server.get("/version")[0] == 200
    status, body = server.get("/v1/models")
    assert status == 200
    assert [model["id"] for model in json.loads(body)["data"]] == ["m"]


@pytest.mark.parametrize(
    ("prompt", "tokens", "choices"),
    [
        pytest.param("one two three", 3, 1, id="text"),
        pytest.param(["one two", "three"], 3, 2, id="texts"),
        pytest.param([5, 6, 7, 8], 4, 1, id="token-ids"),
        pytest.param([[5, 6], [7, 8, 9]], 5, 2, id="lists-of-token-ids"),
    ],
)
def test_completions_take_every_form_of_prompt(server, prompt, tokens, choices):
    answer = server.complete(prompt=prompt, max_tokens=4, ignore_eos=True)
    assert answer["usage"] == {
        "prompt_tokens": tokens,
        "completion_tokens": 4 * choices,
        "total_tokens": tokens + 4 * choices,
    }
    assert [choice["index"] for choice in answer["choices"]] == list(range(choices))
    assert all(choice["finish_reason"] == "length" for choice in answer["choices"])
    assert all(len(choice["text"].split()) == 4 for choice in answer["choices"])


def test_n_repeats_the_prompt_but_counts_it_once(server):
    answer = server.complete(prompt=[1, 2, 3], n=3, max_tokens=2, ignore_eos=True)
    assert answer["usage"]["prompt_tokens"] == 3
    assert answer["usage"]["completion_tokens"] == 6
    assert len({choice["text"] for choice in answer["choices"]}) > 1


@pytest.mark.parametrize("usage", [True, False], ids=["with-usage", "without-usage"])
def test_a_stream_has_one_event_per_token_and_ends_with_done(server, usage):
    status, raw = server.post(
        "/v1/completions",
        {
            "model": "m",
            "prompt": TEXT,
            "max_tokens": 6,
            "ignore_eos": True,
            "stream": True,
            **({"stream_options": {"include_usage": True}} if usage else {}),
        },
    )
    assert status == 200
    *chunks, done = events(raw)
    assert done == b"[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    if usage:
        last = parsed.pop()
        assert last["choices"] == []
        assert last["usage"] == {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}
    assert len(parsed) == 6
    assert [chunk["choices"][0]["finish_reason"] for chunk in parsed] == [None] * 5 + ["length"]
    text = "".join(chunk["choices"][0]["text"] for chunk in parsed)
    whole = server.complete(prompt=TEXT, max_tokens=6, ignore_eos=True)
    assert text == whole["choices"][0]["text"]


def test_a_chat_stream_begins_with_the_role(server):
    body = {"model": "m", "messages": [{"role": "user", "content": TEXT}], "max_tokens": 3, "ignore_eos": True}
    _, raw = server.post("/v1/chat/completions", {**body, "stream": True})
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events(raw)[:-1]]
    assert [delta.get("role") for delta in deltas] == ["assistant", None, None]
    status, whole = server.post("/v1/chat/completions", body)
    assert status == 200
    message = json.loads(whole)["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "".join(delta["content"] for delta in deltas)}


def test_chat_takes_content_in_parts_and_max_completion_tokens(server):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    status, raw = server.post(
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": parts}], "max_completion_tokens": 2, "ignore_eos": True},
    )
    assert status == 200
    assert json.loads(raw)["usage"]["completion_tokens"] == 2


def test_without_ignore_eos_the_prompt_decides_the_length(server):
    answers = [server.complete(prompt=[number], max_tokens=1500) for number in range(12)]
    lengths = [answer["usage"]["completion_tokens"] for answer in answers]
    assert len(set(lengths)) > 4
    assert any(answer["choices"][0]["finish_reason"] == "stop" for answer in answers)
    again = server.complete(prompt=[0], max_tokens=1500)
    assert again["usage"] == answers[0]["usage"]
    assert again["choices"] == answers[0]["choices"]
    assert server.complete(prompt=[0], max_tokens=1)["choices"][0]["finish_reason"] == "length"
    shortest = min(range(12), key=lengths.__getitem__)
    longer = server.complete(prompt=[shortest], max_tokens=1500, min_tokens=lengths[shortest] + 5)
    assert longer["usage"]["completion_tokens"] == lengths[shortest] + 5


def test_an_answer_that_returns_as_a_prompt_has_as_many_tokens(server):
    answer = server.complete(prompt=TEXT, max_tokens=40, ignore_eos=True)
    text = answer["choices"][0]["text"]
    assert server.complete(prompt=text, max_tokens=1)["usage"]["prompt_tokens"] == 40


def test_a_conversation_finds_its_past_in_the_prefix_cache(server):
    server.post("/reset_prefix_cache", b"")
    answer = server.complete(prompt=TEXT, max_tokens=60, ignore_eos=True)
    before = server.metric("vllm:prefix_cache_hits_total")
    server.complete(prompt=f"{TEXT} {answer['choices'][0]['text']} and more", max_tokens=1)
    assert server.metric("vllm:prefix_cache_hits_total") - before == 64  # whole blocks of 16 of 9 + 60 tokens
    assert json.loads(server.post("/reset_prefix_cache", b"")[1]) == {"success": True}
    server.complete(prompt=f"{TEXT} {answer['choices'][0]['text']} and more", max_tokens=1)
    assert server.metric("vllm:prefix_cache_hits_total") - before == 64


COMPLETION = {"model": "m", "prompt": "x", "max_tokens": 1}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        pytest.param("/v1/completions", {**COMPLETION, "model": "other"}, 404, "`other` does not exist", id="model"),
        pytest.param("/v1/completions", b"{", 400, "not JSON", id="not-json"),
        pytest.param("/v1/completions", b"\xff", 400, "not JSON", id="not-utf8"),
        pytest.param("/v1/completions", b"[]", 400, "not a JSON object", id="not-an-object"),
        pytest.param("/v1/completions", {"model": "m"}, 400, "prompt must be", id="no-prompt"),
        pytest.param("/v1/completions", {**COMPLETION, "prompt": ""}, 400, "prompt is empty", id="empty-prompt"),
        pytest.param("/v1/completions", {**COMPLETION, "prompt": [1, "x"]}, 400, "prompt must be", id="mixed-prompt"),
        pytest.param("/v1/completions", {**COMPLETION, "prompt": [10**9]}, 400, "out of vocabulary", id="token-id"),
        pytest.param("/v1/completions", {**COMPLETION, "max_tokens": 2048}, 400, "context length is 2048", id="long"),
        pytest.param("/v1/completions", {**COMPLETION, "max_tokens": 0}, 400, "max_tokens must be", id="zero"),
        pytest.param("/v1/completions", {**COMPLETION, "max_tokens": "5"}, 400, "max_tokens must be", id="text"),
        pytest.param("/v1/completions", {**COMPLETION, "min_tokens": 9}, 400, "min_tokens must be", id="min-tokens"),
        pytest.param("/v1/chat/completions", {**CHAT, "messages": []}, 400, "non-empty list", id="no-messages"),
        pytest.param("/v1/chat/completions", {**CHAT, "messages": ["x"]}, 400, "needs a role", id="bad-message"),
        pytest.param("/v1/nothing", {}, 404, "Not Found: /v1/nothing", id="path"),
        pytest.param("/health", {}, 405, "Method Not Allowed: POST", id="method"),
    ],
)
def test_bad_requests_get_openai_errors(server, path, body, status, words):
    code, raw = server.post(path, body)
    error = json.loads(raw)["error"]
    assert (code, error["code"]) == (status, status)
    assert words in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_a_chat_without_max_tokens_ends_within_the_context(server):
    status, raw = server.post("/v1/chat/completions", CHAT)
    assert status == 200
    assert json.loads(raw)["usage"]["total_tokens"] <= 2048


def test_one_connection_serves_many_requests(server):
    connection = server.connect()
    for _ in range(3):
        connection.request("POST", "/v1/completions", json.dumps(COMPLETION))
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
    connection.close()


def test_pipelined_requests_are_answered_in_order(server):
    slow = http_request("/v1/completions", {"model": "m", "prompt": "x", "max_tokens": 50, "ignore_eos": True})
    stream = http_request("/v1/completions", {**COMPLETION, "stream": True})
    last = http_request("/health", headers="connection: close\r\n")
    rest = http_request("/v1/models") + http_request("/nowhere") * 40 + last
    received = raw_exchange(server, slow + stream + rest)
    statuses = re.findall(rb"HTTP/1\.1 (\d+) ", received)
    assert statuses == [b"200", b"200", b"200", *[b"404"] * 40, b"200"]
    order = [received.index(mark) for mark in (b'"completion_tokens":50', b"[DONE]", b'"object":"list"', b"/nowhere")]
    assert order == sorted(order)


def test_bodies_may_come_in_chunks_and_in_pieces(server):
    body = json.dumps(COMPLETION).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for index in range(len(head + chunks)):
            client.sendall((head + chunks)[index : index + 1])
        received = b"".join(iter(lambda: client.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert b'"completion_tokens":1' in received


def test_http_1_0_clients_get_plain_streams(server):
    body = json.dumps({**COMPLETION, "stream": True}).encode()
    head = b"POST /v1/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % len(body)
    received = raw_exchange(server, head + body)
    assert b"transfer-encoding" not in received
    assert received.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    "junk", [b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST /x HTTP/1.1\r\ncontent-length: x\r\n\r\n"]
)
def test_what_is_not_http_is_refused_after_what_came_before(server, junk):
    received = raw_exchange(server, http_request("/health") + junk)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 400 Bad Request" in received


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_disconnects_frees_its_memory(slow_server, stream):
    server = slow_server
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        body = {"model": "m", "prompt": [7] * 64, "max_tokens": 1900, "ignore_eos": True, "stream": stream, "n": 3}
        client.sendall(http_request("/v1/completions", body))
        server.wait_metric("vllm:num_requests_running", 3)
        assert server.metric("vllm:kv_cache_usage_perc") > 0
    server.wait_metric("vllm:num_requests_running", 0)
    assert server.metric("vllm:kv_cache_usage_perc") == 0
    assert server.complete(max_tokens=2, ignore_eos=True)["usage"]["completion_tokens"] == 2


def test_many_streams_at_once_are_all_complete(server):
    results = []

    def stream(number):
        _, raw = server.post(
            "/v1/completions",
            {"model": "m", "prompt": [number, 1, 2], "max_tokens": 20, "ignore_eos": True, "stream": True},
        )
        results.append(len(events(raw)))

    threads = [threading.Thread(target=stream, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert results == [21] * 32


def test_metrics_have_vllms_names_and_count(server):
    before = {name: server.metric(name) for name in ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")}
    server.complete(prompt=[1] * 10, max_tokens=7, ignore_eos=True)
    assert server.metric("vllm:prompt_tokens_total") - before["vllm:prompt_tokens_total"] == 10
    assert server.metric("vllm:generation_tokens_total") - before["vllm:generation_tokens_total"] == 7
    _, page = server.get("/metrics")
    text = page.decode()
    for name in ("time_to_first_token_seconds", "request_queue_time_seconds", "e2e_request_latency_seconds"):
        assert f"# TYPE vllm:{name} histogram" in text
        assert f'vllm:{name}_bucket{{engine="0",model_name="m",le="+Inf"}}' in text
    for name in ("num_requests_waiting", "num_preemptions_total", "prefix_cache_queries_total"):
        assert server.metric(f"vllm:{name}") >= 0


def test_tokens_arrive_at_the_pace_of_the_simulated_gpu():
    arguments = ("--model", "llama-3.1-8b", "--gpu", "L4", "--time-scale", "0.2")
    with sim_server(*arguments) as server:
        server.complete(prompt=[1] * 32, max_tokens=31, ignore_eos=True)
        _, page = server.get("/metrics")
        total = float(page.decode().split("vllm:e2e_request_latency_seconds_sum")[1].split()[1])
    step = (2 * 7.5e9 / (300e9 * 0.8) + 1e-3) * 0.2
    # Never early. Not from the first token on: when the machine delays that one, the others catch up.
    assert total >= 30 * step * 0.97


def test_equal_seeds_give_equal_answers_and_another_seed_others():
    answers = []
    for seed in ("7", "7", "8"):
        with sim_server("--seed", seed) as server:
            answers.append(server.complete(max_tokens=300)["choices"][0])
    assert answers[0] == answers[1]
    assert answers[0] != answers[2]


def test_the_start_is_logged_like_a_real_servers():
    with sim_server("--max-num-seqs", "32", "--no-enable-prefix-caching") as server:
        log = "".join(server.log)
    settings = json.loads(log.split("non-default args: ")[1].splitlines()[0])
    assert settings["max-num-seqs"] == 32
    assert settings["enable-prefix-caching"] is False
    assert "GPU KV cache size: " in log
    assert log.index("non-default") < log.index("KV cache size") < log.index("Application startup complete.")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_even_in_the_middle_of_answers(number):
    with sim_server(*SLOW) as server, socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(http_request("/v1/completions", {**COMPLETION, "max_tokens": 1900, "ignore_eos": True}))
        server.wait_metric("vllm:num_requests_running", 1)
        server.process.send_signal(number)
        assert server.exit_status() == 0


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        pytest.param(("--max-num-sequences", "4"), 2, "unrecognized arguments: --max-num-sequences", id="unknown"),
        pytest.param(("--max-num", "4"), 2, "unrecognized arguments: --max-num", id="abbreviated"),
        pytest.param(("--max-num-seqs", "many"), 2, "'many' is not a whole number of at least 1", id="not-a-number"),
        pytest.param(("--gpu-memory-utilization", "1.1"), 2, "is not a number in (0, 1]", id="out-of-range"),
        pytest.param(("--gpu", "H1000"), 2, "invalid choice: 'H1000'", id="gpu"),
        pytest.param(("--fault", "http-530"), 2, "did you mean http-503?", id="fault"),
        pytest.param(("--max-num-seqs", "9999"), 1, "ValueError: max_num_batched_tokens", id="contradiction"),
        pytest.param(("--model", "gpt-5"), 1, "OSError: gpt-5 is not", id="model"),
        pytest.param(
            ("--model", "llama-3.1-70b", "--gpu", "L4"), 1, "torch.OutOfMemoryError: CUDA out of memory.", id="weights"
        ),
        pytest.param(
            ("--model", "llama-3.1-8b", "--gpu", "L4", "--gpu-memory-utilization", "0.6"),
            1,
            "ValueError: No available memory for the cache blocks",
            id="no-kv-cache",
        ),
    ],
)
def test_a_server_that_cannot_start_says_why(arguments, status, words):
    returned, output = failed_start(*arguments)
    assert returned == status
    assert words in output
    assert "startup complete" not in output


def test_a_port_in_use_is_said(server):
    returned, output = failed_start("--port", str(server.port))
    assert returned == 1
    assert "Address already in use" in output


def test_many_running_sequences_may_exhaust_memory_and_kill_the_server():
    greedy = ("--model", "llama-3.1-8b", "--gpu", "L4", "--gpu-memory-utilization", "0.99", "--max-num-seqs", "64")
    with sim_server(*greedy) as server:
        ask = {"prompt": [[number] for number in range(8)], "max_tokens": 4, "ignore_eos": True}
        assert server.complete(**ask)["usage"]["completion_tokens"] == 32
        with pytest.raises((OSError, http.client.HTTPException)):
            server.complete(**{**ask, "prompt": [[number] for number in range(64)]})
        assert server.exit_status() == 1
        assert "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate" in "".join(server.log)


def test_the_server_imports_nothing_heavy():
    code = (
        "import sys, pytest_autotune.engines.sim.server;"
        "print(sorted({'pytest', 'pydantic', 'optuna', 'sqlalchemy', 'hypothesis'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
