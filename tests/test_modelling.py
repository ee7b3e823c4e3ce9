"""A prior from aiconfigurator: what it is asked, and what of its answer a suite can try."""

import logging
from types import SimpleNamespace

import pytest

from pytest_autotune.beginning import first_of
from pytest_autotune.hardware import Gpu
from pytest_autotune.modelling import expressed, modelled, question_of
from pytest_autotune.suite_file import load_suite

SUITE = """\
name: chat
engine: vllm
model: some/Model-8B
parameters:
  tensor-parallel-size: [1, 2, 4]
  max_num_seqs: {int: [16, 250], step: 8}
load: {prompt_tokens: 1000, output_tokens: 200, concurrency: [8]}
slo: {ttft.p90: 500ms, ttft.mean: 300ms, tpot.p90: 30ms}
search: {strategy: tpe, prior: 2}
"""

LIBRARY = """\
import json, os, socket

class Frame(list):
    def to_dict(self, orient):
        return list(self)

class Result:
    best_configs = {"agg": Frame([
        {"tp": 2, "pp": 1, "dp": 1, "bs": 40, "moe_ep": 1},
        {"tp": 2, "pp": 1, "dp": 1, "bs": 40, "moe_ep": 2},
        {"tp": 4, "pp": 1.0, "dp": 1, "bs": 999},
    ])}

def cli_default(**question):
    print("noise")
    with open(os.environ["ASKED"], "w") as file:
        json.dump(question, file)
    if question["isl"] == 13:
        socket.create_connection(("127.0.0.1", 1))
    return Result
"""


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A suite for two H100, with `text` in place of others; nothing of a hub is here."""
    for variable in ("HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    have(monkeypatch, "NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3")

    def load(*changes):
        text = SUITE
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        path = tmp_path / "chat.yaml"
        path.write_text(text)
        return load_suite(path)

    return load


def have(monkeypatch, *names):
    gpus = tuple(Gpu(index, f"GPU-{index}", name, 80 * 2**30, "1") for index, name in enumerate(names))
    monkeypatch.setattr("pytest_autotune.hardware._all_gpus", lambda: gpus)


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Something in the place of aiconfigurator that notes what it is asked."""
    package = tmp_path / "library" / "aiconfigurator"
    (package / "cli").mkdir(parents=True)
    for name, text in (("__init__.py", ""), ("cli/__init__.py", ""), ("cli/api.py", LIBRARY)):
        (package / name).write_text(text)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setenv("ASKED", str(tmp_path / "asked.json"))
    return tmp_path / "asked.json"


def test_question_is_of_the_model_the_machine_the_load_and_the_tightest_limits(suite):
    assert question_of(suite()) == {
        "model_path": "some/Model-8B",
        "total_gpus": 2,
        "system": "h100_sxm",
        "backend": "vllm",
        "isl": 1000,
        "osl": 200,
        "ttft": 300.0,
        "tpot": 30.0,
        "top_n": 16,
    }
    question = question_of(suite(("tpot.p90: 30ms", "e2e.p99: 4s")))
    assert (question["tpot"], question["request_latency"]) == (1e6, 4000.0)


def test_a_model_of_a_hub_that_is_here_is_read_from_its_files(suite, tmp_path):
    snapshot = tmp_path / "cache" / "hub" / "models--some--Model-8B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    assert question_of(suite())["model_path"] == str(snapshot)


@pytest.mark.parametrize(
    ("names", "system"),
    [
        (["NVIDIA H200"], "h200_sxm"),
        (["NVIDIA H100 PCIe"], "h100_pcie"),
        (["NVIDIA A100-SXM4-80GB"] * 2, "a100_sxm"),
        (["NVIDIA L40S"], "l40s"),
        (["NVIDIA L4"], "l4"),
        (["NVIDIA GB200"], "gb200"),
        (["NVIDIA GeForce RTX 4090"], None),
        (["NVIDIA A100-SXM4-40GB"], None),
        (["NVIDIA H200", "NVIDIA L4"], None),
        ([], None),
    ],
)
def test_machine_is_one_that_is_modelled_or_there_is_no_question(suite, monkeypatch, names, system):
    have(monkeypatch, *names)
    question = question_of(suite())
    assert (None if question is None else question["system"]) == system


