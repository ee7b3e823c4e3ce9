"""`load: {concurrency: {search: ...}}` and `skip: dominated` from the user's side."""

import json

import pytest

SUITE = """\
name: quick
engine: sim
model: llama-3.1-8b
parameters: {max-num-seqs: [4, 2, 16]}
fixed: {gpu: H100, time-scale: 0.2, max-model-len: 4096}
load: {prompt_tokens: 128, output_tokens: 32, concurrency: {search: [1, 64], tolerance: 25%}, duration: 500ms, warmup: 100ms}
slo: {ttft.p90: 30ms}
search: {defaults: false}
timeouts: {stop: 1s}
"""


def test_each_trial_has_the_largest_load_that_it_carries(project):
    # Requests beyond max-num-seqs wait for a place, far longer than the limit.
    project.suite(SUITE)
    result = project.run("suites", "--autotune", "-v", "--junitxml=report.xml")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*::max-num-seqs:4::deploy DEPLOYED *",
            "*::max-num-seqs:4::capacity COMPLIANT max-num-seqs=4 (capacity [4-8])*",
            "*::max-num-seqs:2::capacity VIOLATES max-num-seqs=2 (no load complies: it does not carry concurrency [4-8],*",
            "*::max-num-seqs:16::capacity COMPLIANT max-num-seqs=16 (capacity [12][0-9])*",
            "*::gate PASSED*",
            "*what binds the best: at concurrency *: ttft.p90: *",
        ]
    )
    cases = project.testcases()
    case = cases["suites.quick.yaml.max-num-seqs:4.capacity"]
    properties = {each.get("name"): each.get("value") for each in case.iter("property")}
    assert 4 <= int(properties["capacity.concurrency"]) <= 8
    assert int(properties["probes"]) <= 6
    assert float(properties["output_throughput"]) > 0
    (best,) = (project.path / ".autotune").glob("*/*/best.json")
    assert json.loads(best.read_text())["best"]["configuration"] == {"max-num-seqs": 16}


def test_a_recorded_search_answers_from_the_store_and_is_judged_by_new_limits(project):
    suite = project.suite(SUITE.replace("[4, 2, 16]", "[4]"))
    assert project.run("suites", "--autotune").ret == 0
    again = project.run("suites", "--autotune", "-v")
    again.stdout.fnmatch_lines(
        ["*::capacity COMPLIANT max-num-seqs=4 (capacity [4-8]) [[]recorded]*", "*0 servers started*"]
    )
    suite.write_text(suite.read_text().replace("30ms", "10s"))
    looser = project.run("suites", "--autotune", "-v", "--junitxml=report.xml")
    looser.stdout.fnmatch_lines(
        ["*::capacity COMPLIANT max-num-seqs=4 (capacity *) [[]recorded]*", "*0 servers started*"]
    )
    (case,) = (case for name, case in project.testcases().items() if name.endswith("max-num-seqs:4.capacity"))
    properties = {each.get("name"): each.get("value") for each in case.iter("property")}
    assert properties["capacity.concurrency"] == "8"  # the first that was tried; more was not
    assert properties["ended"] == "by the limits of today other loads would be tried; --autotune-fresh measures them"


def test_a_server_that_cannot_start_has_no_capacity_to_look_for(project):
    project.suite(SUITE.replace("{max-num-seqs: [4, 2, 16]}", "{gpu-memory-utilization: [0.1]}"))
    result = project.run("suites", "--autotune", "-v", "-rs")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*::deploy INFEASIBLE*", "*::capacity SKIPPED*", "*::gate FAILED*"])


def test_checks_of_a_python_suite_see_the_batch_of_the_capacity(project):
    suite = project.suite(SUITE.replace("[4, 2, 16]", "[4]"))
    checks = suite.with_name("suite_quick.py")
    checks.write_text(
        "SUITE = 'quick.yaml'\n\n\n"
        "def test_level(batch):\n    assert 4 <= batch['in_flight.max'] <= 8\n\n\n"
        "def test_never(batch):\n    assert batch.error_rate > 1, 'as it should'\n"
    )
    result = project.run(str(checks), "--autotune", "-v")
    result.stdout.fnmatch_lines(
        ["*::capacity COMPLIANT*", "*::test_level COMPLIANT*", "*::test_never VIOLATES*as it should*"]
    )
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*violates test_never: as it should*"])


def test_rates_are_searched_too_and_workers_share_the_trials(project):
    load = "load: {prompt_tokens: 128, output_tokens: 8, rate: {search: [2, 40], probes: 3}, duration: 600ms, warmup: 100ms}\n"
    text = "".join(load if line.startswith("load:") else line for line in SUITE.splitlines(keepends=True))
    project.suite(
        text.replace("[4, 2, 16]", "[4, 16]").replace("{ttft.p90: 30ms}", "{ttft.p90: 1s, delivered: {min: 0.5}}")
    )
    result = project.run("suites", "--autotune", "-v", "-n2")
    assert result.ret == 0
    assert result.parseoutcomes()["compliant"] == 2
    result.stdout.fnmatch_lines(["*capacity *r*"])


@pytest.mark.parametrize(
    ("levels", "reason"),
    [
        ("[4, 16, 32]", "concurrency=16 violates already: ttft.p90: *"),
        ("[4, 1]", "concurrency=4 complies, and less load brings less"),
    ],
)
def test_levels_that_cannot_change_the_outcome_are_skipped_with_the_reason(project, levels, reason):
    suite = SUITE.replace("{search: [1, 64], tolerance: 25%}", f"{levels}, skip: dominated").replace(
        "[4, 2, 16]", "[4]"
    )
    project.suite(suite)
    result = project.run("suites", "--autotune", "-v", "-rs")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*::gate PASSED*", "*1 trial (1 compliant)*", f"SKIPPED*{reason}*"])
    again = project.run("suites", "--autotune", "-rs")
    again.stdout.fnmatch_lines(["*1 recorded before, 0 servers started*", f"SKIPPED*{reason}*"])


def test_a_configuration_that_is_measured_again_is_not_rejected_by_itself(project):
    # It is tried first at the load that it only just carried, and may miss a limit there this time.
    again = SUITE.replace("[4, 2, 16]", "[4]").replace("defaults: false", "defaults: false, confirm: 1, repeats: 2")
    project.suite(again)
    result = project.run("suites", "--autotune", "-v")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*::confirm-1-1::capacity COMPLIANT max-num-seqs=4 (capacity *)*",
            "*::confirm-2-1::capacity COMPLIANT max-num-seqs=4 (capacity *)*",
            "*compliant, worst of 3*",
        ]
    )


def test_a_configuration_meets_the_best_first_and_what_cannot_beat_it_is_skipped(project):
    # The first carries 16 requests, the second no more than 2: at 16 it brings less, whatever it would keep below.
    levels = "[64, 32, 16, 8, 4, 2], skip: dominated"
    suite = SUITE.replace("{search: [1, 64], tolerance: 25%}", levels).replace("[4, 2, 16]", "[16, 2]")
    project.suite(suite)
    result = project.run("suites", "--autotune", "-v", "-rs")
    assert result.ret == 0
    reason = "concurrency=16 is no better than the best so far, and less load brings less"
    result.stdout.fnmatch_lines([f"SKIPPED*{reason}*"])
    with project.store() as store:
        first, second = store.trials_of_run(store.runs()[0].id)
        assert [batch.level.value for batch in first.batches] == [64, 32, 16]
        assert [batch.level.value for batch in second.batches] == [16]
    again = project.run("suites", "--autotune", "-rs")
    again.stdout.fnmatch_lines(["*0 servers started*", f"SKIPPED*{reason}*"])
