"""The embedded engine as a suite sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from pytest_autotune.engines.engine import Address, CauseKind, Flag
from pytest_autotune.engines.sim.arguments import Settings, non_default, parse
from pytest_autotune.engines.sim.engine import SimEngine, server_flags
from tests.simserver import ROOT, failed_start, sim_server


@dataclass(frozen=True)
class SuiteLike:
    model: str | None = "tiny"
    fixed: dict = field(default_factory=dict)
    deploy: str = "local"


ENGINE = SimEngine()
ADDRESS = Address("127.0.0.1", 8123, "m-1")


def test_inspect_tells_every_flag_but_those_of_the_deployment():
    installed = ENGINE.inspect(SuiteLike())
    assert installed.version
    assert installed.missing == ()
    assert not {"host", "port", "model", "served-model-name", "help"} & set(installed.flags)
    assert installed.flags["max-num-seqs"] == Flag("max-num-seqs", default=256)
    assert installed.flags["enable-prefix-caching"] == Flag(
        "enable-prefix-caching", default=True, boolean=True, negatable=True
    )
    assert "L4" in installed.flags["gpu"].choices
    assert installed.flags["block-size"].choices == ("8", "16", "32", "64", "128")
    assert installed.flags["fault"].many


def test_a_model_without_a_shape_is_missing():
    (missing,) = ENGINE.inspect(SuiteLike(model="gpt-5")).missing
    assert "gpt-5" in missing
    assert "llama-3.1-8b" in missing


def test_the_command_line_is_read_back_as_the_settings():
    suite = SuiteLike(
        model="meta-llama/Llama-3.1-8B-Instruct",
        fixed={"gpu": "L4", "max_num_seqs": 64, "fault": ["http-503=0.5", "garbage"], "seed": None},
    )
    configuration = {"max-num-seqs": 32, "enable-prefix-caching": False, "enforce-eager": True, "noise": 0.01}
    argv = ENGINE.command(suite, configuration, ADDRESS).argv
    assert argv[:3] == (sys.executable, "-m", "pytest_autotune.engines.sim")
    settings = parse(argv[3:])
    assert non_default(settings) == {
        "port": 8123,
        "served-model-name": "m-1",
        "gpu": "L4",
        "max-num-seqs": 32,
        "enable-prefix-caching": False,
        "enforce-eager": True,
        "noise": 0.01,
        "fault": ["http-503=0.5", "garbage"],
    }


def test_a_suite_without_model_takes_the_default_one():
    argv = ENGINE.command(SuiteLike(model=None), {}, ADDRESS).argv
    assert parse(argv[3:]).model == Settings().model


def test_the_command_finds_the_package_from_any_directory(tmp_path):
    command = ENGINE.command(SuiteLike(), {"max-num-seqs": "none"}, ADDRESS)
    assert command.env["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    ended = subprocess.run(
        command.argv,
        cwd=tmp_path,
        env={**os.environ, **command.env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert "argument --max-num-seqs: 'none' is not a whole number" in ended.stderr


def test_an_inherited_python_path_is_kept(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert ENGINE.command(SuiteLike(), {}, ADDRESS).env["PYTHONPATH"] == f"{ROOT}{os.pathsep}/elsewhere"


@pytest.mark.parametrize(
    ("fixed", "configuration", "gpus"),
    [({}, {}, 1), ({"tensor-parallel-size": 4}, {}, 4), ({"tensor_parallel_size": 4}, {"tensor-parallel-size": 2}, 2)],
)
def test_gpus_are_those_of_tensor_parallelism(fixed, configuration, gpus):
    assert ENGINE.gpus(SuiteLike(fixed=fixed), configuration) == gpus


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        pytest.param(("--model", "llama-3.1-70b"), CauseKind.OUT_OF_MEMORY, "CUDA out of memory", id="weights"),
        pytest.param(
            ("--gpu-memory-utilization", "0.01", "--gpu", "L4"), CauseKind.OUT_OF_MEMORY, "No available memory", id="kv"
        ),
        pytest.param(
            ("--model", "llama-3.1-8b", "--max-model-len", "131072", "--gpu", "L4"),
            CauseKind.OUT_OF_MEMORY,
            "larger than the available KV cache memory",
            id="context",
        ),
        pytest.param(("--tensor-parallel-sise", "1"), CauseKind.BAD_ARGUMENT, "--tensor-parallel-sise", id="unknown"),
        pytest.param(("--max-num-seqs", "0"), CauseKind.BAD_ARGUMENT, "'0' is not a whole number", id="value"),
        pytest.param(("--max-num-seqs", "9999"), CauseKind.BAD_ARGUMENT, "greater than or equal", id="contradiction"),
        pytest.param(("--model", "gpt-5"), CauseKind.MODEL, "gpt-5", id="model"),
    ],
)
def test_a_failed_start_is_classified(arguments, kind, words):
    status, log = failed_start(*arguments)
    cause = ENGINE.classify(log, status)
    assert cause.kind is kind
    assert words in cause.message
    assert "\n" not in cause.message
    assert cause.message in cause.lines


def test_a_port_in_use_is_classified():
    with sim_server() as server:
        status, log = failed_start("--port", str(server.port))
    assert ENGINE.classify(log, status).kind is CauseKind.PORT


@pytest.mark.parametrize(
    ("log", "returncode", "kind", "message"),
    [
        ("INFO ready\n", -9, CauseKind.KILLED, "killed by SIGKILL"),
        ("INFO ready\n", -64, CauseKind.KILLED, "killed by SIGRTMAX"),
        ("INFO ready\nSegmentation fault\n\n", 139, CauseKind.CRASH, "exit status 139: Segmentation fault"),
        ("", 1, CauseKind.CRASH, "exit status 1: nothing in the log"),
        ("INFO loading\n", None, CauseKind.TIMEOUT, "no answer in time"),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried\n",
            None,
            CauseKind.OUT_OF_MEMORY,
            "torch.OutOfMemoryError: CUDA out of memory. Tried",
        ),
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried\n",
            -9,
            CauseKind.OUT_OF_MEMORY,
            "torch.OutOfMemoryError: CUDA out of memory. Tried",
        ),
    ],
    ids=["signal", "odd-signal", "crash", "silent-crash", "timeout", "hanging-after-oom", "killed-after-oom"],
)
def test_an_end_is_classified_by_log_then_by_status(log, returncode, kind, message):
    cause = ENGINE.classify(log, returncode)
    assert (cause.kind, cause.message) == (kind, message)


def test_effective_settings_are_read_back_from_a_real_log():
    with sim_server("--max-num-seqs", "32", "--fault", "http-503=0.5") as server:
        effective = ENGINE.effective("".join(server.log))
    assert effective == {"max-num-seqs": 32, "max-model-len": 2048, "time-scale": 0.05, "fault": ["http-503=0.5"]}


def test_a_log_without_settings_tells_none():
    assert ENGINE.effective("INFO something else\n") == {}


def test_flags_are_the_same_as_the_settings():
    names = {name.replace("-", "_") for name in server_flags()}
    assert names == set(Settings.__dataclass_fields__) - {"host", "port", "model", "served_model_name"}
