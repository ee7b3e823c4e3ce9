"""`gpus:` of a suite: how it may be written, what it changes and what not, and how many trials fit for `-n auto`."""

from __future__ import annotations

import pytest

from pytest_autotune import hardware
from pytest_autotune.engines import requirements
from pytest_autotune.hardware import Gpu
from pytest_autotune.suite_file import load_suite
from pytest_autotune.suite_gpus import GpuPool
from pytest_autotune.workers import workers_for

GIB = 2**30
FOUR = tuple(Gpu(index, f"GPU-{index:08x}", "NVIDIA H100", 80 * GIB, "570") for index in range(4))
HEAD = "name: chat\nengine: vllm\nmodel: llama\n"


@pytest.fixture
def load(tmp_path):
    """Load a suite with some lines."""

    def loaded(*lines):
        path = tmp_path / "chat.yaml"
        path.write_text("".join(f"{line}\n" for line in (HEAD.rstrip(), *lines)))
        return load_suite(path)

    return loaded


@pytest.fixture
def machine(monkeypatch):
    """Four GPUs and 32 cores."""
    monkeypatch.setattr(hardware, "_all_gpus", lambda: FOUR)
    monkeypatch.setattr(hardware, "cores", lambda: 32)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("written", "per_server", "pool"),
    [
        ("2", 2, {}),
        ("0", 0, {}),
        ("auto", None, {}),
        ("none", 0, {"leased": False}),
        ("[1, 0, GPU-5fd4]", None, {"members": (1, 0, "GPU-5fd4")}),
        ("{per_server: 2, pool: auto}", 2, {}),
        ("{pool: none}", 0, {"leased": False}),
        ("{pool: none, per_server: 2}", 2, {"leased": False}),
        ("{pool: [3], wait: 0}", None, {"members": (3,), "wait_s": 0.0}),
        ("{pretend: 8, per_server: 4}", 4, {"pretended": 8}),
        ("{memory: 90%}", None, {"memory_share": 0.9}),
        ("{memory: 20GiB}", None, {"memory_share": 0.0, "memory_bytes": 20 * GIB}),
        (
            "{utilization: 20%, shared: true, balance: 0.5, weight: 100%, wait: 30m}",
            None,
            {"utilization": 0.2, "shared": True, "balance": 0.5, "weight": 1.0, "wait_s": 1800.0},
        ),
    ],
)
def test_every_form_is_read(load, written, per_server, pool):
    suite = load(f"gpus: {written}")
    assert (suite.gpus, suite.pool) == (per_server, GpuPool(**pool))


def test_only_what_one_server_takes_is_part_of_what_was_measured(load):
    plain, two = load().measurement_key(), load("gpus: 2").measurement_key()
    assert plain != two
    assert load("gpus: {per_server: 2, pool: [0, 1], wait: 5m}").measurement_key() == two
    assert {load(f"gpus: {pool}").measurement_key() for pool in ("auto", "[0, 1]", "{pretend: 8}")} == {plain}


@pytest.mark.parametrize(
    ("lines", "visible", "missing"),
    [
        pytest.param(["gpus: 4"], None, None, id="enough"),
        pytest.param(["gpus: 5"], None, "needs 5 GPUs, this machine has 4", id="too few"),
        pytest.param(["gpus: 2"], "1", "needs 2 GPUs, this machine has 1", id="too few visible"),
        pytest.param(["gpus: [0, 7]"], None, "gpus: there is no GPU 7 here, only 0, 1, 2, 3", id="not there"),
        pytest.param(["gpus: [0]"], "2,3", "gpus: there is no GPU 0 here, only 2, 3", id="not visible"),
        pytest.param(["gpus: [GPU-00000002]"], None, None, id="by UUID"),
        pytest.param(["gpus: {per_server: 2, pool: [1]}"], None, "needs 2 GPUs, 1 may be taken (gpus:)", id="small pool"),
        pytest.param(["gpus: {per_server: 9, pretend: 8}"], None, "needs 9 GPUs, 8 may be taken (gpus:)", id="pretended"),
        pytest.param(["gpus: {pretend: 8}", "fixed: {tp: 8}"], None, None, id="more than there are"),
        pytest.param(["gpus: none", "fixed: {tp: 8}"], None, None, id="none"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_before_anything_starts(load, machine, monkeypatch, lines, visible, missing):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert requirements.missing_gpus(load(*lines)) == missing


ENDPOINT = "name: live\nengine: endpoint\nurl: http://127.0.0.1:8000\n"
SIM = "name: sim\nengine: sim\nmodel: llama-3.1-8b\n"


@pytest.mark.parametrize(
    ("suites", "workers"),
    [
        pytest.param([HEAD], 4, id="one each"),
        pytest.param([HEAD + "parameters: {tp: [2, 4]}\n"], 2, id="the smallest server"),
        pytest.param([HEAD + "gpus: {per_server: 2, pool: [0, 1, 2]}\n"], 1, id="a pool"),
        pytest.param([HEAD + "gpus: 2\n", SIM + "gpus: {pretend: 16}\n"], 16, id="the suite with the most"),
        pytest.param([SIM + "gpus: {pretend: 64}\n"], 31, id="no more than cores"),
        pytest.param([SIM], 31, id="no GPUs are needed"),
        pytest.param([HEAD + "gpus: none\n"], 31, id="no GPUs are leased"),
        pytest.param([HEAD + "gpus: 8\n"], 1, id="none fits"),
        pytest.param([ENDPOINT], 1, id="one server for all"),
        pytest.param([HEAD + "gpus: 2\n", "name: [broken\n"], 2, id="what is wrong is told later"),
        pytest.param(["name: [broken\n"], None, id="nothing is known"),
        pytest.param([], None, id="no suite"),
    ],
)
def test_as_many_workers_are_started_as_trials_fit(tmp_path, machine, suites, workers):
    paths = [tmp_path / f"{number}.yaml" for number in range(len(suites))]
    for path, text in zip(paths, suites, strict=True):
        path.write_text(text)
    assert workers_for(paths) == workers


def test_one_core_is_one_worker(tmp_path, machine, monkeypatch):
    monkeypatch.setattr(hardware, "cores", lambda: 1)
    (tmp_path / "sim.yaml").write_text(SIM)
    assert workers_for([tmp_path / "sim.yaml"]) == 1