def layout(tp, bs, pp=1, dp=1):
    return {"tp": tp, "pp": pp, "dp": dp, "bs": bs}


@pytest.mark.parametrize(
    ("changes", "rows", "found"),
    [
        ((), [layout(2, 40)], [{"tensor-parallel-size": 2, "max_num_seqs": 40}]),
        ((), [layout(1, 41)], [{"tensor-parallel-size": 1, "max_num_seqs": 48}]),
        ((), [layout(1, 1)], [{"tensor-parallel-size": 1, "max_num_seqs": 16}]),
        ((), [layout(4, 999)], [{"tensor-parallel-size": 4, "max_num_seqs": 248}]),
        ((), [layout(8, 40), layout(1, 40, pp=2), layout(1, 40, dp=2)], []),
        ((("max_num_seqs: {int: [16, 250], step: 8}", "max-num-seqs: [8, 64]"),), [layout(1, 9)], [{"tensor-parallel-size": 1, "max-num-seqs": 64}]),
        ((("max_num_seqs: {int: [16, 250], step: 8}", "block-size: [8, 64]"),), [layout(1, 9)], [{"tensor-parallel-size": 1}]),
        ((("load:", "fixed: {data-parallel-size: 2}\nload:"),), [layout(1, 16), layout(2, 16, dp=2)], [{"tensor-parallel-size": 2, "max_num_seqs": 16}]),
        ((("  tensor-parallel-size: [1, 2, 4]\n", ""),), [layout(2, 16), layout(1, 16)], [{"max_num_seqs": 16}]),
    ],
)  # fmt: skip
def test_what_the_suite_can_try_of_an_answer_is_in_its_own_words(suite, changes, rows, found):
    assert list(expressed(rows, suite(*changes))) == found


def test_library_is_asked_in_a_process_of_its_own(suite, library):
    assert modelled(suite()) == (
        {"tensor-parallel-size": 2, "max_num_seqs": 40},
        {"tensor-parallel-size": 4, "max_num_seqs": 248},
    )
    assert library.exists()


@pytest.mark.parametrize(
    "change",
    [("engine: vllm", "engine: sim"), ("engine: vllm", "engine: vllm\ndeploy: cluster")],
    ids=["another engine", "another machine"],
)
def test_library_is_not_asked_about_what_it_does_not_model(suite, library, change):
    assert modelled(suite(change)) == ()
    assert not library.exists()


def test_library_that_is_not_installed_says_nothing(suite):
    assert modelled(suite()) == ()


def test_library_makes_no_connection_and_a_failure_is_only_logged(suite, library, caplog):
    caplog.set_level(logging.INFO, logger="pytest_autotune")
    assert modelled(suite(("prompt_tokens: 1000", "prompt_tokens: 13"))) == ()
    assert library.exists()
    assert "no prior: aiconfigurator failed: OSError: no connection is made for a prior" in caplog.text


@pytest.mark.parametrize(
    ("search", "answer", "prior"),
    [
        ("prior: 1", None, [{"tensor-parallel-size": 4, "max_num_seqs": 248}]),
        ("prior: 1", [{"max_num_seqs": 24}], [{"max_num_seqs": 24}]),
        ("prior: 1", [], []),
        ("prior: 0", None, []),
        ("seed: 0", None, []),
    ],
    ids=["asked for", "a plugin's comes first", "a plugin's is none", "switched off", "not asked for"],
)
def test_library_is_asked_where_a_suite_says_so_and_no_plugin_answers(suite, library, search, answer, prior):
    known = ({"tensor-parallel-size": 2, "max_num_seqs": 40},)
    plan = SimpleNamespace(suite=suite(("prior: 2", f"earlier: 0, {search}")), first=known)
    found = first_of(plan, None, ask=lambda suite, configurations: answer, fresh=False)  # noqa: ARG005 - of the hook
    assert found == {"earlier": [], "prior": prior}
    assert library.exists() is (search == "prior: 1" and answer is None)
