"""What a server remembers between batches, from the user's side and against a server that refuses."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pytest_autotune import caching
from pytest_autotune.caching import empty_prefix_cache
from pytest_autotune.engines.engine import Abilities

# Two batches are sent the same eight long prompts, of which each fits into the cache as a whole.
SUITE = """\
name: again
engine: sim
model: llama-3.1-8b
fixed: {gpu: H100, max-model-len: 8192, enable-prefix-caching: true}
load: {dataset: rows.jsonl, output_tokens: 2, concurrency: [1, 2], duration: 20s, max_requests: 8, warmup: 0s}
slo: {ttft.p90: 60s}
"""
TOLD = Abilities(reset_prefix_cache="/reset")


@pytest.fixture
def again(project):
    """A function that runs the suite, with what it says of its load, and returns its batches."""
    rows = [{"prompt": f"{index} " + "all work and no play " * 1000} for index in range(8)]
    (project.path / "suites").mkdir(exist_ok=True)
    (project.path / "suites" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def running(more):
        project.suite(SUITE.replace("warmup: 0s", f"warmup: 0s{more}"))
        assert project.run("suites", "--autotune").ret == 0
        with project.store() as store:
            (trial,) = store.trials_of_run(store.runs()[0].id)
        return trial.batches

    return running


def test_each_batch_meets_an_empty_cache_unless_it_is_kept(again):
    emptied, kept = again(""), again(", keep_cache: true")
    assert all(batch.requests in (8, 9) for batch in (*emptied, *kept))  # one may be under way when it is enough
    first, second = (batch.metrics["ttft.p50"] for batch in kept)
    assert second < first / 3
    first, second = (batch.metrics["ttft.p50"] for batch in emptied)
    assert second > first / 1.5
    assert not any("faster" in remark for batch in (*emptied, *kept) for remark in batch.remarks)


class Server:
    """A server that answers a POST to ``/reset`` with each of these in turn, the last one again and again."""

    def __init__(self, *answers):
        left = list(answers)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                status, body = left.pop(0) if len(left) > 1 else left[0]
                self.send_response(status if self.path == "/reset" else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ([(200, b'{"success": true}')], ""),
        ([(200, b"")], ""),
        ([(200, b"Cache flushed.\n")], ""),
        ([(200, b'{"success": false}'), (200, b'{"success": false}'), (200, b'{"success": true}')], ""),
        (
            [(200, b'{"success": false}')],
            "its prefix cache was not emptied: after 0.3 s requests still held parts of it",
        ),
        ([(500, b"no")], "its prefix cache was not emptied: answered 500 with 'no'"),
        ([(200, b'{"succ')], "its prefix cache was not emptied: answered 200 with something that is not JSON"),
    ],
)
def test_a_server_is_asked_until_it_has_forgotten(monkeypatch, answers, problem):
    monkeypatch.setattr(caching, "BUSY_S", 0.3)
    began = time.monotonic()
    with Server(*answers) as server:
        said = empty_prefix_cache(server.url, TOLD, headers={})
    assert said.startswith(problem) if problem else said == ""
    assert time.monotonic() - began < 10


def test_a_server_that_does_not_answer_is_not_waited_for_any_longer(monkeypatch):
    monkeypatch.setattr(caching, "BUSY_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        said = empty_prefix_cache(f"http://127.0.0.1:{mute.getsockname()[1]}", TOLD, headers={})
    assert said == "its prefix cache was not emptied: no complete answer within 0.3 s"
    assert time.monotonic() - began < 5


def test_an_engine_that_cannot_says_so():
    assert (
        empty_prefix_cache("http://127.0.0.1:1", Abilities(), headers={}) == "this engine cannot empty its prefix cache"
    )


def test_a_batch_that_may_be_faster_for_it_says_so(again, project):
    """A server that takes its time to forget, or never does: here one whose path is not there."""
    (project.path / "forgetful.py").write_text(
        "from dataclasses import replace\n"
        "from pytest_autotune.engines.sim.engine import SimEngine\n\n"
        "class Forgetful(SimEngine):\n"
        "    name = 'forgetful'\n"
        "    abilities = replace(SimEngine.abilities, reset_prefix_cache='/nowhere')\n\n"
        "def pytest_autotune_engine(name):\n"
        "    return Forgetful() if name == 'forgetful' else None\n"
    )
    project.suite(SUITE.replace("engine: sim", "engine: forgetful"))
    result = project.run("suites", "--autotune", "-p", "forgetful", "-v")
    assert result.ret == 0, result.stdout.str()
    with project.store() as store:
        (trial,) = store.trials_of_run(store.runs()[0].id)
    first, second = (
        [remark for remark in batch.remarks if remark.startswith("may be faster for prompts that it was sent before")]
        for batch in trial.batches
    )
    assert first == []
    assert len(second) == 1
    assert "answered 404" in second[0]
    result.stdout.fnmatch_lines(["*concurrency=2: may be faster for prompts that it was sent before: *404*"])
