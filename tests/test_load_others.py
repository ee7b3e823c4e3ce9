"""Load generators of others: what they are asked for, what they refuse, and how their processes are run and ended."""

import json
import math
import os
import re
import stat
import sys
import threading
import time
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import NormalDist

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.errors import BenchmarkError, MissingRequirement, SuiteError
from pytest_autotune.load.generator import Arrivals, Row, Target, Workload
from pytest_autotune.load.lengths import Fixed
from pytest_autotune.load.others import NAMES, child, genai_bench, generator_named, guidellm, vllm_bench
from pytest_autotune.load.others.refusals import refuse
from pytest_autotune.load.others.served import tokenizer_of
from pytest_autotune.load.others.shapes import FixedShape, NormalShape, UniformShape, shape_of
from pytest_autotune.samples import Level

DATA = Path(__file__).parent / "data"
TARGET = Target("http://127.0.0.1:1", "served")
CHAT = replace(TARGET, api="chat")
WORKLOAD = Workload(Fixed(32), Fixed(16), duration_s=60.0, warmup_s=0.0, request_timeout_s=5.0, seed=7)


@dataclass(frozen=True)
class Between:
    low: int
    high: int

    def at(self, quantile):
        return self.low + round(quantile * (self.high - self.low))


@dataclass(frozen=True)
class Around:
    mean: int
    sd: int

    def at(self, quantile):
        return max(1, round(NormalDist(self.mean, self.sd).inv_cdf(quantile)))


@dataclass(frozen=True)
class Skewed:
    def at(self, quantile):
        return max(1, round(100 * math.exp(NormalDist().inv_cdf(quantile))))


def options(argv):
    """Return what stands behind each flag; True where another flag or nothing does."""
    pairs = zip(argv, [*argv[1:], "--"], strict=True)
    return {flag: True if value.startswith("--") else value for flag, value in pairs if flag.startswith("--")}


@given(st.integers(1, 5000))
def test_a_fixed_length_is_recognised(tokens):
    assert shape_of(Fixed(tokens)) == FixedShape(tokens)


@given(st.integers(1, 3000), st.integers(8, 3000))
def test_a_uniform_length_is_recognised(low, width):
    assert shape_of(Between(low, low + width)) == UniformShape(low, low + width)


@given(st.integers(400, 5000), st.integers(10, 100))
def test_a_normal_length_is_recognised(mean, sd):
    assert shape_of(Around(mean, sd)) == NormalShape(mean, sd)


def test_a_template_makes_prompts_shorter_but_never_empty():
    assert shape_of(Fixed(32), less=10) == FixedShape(22)
    assert shape_of(Fixed(4), less=10) == FixedShape(1)
    assert shape_of(Between(20, 40), less=10) == UniformShape(10, 30)
    assert shape_of(Around(500, 20), less=10) == NormalShape(490, 20)


def test_another_distribution_is_none_of_them():
    assert shape_of(Skewed()) is None


@pytest.mark.parametrize("module", [genai_bench, vllm_bench, guidellm], ids=NAMES)
@pytest.mark.parametrize(
    ("changes", "level", "told"),
    [
        ({}, Level(8, "burst"), "send a burst"),
        ({}, Level(0, "stages"), "run stages"),
        ({}, Level(2, "replay"), "replay a trace"),
        ({"rows": (Row("hello"),)}, Level(8), "send a dataset"),
        ({"prefix_tokens": 16}, Level(8), "share prefixes between prompts"),
        ({"turns": Fixed(3)}, Level(8), "hold conversations"),
        ({"workers": 4}, Level(8), "be told to use 4 processes"),
        ({"prompt_tokens": Skewed()}, Level(8), r"draw prompt lengths from Skewed\(\)"),
        ({"output_tokens": Skewed()}, Level(8), r"draw output lengths from Skewed\(\)"),
        ({"max_requests": 9, "warmup_s": 1.0}, Level(8), "count requests after a warm-up"),
    ],
)
def test_what_no_other_generator_can_do_is_refused_in_one_line(module, changes, level, told):
    with pytest.raises(BenchmarkError, match=rf"^{module.TOOL} cannot {told}[^\n]*; use load\.generator: builtin$"):
        refuse(module.ABILITIES, CHAT, level, replace(WORKLOAD, **changes))


