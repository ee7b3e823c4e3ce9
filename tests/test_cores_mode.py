"""Servers and load generator on cores of their own, from the user's side: `cores:`, with `-n` and without."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import psutil
import pytest

SUITE = """\
name: bound
engine: sim
model: llama-3.1-8b
cores: CORES
parameters: {max-num-seqs: [16, 64]}
fixed: {gpu: H100, time-scale: 0.1, max-model-len: 4096}
load: {prompt_tokens: 64, output_tokens: 8, concurrency: 2, duration: 500ms, warmup: 50ms}
slo: {ttft.p90: 5s}
search: {defaults: false}
timeouts: {stop: 1s}
"""

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


@pytest.fixture(autouse=True)
def runtime(project, monkeypatch):
    """Leases of the test's own: nobody else's are in its way."""
    monkeypatch.setenv("TMPDIR", str(project.path))


def look(root, seen):
    """Note on which cores each process below `root` may run, by what it is: one moment of a moving table."""
    for child in root.children():
        with suppress(psutil.Error):  # it has ended
            command = " ".join(child.cmdline())
            if "load.worker" in command:
                loading = tuple(root.cpu_affinity())
                seen.setdefault("generator", set()).add(tuple(child.cpu_affinity()))
                seen.setdefault("pytest", set()).add(loading)  # its worker still lives, and so does the lease
            if "_guard.py" not in command:
                continue
            seen.setdefault("guard", set()).add(tuple(child.cpu_affinity()))
            for server in child.children(recursive=True):
                if "_guard.py" not in " ".join(server.cmdline()):  # else it is about to become one
                    seen.setdefault("server", set()).add(tuple(server.cpu_affinity()))


def test_a_server_never_runs_on_the_load_generators_core_nor_the_other_way_round(project, monkeypatch):
    monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", "2")  # of a pytest that this one is run by
    generator, own, *_ = sorted(os.sched_getaffinity(0))
    project.suite(SUITE.replace("CORES", f"{{per_server: 1, pool: [{generator}, {own}]}}"))
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tolerant_load", "suites", "--autotune"]
    seen = {}
    with project.pytester.popen(argv) as running:
        root = psutil.Process(running.pid)
        while running.poll() is None:
            with suppress(psutil.NoSuchProcess):
                look(root, seen)
        output = running.stdout.read().decode()
    assert running.returncode == 0, output
    assert seen["server"] == {(own,)}
    assert seen["guard"] == seen["generator"] == seen["pytest"] == {(generator,)}
    with project.store() as store:
        (run,) = store.runs()
        trials = store.trials_of_run(run.id)
        assert [trial.cores for trial in trials] == [(own,)] * 2
        assert all(0 <= trial.waited_s < trial.elapsed_s for trial in trials)
    (log,) = (project.path / ".autotune").glob("*/run*.log")
    assert f"bound gives back core {own}" in log.read_text()


def test_servers_that_do_not_fit_are_one_line_and_nothing_is_started(project):
    generator, own, *_ = sorted(os.sched_getaffinity(0))
    project.suite(SUITE.replace("CORES", f"{{per_server: 1, pool: [{generator}, {own}]}}"))
    result = project.run("suites", "--autotune", "-n2", "-rs")
    problem = (
        "cores: 2 servers of 1 core and 1 for the load generator need 3 of 2 cores; "
        "let there be fewer servers at a time (-n), or write cores: none"
    )
    assert problem in result.stdout.str().replace("\n", " ")
    with project.store() as store:
        assert not [trial for run in store.runs() for trial in store.trials_of_run(run.id)]
