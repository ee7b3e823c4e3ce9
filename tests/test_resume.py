"""An interrupted search is continued by the same command; nothing is measured twice or lost."""

import re


def counts(result):
    return {key: value for key, value in result.parseoutcomes().items() if key in ("compliant", "violating", "deployed")}


def test_recorded_trials_are_reported_again_and_not_run_again(project):
    project.suite()
    first = project.run("suites", "--autotune", "-v")
    second = project.run("suites", "--autotune", "-v")
    assert (first.ret, second.ret) == (0, 0)
    assert counts(first) == counts(second)
    assert second.stdout.str().count("[recorded]") == 6
    assert best_line(first) == best_line(second)
    with project.store() as store:
        assert [len(store.trials_of_run(run.id)) for run in store.runs()] == [0, 2]  # newest first


def test_fresh_measures_everything_again(project):
    project.suite()
    project.run("suites", "--autotune")
    result = project.run("suites", "--autotune", "--autotune-fresh", "-v")
    assert "[recorded]" not in result.stdout.str()
    with project.store() as store:
        assert [len(store.trials_of_run(run.id)) for run in store.runs()] == [2, 2]


def test_a_trial_measured_in_part_is_measured_again(project):
    project.suite()
    project.run("suites/quick.yaml::max-num-seqs:64::c1", "--autotune")
    result = project.run("suites", "--autotune", "-v")
    assert "[recorded]" not in result.stdout.str()
    with project.store() as store:
        (second, _) = store.runs()
        trials = store.trials_of_run(second.id)
    assert sorted(len(trial.batches) for trial in trials) == [2, 2]


def test_a_changed_load_is_another_measurement_and_a_changed_limit_is_not(project):
    suite = project.suite()
    project.run("suites", "--autotune")
    suite.write_text(suite.read_text().replace("ttft.p90: 40ms", "ttft.p97: 400ms"))
    relaxed = project.run("suites", "--autotune", "-v")
    assert relaxed.stdout.str().count("[recorded]") == 6
    assert counts(relaxed)["compliant"] == 4
    suite.write_text(suite.read_text().replace("output_tokens: 32", "output_tokens: 16"))
    assert "[recorded]" not in project.run("suites", "--autotune", "-v").stdout.str()


def best_line(result):
    return re.search(r"best output throughput.*", result.stdout.str()).group()
