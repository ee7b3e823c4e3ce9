"""Trials that share GPUs, from the user's side: `gpus: {pretend: 8}` with `-n`."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from pytest_autotune import hardware
from pytest_autotune.budget import cost_of
from pytest_autotune.deploy import locks
from pytest_autotune.deploy.gpus import leased
from pytest_autotune.suite_gpus import GpuPool
from tests.deployment import eventually, make_launch

SUITE = """\
name: packed
engine: sim
model: llama-3.1-8b
gpus: {pretend: 8}
parameters: {max-num-seqs: [16, 64], tensor-parallel-size: [1, 2, 4]}
fixed: {gpu: H100, time-scale: 0.1, max-model-len: 4096}
load: {prompt_tokens: 64, output_tokens: 8, concurrency: 2, duration: 200ms, warmup: 50ms}
slo: {ttft.p90: 5s}
search: {defaults: false, trials: 5}
timeouts: {stop: 1s}
"""
LINE = re.compile(r"(\S+)Z INFO \S+: packed (?:(\S+) on|gives back) pretended GPUs? ([\d, ]+)$", re.MULTILINE)


@pytest.fixture
def leases(project, monkeypatch):
    """Read what the logs of the last run tell of leases, in order: time, trial or nothing, GPUs."""
    monkeypatch.setenv("TMPDIR", str(project.path))  # of its own, so that nobody else's leases are in the way

    def read():
        found = []
        for log in (project.path / ".autotune").glob("*/run*.log"):
            for at, trial, gpus in LINE.findall(log.read_text()):
                found.append((datetime.fromisoformat(at), log.name, trial, {int(gpu) for gpu in gpus.split(",")}))
        return sorted(found, key=lambda each: each[0])

    return read


@pytest.mark.slow
def test_parallel_trials_take_what_they_need_and_never_share_it(project, leases):
    project.suite(SUITE)
    result = project.run("suites", "--autotune", "-n4", "-v")
    assert result.ret == 0, result.stdout.str()
    assert result.parseoutcomes()["compliant"] == 5
    held, taken = {}, {}
    for _, worker, trial, gpus in leases():
        if trial:
            assert set().union(*held.values()).isdisjoint(gpus)
            held[worker] = taken[trial] = gpus
        else:
            assert held.pop(worker) == gpus
    assert held == {}
    sizes = {trial: int(re.search(r"tensor-parallel-size:(\d)", trial)[1]) for trial in taken}
    assert {trial: len(gpus) for trial, gpus in taken.items()} == sizes
    assert len(sizes) == 5
    with project.store() as store:
        (run,) = store.runs()
        assert {trial.slot: trial.gpus for trial in store.trials_of_run(run.id)} == sizes


def test_gpu_time_begins_when_the_wait_for_gpus_is_over(project, leases, monkeypatch):
    monkeypatch.setattr(locks.tempfile, "tempdir", str(project.path))  # as `leases` tells the run
    project.suite(SUITE.replace("[16, 64]", "[16]").replace("[1, 2, 4]", "[4]"))
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tolerant_load", "suites", "--autotune"]
    with contextlib.ExitStack() as elsewhere:
        elsewhere.enter_context(leased(make_launch(Path(), gpus=5, pool=GpuPool(pretended=8))))
        with project.pytester.popen(argv) as running:
            eventually(lambda: list(locks.runtime_directory().glob("gpu/queue.[0-9]*")))
            time.sleep(0.5)
            elsewhere.close()
            output = running.stdout.read().decode()
    assert running.returncode == 0, output
    with project.store() as store:
        (run,) = store.runs()
        (trial,) = store.trials_of_run(run.id)
    assert trial.waited_s >= 0.5
    lasted_s = (trial.ended_at - trial.started_at).total_seconds()
    assert cost_of([trial], trial.ended_at).gpu_time_s == pytest.approx(4 * (lasted_s - trial.waited_s))


def test_a_trial_that_will_never_fit_is_one_error_and_the_others_go_on(project, leases):
    project.suite(SUITE.replace("pretend: 8", "pretend: 2").replace("[1, 2, 4]", "[4, 1]").replace("[16, 64]", "[16]"))
    result = project.run("suites", "--autotune")
    assert result.ret == 1
    outcomes = result.parseoutcomes()
    assert (outcomes["deployed"], outcomes["errors"], outcomes["compliant"]) == (1, 1, 1), result.stdout.str()
    result.stdout.fnmatch_lines(["*takes 4 GPUs, and 2 may be taken; allow more by gpus: pool, or keep no count*"])
    assert [len(gpus) for _, _, trial, gpus in leases() if trial] == [1]


@pytest.mark.parametrize(
    ("arguments", "variable", "workers"),
    [
        pytest.param(["suites", "--autotune"], "", 8, id="as many as fit"),
        pytest.param(["suites"], "", None, id="nothing to verify"),
        pytest.param(["suites", "--autotune"], "3", 3, id="told by xdist's variable"),
    ],
)
def test_auto_is_as_many_workers_as_trials_fit(project, monkeypatch, arguments, variable, workers):
    monkeypatch.setattr(hardware, "cores", lambda: 16)
    monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", variable)
    monkeypatch.chdir(project.path)
    project.suite(SUITE)
    config = project.pytester.parseconfig("-n", "auto", *arguments)
    number = config.hook.pytest_xdist_auto_num_workers(config=config)
    without = project.pytester.parseconfig("-n", "auto", "-p", "no:autotune")
    assert number == (without.hook.pytest_xdist_auto_num_workers(config=without) if workers is None else workers)
