"""`python -m pytest_autotune new`: suites to begin with, from options and by asking on a terminal."""

import io
import json
import os
import pty
import shlex
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.__main__ import main
from pytest_autotune.drafting import USABLE, TooLong, Wanted, degrees, draft
from pytest_autotune.engines.vllm_rules import Checkpoint
from pytest_autotune.hardware import Gpu
from pytest_autotune.suite_file import load_suite
from tests.documents import ROOT, commands

GIB = 2**30
LLAMA = {"model_type": "llama", "max_position_embeddings": 8192, "num_attention_heads": 32}


def gpus(number, *, gib=80):
    return [Gpu(index, f"GPU-{index}", "NVIDIA H100 80GB HBM3", gib * GIB, "570.1") for index in range(number)]


def wanted(**said):
    return Wanted(**{"name": "chat", "engine": "vllm", "model": "org/model", **said})


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current directory, on a machine that has no GPUs for this test, and no cache of models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pytest_autotune.hardware.gpus", lambda: ())
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    return tmp_path


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["new", *arguments])
    assert ended.value.code == 4
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("heads", "stored", "found", "tried"),
    [
        (32, 16 * GIB, gpus(8), (1, 2, 4, 8)),
        (32, 140 * GIB, gpus(8), (2, 4, 8)),
        (28, 15 * GIB, gpus(8), (1, 2, 4)),  # of Qwen2.5-7B
        (32, 140 * GIB, gpus(1), (1,)),  # which the engine refuses, and says why
        (0, 0, gpus(2), (1, 2)),
        (64, 140 * GIB, gpus(3, gib=100), (2,)),
        (32, 16 * GIB, gpus(0), ()),
    ],
)
def test_degrees_of_parallelism_share_the_heads_and_hold_the_weights(heads, stored, found, tried):
    assert degrees(heads, stored, found) == tried


@given(st.integers(1, 128), st.integers(0, 2000), st.integers(1, 16))
def test_no_degree_is_more_than_there_is(heads, stored_gib, number):
    tried = degrees(heads, stored_gib * GIB, gpus(number))
    assert tried
    assert all(degree <= number and heads % degree == 0 for degree in tried)
    assert len(tried) == 1 or all(stored_gib / degree < USABLE * 80 for degree in tried)


def test_a_model_that_is_here_tells_what_it_can_be_asked_for():
    drafted = draft(wanted(), Checkpoint(LLAMA, 16 * GIB), gpus(4))
    document = drafted.document
    assert document["parameters"] == {"preset": "vllm-quick", "parallelism": ["tp1", "tp2", "tp4"]}
    assert document["fixed"] == {"context-length": 768}
    assert document["objective"] == "maximize output_throughput_per_gpu"
    assert any("4 x NVIDIA H100" in remark for remark in drafted.remarks)


def test_a_model_that_needs_all_gpus_gets_them():
    document = draft(wanted(), Checkpoint(LLAMA, 140 * GIB), gpus(2)).document
    assert document["fixed"]["parallelism"] == "tp2"
    assert document["parameters"] == {"preset": "vllm-quick"}


def test_a_load_that_the_model_cannot_take_is_refused():
    with pytest.raises(TooLong, match="9000 tokens of prompt and output are more than the model takes: 8192"):
        draft(wanted(prompt_tokens=8000, output_tokens=1000), Checkpoint(LLAMA), gpus(1))
    longest = draft(wanted(prompt_tokens=8000, output_tokens=190), Checkpoint(LLAMA), gpus(1)).document
    assert longest["fixed"]["context-length"] == 8192


def test_without_gpus_the_embedded_engine_is_taken_and_its_suite_is_planned(project, monkeypatch, capsys):
    monkeypatch.chdir(project.path)
    monkeypatch.setattr("pytest_autotune.hardware.gpus", lambda: ())
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["new"]) == 0
    path = "suites/Llama-3.1-8B-Instruct.yaml"
    assert capsys.readouterr().out.endswith(f"written: {path}\nnext: pytest {path} --autotune\n")
    result = project.run(path, "--autotune", "--collect-only", "-q")
    assert result.ret == 0
    assert sum("::capacity" in line for line in result.outlines) >= 2


def test_options_say_it_all(here):
    arguments = ["--engine", "vllm", "--model", "org/model", "--image", "vllm/vllm-openai:v0.11.0"]
    arguments += ["--prompt-tokens", "64", "--output-tokens", "32", "--slo", "ttft.p99=500ms", "--slo", "error_rate=1%"]
    assert main(["new", "mine/chat.yaml", *arguments]) == 0
    suite = load_suite(here / "mine" / "chat.yaml")
    assert (suite.name, suite.engine, suite.deploy, suite.model) == ("chat", "vllm", "docker", "org/model")
    assert [str(limit.metric) for limit in suite.slo] == ["ttft.p99", "error_rate"]
    assert suite.load.prompt_tokens.tokens == 64


