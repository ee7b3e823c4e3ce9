"""Calibration against servers that count as they should, otherwise, or not at all."""

from __future__ import annotations

import json
import socketserver
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pytest_autotune.errors import BenchmarkError
from pytest_autotune.load import calibrate as calibrate_module
from pytest_autotune.load.calibrate import ask, calibrate
from pytest_autotune.load.generator import Target, Workload
from pytest_autotune.load.lengths import Fixed
from pytest_autotune.load.requests import Requests
from tests.simserver import sim_server


def usage(tokens):
    return {"usage": {"prompt_tokens": tokens}}


@contextmanager
def scripted(reply, make=lambda handler: ThreadingHTTPServer(("127.0.0.1", 0), handler)):
    """Yield a server, and what it was asked; `reply` is its answer, or makes it of a body."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            seen.append((self.path, dict(self.headers), body))
            answer = reply(body) if callable(reply) else reply
            if answer is None:
                return
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(503 if answer == b"busy" else 200)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *arguments):
            pass

    with make(Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server, seen
        finally:
            server.shutdown()
            thread.join()


def url_of(server):
    return f"http://127.0.0.1:{server.server_address[1]}"


def words(body):
    if "messages" in body:
        return len(body["messages"][0]["content"].split())
    if "query" in body:
        return len(f"{body['query']} {body['documents'][0]}".split())
    prompt = body.get("prompt", body.get("input"))
    return len(prompt.split() if isinstance(prompt, str) else prompt)


@pytest.mark.parametrize("token_ids", [False, True], ids=["text", "ids"])
@pytest.mark.parametrize("api", ["completions", "chat", "embeddings", "rerank"])
def test_a_constant_overhead_is_learnt(api, token_ids):
    with scripted(lambda body: usage(words(body) + 11)) as (server, seen):
        target = Target(
            url_of(server) + "/v1", "m", api=api, token_ids=token_ids, template_tokens=3, headers={"x-k": "1"}
        )
        found = calibrate(target)
    assert found.target == replace(target, template_tokens=11)
    assert found.exact
    assert found.finding.endswith("is a token, and the server adds 11 to a prompt")
    assert [words(body) for _, _, body in seen] == [64, 128]
    for path, headers, body in seen:
        assert path.startswith("/v1/")
        assert headers["x-k"] == "1"
        assert "stream" not in body
        assert body.get("max_tokens", 1) == 1


def test_a_rerank_server_may_tell_the_total_only():
    with scripted(lambda body: {"usage": {"total_tokens": words(body) + 4}}) as (server, _):
        assert calibrate(Target(url_of(server), "m", api="rerank")).target.template_tokens == 4


UNCOUNTED = "the answer has no usage.prompt_tokens"
OTHER_ANSWERS = {
    "two tokens a word": (lambda body: usage(2 * words(body)), "prompts of 64 and 128 words counted as 128 and 256"),
    "fewer than words": (lambda body: usage(words(body) - 5), "prompts of 64 and 128 words counted as 59 and 123"),
    "no tokens": (usage(0), UNCOUNTED),
    "a boolean": (usage(True), UNCOUNTED),
    "a text": (usage("64"), UNCOUNTED),
    "a list as usage": ({"usage": []}, UNCOUNTED),
    "a list": (["usage"], UNCOUNTED),
    "no JSON": (b"not JSON", "Expecting value"),
    "no UTF-8": (b"\xff\xff{}", "'utf-"),
    "too deep": (b"[" * 200_000, "maximum recursion depth"),
    "unavailable": (b"busy", "HTTP 503: busy"),
    "no answer": (None, "Remote end closed connection"),
}


@pytest.mark.parametrize(("reply", "finding"), OTHER_ANSWERS.values(), ids=OTHER_ANSWERS)
def test_other_answers_leave_the_target_as_it_was(reply, finding):
    with scripted(reply) as (server, _):
        target = Target(url_of(server), "m", template_tokens=3)
        found = calibrate(target)
    assert (found.target, found.exact) == (target, False)
    assert found.finding.removeprefix("prompt lengths not checked: ").startswith(finding)
    assert "\n" not in found.finding


def test_a_server_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(calibrate_module, "TIMEOUT_S", 0.2)
    release = threading.Event()
    with scripted(lambda _: release.wait(20) and None) as (server, _):
        found = calibrate(Target(url_of(server), "m"))
        release.set()
    assert found.finding == "prompt lengths not checked: timed out"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "https://127.0.0.1:1", "unix:///nowhere/socket"])
def test_a_server_that_is_not_there_leaves_the_target_as_it_was(url):
    found = calibrate(Target(url, "m", verify_tls=False))
    assert not found.exact
    assert found.finding.startswith("prompt lengths not checked: ")


def test_a_url_that_cannot_be_loaded_is_refused():
    with pytest.raises(BenchmarkError, match="cannot load 'ftp://h': write http://"):
        calibrate(Target("ftp://h", "m"))


def test_servers_on_unix_sockets_are_asked(tmp_path):
    class Server(socketserver.ThreadingUnixStreamServer):
        def get_request(self):
            connection, _ = super().get_request()
            return connection, ("unix", 0)

    socket_path = tmp_path / "a b.sock"
    with scripted(lambda body: usage(words(body)), lambda handler: Server(str(socket_path), handler)) as (_, seen):
        found = calibrate(Target(f"unix://{tmp_path}/a%20b.sock?base", "m"))
    assert found.exact
    assert [path for path, _, _ in seen] == ["/base/v1/completions"] * 2


def test_the_embedded_server_counts_as_many_tokens_as_were_meant():
    with sim_server() as server:
        url = f"http://127.0.0.1:{server.port}"
        for target in (Target(url, "m"), Target(url, "m", token_ids=True), Target(url, "m", api="chat")):
            found = calibrate(target)
            assert found.exact
            assert (found.target.template_tokens > 0) == (target.api == "chat")
            for tokens in (20, 1000):
                workload = Workload(Fixed(tokens), Fixed(1), 1.0, 0.0, 1.0, seed=tokens, prefix_tokens=5)
                request = Requests(found.target, workload).build(3)
                body = json.loads(request.payload.partition(b"\r\n\r\n")[2])
                del body["stream"], body["stream_options"]
                assert ask(found.target, body)["usage"]["prompt_tokens"] == request.prompt_tokens == tokens


def test_conversations_have_as_many_tokens_as_were_meant():
    with sim_server() as server:
        target = calibrate(Target(f"http://127.0.0.1:{server.port}", "m", ignore_eos=True)).target
        sequence = Requests(target, Workload(Fixed(30), Fixed(8), 1.0, 0.0, 1.0, turns=Fixed(3)))
        request = sequence.build(0)
        while request is not None:
            body = json.loads(request.payload.partition(b"\r\n\r\n")[2])
            del body["stream"], body["stream_options"]
            answer = ask(target, body)
            assert request.prompt_tokens == 30 + 38 * request.turn
            grown = request.turn  # answers of this server begin without a space: they grow on a prompt's last word
            assert answer["usage"]["prompt_tokens"] == request.prompt_tokens - grown
            request = sequence.follow(request, answer["choices"][0]["text"])
