"""What the benchmarks of the load generator rely on: the raw client, CPU of process trees, computed truths."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from benchmarks import processes
from benchmarks.bench import Bench, Meeting
from benchmarks.clients import Load, Ours, Raw, Reading, Script, VllmBench
from benchmarks.open_loops import poisson, simulated
from benchmarks.tables import Printer
from benchmarks.truth import Stall, Truth, TruthServer, build
from tests.load_servers import in_peace

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not there to build the programs")
needs_taskset = pytest.mark.skipif(shutil.which("taskset") is None, reason="taskset is not there to pin processes")
CORES = sorted(os.sched_getaffinity(0))


def truth(arrived_s, first_s, last_s, tokens=8):
    return Truth(arrived_s, first_s, last_s, tokens, "ok", "none", "", arrived_s, 0.0, blocked=False)


def meeting(rows, truths=()):
    reading = Reading(len(rows), 0, 0.0, 0.0, 0.0, 0.0, ids=frozenset(row[0] for row in rows), more={"rows": rows})
    load = Load("http://server", None, 8, 8, 1.0, 10.0, 0.2, rate=1.0)
    return Meeting("ours", load, reading, tuple(truths), 0, 0.0, 0.0, 1.0, 0, 0.0)


@needs_gcc
def test_the_raw_client_says_what_the_server_wrote_down(tmp_path):
    raw = build(tmp_path, "rawclient")
    with TruthServer(build(tmp_path), ttft_ms=30, itl_ms=5) as server:
        client = Raw(raw)
        load = Load(server.url, 4, prompt_tokens=16, output_tokens=8, warmup_s=0.2, window_s=0.8, round_s=0.065)

        def measure():
            server.reset()
            done = subprocess.run(
                client.command(load, tmp_path), capture_output=True, text=True, check=True, timeout=60
            )
            reading = client.read(done.stdout, tmp_path)
            begin_s, end_s = reading.window_s
            ended = [one for one in server.requests() if one.end == "ok"]
            sent = [one for one in ended if begin_s + 0.002 <= one.arrived_s < end_s - 0.002]
            return reading, sent, server.tokens_between(begin_s, end_s)

        def peaceful(measured):
            reading, sent, inside = measured
            tpot_s = fmean(one.tpot_s for one in sent) if sent else 0.0
            return (
                reading.requests >= 16
                and reading.tpot_mean_s == pytest.approx(tpot_s, rel=0.05)
                and reading.tokens_per_s * 0.8 == pytest.approx(inside, abs=20)
            )

        reading, sent, inside = in_peace(measure, peaceful)
    assert reading.window_s[1] - reading.window_s[0] == pytest.approx(0.8)
    assert len(sent) <= reading.requests <= len(sent) + 8
    assert reading.requests >= 16
    assert reading.failed == 0
    assert reading.ttft_p50_s == pytest.approx(sorted(one.ttft_s for one in sent)[len(sent) // 2], abs=0.003)
    assert reading.tpot_mean_s == pytest.approx(fmean(one.tpot_s for one in sent), rel=0.05)
    assert reading.tokens_per_s * 0.8 == pytest.approx(inside, abs=20)
    assert 0 < reading.more["cpu_s"] < 1


@needs_gcc
@needs_taskset
def test_ours_is_measured_beside_the_truth(tmp_path):
    bench = Bench(build(tmp_path), Raw(build(tmp_path, "rawclient")), [], repetitions=1, quick=True)
    with bench.serve(ttft_ms=30, itl_ms=5) as server:
        load = Load(server.url, 4, prompt_tokens=16, output_tokens=8, warmup_s=0.3, window_s=0.7, round_s=0.065)

        def peaceful(met):
            late_s = max((truth.late_s for truth in met.truths), default=9.9)
            told = met.reading.tokens_per_s == pytest.approx(met.true_tokens_per_s, rel=0.1)
            return met.reading.requests >= 16 and late_s < 0.01 and met.p99_error_s < 0.02 and told

        met = in_peace(lambda: bench.meet(Ours(), server, load, watch_memory=True), peaceful)
    assert met.reading.failed == 0
    assert len(met.truths) == met.reading.requests >= 16
    assert met.true_ttft_s(50) == pytest.approx(0.03, abs=0.01)
    assert met.p99_error_s < 0.02
    assert met.true_tpot_s == pytest.approx(0.005, rel=0.2)
    assert met.reading.tokens_per_s == pytest.approx(met.true_tokens_per_s, rel=0.1)
    assert met.tokens >= 8 * len(met.truths)
    assert met.cpu_s < met.wall_s
    assert 10e6 < met.peak_rss < 1e9


@needs_taskset
def test_cpu_time_is_that_of_children_too(tmp_path):
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    script = f"import subprocess, sys; [subprocess.run([sys.executable, '-c', {burn!r}]) for _ in range(2)]"
    finished = processes.run([sys.executable, "-c", script], cores=CORES[:1], directory=tmp_path, timeout_s=120)
    assert 0.6 <= finished.cpu_s < 3
    assert finished.peak_rss == 0


@needs_taskset
@pytest.mark.parametrize(
    ("script", "limit_s", "told"),
    [
        (
            "import sys; print('where it went'); sys.exit('what went wrong')",
            60,
            r"exit status 1 .*\nwhat went wrong\nwhere",
        ),
        ("import time; time.sleep(60)", 0.5, r"exit status -9 after \d s \(limit 0 s\)|exit status -9"),
    ],
    ids=["fails", "hangs"],
)
def test_a_client_that_does_not_end_well_is_an_error_with_its_last_words(tmp_path, script, limit_s, told):
    began = time.monotonic()
    with pytest.raises(processes.ClientError, match=told):
        processes.run([sys.executable, "-c", script], cores=CORES[:1], directory=tmp_path, timeout_s=limit_s)
    assert time.monotonic() - began < 15


def test_peers_that_are_not_installed_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.clients.PEERS_PYTHON", tmp_path / "bin" / "python")
    monkeypatch.setattr("benchmarks.clients.VLLM_PYTHON", tmp_path / "bin" / "python")
    locust = Script("Locust", "locust_fast.py", package="locust", open_loop=False)
    assert locust.missing() == f"locust is not installed for {tmp_path}/bin/python (see benchmarks/README.md)"
    assert VllmBench(tmp_path).missing().endswith("(see docs/vllm-on-cpu.md)")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    (tmp_path / "lib" / "python3.13" / "site-packages" / "locust").mkdir(parents=True)
    assert locust.missing() == ""


@pytest.mark.parametrize(
    ("due_s", "ttft_s"),
    [
        pytest.param(0.0, 0.05, id="before"),
        pytest.param(4.97, 2.03, id="first token due in the stall"),
        pytest.param(5.0, 2.05, id="due as it begins"),
        pytest.param(6.5, 0.55, id="due inside"),
        pytest.param(7.0, 0.05, id="due as it ends"),
    ],
)
def test_ttft_around_a_stall_is_computed_from_the_intended_time(due_s, ttft_s):
    # The server's clock is 100 s ahead of the client's, and the client sends 0.2 s late: no latency may depend on that.
    rows = [("before", -1.0, -1.0, -0.95, 0.0), ("one", due_s, due_s + 0.2, due_s + 1, due_s + 2)]
    computed = simulated(meeting(rows, [truth(99.0, 99.05, 99.1)._replace(id="before")]), Stall(105.0, 107.0))
    assert max(computed) == pytest.approx(max(ttft_s, 0.05))


@given(st.floats(0.01, 0.03), st.floats(5, 60))
def test_both_computations_of_the_stall_agree_where_it_dominates(share, window_s):
    assume(0.1 < share * window_s < 1.9)
    count = 20_000
    rows = [(str(n), at := window_s * n / count, at, at, at) for n in range(count)]
    begin_s = window_s / 2
    computed = simulated(meeting(rows, [truth(0.0, 0.05, 0.1)._replace(id="0")]), Stall(begin_s, begin_s + 2.0))
    assert computed[int((1 - share) * count)] == pytest.approx(
        poisson(2.0, window_s, share), abs=3 * window_s / count + 1e-9
    )


def test_tables_are_text_or_markdown_with_the_same_cells(capsys):
    for markdown in (False, True):
        out = Printer(markdown=markdown)
        out.title("Point", "What it is.")
        out.table(("client", "ms"), [["ours", "1.0"], ["theirs", "20.0"]])
        out.verdict("error", 1.5, 2, "ms")
        out.verdict("rate", 97, 98, "%", at_least=True)
    text, marked = capsys.readouterr().out.split("### ")
    assert text.splitlines()[4:6] == ["ours     1.0", "theirs  20.0"]
    assert "| ours | 1.0 |\n| theirs | 20.0 |" in marked
    for told in (text, marked):
        assert "PASS  error: 1.5 ms, at most 2 ms asked for" in told
        assert "short rate: 97 %, at least 98 % asked for" in told


def test_an_unknown_point_is_refused_with_those_there_are():
    command = [sys.executable, "-m", "benchmarks.load", "trth"]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 2
    assert "no point 'trth' (one of truth, peers, open, stall, capacity, memory, all)" in done.stderr