@pytest.mark.parametrize(
    ("module", "target", "level", "changes", "told"),
    [
        (genai_bench, TARGET, Level(8), {}, "load the completions API (it can load chat or embeddings or rerank)"),
        (genai_bench, CHAT, Level(8, "rate"), {}, "send requests at a rate"),
        (genai_bench, replace(CHAT, headers={"x-team": "a"}), Level(8), {}, "send the header 'x-team'"),
        (genai_bench, replace(CHAT, verify_tls=False), Level(8), {}, "leave a certificate unverified"),
        (genai_bench, CHAT, Level(8), {"max_errors": 3}, "end a batch because of its errors (load.max_errors)"),
        (vllm_bench, CHAT, Level(8), {"max_error_share": 0.5}, "end a batch because of its errors (load.max_errors)"),
        (vllm_bench, replace(CHAT, url="unix:///run/x"), Level(8), {}, "load 'unix:///run/x': it needs http://"),
        (vllm_bench, CHAT, Level(8), {"prompt_tokens": Around(500, 20)}, "draw prompt lengths from Around("),
        (guidellm, CHAT, Level(8, "rate"), {"arrivals": Arrivals(0.5)}, "send with a burstiness of 0.5"),
        (guidellm, replace(CHAT, api="rerank"), Level(8), {}, "load the rerank API (it can load chat or completions)"),
    ],
)
def test_what_one_tool_cannot_do_is_refused(module, target, level, changes, told):
    with pytest.raises(BenchmarkError) as raised:
        refuse(module.ABILITIES, target, level, replace(WORKLOAD, **changes))
    assert str(raised.value).startswith(f"{module.TOOL} cannot {told}")


@pytest.mark.parametrize(
    ("module", "target", "level", "changes"),
    [
        (genai_bench, CHAT, Level(8), {"prompt_tokens": Around(500, 20), "max_requests": 5}),
        (vllm_bench, TARGET, Level(8, "rate"), {"arrivals": Arrivals(0.5), "max_concurrency": 4}),
        (guidellm, TARGET, Level(8, "rate"), {"arrivals": Arrivals(math.inf), "max_errors": 4, "max_concurrency": 4}),
    ],
)
def test_what_a_tool_can_do_is_not_refused(module, target, level, changes):
    refuse(module.ABILITIES, target, level, replace(WORKLOAD, **changes))


@pytest.mark.parametrize(
    ("changes", "spelled"),
    [
        ({}, "D(32,16)"),
        ({"prompt_tokens": Around(480, 40), "output_tokens": Around(300, 20)}, "N(480,40)/(300,20)"),
        ({"prompt_tokens": Around(480, 40)}, "N(480,40)/(16,0)"),
        ({"prompt_tokens": Between(100, 200), "output_tokens": Between(50, 80)}, "U(100,201)/(50,81)"),
        ({"output_tokens": Between(50, 80)}, "U(32,33)/(50,81)"),
    ],
)
def test_lengths_become_a_scenario_of_genai_bench(changes, spelled):
    assert genai_bench.scenario(CHAT, Level(8), replace(WORKLOAD, **changes)) == spelled


def test_embeddings_and_reranking_become_scenarios_of_their_own():
    assert genai_bench.scenario(replace(TARGET, api="embeddings"), Level(1), WORKLOAD) == "E(32)"
    assert genai_bench.scenario(replace(TARGET, api="rerank"), Level(1), WORKLOAD) == "R(32,32)"
    with pytest.raises(BenchmarkError, match="one request at a time, not concurrency=8"):
        genai_bench.scenario(replace(TARGET, api="embeddings"), Level(8), WORKLOAD)
    mixed = replace(WORKLOAD, prompt_tokens=Around(480, 40), output_tokens=Between(50, 80))
    with pytest.raises(BenchmarkError, match="cannot mix a uniform and a normal"):
        genai_bench.scenario(CHAT, Level(8), mixed)


