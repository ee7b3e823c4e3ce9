"""The client's ways to reach a server, its load shapes and its stop conditions, over real sockets."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from itertools import pairwise
from statistics import fmean, median

import pytest
import trustme

from pytest_autotune.errors import BenchmarkError
from pytest_autotune.load.arrivals import schedule
from pytest_autotune.load.generator import Arrivals, Row, Stage, Target, Workload
from pytest_autotune.load.lengths import Fixed, Uniform
from pytest_autotune.load.requests import Requests
from pytest_autotune.samples import Level
from pytest_autotune.statistics import measured
from tests.load_servers import EVENTS, OK, Server6, UnixServer, chunked, in_peace, load, with_length

# Ways to a server


@pytest.fixture
def tls(monkeypatch, tmp_path):
    """A server's TLS context for 127.0.0.1, whose authority this machine trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_a_server_is_loaded_over_tls(scripted, tls):
    events = [EVENTS[n : n + 40] for n in range(0, len(EVENTS), 40)]
    server = scripted(chunked(*events), context=tls)
    measurement = load(server.url)
    assert measurement.samples
    assert not measurement.errors
    assert {sample.output_tokens for sample in measurement.samples} == {2}
    assert server.connections == 2


def test_a_large_prompt_is_sent_over_tls(scripted, tls):
    server = scripted(chunked(EVENTS), context=tls)
    measurement = load(server.url, 1, prompt_tokens=200_000, max_requests=3)
    assert not measurement.errors
    assert {len(body["prompt"].split()) for body in server.bodies} == {200_000}


def test_a_certificate_of_nobody_known_is_a_tls_error_unless_it_is_not_verified(scripted, tls, monkeypatch):
    server = scripted(chunked(EVENTS), context=tls)
    monkeypatch.delenv("SSL_CERT_FILE")
    assert set(load(server.url).errors) == {"tls"}
    assert not load(server.url, target={"verify_tls": False}).errors


def test_a_server_that_speaks_no_tls_is_a_tls_error(scripted):
    server = scripted(b"HTTP/1.1 400 Bad Request\r\n\r\n", None)
    measurement = load(server.url.replace("http:", "https:"), request_timeout_s=0.3)
    assert set(measurement.errors) <= {"tls", "connect-timeout"}
    assert measurement.errors


def test_a_server_is_loaded_over_a_unix_socket(scripted, tmp_path):
    server = scripted(chunked(EVENTS), kind=UnixServer, address=str(tmp_path / "s.sock"))
    measurement = load(server.url)
    assert measurement.samples
    assert not measurement.errors
    assert {head["host"] for head in server.heads} == {"localhost"}
    assert load(f"unix://{tmp_path}/none.sock").errors.keys() == {"connect-refused"}


def test_a_server_is_loaded_over_ipv6(scripted):
    measurement = load(scripted(chunked(EVENTS), kind=Server6, address=("::1", 0)).url)
    assert measurement.samples
    assert not measurement.errors


def test_base_path_headers_and_trace_id_are_on_the_wire(scripted):
    server = scripted(chunked(EVENTS))
    measurement = load(f"{server.url}/gateway/v1", target={"headers": {"Authorization": "Bearer s3cret"}})
    assert {head["request"] for head in server.heads} == {"POST /gateway/v1/completions HTTP/1.1"}
    assert {head["authorization"] for head in server.heads} == {"Bearer s3cret"}
    assert {sample.id for sample in measurement.samples} <= {head["x-request-id"] for head in server.heads}


# What is asked and answered


@pytest.mark.parametrize(
    ("api", "document"),
    [
        ("embeddings", b'{"data": [{"embedding": [0.1, 0.2]}], "usage": {"prompt_tokens": 8, "total_tokens": 8}}'),
        ("rerank", b'{"results": [{"index": 0, "relevance_score": 0.9}], "usage": {"prompt_tokens": 8}}'),
    ],
)
def test_endpoints_without_a_stream_are_measured_by_latency_and_throughput(scripted, api, document):
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(document)
    server = scripted(0.02, answer + document)
    measurement = load(server.url, target={"api": api})
    assert not measurement.errors
    assert {head["request"].split()[1] for head in server.heads} == {f"/v1/{api}"}
    for sample in measurement.samples:
        assert (sample.prompt_tokens, sample.output_tokens) == (8, 0)
        assert sample.ttft_s == sample.e2e_s >= 0.0199
    # On a busy machine single requests take longer, the quickest of ten hardly.
    assert min(sample.e2e_s for sample in measurement.samples) == pytest.approx(0.02, abs=0.015)


