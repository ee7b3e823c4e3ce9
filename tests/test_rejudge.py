"""`--autotune-rejudge`: new limits on recorded numbers, and no server."""


def test_new_limits_judge_recorded_trials_and_nothing_is_deployed(project):
    suite = project.suite()
    assert project.run("suites", "--autotune").ret == 0
    suite.write_text(suite.read_text().replace("ttft.p90: 40ms", "ttft.p90: 1ms"))
    result = project.run("suites", "--autotune-rejudge", "-v")
    assert result.ret == 1
    outcomes = result.parseoutcomes()
    assert (outcomes["failed"], outcomes["violating"]) == (1, 4)
    result.stdout.fnmatch_lines(["*::gate FAILED*", "*2 recorded before, 0 servers started*"])


def test_what_was_never_measured_is_skipped_with_the_reason(project):
    project.suite()
    assert project.run("suites", "--autotune", "-k", "seqs:64").ret == 0
    result = project.run("suites", "--autotune-rejudge", "-rs")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["*0 servers started*", "*SKIPPED*not measured yet; --autotune-rejudge deploys nothing*"]
    )
    assert result.parseoutcomes()["compliant"] == 2


def test_measuring_everything_again_and_nothing_is_refused(project):
    project.suite()
    result = project.run("suites", "--autotune-rejudge", "--autotune-fresh")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*leave one of them out*"])


def test_a_further_objective_is_computed_from_stored_requests(project):
    suite = project.suite()
    assert project.run("suites", "--autotune").ret == 0
    objectives = "objective: [maximize output_throughput, minimize e2e.p97]"
    suite.write_text(suite.read_text().replace("objective: maximize output_throughput", objectives))
    result = project.run("suites", "--autotune-rejudge")
    result.stdout.fnmatch_lines(
        [
            "*0 servers started*",
            "*no compliant measurement beats these*",
            "*output throughput*e2e.p97*",
            "*tok/s*ms*c8*",
        ]
    )
