"""The load generator against servers that speak HTTP in unusual ways, over real sockets."""

from __future__ import annotations

import contextlib
import json
import resource
import socketserver
import threading
import time

import pytest

from pytest_autotune.errors import BenchmarkError
from pytest_autotune.load.generator import Target, Workload
from pytest_autotune.load.http import HttpLoad
from pytest_autotune.load.lengths import Fixed
from pytest_autotune.samples import Level

EVENTS = (
    b'data: {"choices": [{"index": 0, "text": " a", "finish_reason": null}]}\n\n'
    b'data: {"choices": [{"index": 0, "text": " b", "finish_reason": "length"}]}\n\n'
    b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}\n\n'
    b"data: [DONE]\n\n"
)
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


def with_length(body=EVENTS, fields=b""):
    return OK + fields + b"content-length: %d\r\n\r\n" % len(body) + body


def chunked(*pieces, extension=b""):
    framed = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return OK + b"transfer-encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


class Scripted(socketserver.StreamRequestHandler):
    """Answers each request with the server's script: bytes, or None to close the connection."""

    def handle(self):
        self.server.connections += 1
        with contextlib.suppress(ConnectionError):
            while self.rfile.readline():
                length = 0
                while (line := self.rfile.readline().strip()) != b"":
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                self.server.bodies.append(json.loads(self.rfile.read(length)))
                for piece in self.server.script:
                    if piece is None:
                        return
                    self.wfile.write(piece)
                    if len(self.server.script) > 50:
                        time.sleep(0.0005)  # so that pieces arrive one by one, or nearly so


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64


@pytest.fixture
def serve():
    """Start a server that answers every request with the given pieces."""
    with contextlib.ExitStack() as stack:

        def start(*script):
            server = stack.enter_context(Server(("127.0.0.1", 0), Scripted))
            server.script, server.connections, server.bodies = script, 0, []
            server.url = f"http://127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return server

        yield start


def run(url, concurrency=2, **changes):
    workload = {"prompt_tokens": 8, "output_tokens": 2, "duration_s": 0.3, "warmup_s": 0.05, "request_timeout_s": 1.0}
    workload |= changes
    lengths = {name: Fixed(workload[name]) for name in ("prompt_tokens", "output_tokens")}
    return HttpLoad().run(
        Target(url, "m"),
        Level(concurrency),
        Workload(**workload | lengths),
        died=lambda: None,
        on_progress=lambda _: None,
    )


@pytest.mark.parametrize(
    ("script", "reused"),
    [
        pytest.param([with_length()], True, id="content-length"),
        pytest.param([chunked(EVENTS)], True, id="one chunk"),
        pytest.param(
            [chunked(*(EVENTS[n : n + 7] for n in range(0, len(EVENTS), 7)))], True, id="chunks across events"
        ),
        pytest.param([chunked(EVENTS, extension=b";x=y")], True, id="chunk extension"),
        pytest.param([chunked(EVENTS.replace(b"\n", b"\r\n"))], True, id="carriage returns"),
        pytest.param(
            [chunked(EVENTS)[n : n + 3] for n in range(0, len(chunked(EVENTS)), 3)], True, id="three bytes a write"
        ),
        pytest.param([b"HTTP/1.1 100 Continue\r\n\r\n", with_length()], True, id="100 Continue"),
        pytest.param([with_length(fields=b"connection: close\r\n"), None], False, id="connection: close"),
        pytest.param([OK + b"\r\n" + EVENTS, None], False, id="until the end of the connection"),
        pytest.param([with_length(), None], False, id="closed without saying so"),
        pytest.param([(OK + b"\r\n" + EVENTS).replace(b"1.1", b"1.0"), None], False, id="HTTP/1.0"),
    ],
)
def test_every_framing_of_an_answer_is_read(serve, script, reused):
    server = serve(*script)
    measurement = run(server.url)
    assert len(measurement.samples) > 2
    if script[-1:] != [None] or not script[0].endswith(EVENTS) or b"content-length" not in script[0]:
        assert not measurement.errors
    good = [sample for sample in measurement.samples if sample.error is None]
    assert {(sample.prompt_tokens, sample.output_tokens) for sample in good} == {(5, 2)}
    assert (server.connections == 2) is reused


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        pytest.param([b"SSH-2.0-OpenSSH_9.9\r\n"], "malformed", id="not HTTP"),
        pytest.param([OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n"], "malformed", id="bad chunk"),
        pytest.param([with_length(b'{"choices": [{"text": "all at once"}]}')], "malformed", id="no stream"),
        pytest.param([with_length(b"")], "empty", id="no body"),
        pytest.param(
            [b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"], "malformed", id="101"
        ),
        pytest.param([b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n"], "http-302", id="redirect"),
        pytest.param([b"HTTP/1.1 404 Not Found\r\n\r\nsorry", None], "http-404", id="404 until the end"),
        pytest.param([with_length()[:-20], None], "cut", id="cut inside the usage"),
        pytest.param([OK + b"\r\n", None], "cut", id="closed after the head"),
        pytest.param([None], "closed", id="closed at once"),
        pytest.param([b"HTTP/1.1 20"], "timeout", id="hangs inside the status"),
    ],
)
def test_broken_answers_are_failures_with_a_kind(serve, script, kind):
    if kind == "cut" and script[0] == with_length()[:-20]:
        script = [with_length().replace(b'"length"', b"null")[:-20], None]
    measurement = run(serve(*script).url, request_timeout_s=0.2 if kind == "timeout" else 10.0)
    assert set(measurement.errors) == {kind}
    assert all(sample.error == kind for sample in measurement.samples)


def test_prompts_on_the_wire_are_distinct(serve):
    server = serve(chunked(EVENTS))
    run(server.url, concurrency=3)
    prompts = [body["prompt"] for body in server.bodies]
    assert len(prompts) > 10
    assert len(set(prompts)) == len(prompts)
    assert {len(prompt.split()) for prompt in prompts} == {8}


def test_a_prompt_larger_than_the_socket_buffers_is_sent_whole(serve):
    server = serve(chunked(EVENTS))
    measurement = run(server.url, concurrency=1, prompt_tokens=500_000, duration_s=0.2, request_timeout_s=20.0)
    assert not measurement.errors
    assert {len(body["prompt"].split()) for body in server.bodies} == {500_000}
    assert all(sample.first_s >= sample.sent_s for sample in measurement.samples)


def test_more_streams_than_open_files_are_refused_with_the_remedy(serve):
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.raises(BenchmarkError, match=r"concurrency=\d+ needs \d+ open files and the limit is .*ulimit -n"):
        run(serve().url, concurrency=limits[1], workers=1)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:8000", "it must be http://host"),
        ("http://", "it must be http://host"),
        ("http://127.0.0.1:99999", "check the host and port"),
        ("http://no-such-host.invalid:80", "check the host and port"),
    ],
)
def test_a_url_that_cannot_be_loaded_is_refused(url, message):
    with pytest.raises(BenchmarkError, match=message):
        run(url)


def test_a_name_with_several_addresses_is_tried_until_one_answers(serve):
    server = serve(chunked(EVENTS))
    measurement = run(server.url.replace("127.0.0.1", "localhost"))
    assert measurement.samples
    assert not measurement.errors


def test_warm_up_requests_are_in_no_figure(serve):
    measurement = run(serve(chunked(EVENTS)).url, warmup_s=0.3, duration_s=0.2)
    assert measurement.warmup_requests > 0
    assert all(sample.end_s >= 0 and sample.sent_s < 0.2 for sample in measurement.samples)
    assert measurement.window_s == pytest.approx(0.2)