@pytest.mark.parametrize(
    ("warmup_s", "duration_s", "minutes"), [(0.0, 60.0, 1), (5.0, 55.0, 1), (0.0, 180.0, 3), (30.0, 90.0, 2)]
)
def test_whole_minutes_are_what_genai_bench_is_given(warmup_s, duration_s, minutes):
    workload = replace(WORKLOAD, warmup_s=warmup_s, duration_s=duration_s)
    assert genai_bench.whole_minutes(workload) == minutes
    argv = genai_bench.arguments(CHAT, Level(8), workload, tokenizer="t", minutes=minutes, traffic="D(1,2)")
    assert options(argv)["--max-time-per-run"] == str(minutes)


@pytest.mark.parametrize(("duration_s", "make"), [(30.0, 60), (61.0, 120), (0.4, 60)])
def test_a_time_that_is_no_whole_minutes_is_refused(duration_s, make):
    with pytest.raises(BenchmarkError, match=rf"load\.duration make {duration_s:g} s; make it {make} s"):
        genai_bench.whole_minutes(replace(WORKLOAD, duration_s=duration_s))


def test_genai_bench_asks_to_ignore_the_end_only_where_the_server_knows_that():
    def asked(ignore_eos):
        target = replace(CHAT, ignore_eos=ignore_eos)
        return options(genai_bench.arguments(target, Level(8), WORKLOAD, tokenizer="t", minutes=1, traffic="D(1,2)"))

    assert asked(True)["--api-backend"] == "vllm"
    assert asked(False)["--api-backend"] == "openai"
    assert "--additional-request-params" not in asked(False)


def test_vllm_bench_is_given_what_is_asked_for():
    workload = replace(WORKLOAD, prompt_tokens=Between(100, 300), seed=2**40 + 3)
    target = replace(CHAT, verify_tls=False, headers={"authorization": "Bearer k", "x-team": "a"}, ignore_eos=True)
    argv = vllm_bench.arguments(target, Level(8), workload, tokenizer="t", requests=64, seed=workload.seed)
    asked = options(argv)
    assert (asked["--backend"], asked["--endpoint"]) == ("openai-chat", "/v1/chat/completions")
    assert (asked["--max-concurrency"], asked["--num-prompts"], asked["--seed"]) == ("8", "64", "3")
    assert (asked["--random-input-len"], asked["--random-output-len"]) == ("200", "16")
    ratios = json.loads(asked["--random-range-ratio"])
    assert (math.floor(200 * (1 - ratios["input"])), math.ceil(200 * (1 + ratios["input"]))) == (100, 300)
    assert ratios["output"] == 0.0
    assert json.loads(asked["--extra-body"]) == {"ignore_eos": True}
    assert asked["--insecure"]
    assert asked["--header"] == "x-team=a"
    assert not any("Bearer" in part for part in argv)


def test_a_rate_of_vllm_bench_has_its_burstiness_and_limit():
    workload = replace(WORKLOAD, arrivals=Arrivals(0.5), max_concurrency=4)
    asked = options(vllm_bench.arguments(TARGET, Level(2.5, "rate"), workload, tokenizer="t", requests=9, seed=1))
    assert (asked["--request-rate"], asked["--burstiness"], asked["--max-concurrency"]) == ("2.5", "0.5", "4")


@given(st.integers(1, 2000), st.integers(8, 2000))
def test_a_range_of_vllm_bench_is_right_to_a_token(low, width):
    workload = replace(WORKLOAD, output_tokens=Between(low, low + width))
    asked = options(vllm_bench.arguments(TARGET, Level(1), workload, tokenizer="t", requests=1, seed=1))
    middle, ratio = int(asked["--random-output-len"]), json.loads(asked["--random-range-ratio"])["output"]
    assert abs(math.floor(middle * (1 - ratio)) - low) <= 1
    assert math.ceil(middle * (1 + ratio)) == low + width


