"""The load generator against a real server whose true timing is known (benchmarks/truthserver.c)."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from statistics import fmean, median

import psutil
import pytest

from pytest_autotune.errors import BenchmarkError
from pytest_autotune.load.generator import Target, Workload
from pytest_autotune.load.http import HttpLoad
from pytest_autotune.load.lengths import Fixed
from pytest_autotune.samples import Level
from pytest_autotune.statistics import measured, summarise
from tests.load_servers import in_peace

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not there to build the truth server"),
]


def run(server, concurrency, *, died=lambda: None, on_progress=lambda _: None, api="completions", **changes):
    workload = {"prompt_tokens": 32, "output_tokens": 16, "duration_s": 0.4, "warmup_s": 0.1, "request_timeout_s": 5.0}
    workload |= changes
    lengths = {name: Fixed(workload[name]) for name in ("prompt_tokens", "output_tokens")}
    target = Target(server.url, "truth", api=api, token_ids=True, ignore_eos=True)
    return HttpLoad().run(
        target, Level(concurrency), Workload(**workload | lengths), died=died, on_progress=on_progress
    )


def run_undisturbed(server, concurrency, **changes):
    """Run again, a few times, while the machine is busy with something else: our own health and the server say so."""

    def measure():
        server.reset()
        return run(server, concurrency, **changes)

    def peaceful(measurement):
        late_s = [truth.late_s for truth in truths_of(server, measurement)]
        return measurement.client.lag_max_s < 0.01 and late_s and max(late_s) < 0.01

    return in_peace(measure, peaceful)


def metrics_of(measurement):
    return summarise(measurement.samples, measurement.window_s, gpus=0, request_limits={})


def truths_of(server, measurement):
    log = server.log()
    return [log[sample.id] for sample in measured(measurement.samples, measurement.window_s) if sample.error is None]


@pytest.mark.parametrize("concurrency", [1, 16, 64])
def test_reported_times_are_the_true_ones(serve, concurrency):
    server = serve(ttft_ms=50, itl_ms=10)
    measurement = run_undisturbed(server, concurrency, output_tokens=20, duration_s=1.5, warmup_s=0.4)
    metrics, truths = metrics_of(measurement), truths_of(server, measurement)
    assert metrics["failed"] == 0
    assert len(truths) == metrics["requests"] >= 3 * concurrency
    assert metrics["ttft.mean"] == pytest.approx(fmean(truth.ttft_s for truth in truths), abs=0.003)
    assert metrics["tpot.mean"] == pytest.approx(fmean(truth.tpot_s for truth in truths), rel=0.03)
    assert metrics["output_throughput"] == pytest.approx(concurrency * 20 / metrics["e2e.mean"], rel=0.05)
    assert {sample.output_tokens for sample in measurement.samples} == {20}
    assert {sample.prompt_tokens for sample in measurement.samples} == {32}
    assert {len(sample.gaps_s) for sample in measurement.samples} == {19}


def test_no_request_of_the_window_is_missing_and_load_holds_until_the_last_one_ended(serve):
    server = serve(ttft_ms=40, itl_ms=20)
    measurement = run_undisturbed(server, 8, output_tokens=16, duration_s=0.5)
    log = server.log()
    by_id = {sample.id: sample for sample in measurement.samples}
    opened_s = median(log[name].received_s - sample.sent_s for name, sample in by_id.items())
    edge_s = 0.01
    overlapping = {
        name
        for name, truth in log.items()
        if truth.received_s - opened_s < 0.5 - edge_s and (truth.end != "ok" or truth.last_s - opened_s > edge_s)
    }
    assert overlapping <= set(by_id)
    assert all(sample.error is None for sample in measurement.samples)
    drained = {name for name, truth in log.items() if truth.received_s - opened_s > 0.5 + edge_s}
    assert len(drained) >= 7, "every stream went on sending while the last measured requests were waited for"
    assert not drained & set(by_id)


@pytest.mark.parametrize(
    ("settings", "api"),
    [
        pytest.param({"role": 2}, "chat", id="role at once"),
        pytest.param({"role": 1}, "chat", id="role with the first token"),
        pytest.param({"reasoning": 8}, "chat", id="reasoning before content"),
        pytest.param({"tokens_per_chunk": 4}, "chat", id="four tokens per chunk"),
        pytest.param({"tokens_per_chunk": 3}, "completions", id="three tokens per chunk"),
        pytest.param({"ping": 1}, "completions", id="comment first"),
        pytest.param({"ping": 1, "role": 2}, "chat", id="comment and role first"),
        pytest.param({"tail": 1}, "completions", id="finish reason apart"),
        pytest.param({"token": "\\u00e9\\n"}, "completions", id="escaped text"),
    ],
)
def test_every_kind_of_stream_gives_the_true_figures(serve, settings, api):
    server = serve(ttft_ms=60, itl_ms=5, **settings)
    measurement = run_undisturbed(server, 4, api=api)
    metrics, truths = metrics_of(measurement), truths_of(server, measurement)
    assert metrics["failed"] == 0
    assert {sample.output_tokens for sample in measurement.samples} == {16}
    assert metrics["ttft.p50"] == pytest.approx(median(truth.ttft_s for truth in truths), abs=0.01)
    assert metrics["tpot.p50"] == pytest.approx(median(truth.tpot_s for truth in truths), rel=0.2, abs=0.001)


def test_tokens_are_counted_from_events_when_the_server_sends_no_usage(serve):
    measurement = run(serve(ttft_ms=20, itl_ms=2, usage_off=1), 2, max_requests=4, duration_s=30.0)
    assert {sample.output_tokens for sample in measurement.samples} == {16}


def test_waiting_in_the_server_is_seen_in_ttft(serve):
    server = serve(ttft_ms=20, itl_ms=2, max_conc=1)
    metrics = metrics_of(run(server, 4, duration_s=30.0, max_requests=20))
    assert metrics["failed"] == 0
    assert metrics["ttft.p50"] > 0.1, "three requests of 50 ms are ahead of each"


FAULTS = {
    "http400": "http-400",
    "http429": "http-429",
    "http500": "http-500",
    "http503": "http-503",
    "close_mid": "cut",
    "rst_mid": "reset",
    "close_clean": "cut",
    "hang_mid": "timeout",
    "hang_headers": "timeout",
    "hang_accept": "timeout",
    "malformed": "malformed",
    "error_event": "error-event",
    "empty": "empty",
    "close_before": "closed",
    "truncated_chunk": "cut",
}


@pytest.mark.parametrize(("fault", "kind"), FAULTS.items())
def test_every_fault_is_counted_by_kind_and_ends(serve, fault, kind):
    server = serve(ttft_ms=5, itl_ms=1, fault=fault, fault_every=3)
    timeout_s = 2.5 if kind == "timeout" else 30.0  # longer than a busy machine takes for the answers that are good
    began = time.monotonic()
    measurement = run(server, 4, request_timeout_s=timeout_s, max_requests=8, duration_s=60.0)
    assert time.monotonic() - began < 20 + timeout_s, "long before the window of 60 s ends"
    assert set(measurement.errors) == {kind}
    metrics = metrics_of(measurement)
    assert metrics["failed"] == measurement.errors[kind]
    assert 0 < metrics["failed"] < metrics["requests"]
    log = server.log()
    for sample in measurement.samples:
        if sample.id in log:
            assert (sample.error is None) == (log[sample.id].fault == "none")
        else:
            assert sample.error is not None, "a request that the server never finished must not be a success"


@pytest.mark.parametrize("fault", ["http503", "close_before", "hang_accept", "empty"])
def test_a_server_that_only_fails_gives_errors_and_no_latency(serve, fault):
    server = serve(fault=fault, fault_every=1)
    measurement = in_peace(lambda: run(server, 2, request_timeout_s=0.2), lambda measurement: measurement.errors)
    metrics = metrics_of(measurement)
    assert metrics["error_rate"] == 1.0
    assert metrics["requests"] <= 2 * (0.4 / 0.05 + 1), "a failing stream pauses before its next request"
    assert metrics["output_throughput"] == 0
    assert "ttft.p50" not in metrics


def test_requests_that_hang_longer_than_the_batch_are_not_forgotten(serve):
    server = serve(ttft_ms=5, itl_ms=1, fault="hang_headers", fault_every=1)
    measurement = in_peace(
        lambda: run(server, 3, duration_s=0.3, request_timeout_s=1.0),
        lambda measurement: measurement.errors["timeout"] == 3,
    )
    assert measurement.errors == {"timeout": 3}
    assert metrics_of(measurement)["error_rate"] == 1.0


def test_a_server_that_dies_ends_the_batch_at_once(serve):
    server = serve(ttft_ms=20, itl_ms=5)
    progress = []

    def kill_after_a_second(report):
        progress.append(report)
        if len(progress) == 2:
            server.kill()
            killed.append(time.monotonic())

    killed = []
    with pytest.raises(BenchmarkError, match=r"^server died during concurrency=4$"):
        run(server, 4, duration_s=60.0, died=lambda: killed or None, on_progress=kill_after_a_second)
    assert time.monotonic() - killed[0] < 10, "long before the window of 60 s ends"


def test_a_dead_server_gives_a_bounded_number_of_errors(serve):
    server = serve()
    server.kill()
    measurement = in_peace(
        lambda: run(server, 2, duration_s=1.0), lambda measurement: measurement.errors["connect-refused"] >= 2
    )
    assert set(measurement.errors) == {"connect-refused"}
    assert 2 <= measurement.errors["connect-refused"] <= 12


def test_progress_is_reported_through_all_phases(serve):
    server = serve(ttft_ms=1200, itl_ms=1)

    def measure():
        reports = []
        run(server, 2, duration_s=1.0, warmup_s=1.1, on_progress=reports.append)
        return reports

    def peaceful(reports):
        return len({report.phase for report in reports}) == 3 and (reports[-1].ttft_s or 9.9) < 1.4

    reports = in_peace(measure, peaceful)
    assert [report.phase for report in reports] == sorted(
        (report.phase for report in reports), key=["warm-up", "measure", "drain"].index
    )
    assert {report.phase for report in reports} == {"warm-up", "measure", "drain"}
    assert reports[0].finished == 0
    assert reports[0].total_s == pytest.approx(2.1)
    assert reports[-1].finished >= 2
    assert reports[-1].ttft_s == pytest.approx(1.2, abs=0.2)
    assert [report.elapsed_s for report in reports] == sorted(report.elapsed_s for report in reports)


def test_window_ends_early_after_enough_requests(serve):
    began = time.monotonic()
    measurement = run(serve(ttft_ms=10, itl_ms=1), 4, duration_s=60.0, max_requests=20)
    assert time.monotonic() - began < 20
    assert 20 <= metrics_of(measurement)["requests"] <= 24
    assert measurement.window_s < 10


def test_an_error_in_a_callback_comes_out_as_it_is_and_leaves_no_connection(serve):
    server = serve(ttft_ms=20, itl_ms=5)

    def fail(progress):
        if progress.elapsed_s > 0.5:
            raise LookupError("from the callback")

    with pytest.raises(LookupError, match="from the callback"):
        run(server, 4, duration_s=30.0, on_progress=fail)
    ours = psutil.Process().net_connections("tcp")
    assert not [c for c in ours if c.raddr and c.status == "ESTABLISHED" and server.url.endswith(f":{c.raddr.port}")]


def test_the_limit_of_open_files_is_raised_for_the_batch_alone(serve):
    server = serve(ttft_ms=1000, itl_ms=1)  # while all are sent, by a busy machine too
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
        measurement = run(server, 150, request_timeout_s=30.0)
        assert not measurement.errors
        assert server.stats()["max_running"] > 100
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (100, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupt_ends_the_batch_at_once(serve, number):
    server = serve(fault="hang_headers", fault_every=1)
    script = f"""
        import signal, sys
        from pytest_autotune.load.generator import Target, Workload
        from pytest_autotune.load.http import HttpLoad
        from pytest_autotune.load.lengths import Fixed
        from pytest_autotune.samples import Level

        def leave(*_):
            raise SystemExit(70)

        signal.signal(signal.SIGTERM, leave)
        try:
            HttpLoad().run(Target({server.url!r}, "m"), Level(8), Workload(Fixed(8), Fixed(8), 60, 1, 60),
                           died=lambda: None, on_progress=lambda _: print("running", flush=True))
        except KeyboardInterrupt:
            sys.exit(60)
    """
    client = subprocess.Popen([sys.executable, "-X", "dev", "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert client.stdout.readline() == "running\n"
    began = time.monotonic()
    os.kill(client.pid, number)
    _, errors = client.communicate(timeout=60)
    assert time.monotonic() - began < 15, "long before the window of 60 s ends"
    assert client.returncode == {signal.SIGINT: 60, signal.SIGTERM: 70}[number], errors
    assert "ResourceWarning" not in errors
    assert "Traceback" not in errors