def answer_with(text):
    event = b'data: {"choices": [{"index": 0, "delta": {"content": "%b"}, "finish_reason": null}]}\n\n'
    last = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    return chunked(event % text, event % b"!", last)


def test_turns_of_a_conversation_carry_the_answers_and_wait_for_the_user(scripted):
    server = scripted(lambda body: [answer_with(b"answer %d" % len(body["messages"]))])
    measurement = load(server.url, 1, turns=Fixed(3), think_s=0.05, target={"api": "chat"})
    assert not measurement.errors
    turns = [len(body["messages"]) for body in server.bodies]
    assert turns[:6] == [1, 3, 5, 1, 3, 5]
    third = server.bodies[2]["messages"]
    assert [message["role"] for message in third] == ["user", "assistant", "user", "assistant", "user"]
    assert [message["content"] for message in third[1::2]] == ["answer 1!", "answer 3!"]
    pauses = [later["at"] - earlier["at"] for earlier, later in pairwise(server.heads)]
    assert all(pause >= 0.05 for pause, turn in zip(pauses, turns[1:], strict=True) if turn > 1)


def test_rows_of_a_dataset_are_sent_as_they_are(scripted):
    rows = (Row(text='Grüße "x"', output_tokens=3), Row(text="second", output_tokens=4))
    server = scripted(chunked(EVENTS))
    load(server.url, 1, rows=rows)
    sent = {(body["prompt"], body["max_tokens"]) for body in server.bodies}
    assert sent == {('Grüße "x"', 3), ("second", 4)}