def test_guidellm_is_given_what_is_asked_for(tmp_path):
    workload = replace(
        WORKLOAD, prompt_tokens=Around(500, 20), output_tokens=Between(8, 40), max_requests=9, max_errors=3
    )
    target = replace(CHAT, headers={"authorization": "Bearer k", "x-team": "a"})
    spec = guidellm.scenario(target, Level(8), workload, tokenizer="t", result=tmp_path / "r.json")["spec"]
    assert spec["backend"]["request_format"] == "/v1/chat/completions"
    assert (spec["backend"]["api_key"], spec["backend"]["extras"]["headers"]) == ("k", {"x-team": "a"})
    assert spec["profile"] == {"kind": "concurrent", "streams": [8]}
    assert spec["data"] == [
        {
            "kind": "synthetic_text",
            "prompt_tokens": 500,
            "prompt_tokens_stdev": 20,
            "output_tokens": 24,
            "output_tokens_min": 8,
            "output_tokens_max": 40,
        }
    ]
    assert {part["kind"]: part for part in spec["constraints"]} == {
        "max_duration": {"kind": "max_duration", "seconds": 60.0},
        "max_requests": {"kind": "max_requests", "count": 9},
        "max_errors": {"kind": "max_errors", "count": 3},
    }
    assert spec["seed"]["value"] == 7


@pytest.mark.parametrize(("burstiness", "kind"), [(1.0, "poisson"), (math.inf, "constant")])
def test_arrivals_become_a_profile_of_guidellm(tmp_path, burstiness, kind):
    workload = replace(WORKLOAD, arrivals=Arrivals(burstiness))
    spec = guidellm.scenario(TARGET, Level(2.5, "rate"), workload, tokenizer="t", result=tmp_path / "r")["spec"]
    assert spec["profile"] == {"kind": kind, "rate": [2.5], "max_concurrency": None}


@pytest.mark.parametrize(
    ("name", "install"), [("genai-bench", "genai-bench"), ("vllm-bench", "vllm"), ("guidellm", "guidellm")]
)
def test_a_tool_that_is_not_installed_says_what_to_install(name, install, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingRequirement, match=rf"{name} is not installed: `pip install {install}`"):
        generator_named(name, python=None)
    with pytest.raises(MissingRequirement, match=rf"has no package .*-m pip install {install}`"):
        generator_named(name, python=sys.executable)
    with pytest.raises(MissingRequirement, match="absent cannot be run: No such file"):
        generator_named(name, python=str(tmp_path / "absent"))


def test_an_unknown_generator_is_told_with_the_nearest():
    with pytest.raises(SuiteError, match=r"'guidelm' is no load generator .* did you mean 'guidellm'\?"):
        generator_named("guidelm", python=None)


@pytest.fixture
def listing():
    """Serve a list of models; the test may change what is answered."""
    answer = {"status": 200, "body": b"", "headers": []}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer["headers"].append((self.path, self.headers.get("authorization")))
            self.send_response(answer["status"])
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *_arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        answer["url"] = f"http://127.0.0.1:{server.server_port}/base"
        yield answer
        server.shutdown()
        thread.join()


def test_the_tokenizer_is_what_the_server_has_loaded(listing):
    listing["body"] = b'{"data": [{"id": "other", "root": "x"}, {"id": "served", "root": "org/model"}]}'
    target = replace(TARGET, url=listing["url"], headers={"authorization": "Bearer k"})
    assert tokenizer_of(target, None, "guidellm") == "org/model"
    assert listing["headers"] == [("/base/v1/models", "Bearer k")]
    assert tokenizer_of(target, "mine", "guidellm") == "mine"
    listing["body"] = b'{"data": [{"id": "served"}]}'
    assert tokenizer_of(target, None, "guidellm") == "served"


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, b'{"data": [{"id": "other"}]}', "it lists no such model"),
        (200, b"<html>", "Expecting value"),
        (200, b"[]", "list indices must be integers"),
        (401, b"", "HTTP Error 401"),
    ],
)
def test_a_server_that_does_not_tell_its_model_needs_a_tokenizer_named(listing, status, body, told):
    listing.update(status=status, body=body)
    with pytest.raises(BenchmarkError, match=rf"^guidellm needs a tokenizer, .* 'served' \({told}"):
        tokenizer_of(replace(TARGET, url=listing["url"]), None, "guidellm")


