"""The real genai-bench, vllm bench serve and GuideLLM load a server whose timing is known."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.truth import TruthServer, build
from pytest_autotune.errors import BenchmarkError
from pytest_autotune.load.generator import Arrivals, Target, Workload
from pytest_autotune.load.lengths import Fixed
from pytest_autotune.load.others import generator_named
from pytest_autotune.samples import Level
from pytest_autotune.statistics import measured, summarise

PYTHONS = {
    "genai-bench": os.environ.get("PYTEST_AUTOTUNE_GENAI_BENCH_PYTHON", ""),
    "vllm-bench": os.environ.get("PYTEST_AUTOTUNE_VLLM_PYTHON", ""),
    "guidellm": os.environ.get("PYTEST_AUTOTUNE_GUIDELLM_PYTHON", ""),
}
TTFT_S, ITL_S, TOKENS, STREAMS = 0.05, 0.01, 16, 4
# The tools are measured here, not the server: what they may add to its times when other work shares the machine.
ADDED_S = 0.2
WORKLOAD = Workload(Fixed(32), Fixed(TOKENS), duration_s=4.0, warmup_s=1.0, request_timeout_s=30.0, seed=7)
MINUTE = replace(WORKLOAD, duration_s=60.0, warmup_s=0.0)


pytestmark = [
    pytest.mark.alone,
    pytest.mark.xdist_group("real"),
    pytest.mark.real_engine,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="the truth server is written in C"),
]
GENAI = pytest.mark.skipif(not PYTHONS["genai-bench"], reason="set PYTEST_AUTOTUNE_GENAI_BENCH_PYTHON to one with it")
VLLM = pytest.mark.skipif(not PYTHONS["vllm-bench"], reason="set PYTEST_AUTOTUNE_VLLM_PYTHON to one that has vLLM")
GUIDE = pytest.mark.skipif(not PYTHONS["guidellm"], reason="set PYTEST_AUTOTUNE_GUIDELLM_PYTHON to one with GuideLLM")
EACH = [
    pytest.param("genai-bench", "chat", replace(MINUTE, max_requests=60), marks=GENAI),
    pytest.param("vllm-bench", "completions", WORKLOAD, marks=VLLM),
    pytest.param("vllm-bench", "chat", replace(WORKLOAD, warmup_s=0.0, max_requests=40), marks=VLLM),
    pytest.param("guidellm", "completions", WORKLOAD, marks=GUIDE),
    pytest.param("guidellm", "chat", replace(WORKLOAD, warmup_s=0.0, max_requests=40), marks=GUIDE),
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A directory whose tokenizer every tool can load; its name is also that of the server's model."""
    directory = tmp_path_factory.mktemp("tokenizer")
    script = Path(__file__).with_name("tiny_model.py")
    python = next(python for python in PYTHONS.values() if python)
    subprocess.run([python, script, directory], check=True, capture_output=True)
    return str(directory)


@pytest.fixture(scope="module")
def executable(tmp_path_factory):
    return build(tmp_path_factory.mktemp("truth"))