@pytest.mark.parametrize("level", [Level(4), Level(60, "rate")], ids=str)
@pytest.mark.parametrize("workers", [1, 3])
def test_requests_are_the_same_however_many_processes_send_them(scripted, level, workers):
    server = scripted(chunked(EVENTS))
    lengths = {"prompt_tokens": Uniform(5, 40), "output_tokens": Fixed(2)}
    load(server.url, level, workers=workers, **lengths, max_requests=24)
    sequence = Requests(
        Target(server.url, "m"), Workload(**lengths, duration_s=1.0, warmup_s=0.0, request_timeout_s=1.0)
    )
    numbers = {prompt_of(sequence.build(number)): number for number in range(2000)}
    sent = sorted(numbers[body["prompt"]] for body in server.bodies)
    assert len(sent) > 20
    assert len(set(sent)) == len(sent)
    shares = int(level.value) if level.shape == "concurrency" else workers  # streams, or processes, take turns
    for share in range(shares):
        mine = [number for number in sent if number % shares == share][: 20 // shares]  # the last are on their way
        assert mine == [share + shares * turn for turn in range(len(mine))], "from the first on, and none left out"


def prompt_of(request):
    return json.loads(request.payload.partition(b"\r\n\r\n")[2])["prompt"]


# Load shapes


@pytest.mark.parametrize("workers", [1, 2])
def test_poisson_arrivals_reach_the_server_when_they_are_due(serve, workers):
    server = serve(ttft_ms=20, itl_ms=1)
    level = Level(150, "rate")

    def measure():
        server.reset()
        return load(server.url, level, output_tokens=8, duration_s=2.0, warmup_s=0.2, workers=workers)

    def lateness(measurement):
        """How late each was sent, and received compared with the typical one, by the same clock."""
        log, samples = server.log(), measured(measurement.samples, measurement.window_s)
        received = [log[sample.id].received_s - sample.due_s for sample in samples]
        typical = median(received)
        return sorted(sample.sent_s - sample.due_s for sample in samples), sorted(abs(at - typical) for at in received)

    def peaceful(measurement):
        sent, received = lateness(measurement)
        return measurement.delivered == 1 and sent[len(sent) // 2] < 0.005 and received[4 * len(received) // 5] < 0.005

    measurement = in_peace(measure, peaceful)
    workload = Workload(Fixed(8), Fixed(8), 2.0, 0.2, 1.0)
    asked = [at_s - 0.2 for at_s in iterate_until(schedule(level, workload), 2.2) if at_s >= 0.2]
    samples = measured(measurement.samples, measurement.window_s)
    assert sorted(sample.due_s for sample in samples) == pytest.approx(asked, abs=1e-6)
    sent, received = lateness(measurement)
    assert sent[0] >= 0
    assert sent[len(sent) // 2] < 0.005
    assert received[4 * len(received) // 5] < 0.005, "four in five, while their gaps vary between 0 and 50 ms"
    assert measurement.delivered == pytest.approx(1, abs=0.02)


def iterate_until(times, end_s):
    for at_s in times:
        if at_s >= end_s:
            return
        yield at_s


def test_constant_arrivals_come_at_equal_distances(serve):
    server = serve(ttft_ms=5, itl_ms=1)
    constant = Arrivals(burstiness=float("inf"))
    measurement = load(server.url, Level(100, "rate"), arrivals=constant, duration_s=1.0)
    due = sorted(sample.due_s for sample in measurement.samples)
    assert [later - earlier for earlier, later in pairwise(due)] == pytest.approx([0.01] * (len(due) - 1))


def test_latencies_of_an_open_loop_count_from_the_intended_time(serve):
    """A server that stands still is in the figures of every request that was due meanwhile (no coordinated omission)."""
    server = serve(ttft_ms=5, itl_ms=1)
    goes_on = threading.Timer(0.5, os.kill, (server.pid, signal.SIGCONT))

    def stop(progress):  # not by the clock: workers may take their time to start
        if progress.phase == "measure" and goes_on.ident is None:
            os.kill(server.pid, signal.SIGSTOP)
            goes_on.start()

    # Stopped as it begins, the window still has 25 requests more when this process hears of that two seconds late.
    measurement = load(
        server.url, Level(100, "rate"), duration_s=3.0, warmup_s=0.1, max_concurrency=4, on_progress=stop
    )
    goes_on.join()
    samples = measured(measurement.samples, measurement.window_s)
    slow = [sample for sample in samples if sample.ttft_s > 0.05]
    assert len(slow) > 25, "all that were due in half a second, not just the four that were in flight"
    assert max(sample.ttft_s for sample in samples) > 0.3
    assert all(sample.start_s == sample.due_s <= sample.sent_s for sample in samples)
    waited = [sample for sample in slow if sample.sent_s - sample.due_s > 0.05]
    assert waited, "those beyond the limit of concurrency waited in the client, and that counts"


def test_what_a_full_house_keeps_out_is_not_delivered(serve):
    server = serve(ttft_ms=100, itl_ms=1)
    measurement = in_peace(
        lambda: load(server.url, Level(100, "rate"), duration_s=1.0, max_concurrency=2),
        lambda measurement: measurement.delivered > 0.1,
    )
    assert server.stats()["max_running"] == 2
    assert 0.1 < measurement.delivered < 0.5, "2 requests per 101 ms instead of 100 per second"


def test_a_burst_is_sent_at_once_and_its_window_ends_with_its_last_answer(serve):
    server = serve(ttft_ms=30, itl_ms=1)

    def spread_s(measurement):
        log = server.log()
        received = [log[sample.id].received_s for sample in measurement.samples]
        return max(received) - min(received)

    measurement = in_peace(
        lambda: load(server.url, Level(50, "burst"), duration_s=20.0, output_tokens=4),
        lambda measurement: spread_s(measurement) < 0.2,
    )
    assert len(measurement.samples) == 50
    assert spread_s(measurement) < 0.2
    assert measurement.window_s == pytest.approx(max(sample.end_s for sample in measurement.samples))


def test_a_trace_is_replayed_at_its_times_and_speed(serve):
    server = serve(ttft_ms=5, itl_ms=1)
    times_s = (0.0, 0.2, 0.2, 1.0, 1.4)
    rows = tuple(Row(prompt_tokens=10 + n, output_tokens=2 + n) for n in range(5))
    measurement = load(server.url, Level(2, "replay"), times_s=times_s, rows=rows, duration_s=20.0, warmup_s=0.0)
    samples = sorted(measurement.samples, key=lambda sample: (sample.due_s, sample.output_tokens))
    assert [sample.due_s for sample in samples] == pytest.approx([0.0, 0.1, 0.1, 0.5, 0.7])
    assert [sample.output_tokens for sample in samples] == [2, 3, 4, 5, 6]
    assert measurement.window_s < 15, "it ends with the last answer, not after 20 s"


def test_stages_raise_the_rate(serve):
    server = serve(ttft_ms=5, itl_ms=1)
    stages = (Stage(1.0, 20, 20), Stage(1.0, 20, 180))
    measurement = in_peace(
        lambda: load(server.url, Level(0, "stages"), stages=stages, duration_s=2.0, warmup_s=0.0),
        lambda measurement: measurement.delivered == 1,
    )
    due = [sample.due_s for sample in measurement.samples]
    assert sum(at_s < 1 for at_s in due) == pytest.approx(20, abs=15)
    assert sum(at_s >= 1 for at_s in due) == pytest.approx(100, abs=35)


def test_stages_change_the_number_of_streams(serve):
    server = serve(ttft_ms=10, itl_ms=1)
    stages = (Stage(0.6, 2, 2), Stage(0.6, 6, 6), Stage(0.6, 1, 1))

    def running(measurement, at_s):
        """Mean number of streams around a moment."""
        moments = [at_s + offset / 1000 for offset in range(-30, 30)]
        return fmean(
            sum(sample.sent_s <= moment < sample.end_s for sample in measurement.samples) for moment in moments
        )

    def seen(measurement):
        return {at_s: running(measurement, at_s) for at_s in (0.4, 1.1, 1.7)}

    asked = pytest.approx({0.4: 2, 1.1: 6, 1.7: 1}, rel=0.2)
    measurement = in_peace(
        lambda: load(
            server.url,
            Level(0, "stages"),
            stages=stages,
            stages_of="concurrency",
            duration_s=1.8,
            warmup_s=0.0,
            workers=2,
        ),
        lambda measurement: seen(measurement) == asked,
    )
    assert seen(measurement) == asked


# Ends


def test_the_window_closes_at_the_very_moment_of_the_last_request_asked_for(serve):
    server = serve(ttft_ms=5, itl_ms=1)
    measurement = load(server.url, 4, duration_s=30.0, max_requests=40, workers=2)
    ended = sorted(sample.end_s for sample in measurement.samples if sample.sent_s >= 0)
    assert measurement.window_s == pytest.approx(ended[39])
    assert 40 <= len(measured(measurement.samples, measurement.window_s)) <= 44


def test_too_many_errors_end_the_batch(scripted):
    server = scripted(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n")
    began = time.monotonic()
    measurement = load(server.url, 4, duration_s=30.0, max_errors=10)
    assert time.monotonic() - began < 10
    assert measurement.stopped.endswith(" requests failed")
    assert 10 <= measurement.errors["http-500"] <= 14


def test_too_large_a_share_of_errors_ends_the_batch(scripted):
    answers = iter(range(10**6))
    bad, good = b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", with_length()
    server = scripted(lambda _: [0.005, bad if next(answers) % 2 else good])
    measurement = load(server.url, 4, duration_s=30.0, max_error_share=0.3)
    assert re.fullmatch(r"\d+ of \d+ requests failed", measurement.stopped)
    assert measurement.window_s < 10


def test_whoever_waits_for_a_verdict_can_close_the_window(serve):
    server = serve(ttft_ms=5, itl_ms=1)
    asked = []

    def enough(samples, elapsed_s):
        asked.append((len(samples), elapsed_s))
        return "resolved" if len(samples) > 100 else ""

    measurement = load(server.url, 4, duration_s=30.0, enough=enough)
    assert measurement.stopped == "resolved"
    assert asked[-1][0] > 100
    assert measurement.window_s == pytest.approx(asked[-1][1], abs=0.2)


def test_a_server_that_falls_behind_without_bound_ends_the_batch_early(serve):
    server = serve(ttft_ms=50, itl_ms=1, max_conc=4)
    began = time.monotonic()
    measurement = load(server.url, Level(150, "rate"), duration_s=60.0, request_timeout_s=60.0)
    assert time.monotonic() - began < 30, "nor is the queue waited for"
    assert measurement.stopped == "over-saturated"
    assert measurement.oversaturated.startswith("requests in flight grew from ")
    assert "of the 150/s sent" in measurement.oversaturated


def test_a_server_that_keeps_up_is_not_taken_for_one_that_falls_behind(serve):
    server = serve(ttft_ms=50, itl_ms=1, max_conc=16)
    measurement = load(server.url, Level(150, "rate"), duration_s=9.0, request_timeout_s=60.0)
    assert measurement.oversaturated == measurement.stopped == ""
    assert measurement.window_s == pytest.approx(9.0)


def test_progress_tells_how_much_runs_and_comes(serve):
    server = serve(ttft_ms=10, itl_ms=2)

    def measure():
        reports = []
        load(server.url, 8, output_tokens=20, duration_s=3.0, on_progress=reports.append)
        return [report for report in reports if report.phase == "measure"][1:]

    asked = pytest.approx(8 * 20 / 0.048, rel=0.4)
    middle = in_peace(measure, lambda reports: reports and all(report.output_rate == asked for report in reports))
    assert middle
    for report in middle:
        assert 0 < report.running <= 8
        assert report.output_rate == asked


def test_a_stream_waits_as_long_as_a_busy_server_asks(scripted):
    server = scripted(b"HTTP/1.1 429 Too Many\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n")
    load(server.url, 1, max_requests=3)
    gaps = [later["at"] - earlier["at"] for earlier, later in pairwise(server.heads)]
    assert len(gaps) >= 2
    assert min(gaps) >= 0.99
    assert min(gaps) < 1.0 + 2.0, "and no longer, but for what a busy machine adds"


def test_connections_that_idle_servers_close_are_opened_anew(scripted):
    server = scripted(lambda _: [answer_with(b"x"), None])
    measurement = load(server.url, 1, turns=Fixed(1000), think_s=0.05, target={"api": "chat"})
    assert not measurement.errors
    assert server.connections >= len(measurement.samples)


def test_a_hang_of_any_kind_is_a_timeout_that_ends_the_batch(scripted):
    for script in ([60.0], [OK, 60.0], [OK + b"transfer-encoding: chunked\r\n\r\n5\r\nda", 60.0]):
        began = time.monotonic()
        measurement = load(scripted(*script).url, request_timeout_s=0.3, max_requests=3)
        assert time.monotonic() - began < 20, "long before the server would have gone on"
        assert set(measurement.errors) == {"timeout"}


def test_requests_without_a_socket_are_the_clients_fault(scripted):
    script = f"""
        import resource
        from pytest_autotune.samples import Level
        from tests.load_servers import load
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
        measurement = load({scripted(5.0).url!r}, Level(200, "rate"), duration_s=1.5, request_timeout_s=1.0)
        print(measurement.errors["no-socket"], measurement.client.saturated)
    """

    def measure():
        command = [sys.executable, "-c", textwrap.dedent(script)]
        count, text = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(maxsplit=1)
        return int(count), text

    # Of a client that was late at that as well, it is this that is told.
    count, text = in_peace(measure, lambda found: found[0] > 10 and " late " not in found[1])
    assert count > 10
    assert "it had no socket for" in text


def test_nobody_that_listens_is_refused_in_an_open_loop_too(serve):
    server = serve()
    server.kill()
    measurement = load(server.url, Level(50, "rate"), max_requests=15)
    assert set(measurement.errors) == {"connect-refused"}
    assert len(measured(measurement.samples, measurement.window_s)) == pytest.approx(15, abs=1)


def test_target_urls_that_cannot_be_loaded_are_one_error():
    with pytest.raises(BenchmarkError, match="it must be http://host"):
        load("ftp://127.0.0.1:21")
    assert Target("http://x", "m").verify_tls