def run(script, *, limit_s=30.0, died=lambda: None, on_progress=lambda _progress: None, secrets=(), **markers):
    with child.fresh_directory("tool") as directory:
        command = child.Command("tool", (sys.executable, "-c", script), dict(os.environ), secrets=secrets, **markers)
        plan = child.Plan(0.0, 10.0, limit_s)
        outcome = child.run_child(command, directory, plan, died=died, on_progress=on_progress)
        return outcome, outcome.tail()


TREE = """
import subprocess, sys, time
more = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", more], start_new_session=True)
time.sleep(600)
"""


def below():
    """Return the living processes that this one has started."""
    return [process for process in psutil.Process().children(recursive=True) if lives(process)]


def lives(process):
    try:
        return process.is_running() and process.status() != "zombie"
    except psutil.NoSuchProcess:
        return False


def test_a_dead_server_ends_the_tool_and_all_of_its_processes():
    begun_s = time.monotonic()
    with pytest.raises(BenchmarkError, match="the server is gone while tool loaded it: out of memory"):
        run(TREE, died=lambda: "out of memory" if time.monotonic() > begun_s + 1 else None)
    assert time.monotonic() - begun_s < 15
    assert not below()


def test_an_interrupt_ends_the_tool_and_all_of_its_processes():
    reports = []

    def interrupt(progress):
        reports.append(progress)
        if len(reports) == 3:
            raise KeyboardInterrupt

    begun_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(TREE, on_progress=interrupt)
    assert time.monotonic() - begun_s >= 1.9  # a report each second
    assert not below()


def test_a_tool_past_its_limit_is_killed_and_what_it_said_is_kept():
    outcome, tail = run(TREE, limit_s=5.0)
    assert (outcome.returncode, outcome.how()) == (None, "tool did not end in time")
    assert outcome.trouble == "tool did not end in time: up" == f"tool did not end in time: {tail}"
    assert not below()


def test_the_log_tells_when_the_load_begins_and_how_far_it_is():
    script = (
        "import time\nprint('begin', flush=True)\n"
        "for n in range(25):\n    print(f'\\r {n}/25 [', end='', flush=True); time.sleep(0.1)\n"
        "print('\\nend', flush=True); time.sleep(0.6)"
    )
    reports = []
    outcome, _ = run(
        script, on_progress=reports.append, begins="begin", ends="end", finished=re.compile(r"(\d+)/25 \[")
    )
    assert outcome.returncode == 0
    assert outcome.trouble == ""
    assert 2.0 < outcome.ended_s - outcome.begun_s < 8
    assert reports[0].phase == "warm-up" or reports[0].elapsed_s < 1
    assert [report.finished for report in reports] == sorted(report.finished for report in reports)
    assert reports[-1].finished > 5


def test_a_failure_is_told_with_its_last_words_and_without_secrets():
    outcome, tail = run(
        "import sys; print('key hunter2hunter2', flush=True); sys.exit('\\x1b[31mno such model\\x1b[0m')",
        secrets=("hunter2hunter2",),
    )
    assert outcome.trouble == "tool ended with status 1: key *** | no such model"
    assert "hunter2" not in tail


def test_a_tool_that_cannot_be_started_is_told():
    with child.fresh_directory("tool") as directory:
        command = child.Command("tool", (str(directory / "absent"),), dict(os.environ))
        with pytest.raises(BenchmarkError, match=r"tool could not be started: .*absent: No such file or directory"):
            child.run_child(
                command, directory, child.Plan(0.0, 1.0, 5.0), died=lambda: None, on_progress=lambda _progress: None
            )


