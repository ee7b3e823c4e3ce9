"""Control calls against real sockets that answer well, badly, slowly, or not at all."""

from __future__ import annotations

import json
import logging
import re
import socket
import ssl
import subprocess
import threading
import time

import pytest

from pytest_autotune.control import Control, ControlError


class Scripted:
    """A server that answers every connection with the same bytes, and remembers what it was asked."""

    def __init__(self, answer, *, pause_s=0.0, close=True, wrap=None):
        self.answer, self.pause_s, self.close_after, self.wrap = answer, pause_s, close, wrap
        self.asked = []
        self.open = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        while True:
            connection, _ = self.listener.accept()
            if self.ending.is_set():
                connection.close()
                return
            try:
                connection = self.wrap(connection) if self.wrap else connection
                self.asked.append(self.read(connection))
                for piece in self.answer:
                    connection.sendall(piece)
                    self.ending.wait(self.pause_s)
            except OSError:
                pass
            if self.close_after:
                connection.close()
            else:
                self.open.append(connection)

    @staticmethod
    def some(connection):
        if not (data := connection.recv(65536)):
            raise ConnectionError("the client has given up")
        return data

    @staticmethod
    def read(connection):
        data = b""
        while b"\r\n\r\n" not in data:
            data += Scripted.some(connection)
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        while length and len(body) < int(length[1]):
            body += Scripted.some(connection)
        return head.decode(), body

    def end(self):
        self.ending.set()
        socket.create_connection(("127.0.0.1", self.port)).close()
        self.thread.join(10)
        for each in [*self.open, self.listener]:
            each.close()


@pytest.fixture
def serve():
    started = []

    def start(status, document=None, *, headers="", **behaviour):
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode()
        return raw([head + body], **behaviour)

    def raw(answer, **behaviour):
        started.append(Scripted(answer, **behaviour))
        return started[-1]

    start.raw = raw
    yield start
    for each in started:
        each.end()


