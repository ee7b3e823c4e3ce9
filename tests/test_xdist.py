"""`-n N`: whole trials on workers, atomic claims, a dead worker loses one trial and is reported."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import QUICK_SUITE

FOUR_TRIALS = QUICK_SUITE.replace("max-num-seqs: [2, 64]", "max-num-seqs: [2, 16, 32, 64]")
SLOTS = {f"max-num-seqs:{seqs}" for seqs in (2, 16, 32, 64)}


def statuses(project):
    with project.store() as store:
        (run,) = store.runs()
        return {trial.slot: (trial.status, len(trial.batches)) for trial in store.trials_of_run(run.id)}


def finished(project):
    return {slot for slot, (status, _) in statuses(project).items() if status is not None}


def test_workers_come_to_the_same_outcomes_as_one_process(project):
    project.suite(FOUR_TRIALS)
    result = project.run("suites", "--autotune", "-n2", "-v", "--junitxml=report.xml")
    assert result.ret == 0, result.stdout.str()
    outcomes = result.parseoutcomes()
    assert (outcomes["deployed"], outcomes["compliant"], outcomes["violating"]) == (4, 7, 1)
    assert outcomes["passed"] == 1
    assert {slot: count for slot, (_, count) in statuses(project).items()} == dict.fromkeys(SLOTS, 2)
    assert result.stdout.str().count("DEPLOYED") == 4
    cases = project.testcases()
    assert len(cases) == 4 * 3 + 1
    assert cases["suites.quick.yaml.gate"].find("failure") is None
    properties = {p.get("name"): p.get("value") for p in cases["suites.quick.yaml.max-num-seqs:2.c8"].iter("property")}
    assert properties["param.max-num-seqs"] == "2"
    assert properties["concurrency"] == "8"
    assert float(properties["ttft.p90"]) > 0.04
    assert properties["autotune.outcome"] == "violating"


def test_workers_that_have_nothing_to_verify_say_so_once_for_each_suite(project):
    project.suite(FOUR_TRIALS)
    alone, shared = (project.run("suites", "-rs", *workers) for workers in ((), ("-n2",)))
    for result in (alone, shared):
        assert (result.ret, result.parseoutcomes()) == (0, {"skipped": 1}), result.stdout.str()
        result.stdout.fnmatch_lines(["SKIPPED*--autotune*"])
    assert not (project.path / ".autotune").exists()


def killer(item, *, trial="max-num-seqs:16"):
    """A conftest.py that kills, once, the process that is about to set up an item of a trial."""
    return f"""\
import os, signal

