"""Reading what genai-bench, vllm bench serve and GuideLLM recorded, from files that the real tools wrote (tests/data)."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.errors import BenchmarkError
from pytest_autotune.load.others import guidellm, read_genai_bench, vllm_bench
from pytest_autotune.load.others.genai_results import laid_out
from pytest_autotune.load.others.measuring import error_kind, health, measurement
from pytest_autotune.samples import Level, Sample
from pytest_autotune.statistics import measured, summarise

DATA = Path(__file__).parent / "data"
GENAI = DATA / "genai-bench"


def document(path):
    return json.loads((DATA / path).read_text())


def metrics(measurement):
    return summarise(measurement.samples, measurement.window_s, gpus=0, request_limits={})


@pytest.mark.parametrize(
    ("folder", "scenario", "task", "batch_size"),
    [
        ("embeddings", "E(64)", "text-to-embeddings", 2),
        ("rerank", "R(64,16)", "text-to-rerank", 4),
        ("images", "I(512,512)", "text-to-image", None),
        ("speech", "A(100)", "text-to-speech", None),
        ("dataset", "dataset", "text-to-text", None),
    ],
)
def test_every_kind_of_scenario_is_read(folder, scenario, task, batch_size):
    [batch] = read_genai_bench(GENAI / folder).batches
    assert (batch.scenario, batch.task, batch.batch_size) == (scenario, task, batch_size)
    assert 0.3 <= metrics(batch.measurement)["e2e.mean"] < 0.6


def test_scenarios_and_levels_of_a_folder_stay_apart():
    read = read_genai_bench(GENAI / "text")
    assert [(batch.scenario, batch.level) for batch in read.batches] == [
        (scenario, Level(streams))
        for scenario in ("D(32,8)", "N(40,10)/(8,2)", "U(16,48)/(4,12)")
        for streams in (1, 2)
    ]
    assert read.skipped == ()


def test_a_folder_of_experiments_is_read_as_all_of_them():
    read = read_genai_bench(GENAI)
    assert {batch.path.parent.name for batch in read.batches} == {
        "text", "dataset", "embeddings", "rerank", "images", "speech"
    }  # fmt: skip


def test_figures_of_a_genai_bench_run_are_those_that_it_tells_itself():
    for batch in read_genai_bench(GENAI / "text").batches:
        ours, theirs = metrics(batch.measurement), batch.told
        assert ours["requests"] == theirs["num_requests"]
        assert ours["ttft.mean"] == pytest.approx(theirs["stats"]["ttft"]["mean"])
        assert ours["ttft.p90"] == pytest.approx(theirs["stats"]["ttft"]["p90"])
        assert ours["tpot.mean"] == pytest.approx(theirs["stats"]["tpot"]["mean"])
        assert ours["e2e.mean"] == pytest.approx(theirs["stats"]["e2e_latency"]["mean"])
        assert ours["output_throughput"] == pytest.approx(theirs["mean_output_throughput_tokens_per_s"], rel=1e-6)
        assert ours["request_throughput"] == pytest.approx(theirs["requests_per_second"], rel=1e-6)


def test_milliseconds_are_told_by_the_file_and_failed_requests_count():
    [batch] = read_genai_bench(GENAI / "dataset").batches
    told = batch.told
    assert told["stats"]["ttft"]["mean"] > 300  # in milliseconds
    assert metrics(batch.measurement)["ttft.mean"] == pytest.approx(told["stats"]["ttft"]["mean"] / 1e3)
    assert batch.measurement.errors == {"http-503": told["num_error_requests"]}
    assert metrics(batch.measurement)["error_rate"] == told["num_error_requests"] / told["num_requests"]


def test_two_runs_of_one_scenario_and_level_are_two_batches(tmp_path):
    source = GENAI / "text" / "D32_8_text-to-text_num_concurrency_2_time_1s.json"
    shutil.copy(source, tmp_path)
    shutil.copy(source, tmp_path / source.name.replace("time_1s", "time_7s"))
    assert [batch.scenario for batch in read_genai_bench(tmp_path).batches] == ["D(32,8)", "D(32,8)"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"aggregated_metrics": {"num_conc', "Unterminated string"),
        ('{"aggregated_metrics": {}}', "no 'num_concurrency'"),
        ("[]", "list indices"),
        ("", "Expecting value"),
    ],
)
def test_a_file_that_is_cut_short_is_skipped_and_told(tmp_path, caplog, text, why):
    shutil.copytree(GENAI / "text", tmp_path, dirs_exist_ok=True)
    broken = tmp_path / "D7_7_text-to-text_num_concurrency_2_time_1s.json"
    broken.write_text(text)
    read = read_genai_bench(tmp_path)
    assert len(read.batches) == 6
    [line] = read.skipped
    assert line.startswith(f"{broken.name}: ")
    assert why in line
    assert str(broken) in caplog.text


def test_a_folder_without_a_result_is_an_error_that_says_what_was_expected(tmp_path):
    with pytest.raises(BenchmarkError, match=r"holds no result of genai-bench; expected <scenario>_<task>"):
        read_genai_bench(tmp_path)
    (tmp_path / "D7_7_text-to-text_num_concurrency_2_time_1s.json").write_text("{")
    with pytest.raises(BenchmarkError, match=r"1 unreadable: D7_7_text"):
        read_genai_bench(tmp_path)
    with pytest.raises(BenchmarkError, match="no such folder"):
        read_genai_bench(tmp_path / "absent")


@given(
    e2e_s=st.lists(st.floats(0.001, 0.5), min_size=1, max_size=60),
    streams=st.integers(1, 8),
    idle_s=st.floats(0.0, 5.0),
)
def test_requests_are_laid_out_within_the_run_and_on_their_streams(e2e_s, streams, idle_s):
    length_s = sum(e2e_s) / streams + max(e2e_s) + idle_s
    samples = [Sample(0.0, value / 2, value, 1, 2) for value in e2e_s]
    placed = laid_out(samples, streams, length_s)
    assert sorted(sample.e2e_s for sample in placed) == pytest.approx(sorted(e2e_s))
    assert all(sample.sent_s >= 0 and sample.end_s <= length_s + 1e-9 for sample in placed)
    moments = [sample.sent_s + 1e-7 for sample in placed]
    assert max(sum(sample.sent_s <= at < sample.end_s for sample in placed) for at in moments) <= streams


def test_figures_of_vllm_bench_are_those_that_it_tells_itself():
    told = document("vllm-bench/concurrency.json")
    recorded = vllm_bench.read(told, rate=None)
    batch = measurement(
        Level(3), recorded.samples, length_s=recorded.length_s, warmup_s=0.0, client=health("vllm-bench", 0.0)
    )
    ours = metrics(batch)
    assert batch.errors == {"http-503": told["failed"]}
    assert ours["ttft.mean"] == pytest.approx(told["mean_ttft_ms"] / 1e3)
    assert ours["tpot.mean"] == pytest.approx(told["mean_tpot_ms"] / 1e3)
    assert ours["itl.p99"] == pytest.approx(told["p99_itl_ms"] / 1e3)
    assert ours["output_throughput"] == pytest.approx(told["output_throughput"], rel=1e-4)
    assert ours["request_throughput"] == pytest.approx(told["request_throughput"], rel=1e-4)
    assert recorded.begun_s == pytest.approx(min(told["start_times"]), abs=0.05)


def test_requests_of_a_rate_count_from_when_vllm_bench_made_them():
    told = document("vllm-bench/rate.json")
    recorded = vllm_bench.read(told, rate=20.0)
    assert [sample.sent_s - sample.due_s for sample in recorded.samples] == pytest.approx(told["queue_times"], abs=1e-6)
    assert {sample.error for sample in recorded.samples} == {None, "reset"}
    failed = [sample for sample in recorded.samples if sample.error]
    assert all(0 < sample.first_s <= sample.end_s for sample in failed)  # cut after some tokens
    assert 0.8 <= recorded.delivered <= 1.0


def test_a_vllm_bench_result_without_its_requests_is_refused():
    told = document("vllm-bench/concurrency.json")
    del told["start_times"]
    with pytest.raises(KeyError, match="start_times"):
        vllm_bench.read(told, rate=None)


def test_guidellm_requests_are_read_with_their_times_and_errors():
    told = document("guidellm/concurrency.json")["benchmarks"][0]
    recorded = guidellm.read({"benchmarks": [told]}, rate=None)
    good = [sample for sample in recorded.samples if sample.error is None]
    assert (len(good), len(recorded.samples) - len(good)) == (14, 3)
    assert {sample.error for sample in recorded.samples} == {None, "http-503"}
    first = told["requests"]["successful"]
    assert sorted(sample.ttft_s for sample in good) == pytest.approx(
        sorted(request["time_to_first_token_ms"] / 1e3 for request in first), abs=1e-6
    )
    assert sorted(sample.e2e_s for sample in good) == pytest.approx(
        sorted(request["request_latency"] for request in first), abs=1e-6
    )
    assert all(sample.output_tokens == 8 and sample.due_s is None for sample in good)
    assert recorded.length_s == pytest.approx(0.6, abs=0.01)


def test_a_guidellm_rate_keeps_when_requests_were_due():
    told = document("guidellm/rate.json")
    recorded = guidellm.read(told, rate=20.0)
    assert {sample.error for sample in recorded.samples} == {None, "reset"}
    assert all(sample.due_s <= sample.sent_s for sample in recorded.samples)
    assert recorded.delivered == 1.0


def test_a_guidellm_rate_that_was_another_one_is_an_error():
    told = document("guidellm/rate.json")
    with pytest.raises(BenchmarkError, match=r"guidellm sent \d+\.\d requests/s where 5 were asked for"):
        guidellm.read(told, rate=5.0)
    assert guidellm.read(told, rate=100.0).delivered < 0.3


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Service Unavailable", "http-503"),
        ("Too Many Requests", "http-429"),
        (
            "HTTPStatusError(\"Server error '500 Internal Server Error' for url 'http://127.0.0.1:8503/v1'\")",
            "http-500",
        ),
        ("Traceback ...\naiohttp.client_exceptions.ServerDisconnectedError: Server disconnected\n", "closed"),
        ("Traceback ...\nConnectionResetError(104, 'Connection reset by peer')\n", "reset"),
        ("ReadError('')", "reset"),
        ("Traceback ...\nTimeoutError\n", "timeout"),
        ("Cannot connect to host 127.0.0.1:1 [Connect call failed, Errno 111]", "connect-refused"),
        ("peer closed connection without sending complete message body (incomplete chunked read)", "cut"),
        ("Never received a valid chunk to calculate TTFT.", "empty"),
        ("something else", "failed"),
        ("", "failed"),
    ],
)
def test_errors_get_the_names_of_the_built_in_generator(text, kind):
    assert error_kind(text) == kind


def test_a_warm_up_is_cut_off_and_its_requests_are_counted():
    samples = [Sample(at, at + 0.1, at + 0.5, 10, 5) for at in (0.0, 0.5, 0.8, 1.2)]
    batch = measurement(Level(1), samples, length_s=3.0, warmup_s=1.1, client=health("x", 0.1))
    assert (batch.window_s, batch.warmup_requests) == (pytest.approx(1.9), 2)
    assert [sample.sent_s for sample in batch.samples] == pytest.approx([-0.3, 0.1])
    assert len(measured(batch.samples, batch.window_s)) == 1
    with pytest.raises(BenchmarkError, match=r"ended after 1 s, within its warm-up of 1\.1 s; shorten load\.warmup"):
        measurement(Level(1), samples, length_s=1.0, warmup_s=1.1, client=health("x", 0.1))


def test_a_tool_that_used_a_whole_core_invalidates_its_batch():
    assert health("guidellm", 0.94).saturated is None
    assert health("guidellm", 0.99).saturated.startswith("client saturated: a process of guidellm used 99% of a core")
