"""Each fault does what it says, alone, to a real server process."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest

from pytest_autotune.engines.sim.faults import Fault, Faults, parse_fault
from tests.simserver import events, launch, silent, sim_server

ASK = {"model": "m", "prompt": "one two three", "max_tokens": 8, "ignore_eos": True}
BROKEN = (OSError, http.client.HTTPException)


def ask(server, *, stream=False, **fields):
    return server.post("/v1/completions", {**ASK, "stream": stream, **fields})


@pytest.mark.parametrize(
    "text",
    [
        "die-at-concurrency=8",
        "die-at-concurrency=8:-11",
        "oom-at-concurrency=8:137",
        "http-503",
        "http-503=0.25",
        "http-429=1",
        "hang-after-accept=3",
        "slow-start=200ms",
        "grandchildren=2",
        "stall=1s:500ms",
        "dead-engine=3",
        "dead-engine=0:500",
        "compile=200ms",
    ],
)
def test_a_spec_is_read_and_written_back(text):
    assert str(parse_fault(text)) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http-530", "did you mean http-503?"),
        ("frobnicate", "known: die-at-concurrency"),
        ("http-503=2", "a share in"),
        ("http-503=0", "a share in"),
        ("http-503=", "a share in"),
        ("die-at-concurrency", "N or N:STATUS"),
        ("die-at-concurrency=0", "N or N:STATUS"),
        ("slow-start=soon", "a time such as"),
        ("never-ready=1", "takes nothing"),
        ("stall=5s", "AT:FOR"),
        ("dead-engine", "N or N:STATUS"),
        ("dead-engine=3:404", "N or N:STATUS"),
        ("compile", "a time such as"),
    ],
)
def test_a_wrong_spec_says_what_is_allowed(text, words):
    with pytest.raises(ValueError, match=words):
        parse_fault(text)


@pytest.mark.parametrize(("share", "hits"), [("1", 100), ("0.5", 50), ("0.3", 30), (".01", 1)])
def test_a_share_is_spread_evenly_and_spares_the_first_generation(share, hits):
    faults = Faults([Fault("http-503", share)])
    kinds = [faults.next_answer() for _ in range(100)]
    assert kinds.count("http-503") == hits
    assert kinds[0] is None or share == "1"
    assert None not in kinds[99:]


@pytest.mark.parametrize(("kind", "status"), [("http-503", 503), ("http-429", 429), ("http-500", 500)])
def test_a_share_of_the_generations_is_refused(kind, status):
    with sim_server("--fault", f"{kind}=0.5") as server:
        assert [ask(server)[0] for _ in range(4)] == [200, status, 200, status]
        assert server.get("/health")[0] == 200


def test_faults_combine():
    with sim_server("--fault", "http-503=0.5", "http-429=0.25", "--fault", "wrong-model-name") as server:
        assert [ask(server, model="another-model")[0] for _ in range(4)] == [200, 503, 200, 429]
        assert ask(server)[0] == 404


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_hang_after_headers_sends_the_head_only(stream):
    with sim_server("--fault", "hang-after-headers") as server:
        connection = server.connect()
        connection.request("POST", "/v1/completions", json.dumps({**ASK, "stream": stream}))
        assert connection.getresponse().status == 200
        assert silent(connection.sock, 0.3)
        connection.close()
        assert server.get("/health")[0] == 200


def test_hang_after_accept_never_answers():
    with sim_server("--fault", "hang-after-accept=1") as server:
        assert server.get("/health")[0] == 200
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            assert silent(client, 0.3)


def test_cut_stream_closes_in_the_middle():
    with sim_server("--fault", "cut-stream=0.5") as server:
        assert len(events(ask(server, stream=True)[1])) == 9
        with pytest.raises(http.client.IncompleteRead) as error:
            ask(server, stream=True)
        assert len(events(error.value.partial)) == 4
        ask(server)
        with pytest.raises(http.client.IncompleteRead):
            ask(server)
        server.wait_metric("vllm:num_requests_running", 0)


def test_garbage_breaks_the_json_but_not_the_stream():
    with sim_server("--fault", "garbage") as server:
        received = events(ask(server, stream=True)[1])
        assert len(received) == 10
        with pytest.raises(ValueError):
            json.loads(received[4])
        assert json.loads(received[5])
        with pytest.raises(ValueError):
            json.loads(ask(server)[1])


def test_error_event_ends_the_answer_in_the_middle():
    with sim_server("--fault", "error-event") as server:
        *tokens, error, done = events(ask(server, stream=True)[1])
        assert len(tokens) == 4
        assert json.loads(error)["error"]["code"] == 500
        assert done == b"[DONE]"
        assert ask(server)[0] == 500
        *tokens, error, done = events(ask(server, stream=True, n=6, max_tokens=1)[1])
        assert (len(tokens), done) == (3, b"[DONE]")  # the other choices, finished in the same step, add nothing
        server.wait_metric("vllm:num_requests_running", 0)


def test_empty_stream_has_no_token():
    with sim_server("--fault", "empty-stream") as server:
        assert events(ask(server, stream=True)[1]) == [b"[DONE]"]
        answer = json.loads(ask(server)[1])
        assert (answer["choices"][0]["text"], answer["usage"]["completion_tokens"]) == ("", 0)


@pytest.mark.parametrize(
    ("spec", "status", "words"),
    [
        ("die-at-concurrency=3", 1, "Fatal Python error"),
        ("die-at-concurrency=3:7", 7, "Fatal Python error"),
        ("die-at-concurrency=3:-11", -signal.SIGSEGV, "Fatal Python error"),
        ("oom-at-concurrency=3", 1, "torch.OutOfMemoryError: CUDA out of memory."),
        ("oom-at-concurrency=3:137", 137, "torch.OutOfMemoryError: CUDA out of memory."),
    ],
)
def test_a_crash_at_a_concurrency_spares_lower_ones(spec, status, words):
    with sim_server("--fault", spec) as server:
        assert ask(server, n=2)[0] == 200
        with pytest.raises(BROKEN):
            ask(server, n=3)
        assert server.exit_status() == status
        assert words in server.log[-1]


def test_slow_start_delays_listening():
    started = time.monotonic()
    with sim_server("--fault", "slow-start=700ms"):
        assert time.monotonic() - started >= 0.7


def test_never_ready_listens_and_refuses():
    with sim_server("--fault", "never-ready") as server:
        assert [server.get(path)[0] for path in ("/health", "/v1/models")] == [503, 503]
        assert ask(server)[0] == 503


def test_wrong_model_name_is_listed_instead():
    with sim_server("--fault", "wrong-model-name") as server:
        assert [model["id"] for model in json.loads(server.get("/v1/models")[1])["data"]] == ["another-model"]


def test_ignore_sigterm_survives_it():
    with sim_server("--fault", "ignore-sigterm") as server:
        server.process.send_signal(signal.SIGTERM)
        assert ask(server)[0] == 200
        assert server.process.poll() is None


def test_sigterm_is_ignored_from_the_start():
    process = launch("--fault", "ignore-sigterm", "slow-start=60s")
    try:
        assert "non-default args" in process.stdout.readline()
        deadline = time.monotonic() + 60
        while signal.SIGTERM not in ignored_signals(process.pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(TimeoutError):
            wait_for_end(process, 0.3)
    finally:
        process.kill()
        process.communicate()


def ignored_signals(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn"))
    return {number for number in range(1, 64) if mask >> (number - 1) & 1}


def wait_for_end(process, seconds):
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


def test_grandchildren_leave_the_process_tree_and_ignore_sigterm():
    pids = []
    try:
        with sim_server("--fault", "grandchildren=2") as server:
            pids = [int(line.split("pid=")[1]) for line in server.log if "grandchild pid=" in line]
            assert len(pids) == 2
            assert not psutil.Process(server.process.pid).children(recursive=True)
            for pid in pids:
                os.kill(pid, signal.SIGTERM)
                assert os.getsid(pid) != os.getsid(server.process.pid)
            port = server.port
            server.process.terminate()
            wait_for_end(server.process, 60)
            assert all(psutil.pid_exists(pid) for pid in pids)
            with socket.socket() as other, pytest.raises(OSError, match="in use"):
                other.bind(("127.0.0.1", port))
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=10)


def test_spam_fills_the_log():
    with sim_server("--fault", "spam-log=5000") as server:
        lines = [server.process.stdout.readline() for _ in range(500)]
        assert all("of a log that nobody reads" in line for line in lines)
        assert ask(server)[0] == 200


def test_a_stall_holds_everything_up_once():
    # Three seconds, so that one that a busy machine takes before the first request, or for the second, is told from it.
    with sim_server("--fault", "stall=0s:3s") as server:
        started = time.monotonic()
        assert ask(server)[0] == 200
        assert time.monotonic() - started >= 0.5
        started = time.monotonic()
        assert ask(server)[0] == 200
        assert time.monotonic() - started < 2.9


def test_a_dead_engine_hangs_what_runs_and_what_comes_behind_a_healthy_front():
    with sim_server("--fault", "dead-engine=1", "--time-scale", "1") as server:
        running, late = server.connect(), server.connect()
        running.request("POST", "/v1/completions", json.dumps({**ASK, "max_tokens": 1500, "stream": True}))
        assert running.getresponse().status == 200
        late.request("POST", "/v1/completions", json.dumps(ASK))
        assert silent(late.sock, 0.3)
        assert server.get("/health")[0] == 200
        running.close()
        late.close()


def test_a_dead_engine_may_answer_with_an_error_for_ever():
    with sim_server("--fault", "dead-engine=2:500") as server:
        assert [ask(server)[0] for _ in range(5)] == [200, 200, 500, 500, 500]
        assert server.get("/health")[0] == 200