@pytest.fixture
def server(executable, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with TruthServer(executable, ttft_ms=1e3 * TTFT_S, itl_ms=1e3 * ITL_S) as server:
        yield server


def load(server, name, *, tokenizer, api, level, workload, died=lambda: None, reports=None):
    generator = generator_named(name, python=PYTHONS[name], tokenizer=tokenizer)
    return generator.run(
        Target(server.url, "mock-model", api=api),
        level,
        workload,
        died=died,
        on_progress=lambda progress: None if reports is None else reports.append(progress),
    )


def metrics(measurement):
    return summarise(measurement.samples, measurement.window_s, gpus=0, request_limits={})


@pytest.mark.parametrize(("name", "api", "workload"), EACH)
def test_a_concurrency_is_held_and_read_as_the_server_knows_it(server, tokenizer, name, api, workload):
    reports = []
    measurement = load(
        server, name, tokenizer=tokenizer, api=api, level=Level(STREAMS), workload=workload, reports=reports
    )
    figures, truth = metrics(measurement), server.stats()
    assert measurement.errors == {}
    assert truth["max_running"] <= STREAMS
    assert TTFT_S <= figures["ttft.p50"] <= TTFT_S + ADDED_S
    assert ITL_S * 0.95 <= figures["tpot.p50"] <= ITL_S * 2
    assert all(sample.output_tokens == TOKENS for sample in measurement.samples)
    ideal = STREAMS * TOKENS / (TTFT_S + (TOKENS - 1) * ITL_S)
    assert 0.3 * ideal <= figures["output_throughput"] <= 1.05 * ideal
    if workload.max_requests is None:
        assert 0.5 * workload.duration_s <= measurement.window_s <= 2 * workload.duration_s
        assert measurement.warmup_requests > 0
    else:
        assert workload.max_requests <= figures["requests"] <= 2 * workload.max_requests
        assert measurement.stopped == f"{workload.max_requests} requests have ended"
    assert reports[0].phase == "warm-up"
    assert reports[-1].total_s == workload.warmup_s + workload.duration_s
    assert measurement.client.cpu_share > 0


@pytest.mark.parametrize(
    ("name", "arrivals"),
    [
        pytest.param("vllm-bench", Arrivals(), marks=VLLM),
        pytest.param("guidellm", Arrivals(float("inf")), marks=GUIDE),
    ],
)
def test_a_rate_counts_from_when_requests_were_due(server, tokenizer, name, arrivals):
    measurement = load(
        server,
        name,
        tokenizer=tokenizer,
        api="completions",
        level=Level(20, "rate"),
        workload=replace(WORKLOAD, arrivals=arrivals),
    )
    sent = measured(measurement.samples, measurement.window_s)
    assert 0.5 * 20 * measurement.window_s <= len(sent) <= 1.5 * 20 * measurement.window_s
    assert all(sample.due_s is not None and sample.due_s <= sample.sent_s for sample in sent)
    assert 0.5 < measurement.delivered <= 1
    assert metrics(measurement)["ttft.p50"] >= TTFT_S


@pytest.mark.parametrize(("name", "api", "workload"), EACH[:2] + EACH[3:4])
def test_requests_that_failed_are_counted_by_kind(server, tokenizer, name, api, workload):
    server.set(fault="http503", fault_every=3)
    measurement = load(server, name, tokenizer=tokenizer, api=api, level=Level(STREAMS), workload=workload)
    assert set(measurement.errors) == {"http-503"}
    assert 0.15 < metrics(measurement)["error_rate"] < 0.6


@pytest.mark.parametrize(("name", "api", "workload"), EACH[:2] + EACH[3:4])
def test_a_server_that_fails_every_request_is_measured_as_that(server, tokenizer, name, api, workload):
    server.set(fault="http500", fault_every=1)
    measurement = load(
        server, name, tokenizer=tokenizer, api=api, level=Level(1), workload=replace(workload, warmup_s=0.0)
    )
    assert set(measurement.errors) == {"http-500"}
    assert metrics(measurement)["error_rate"] == 1


@pytest.mark.parametrize(("name", "api", "workload"), EACH[:2] + EACH[3:4])
def test_the_tool_ends_when_the_server_dies(server, tokenizer, name, api, workload):
    server.set(fault="hang_mid", fault_every=1)
    killed = []

    def died():
        if not killed and server.stats()["gen"] > 0:
            server.kill()
            killed.append(time.monotonic())
        return "killed" if killed else None

    with pytest.raises(BenchmarkError, match=f"the server is gone while {name} loaded it: killed"):
        load(server, name, tokenizer=tokenizer, api=api, level=Level(1), workload=workload, died=died)
    assert time.monotonic() - killed[0] < 15


@GENAI
def test_the_time_limit_of_genai_bench_is_in_minutes(server, tokenizer):
    begun_s = time.monotonic()
    measurement = load(server, "genai-bench", tokenizer=tokenizer, api="chat", level=Level(1), workload=MINUTE)
    assert 59 <= measurement.window_s <= 75
    assert time.monotonic() - begun_s >= 60
    assert measurement.stopped == ""


@pytest.mark.parametrize(("name", "api", "workload"), EACH[:2] + EACH[3:4])
def test_a_tool_without_its_tokenizer_is_an_error_with_its_own_words(server, tmp_path, name, api, workload):
    with pytest.raises(BenchmarkError, match=f"^{name} ended with status 1 without a result: .*tokenizer"):
        load(server, name, tokenizer=str(tmp_path), api=api, level=Level(1), workload=workload)


@VLLM
def test_the_server_is_asked_for_its_tokenizer_when_nobody_names_one(server, tokenizer):
    server.set(model=tokenizer)
    generator = generator_named("vllm-bench", python=PYTHONS["vllm-bench"])
    measurement = generator.run(
        Target(server.url, tokenizer),
        Level(2),
        replace(WORKLOAD, warmup_s=0.0, max_requests=8),
        died=lambda: None,
        on_progress=lambda _progress: None,
    )
    assert len(measurement.samples) == 8
    with pytest.raises(BenchmarkError, match="does not tell the one of 'another'"):
        generator.run(
            Target(server.url, "another"), Level(2), WORKLOAD, died=lambda: None, on_progress=lambda _progress: None
        )
