"""``python -m pytest_autotune load --read``: results of genai-bench in the same table and JSON."""

import json
import re

import pytest

from tests.loadcommand import load, read


def result(ttfts, *, concurrency=2, scenario="D(100,100)", failed=0):
    """A result file as genai-bench 0.0.5 writes it, with what is read of it."""
    requests = [
        {
            "error_code": None,
            "error_message": None,
            "ttft": ttft,
            "e2e_latency": ttft + 0.99,
            "num_input_tokens": 100,
            "num_output_tokens": 100,
        }
        for ttft in ttfts
    ]
    requests += [{"error_code": 503, "error_message": "overloaded"}] * failed
    told = {
        "scenario": scenario,
        "num_concurrency": concurrency,
        "iteration_type": "num_concurrency",
        "run_duration": 60.0,
    }
    return json.dumps({"aggregated_metrics": told, "individual_request_metrics": requests, "_time_unit": "s"})


@pytest.fixture
def folder(tmp_path):
    experiment = tmp_path / "experiment"
    experiment.mkdir()
    for name, text in (
        ("D(100,100)_text-to-text_num_concurrency_2_time_60s.json", result([0.1, 0.2, 0.3], failed=1)),
        ("D(100,100)_text-to-text_num_concurrency_4_time_60s.json", result([0.4, 0.5], concurrency=4)),
        ("D(9,9)_text-to-text_num_concurrency_2_time_60s.json", "{ cut"),
    ):
        (experiment / name).write_text(text)
    return experiment


def test_a_folder_is_shown_with_limits_and_written(folder, tmp_path):
    status, output, said = load(
        "--read", str(folder), "--slo", "ttft.p50<=300ms", "--gpus", "2", "--json", str(tmp_path / "a.json")
    )
    assert status == 1
    assert re.fullmatch(r"pytest_autotune load: skipped \S+D\(9,9\)_text\S+json: .*\n", said)
    _, header, first, second, *findings = output.splitlines()
    assert "delivered" not in header
    assert "client" not in header
    assert first.split()[:5] == ["D(100,100)", "c2", "4", "1", "200"]
    assert first.split()[-1] == "compliant"
    assert second.split()[-1] == "violating"
    assert findings[0] == "D(100,100) c2: 1 of 4 requests failed: http-503 1"
    assert findings[1] == "D(100,100) c4: SLO missed: ttft.p50: 450 ms > 300 ms (+50 %)"
    document = read(tmp_path / "a.json")
    assert [batch["concurrency"] for batch in document["batches"]] == [2, 4]
    batch = document["batches"][0]
    assert batch["scenario"] == "D(100,100)"
    assert batch["ttft"]["p50"] == pytest.approx(0.2)
    assert batch["tpot"]["mean"] == pytest.approx(0.01)
    assert batch["errors"] == {"http-503": 1}
    assert batch["output_throughput"] == pytest.approx(5.0)
    assert batch["output_throughput_per_gpu"] == pytest.approx(2.5)
    assert len(document["skipped"]) == 1
    assert "health" not in batch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--read", "/no/such/folder"], "no such folder: /no/such/folder"),
        (["--read", ".", "--concurrency", "1"], "--concurrency: nothing is loaded with --read; remove one of them"),
        (["--read", ".", "--slo", "ttft<=1s"], "--slo: 'ttft' is a distribution"),
    ],
)
def test_what_cannot_be_read_is_exit_status_4_and_one_line(arguments, message):
    status, output, said = load(*arguments)
    assert (status, output) == (4, "")
    assert message in said
    assert said.count("\n") == 1