def test_the_command_that_the_docs_show_does_what_they_say(here):
    (line,) = (line for line in commands(ROOT / "docs" / "suites.md") if " new " in line)
    assert main(shlex.split(line)[3:]) == 0
    suite = load_suite(here / "suites" / "Llama-3.1-8B-Instruct.yaml")
    assert {parameter.name for parameter in suite.space.parameters} == {"max-num-seqs", "max-num-batched-tokens"}


@pytest.mark.parametrize(
    ("arguments", "lacks"),
    [
        (["--engine", "sim", "--model", "demo"], "engine sim has no shape of model 'demo'"),
        (["--engine", "llamacpp", "--model", "none.gguf"], "llama-server"),
    ],
)
def test_what_is_missing_here_is_said_beside_the_suite(here, monkeypatch, capsys, arguments, lacks):
    monkeypatch.setenv("PATH", str(here))
    assert main(["new", "a.yaml", *arguments]) == 0
    missing = [line for line in capsys.readouterr().out.splitlines() if line.startswith("missing here: ")]
    assert any(lacks in line for line in missing)


def test_an_endpoint_needs_its_url_only(here):
    assert main(["new", "--url", "http://127.0.0.1:8000", "--slo", "rag"]) == 0
    suite = load_suite(here / "suites" / "endpoint.yaml")
    assert (suite.engine, suite.url, suite.space.parameters) == ("endpoint", "http://127.0.0.1:8000", ())


@pytest.mark.parametrize("cached", [True, False])
def test_config_json_is_read_where_it_is(here, cached):
    place = here / "hub/hub/models--org--model/snapshots/1" if cached else here / "model"
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(LLAMA))
    assert main(["new", "a.yaml", "--engine", "vllm", "--model", "org/model" if cached else "model"]) == 0
    suite = load_suite(here / "a.yaml")
    assert suite.fixed["context-length"] == 768
    assert suite.model == ("org/model" if cached else str(here / "model"))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--engine", "vllm"], "which model is to be served? say --model"),
        (["--engine", "endpoint"], "an endpoint needs --url"),
        (["--url", "http://h:1", "--image", "i"], "nothing is started of an endpoint"),
        (["--model", "m", "--prompt-tokens", "0"], "--prompt-tokens 0 is less than 1"),
        (["--model", "m", "--slo", "chta"], "'chta' is no preset for slo (did you mean 'chat'?)"),
        (["--model", "m", "--slo", "ttft.p99=1", "--slo", "chat"], "--slo chat: one preset, or limits"),
        (["--model", "m", "--slo", "ttft.p99=1"], "has no unit"),
    ],
)
def test_what_makes_no_suite_is_one_line(here, capsys, arguments, problem):
    assert problem in refusal(capsys, *arguments)
    assert not (here / "suites").exists()


def test_a_file_that_is_there_stays_without_force(here, capsys):
    (here / "chat.yaml").write_text("mine")
    assert "chat.yaml is there; --force replaces it" in refusal(capsys, "chat.yaml", "--model", "m")
    assert main(["new", "chat.yaml", "--model", "m", "--force"]) == 0
    assert load_suite(here / "chat.yaml").model == "m"


@pytest.mark.parametrize("complete", [True, False])
def test_on_a_terminal_what_is_not_said_is_asked(tmp_path, complete):
    leader, follower = pty.openpty()
    answers = ["vlm", "sim", "llama-3.1-8b", "many", "64", "", "rag"] if complete else ["sim"]
    os.write(leader, "".join(f"{answer}\n" for answer in answers).encode() + (b"" if complete else b"\x04"))
    command = [sys.executable, "-m", "pytest_autotune", "new"]
    with os.fdopen(leader, "rb"):
        ended = subprocess.run(
            command, cwd=tmp_path, stdin=follower, capture_output=True, text=True, timeout=60, check=False
        )
        os.close(follower)
    if not complete:
        assert (ended.returncode, "the answers ended before the questions" in ended.stderr) == (4, True)
        return
    assert ended.returncode == 0, ended.stderr
    assert "'vlm' is none of them" in ended.stdout
    assert "'many' is not a whole number of at least 1" in ended.stdout
    suite = load_suite(tmp_path / "suites" / "llama-3.1-8b.yaml")
    assert (suite.engine, suite.load.prompt_tokens.tokens, suite.load.output_tokens.tokens) == ("sim", 64, 128)
    assert {limit.metric for limit in suite.slo} >= {"ttft.p99"}
