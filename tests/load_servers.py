"""Servers that the load generator's tests run against: answers by script, over TCP, TLS or a Unix socket."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import threading
import time

import pytest

from benchmarks.truth import TruthServer, build
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
    """Answers each request with the server's script.

    A piece is bytes, None to close the connection, or a number of seconds to wait. A script may also be a
    function from the request to such pieces.
    """

    def setup(self):
        self.server.connections += 1
        super().setup()

    def handle(self):
        with contextlib.suppress(ConnectionError, OSError):
            while line := self.rfile.readline():
                fields = {"request": line.decode().strip(), "at": time.monotonic()}
                while (field := self.rfile.readline().strip()) != b"":
                    name, _, value = field.decode().partition(":")
                    fields[name.lower()] = value.strip()
                body = json.loads(self.rfile.read(int(fields["content-length"])))
                self.server.heads.append(fields)
                self.server.bodies.append(body)
                script = self.server.script
                for piece in script(body) if callable(script) else script:
                    if piece is None:
                        return
                    if isinstance(piece, bytes):
                        self.wfile.write(piece)
                    else:
                        time.sleep(piece)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64
    block_on_close = False
    context = None  # of TLS

    def get_request(self):
        connection, address = super().get_request()
        if self.context is not None:
            connection.settimeout(5)
            connection = self.context.wrap_socket(connection, server_side=True)
        return connection, address

    def handle_error(self, request, client_address):
        """Say nothing: clients of these tests break off."""


class Server6(Server):
    address_family = socket.AF_INET6


class UnixServer(Server):
    address_family = socket.AF_UNIX

    def server_bind(self):
        self.socket.bind(self.server_address)


@pytest.fixture(scope="session")
def executable(tmp_path_factory):
    """The truth server, compiled once."""
    return build(tmp_path_factory.mktemp("truth"))


@pytest.fixture
def serve(executable):
    """Start truth servers with the given settings; they end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda **settings: stack.enter_context(TruthServer(executable, **settings))


@pytest.fixture
def scripted():
    """Start servers that answer every request with the given pieces."""
    with contextlib.ExitStack() as stack:

        def start(*script, kind=Server, address=("127.0.0.1", 0), context=None):
            server = stack.enter_context(kind(address, Scripted))
            server.script = script[0] if script and callable(script[0]) else script
            server.connections, server.bodies, server.heads, server.context = 0, [], [], context
            place = server.server_address
            if kind is UnixServer:
                server.url = f"unix://{place}"
            else:
                host = f"[{place[0]}]" if kind is Server6 else place[0]
                server.url = f"{'http' if context is None else 'https'}://{host}:{place[1]}"
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return server

        yield start


def load(url, level=2, *, died=lambda: None, on_progress=lambda _: None, enough=None, target=None, **changes):
    """Load a server with short requests: until some have ended, or for as long as is asked for.

    Neither depends on how busy the machine is: a window of a moment may pass while a process of it stands still.
    """
    workload = {"prompt_tokens": 8, "output_tokens": 2, "duration_s": 30.0, "warmup_s": 0.05, "request_timeout_s": 30.0}
    if not {"duration_s", "max_requests"} & changes.keys():
        workload["max_requests"] = 10
    workload |= {"workers": 1} | changes
    for name in ("prompt_tokens", "output_tokens"):
        if isinstance(workload[name], int):
            workload[name] = Fixed(workload[name])
    return HttpLoad().run(
        Target(url, "m", **target or {}),
        level if isinstance(level, Level) else Level(level),
        Workload(**workload),
        died=died,
        on_progress=on_progress,
        **({} if enough is None else {"enough": enough}),
    )


def in_peace(measure, peaceful, *, tries=6):
    """Measure again, a few times, while the result shows that the machine had something else to do; return the last.

    For claims about times that one process which stands still for a moment spoils, and no other way.
    """
    for _ in range(tries):
        found = measure()
        if peaceful(found):
            break
    return found
