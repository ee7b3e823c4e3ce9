"""Starts embedded servers for tests and talks to them over plain sockets."""

from __future__ import annotations

import http.client
import json
import os
import re
import selectors
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

FAST = ("--model", "tiny", "--served-model-name", "m", "--time-scale", "0.05", "--max-model-len", "2048")
ROOT = Path(__file__).resolve().parent.parent


class SimServer:
    def __init__(self, process, log):
        self.process = process
        self.log = log
        self.port = int(re.search(r"API server on http://.*:(\d+)", "".join(log))[1])

    def connect(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def get(self, path):
        return self.request("GET", path)

    def post(self, path, body):
        return self.request("POST", path, body)

    def request(self, method, path, body=None):
        connection = self.connect()
        try:
            connection.request(method, path, body if body is None or isinstance(body, bytes) else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def complete(self, **fields):
        """Return the parsed answer of /v1/completions, which must be a 200."""
        status, body = self.post("/v1/completions", {"model": "m", "prompt": "one two three", **fields})
        assert status == 200, body
        return json.loads(body)

    def metric(self, name):
        _, page = self.get("/metrics")
        return float(re.search(rf"^{re.escape(name)}\{{[^}}]*\}} (\S+)$", page.decode(), re.MULTILINE)[1])

    def wait_metric(self, name, value, timeout=60):
        deadline = time.monotonic() + timeout
        while (seen := self.metric(name)) != value:
            assert time.monotonic() < deadline, f"{name} is {seen}, not {value}"
            time.sleep(0.01)

    def exit_status(self, timeout=60):
        output, _ = self.process.communicate(timeout=timeout)
        self.log.append(output)
        return self.process.returncode


def launch(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "pytest_autotune.engines.sim", "--port", "0", *FAST, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


@contextmanager
def sim_server(*arguments):
    """Yield a server that listens; it is killed in the end."""
    process = launch(*arguments)
    watchdog = threading.Timer(120, process.kill)  # a server that hangs at start ends the log below
    watchdog.start()
    try:
        log = []
        for line in process.stdout:
            log.append(line)
            if "Application startup complete." in line:
                break
        watchdog.cancel()
        yield SimServer(process, log)
    finally:
        watchdog.cancel()
        process.kill()
        process.wait(timeout=60)
        process.stdout.close()  # not read to its end: a daemonised grandchild may hold the other side


def failed_start(*arguments):
    """Return exit status and output of a server that does not start."""
    process = launch(*arguments)
    try:
        output, _ = process.communicate(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return process.returncode, output


def events(raw):
    """Return the payloads of a stream's ``data:`` lines."""
    return [block.removeprefix(b"data: ") for block in raw.split(b"\n\n") if block]


def silent(sock, seconds):
    """Say whether nothing, not even an end, arrives on a socket for so long."""
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        return not selector.select(seconds)