def test_the_cpu_seconds_of_the_busiest_process_are_known():
    script = "import time; end = time.monotonic() + 2.5\nwhile time.monotonic() < end: pass"
    outcome, _ = run(script)
    busy = outcome.cpu_share(outcome.started_s + 0.5, outcome.ended_s)
    assert 0.1 < busy < 1.2
    idle, _ = run("import time; time.sleep(1.5)")
    assert idle.cpu_share(idle.started_s + 0.5, idle.ended_s) < busy


def test_each_run_has_a_directory_of_its_own_that_nobody_else_can_read():
    with child.fresh_directory("tool") as first, child.fresh_directory("tool") as second:
        assert first != second
        assert list(first.iterdir()) == []
        assert stat.S_IMODE(first.stat().st_mode) == 0o700
    assert not first.exists()


def test_no_proxy_stands_between_a_tool_and_its_server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "example.org")
    env = child.environment("http://10.1.2.3:8000/base")
    assert env["NO_PROXY"] == "example.org,10.1.2.3"


# A stand-in for an interpreter with genai-bench, for what the real one does not do at will.
STAND_IN = """#!{python}
import pathlib, shutil, sys
arguments = sys.argv[1:]
if arguments[0] == "-c":
    sys.exit(0)
base = pathlib.Path(arguments[arguments.index("--experiment-base-dir") + 1])
folder = base / arguments[arguments.index("--experiment-folder-name") + 1]
assert not folder.exists()
folder.mkdir()
data = pathlib.Path({data!r})
{body}
"""
RESULT = "D32_8_text-to-text_num_concurrency_2_time_1s.json"


def stand_in(tmp_path, body):
    python = tmp_path / "python"
    python.write_text(STAND_IN.format(python=sys.executable, data=str(DATA / "genai-bench"), body=body))
    python.chmod(0o755)
    return generator_named("genai-bench", python=str(python), tokenizer="t")


def load(generator):
    return generator.run(CHAT, Level(2), WORKLOAD, died=lambda: None, on_progress=lambda _progress: None)


def test_a_result_that_was_written_before_a_failure_is_read(tmp_path):
    body = f"shutil.copy(data / 'text' / {RESULT!r}, folder)\nsys.exit('boom')"
    measured = load(stand_in(tmp_path, body))
    assert len(measured.samples) == 4
    assert measured.stopped == "genai-bench ended with status 1: boom"


def test_a_corrupt_file_is_skipped_counted_and_told(tmp_path):
    body = (
        f"shutil.copy(data / 'text' / {RESULT!r}, folder)\n"
        "(folder / 'D1_1_text-to-text_num_concurrency_2_time_1s.json').write_text('{')"
    )
    measured = load(stand_in(tmp_path, body))
    assert len(measured.samples) == 4
    assert measured.stopped.startswith("skipped 1 unreadable result file (D1_1_text-to-text_num_concurrency_2")


def test_what_is_left_when_every_request_failed_is_read(tmp_path):
    body = "shutil.copy(data / 'failed' / 'debug_for_run_D32_8_1.json', folder)\nsys.exit('no values')"
    measured = load(stand_in(tmp_path, body))
    assert measured.errors == {"http-503": 4}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("sys.exit('no such tokenizer')", "genai-bench ended with status 1 without a result: no such tokenizer"),
        ("pass", "genai-bench ended with status 0 without a result: nothing"),
        (
            f"(folder / {RESULT!r}).write_text('[')",
            rf"genai-bench ended with status 0 without a result (skipped 1 unreadable result file ({RESULT}: ",
        ),
    ],
)
def test_no_result_at_all_is_an_error_with_the_last_words_of_the_tool(tmp_path, body, told):
    with pytest.raises(BenchmarkError) as raised:
        load(stand_in(tmp_path, body))
    assert str(raised.value).startswith(told)
