"""Real llama.cpp on a CPU, by its own server and by llama-cpp-python's: tuned, and the exported command answers.

`PYTEST_AUTOTUNE_LLAMA_SERVER` is a llama-server, `PYTEST_AUTOTUNE_LLAMA_PYTHON` a Python that has gguf, to make the
model, and llama-cpp-python[server] for the tests of that.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from pytest_autotune.engines.llama_cpp_python import LlamaCppPythonEngine
from pytest_autotune.engines.llamacpp import LlamaCppEngine
from pytest_autotune.engines.validation import unknown_flags
from pytest_autotune.notation import read_parameters
from pytest_autotune.presets.library import find_preset
from pytest_autotune.space import Choice, Space
from pytest_autotune.suite import Suite
from tests.conftest import Project
from tests.real.test_plugin import generation_of

HERE = Path(__file__).parent
PYTHON = os.environ.get("PYTEST_AUTOTUNE_LLAMA_PYTHON", "")
SERVER = os.environ.get("PYTEST_AUTOTUNE_LLAMA_SERVER", "")
SUITE = HERE.parents[1] / "suites" / "llamacpp_cpu.yaml"
PYTHON_SUITE = """
name: llama-cpp-python
engine: llama-cpp-python
engine_python: ${PYTEST_AUTOTUNE_LLAMA_PYTHON}
model: ${AUTOTUNE_TINY_GGUF}
fixed: {n-ctx: 1024, use-mlock: false}
parameters:
  n-batch: [8, 512]
  n-threads: [1, 2]
  flash-attn: [true, false]
load: {prompt_tokens: 64, output_tokens: 8, concurrency: [1], duration: 1s, warmup: 200ms}
slo: {ttft.p90: 5s, error_rate: 1%}
search: {strategy: grid}
timeouts: {start: 1m, ready: 30s, stop: 10s}
"""

pytestmark = [
    pytest.mark.alone,
    pytest.mark.xdist_group("real"),
    pytest.mark.real_engine,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="set PYTEST_AUTOTUNE_LLAMA_PYTHON to a Python that has gguf"),
]
needs_server = pytest.mark.skipif(not SERVER, reason="set PYTEST_AUTOTUNE_LLAMA_SERVER to a llama-server")


def has_package():
    return subprocess.run([PYTHON, "-c", "import llama_cpp.server"], capture_output=True, check=False).returncode == 0


needs_package = pytest.mark.skipif(
    not PYTHON or not has_package(), reason="the Python of PYTEST_AUTOTUNE_LLAMA_PYTHON has no llama-cpp-python[server]"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "tiny.gguf"
    subprocess.run([PYTHON, HERE / "tiny_gguf.py", file, "--layers", "2"], check=True, capture_output=True)
    return file


def tuned(project, *, suite, trials, refused):
    """Tune, and return the trials by slot and the exported best."""
    result = project.run("suites", "--autotune", "-v", timeout=300)
    assert result.ret == 0
    outcomes = result.parseoutcomes()
    assert (outcomes["deployed"], outcomes.get("infeasible", 0)) == (trials, refused)
    with project.store() as store:
        (run,) = store.runs()
        measured = {trial.slot: trial for trial in store.trials_of_run(run.id) if trial.batches}
    assert all(batch.metrics["failed"] == 0 for trial in measured.values() for batch in trial.batches)
    (best,) = (project.path / ".autotune").glob(f"*/{suite}/best.json")
    return measured, best


@needs_server
def test_llama_servers_shipped_suite_is_tuned_and_its_export_answers(pytester, monkeypatch, model):
    monkeypatch.setenv("AUTOTUNE_TINY_GGUF", str(model))
    project = Project(pytester)
    project.suite(SUITE.read_text(), "llamacpp_cpu.yaml")
    trials, best = tuned(project, suite="llamacpp-cpu", trials=10, refused=3)
    assert len(trials) == 10
    one, four = (trials[f"parallel:{slots}-cache-type-v:f16-flash-attn:on"] for slots in (1, 4))
    assert (one.effective["parallel"], four.effective["parallel"]) == (1, 4)
    # With one slot three of four clients wait for the others' whole answers.
    waits_s = [
        next(batch.metrics["ttft.p90"] for batch in trial.batches if batch.level.concurrency == 4)
        for trial in (one, four)
    ]
    assert waits_s[0] > waits_s[1]
    assert json.loads(best.read_text())["best"]["configuration"]
    assert generation_of(best.with_name("best.sh"), log=project.path / "best.log")


@needs_package
def test_llama_cpp_pythons_server_is_tuned_and_its_export_answers(pytester, monkeypatch, model):
    monkeypatch.setenv("AUTOTUNE_TINY_GGUF", str(model))
    project = Project(pytester)
    project.suite(PYTHON_SUITE, "chat.yaml")
    trials, best = tuned(project, suite="llama-cpp-python", trials=9, refused=0)
    assert {trial.effective["n-batch"] for trial in trials.values()} == {8, 512}
    assert generation_of(best.with_name("best.sh"), log=project.path / "best.log")


@needs_server
def test_the_flags_of_the_installed_server_are_known(model):
    parameters = read_parameters(find_preset("parameters", "llamacpp-quick", beside=None).content)
    suite = Suite(name="real", engine="llamacpp", command=(SERVER,), model=str(model), space=Space(parameters))
    installed = LlamaCppEngine().inspect(suite)
    assert (installed.missing, unknown_flags(suite, installed)) == ((), ())
    assert {"ctx-size", "parallel", "batch-size", "ubatch-size", "threads", "n-gpu-layers"} <= installed.flags.keys()
    assert installed.flags["cont-batching"].negatable
    assert "q8_0" in installed.flags["cache-type-k"].choices
    typo = suite.model_copy(update={"space": Space((Choice("ctx-sise", (1,)),))})
    assert "(did you mean 'ctx-size'?)" in str(*unknown_flags(typo, installed))


@needs_package
def test_the_flags_of_the_installed_package_are_known(model):
    suite = Suite(name="real", engine="llama-cpp-python", engine_python=PYTHON, model=str(model), space=Space(()))
    installed = LlamaCppPythonEngine().inspect(suite)
    assert installed.missing == ()
    assert installed.version[0].isdigit()
    flags = installed.flags
    assert {"n-ctx", "n-batch", "n-threads", "n-gpu-layers"} <= flags.keys()
    assert (flags["flash-attn"].valued, flags["n-ctx"].valued, flags["n-ctx"].default) == (True, False, 2048)
