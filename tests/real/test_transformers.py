"""Real Transformers on a CPU: ``transformers serve`` is tuned, and the exported command answers.

`PYTEST_AUTOTUNE_TRANSFORMERS_PYTHON` is a Python that has transformers[serving].
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from pytest_autotune.engines.transformers import RESERVED, TransformersEngine
from pytest_autotune.space import Space
from pytest_autotune.suite import Suite
from tests.conftest import Project

HERE = Path(__file__).parent
PYTHON = os.environ.get("PYTEST_AUTOTUNE_TRANSFORMERS_PYTHON", "")
SUITE = """
name: transformers
engine: transformers
engine_python: ${PYTEST_AUTOTUNE_TRANSFORMERS_PYTHON}
model: ${AUTOTUNE_TINY_CHECKPOINT}
env: {HF_HUB_OFFLINE: "1"}
fixed: {dtype: float32}
parameters: {attn-implementation: [eager, sdpa]}
load: {prompt_tokens: 16, output_tokens: 4, concurrency: [1], duration: 1s, warmup: 200ms}
slo: {ttft.p90: 30s, error_rate: 1%}
search: {strategy: grid, defaults: false}
timeouts: {start: 2m, ready: 1m, stop: 10s}
"""

pytestmark = [
    pytest.mark.alone,
    pytest.mark.xdist_group("real"),
    pytest.mark.real_engine,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="set PYTEST_AUTOTUNE_TRANSFORMERS_PYTHON to a Python that has transformers"),
]
SAVE = """
import sys
from transformers import AutoConfig, AutoModelForCausalLM
AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(sys.argv[1])).save_pretrained(sys.argv[1])
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model") / "tiny"
    subprocess.run([PYTHON, HERE / "tiny_model.py", directory], check=True, capture_output=True)
    subprocess.run([PYTHON, "-c", SAVE, directory], check=True, capture_output=True)
    return directory


def test_its_server_is_tuned_by_its_models_own_name(pytester, monkeypatch, model):
    monkeypatch.setenv("AUTOTUNE_TINY_CHECKPOINT", str(model))
    project = Project(pytester)
    project.suite(SUITE, "chat.yaml")
    result = project.run("suites", "--autotune", "-v", timeout=300)
    assert (result.ret, result.parseoutcomes()["deployed"]) == (0, 2)
    with project.store() as store:
        (run,) = store.runs()
        trials = store.trials_of_run(run.id)
    assert {trial.model_name for trial in trials} == {str(model)}
    assert all(batch.metrics["failed"] == 0 for trial in trials for batch in trial.batches)
    (best,) = (project.path / ".autotune").glob("*/transformers/best.json")
    assert json.loads(best.read_text())["best"]["configuration"]
    assert f"  serve \\\n  {model} \\\n" in best.with_name("best.sh").read_text()


def test_the_flags_of_the_installed_command_are_known(model):
    suite = Suite(name="real", engine="transformers", engine_python=PYTHON, model=str(model), space=Space(()))
    installed = TransformersEngine().inspect(suite)
    assert installed.missing == ()
    assert {"dtype", "device", "continuous-batching", "attn-implementation"} <= installed.flags.keys()
    assert {"host", "port"} <= {name for name, flag in installed.flags.items() if flag.reserved} <= RESERVED.keys()
    assert installed.flags["trust-remote-code"].negatable