def pytest_runtest_setup(item):
    if item.name == {item!r} and item.parent.name == {trial!r} and not os.path.exists("killed"):
        open("killed", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_killed_worker_loses_one_trial_which_the_next_run_measures(project):
    project.suite(FOUR_TRIALS)
    project.pytester.makeconftest(killer("c1"))
    first = project.run("suites", "--autotune", "-n2", "-v", "--junitxml=report.xml")
    assert first.ret == 1
    assert re.search(
        r"worker 'gw\d' crashed while running 'suites/quick.yaml::max-num-seqs:16::c1'", first.stdout.str()
    )
    assert finished(project) == SLOTS - {"max-num-seqs:16"}
    lost = project.testcases()["suites.quick.yaml.max-num-seqs:16.c8"].find("skipped")
    assert re.search(r"trial lost, gw\d died while running .*::max-num-seqs:16::c1", lost.get("message"))
    second = project.run("suites", "--autotune", "-n2", "-v")
    assert second.ret == 0
    assert second.stdout.str().count("[recorded]") == 9
    measured = [line for line in second.stdout.lines if "max-num-seqs:16::c" in line and "max-num-seqs=16" in line]
    assert len(measured) == 2


@pytest.mark.parametrize(
    ("workers", "trial", "item", "lost"),
    [
        ("-n1", "max-num-seqs:16", "deploy", 2),
        ("-n1", "max-num-seqs:64", "c8", 0),  # the very last item of all
        ("-n2", "max-num-seqs:64", "c8", 0),
        ("-n2", "max-num-seqs:2", "deploy", 2),
    ],
)
@pytest.mark.slow
def test_wherever_a_worker_dies_the_run_ends_with_one_trial_lost(project, workers, trial, item, lost):
    project.suite(FOUR_TRIALS)
    project.pytester.makeconftest(killer(item, trial=trial))
    result = project.run("suites", "--autotune", workers)
    assert result.ret == 1
    outcomes = result.parseoutcomes()
    assert (outcomes["failed"], outcomes["skipped"]) == (1, lost + 1), result.stdout.str()  # the gate is not judged
    assert finished(project) == SLOTS - {trial}


def test_a_lone_trial_on_more_workers_ends(project):
    project.suite(QUICK_SUITE.replace("max-num-seqs: [2, 64]", "max-num-seqs: [64]"))
    result = project.run("suites", "--autotune", "-n3")
    assert result.ret == 0
    assert result.parseoutcomes()["compliant"] == 2


NO_SERVER = QUICK_SUITE.replace("fixed: {", "fixed: {fault: [never-ready], ").replace("stop: 1s", "stop: 1s, start: 3s")


@pytest.mark.parametrize("option", ["-x", "--maxfail=1"])
def test_the_first_error_ends_the_run_when_asked_to(project, option):
    project.suite(NO_SERVER.replace("[2, 64]", "[2, 4, 8, 16, 32, 64]"))
    result = project.run("suites", "--autotune", "-n2", option)
    assert result.ret == 2
    assert 1 <= result.parseoutcomes()["errors"] <= 3, result.stdout.str()  # what was under way ends first
    assert "stopping after 1 failures" in result.stdout.str()
    assert "gate" not in result.stdout.str()
    with project.store() as store:
        (run,) = store.runs()
        assert run.outcome == "interrupted"
        assert len(store.trials_of_run(run.id)) <= 4


def test_findings_stop_nothing(project):
    project.suite(FOUR_TRIALS)
    result = project.run("suites", "--autotune", "-n2", "-x")
    assert result.ret == 0
    assert result.parseoutcomes()["violating"] == 1
    assert len(finished(project)) == 4


def test_last_failed_after_a_failed_gate_runs_everything_from_the_records(project):
    """The gate is no test that could be run alone, so `--lf` finds nothing to leave out."""
    project.suite(QUICK_SUITE.replace("ttft.p90: 40ms", "ttft.p90: 1us"))
    run = partial(project.pytester.runpytest_subprocess, "-p", "tolerant_load")
    first = run("suites", "--autotune", "-n2", "-v")
    assert first.ret == 1
    again = run("suites", "--autotune", "-n2", "-v", "--lf")
    assert again.ret == 1
    assert again.stdout.str().count("[recorded]") == 6
    assert again.parseoutcomes() == first.parseoutcomes()


@pytest.mark.slow
def test_the_quickstart_has_the_same_outcomes_and_best_configuration_on_four_workers(project):
    shutil.copy(Path(__file__).parent.parent / "suites" / "quickstart.yaml", project.path / "suites")
    seen = []
    for options in ([], ["-n4"]):
        result = project.run("suites", "--autotune", "--autotune-fresh", "--junitxml=report.xml", *options)
        assert result.ret == 0, result.stdout.str()
        outcomes = {name: outcome(case) for name, case in project.testcases().items()}
        with project.store() as store:
            run = store.runs()[0]
        best = json.loads((project.path / ".autotune" / run.id / "quickstart" / "best.json").read_text())
        seen.append((outcomes, best["best"]["configuration"]))
    assert seen[0] == seen[1]
    assert len(seen[0][0]) == 10 * 4 + 1
    assert seen[0][1] == {"gpu-memory-utilization": 0.9, "max-num-batched-tokens": 512}


def outcome(case):
    properties = {prop.get("name"): prop.get("value") for prop in case.iter("property")}
    kinds = [child.tag for child in case if child.tag in ("failure", "error", "skipped")]
    return properties.get("autotune.outcome", ""), kinds