def test_models_are_read(serve):
    server = serve(200, {"object": "list", "data": [{"id": "a"}, {"id": "b", "parent": "a"}]})
    assert Control(server.url).models() == ("a", "b")
    head, _ = server.asked[0]
    assert head.startswith("GET /v1/models HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{server.port}\r\n" in head
    assert "Connection: close\r\n" in head


@pytest.mark.parametrize(
    ("api", "path", "key"), [("completions", "/v1/completions", "prompt"), ("chat", "/v1/chat/completions", "messages")]
)
def test_one_generation_is_asked_for(serve, api, path, key):
    server = serve(200, {"choices": [{}]})
    Control(server.url, headers={"Authorization": "Bearer x"}).generate("m", 4, api=api)
    head, body = server.asked[0]
    assert head.startswith(f"POST {path} HTTP/1.1")
    assert "Authorization: Bearer x" in head
    request = json.loads(body)
    assert (request["model"], request["max_tokens"], request["stream"]) == ("m", 4, False)
    assert request[key]


@pytest.mark.parametrize(
    ("api", "path", "key", "answer", "problem"),
    [
        ("embeddings", "/v1/embeddings", "input", {"data": [{"embedding": [0.1]}]}, "without an embedding"),
        ("rerank", "/v1/rerank", "documents", {"results": [{"index": 0}]}, "without a ranking"),
    ],
)
def test_what_generates_nothing_is_asked_for_what_it_does(serve, api, path, key, answer, problem):
    server = serve(200, answer)
    Control(server.url).generate("m", 4, api=api)
    head, body = server.asked[0]
    assert head.startswith(f"POST {path} HTTP/1.1")
    request = json.loads(body)
    assert request["model"] == "m"
    assert request[key]
    assert "max_tokens" not in request
    with pytest.raises(ControlError, match=problem):
        Control(serve(200, {"choices": [{}]}).url).generate("m", 4, api=api)


def test_metrics_reset_and_health_use_the_paths_they_are_given(serve):
    server = serve(200, b"vllm:num_requests_running 3\n")
    control = Control(server.url + "/base")
    assert control.metrics() == "vllm:num_requests_running 3\n"
    control.reset_prefix_cache("/flush_cache")
    control.health("/ping")
    assert [head.split()[:2] for head, _ in server.asked] == [
        ["GET", "/base/metrics"],
        ["POST", "/base/flush_cache"],
        ["GET", "/base/ping"],
    ]


def test_every_call_has_a_trace_id_and_is_logged_with_its_time(serve, caplog):
    caplog.set_level(logging.DEBUG, "pytest_autotune.control")
    server = serve(200, {})
    answers = [Control(server.url).health() for _ in range(2)]
    sent = [re.search(r"x-request-id: ([0-9a-f]{32})\r?\n?", head + "\n")[1] for head, _ in server.asked]
    assert sent == [answer.trace_id for answer in answers]
    assert sent[0] != sent[1]
    assert all(answer.wall_ms > 0 for answer in answers)
    assert sent[0] in caplog.text


def test_a_chunked_answer_is_read(serve):
    server = serve.raw(
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n"]
    )
    assert Control(server.url).metrics() == "abcde"


def test_an_answer_is_complete_although_the_server_keeps_the_connection(serve):
    server = serve(200, {"data": [{"id": "m"}]}, close=False)
    began = time.monotonic()
    assert Control(server.url, timeout_s=30).models() == ("m",)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("status", "document", "call", "text"),
    [
        pytest.param(
            503, {"e": "loading"}, "health", r"GET \S+/health: answered 503 with '{\"e\": \"loading\"}'", id="503"
        ),
        pytest.param(404, b"", "models", "answered 404 with an empty body", id="404"),
        pytest.param(301, b"", "health", "answered 301", id="redirect"),
        pytest.param(200, b"<html>", "models", "answered 200 with something that is not JSON: '<html>'", id="not JSON"),
        pytest.param(200, [], "models", r"answered without a list of models: '\[\]'", id="not an object"),
        pytest.param(200, {"data": [{"name": "x"}]}, "models", "answered without a list of models", id="no ids"),
        pytest.param(200, {"choices": []}, "generate", "answered without a choice", id="no choice"),
        pytest.param(500, b"x" * 1000, "health", r"'x{200}\.\.\.'", id="long answer"),
    ],
)
def test_a_wrong_answer_is_one_clear_error(serve, status, document, call, text):
    control = Control(serve(status, document).url)
    with pytest.raises(ControlError, match=text) as caught:
        getattr(control, call)(*(["m"] if call == "generate" else []))
    assert caught.value.status == status
    assert not caught.value.refused
    assert re.search(r"after \d+ ms, x-request-id [0-9a-f]{32}", str(caught.value))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param([b""], id="nothing"),
        pytest.param([b"garbage\r\n\r\n"], id="garbage"),
        pytest.param([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"], id="cut"),
        pytest.param([b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nab"], id="too short"),
    ],
)
def test_a_broken_answer_is_one_clear_error(serve, answer):
    with pytest.raises(ControlError, match=r"GET .*/metrics: "):
        Control(serve.raw(answer).url).metrics()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param([b""], id="silent"),
        pytest.param([b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", *[b"x"] * 400], id="trickling body"),
        pytest.param([b"HTTP/1.1 200 OK\r\n", *[b"A: b\r\n"] * 90], id="trickling headers"),
    ],
)
def test_a_call_ends_in_time_however_slowly_the_server_answers(serve, answer):
    server = serve.raw(answer, pause_s=0.1, close=False)
    began = time.monotonic()
    with pytest.raises(ControlError, match=r"no complete answer within 0\.5 s") as caught:
        Control(server.url, timeout_s=0.5).metrics()
    assert 0.4 < time.monotonic() - began < 5
    assert caught.value.wall_ms >= 400


def test_a_closed_port_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ControlError, match="connection refused") as caught:
        Control(f"http://127.0.0.1:{port}").health()
    assert caught.value.refused
    assert caught.value.status is None


def test_a_connection_to_itself_counts_as_refused(monkeypatch):
    with socket.socket() as lonely:
        lonely.bind(("127.0.0.1", 0))
        port = lonely.getsockname()[1]
        lonely.connect(("127.0.0.1", port))  # nobody listens: both ends are this very socket
        monkeypatch.setattr(socket, "create_connection", lambda *_, **__: lonely)
        with pytest.raises(ControlError, match="connection refused"):
            Control(f"http://127.0.0.1:{port}").health()


def test_an_unknown_host_is_one_clear_error():
    with pytest.raises(ControlError, match=r"GET http://no-such-host.invalid:1/health: gaierror"):
        Control("http://no-such-host.invalid:1").health()


def test_a_certificate_that_nobody_signed_is_refused(serve, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = serve(200, {}, wrap=lambda connection: context.wrap_socket(connection, server_side=True))
    with pytest.raises(ControlError, match="CERTIFICATE_VERIFY_FAILED"):
        Control(f"https://127.0.0.1:{server.port}").health()


def test_a_key_stays_out_of_sight():
    control = Control("http://127.0.0.1:1", headers={"Authorization": "Bearer secret"})
    assert "secret" not in repr(control)
    with pytest.raises(ControlError) as caught:
        control.health()
    assert "secret" not in str(caught.value)
