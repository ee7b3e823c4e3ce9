"""`-n N`: whole trials on workers, atomic claims, a dead worker loses one trial and is reported."""

import re

from tests.conftest import QUICK_SUITE

FOUR_TRIALS = QUICK_SUITE.replace("max-num-seqs: [2, 64]", "max-num-seqs: [2, 16, 32, 64]")


def statuses(project):
    with project.store() as store:
        (run,) = store.runs()
        return {trial.slot: (trial.status, len(trial.batches)) for trial in store.trials_of_run(run.id)}


def test_workers_come_to_the_same_outcomes_as_one_process(project):
    project.suite(FOUR_TRIALS)
    result = project.run("suites", "--autotune", "-n2", "-v")
    assert result.ret == 0, result.stdout.str()
    outcomes = result.parseoutcomes()
    assert (outcomes["deployed"], outcomes["compliant"], outcomes["violating"]) == (4, 7, 1)
    assert outcomes["passed"] == 1
    assert {slot: count for slot, (_, count) in statuses(project).items()} == {
        f"max-num-seqs:{seqs}": 2 for seqs in (2, 16, 32, 64)
    }
    assert result.stdout.str().count("DEPLOYED") == 4


KILLER = """\
import os, signal

def pytest_runtest_setup(item):
    if item.name == "c8" and item.parent.name == "max-num-seqs:16" and not os.path.exists("killed"):
        open("killed", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_worker_loses_one_trial_which_the_next_run_measures(project):
    project.suite(FOUR_TRIALS)
    project.pytester.makeconftest(KILLER)
    first = project.run("suites", "--autotune", "-n2", "-v")
    assert first.ret == 1
    assert re.search(
        r"worker 'gw\d' crashed while running 'suites/quick.yaml::max-num-seqs:16::c8'", first.stdout.str()
    )
    finished = {slot for slot, (status, _) in statuses(project).items() if status is not None}
    assert finished == {f"max-num-seqs:{seqs}" for seqs in (2, 32, 64)}
    second = project.run("suites", "--autotune", "-n2", "-v")
    assert second.ret == 0
    assert second.stdout.str().count("[recorded]") == 9
    told = re.findall(r"(?:COMPLIANT|VIOLATES) (.*)suites/quick.yaml::max-num-seqs:16::c8", second.stdout.str())
    assert len(told) == 1
    assert "[recorded]" not in told[0]


def test_a_lone_trial_on_more_workers_ends(project):
    project.suite(QUICK_SUITE.replace("max-num-seqs: [2, 64]", "max-num-seqs: [64]"))
    result = project.run("suites", "--autotune", "-n3")
    assert result.ret == 0
    assert result.parseoutcomes()["compliant"] == 2
