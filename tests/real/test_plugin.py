"""The main job on a real vLLM: `pytest suites/vllm_cpu.yaml --autotune`, and the exported command starts a server."""

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from pytest_autotune.control import Control, ControlError
from pytest_autotune.deploy import ports
from pytest_autotune.deploy.guarded import GuardedProcess
from tests.conftest import Project

HERE = Path(__file__).parent
PYTHON = os.environ.get("PYTEST_AUTOTUNE_VLLM_PYTHON", "")

pytestmark = [
    pytest.mark.alone,
    pytest.mark.xdist_group("real"),
    pytest.mark.real_engine,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="set PYTEST_AUTOTUNE_VLLM_PYTHON to a Python that has vLLM"),
]


def test_the_shipped_suite_is_tuned_and_its_export_starts_a_server_that_answers(pytester, monkeypatch):
    project = Project(pytester)
    model = project.path / "tiny-model"
    subprocess.run([PYTHON, HERE / "tiny_model.py", model], check=True, capture_output=True)
    monkeypatch.setenv("AUTOTUNE_TINY_MODEL", str(model))
    project.suite((HERE.parents[1] / "suites" / "vllm_cpu.yaml").read_text(), "vllm_cpu.yaml")

    result = project.run("suites", "--autotune", "-v", timeout=900)
    assert result.ret == 0
    outcomes = result.parseoutcomes()
    assert outcomes["deployed"] == 4
    assert outcomes["infeasible"] >= 1
    # Every batch of four servers is measured; how many of them keep half a second is the machine's affair.
    assert outcomes["compliant"] + outcomes.get("violating", 0) == 8
    assert outcomes["compliant"] >= 1
    with project.store() as store:
        (run,) = store.runs()
        trials = {trial.slot: trial for trial in store.trials_of_run(run.id)}
    refused = trials["max-num-seqs:8-max-num-batched-tokens:4"]
    assert (refused.status, refused.cause) == ("infeasible", "bad argument")
    assert all(trial.effective for trial in trials.values() if trial.batches)

    (best,) = (project.path / ".autotune").glob("*/vllm-cpu/best.json")
    content = json.loads(best.read_text())["best"]
    assert content["configuration"] in [dict(trial.configuration) for trial in trials.values() if trial.batches]
    script = best.with_name("best.sh")
    assert generation_of(script, log=project.path / "best.log")


def generation_of(script, *, log):
    """Start the exported script as a user would, on a port of its own, and generate a little."""
    with ports.lease() as lease, log.open("wb") as output:
        env = os.environ | {"PORT": str(lease.port)}
        with GuardedProcess(["sh", str(script)], env=env, output=output.fileno(), grace_s=15) as server:
            control = Control(f"http://127.0.0.1:{lease.port}", timeout_s=30)
            deadline = time.monotonic() + 180
            while not server.wait(0.5):
                assert time.monotonic() < deadline, log.read_text()[-2000:]
                with contextlib.suppress(ControlError):
                    (model,) = control.models()
                    return control.generate(model, max_tokens=4)
            raise AssertionError(log.read_text()[-2000:])
