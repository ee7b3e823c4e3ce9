"""`pytest suites/` without --autotune: the recorded best is deployed, measured, judged and held against its record."""

import json
import subprocess

import pytest

from tests.conftest import QUICK_SUITE
from tests.make_baselines import record

SUITE = QUICK_SUITE.replace("objective:", "gate: {throughput: -40%}\nobjective:")
SLOWER = SUITE.replace("time-scale: 0.2", "time-scale: 0.6")


@pytest.fixture
def recorded(project):
    """A project with a suite, and beside it the best of a search on a machine like this one."""
    project.suite(SUITE)
    record(project)
    return project


def runs(project):
    with project.store() as store:
        return [store.trials_of_run(run.id) for run in reversed(store.runs())]


def test_what_a_search_records_is_measured_anew_and_passes(project):
    project.suite(SUITE)
    result = project.run("suites", "--autotune", "--autotune-record")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(["*written: *suites/quick.best.json"])
    result = project.run("suites", "-v", "--junitxml=report.xml")
    assert result.ret == 0, result.stdout.str()
    outcomes = result.parseoutcomes()
    assert (outcomes["deployed"], outcomes["compliant"], outcomes["passed"]) == (1, 2, 1)
    result.stdout.fnmatch_lines(
        [
            "suites/quick.yaml::best::deploy DEPLOYED max-num-seqs=64*",
            "suites/quick.yaml::best::c8 COMPLIANT*",
            "suites/quick.yaml::gate PASSED*",
            "*verified max-num-seqs=64*",
            "*held against run *",
            "*output throughput*c8*",
        ]
    )
    searched, verified = runs(project)
    assert len(searched) == 2
    assert [(trial.slot, len(trial.batches)) for trial in verified] == [("best", 2)]
    assert "suites.quick.yaml.gate" in project.testcases()
    written = json.loads((project.path / "suites" / "quick.best.json").read_text())
    assert written["configuration"] == {"max-num-seqs": 64}
    assert written["server"] == {"fixed": {"gpu": "H100", "time-scale": 0.2, "max-model-len": 4096}}
    assert list(written["levels"]) == ["c1", "c8"]
    (project.path / "suites" / "quick.best.json").unlink()
    result = project.run("suites", "-v")  # the store has it as well
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*::best::c8 COMPLIANT max-num-seqs=64*"])


def test_a_missed_limit_is_a_failure_for_pytest_and_for_dashboards(recorded):
    recorded.suite(SUITE.replace("ttft.p90: 40ms", "ttft.p90: 1ms"))
    result = recorded.run(
        "suites", "--junitxml=report.xml", "--autotune-junit=verdict.xml", "--autotune-export=markdown=m.md"
    )
    assert result.ret == 1
    assert (recorded.path / "m.md").read_text().startswith("### quick: failed\n")
    assert result.parseoutcomes()["failed"] == 3  # both load levels and the gate
    failure = recorded.testcases()["suites.quick.yaml.best.c8"].find("failure")
    assert "ttft.p90" in failure.text
    assert "Traceback" not in failure.text
    verdict = recorded.testcases("verdict.xml")
    assert verdict["quick.c8"].find("failure") is not None
    assert "To see it again: pytest suites/quick.yaml" in verdict["quick.gate.slo"].find("failure").text


def test_a_slower_server_breaks_the_gate_though_it_keeps_its_limits(recorded):
    recorded.suite(SLOWER)
    result = recorded.run("suites")
    assert result.ret == 1
    assert result.parseoutcomes()["compliant"] == 2
    result.stdout.fnmatch_lines(
        [
            "not-worse.output_throughput: Output throughput fell by *, more than the 40 % allowed, since run *",
            "*changed: server.fixed.time-scale: 0.2 then, 0.6 now",
        ]
    )


def test_numbers_of_another_load_are_not_compared(recorded):
    recorded.suite(SUITE.replace("output_tokens: 32", "output_tokens: 16"))
    result = recorded.run("suites")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["comparable: *load.output_tokens: 32 then, 16 now*"])
    recorded.suite(
        SUITE.replace("output_tokens: 32", "output_tokens: 16").replace("-40%}", "-40%, inconclusive: warn}")
    )
    assert recorded.run("suites").ret == 0


def test_a_server_that_refuses_is_an_error_and_never_a_pass(recorded):
    path = recorded.path / "suites" / "quick.best.json"
    path.write_text(path.read_text().replace('"max-num-seqs": 64', '"max-num-seqs": -1'))
    result = recorded.run("suites")
    assert result.ret == 1
    outcomes = result.parseoutcomes()
    assert (outcomes["errors"], outcomes["failed"]) == (1, 1)
    result.stdout.fnmatch_lines(["slo: Nothing was measured: *"])


def test_a_suite_that_cannot_run_here_is_an_error_unless_the_suite_says_otherwise(recorded):
    lacking = SUITE.replace("load: {", "load: {api_key: '${NOT_SET_ANYWHERE}', ")
    recorded.suite(lacking)
    result = recorded.run("suites")
    assert result.ret == 1
    assert result.parseoutcomes() == {"errors": 1}
    recorded.suite(lacking.replace("-40%}", "-40%, inconclusive: warn}"))
    result = recorded.run("suites")
    assert result.ret == 0
    assert result.parseoutcomes() == {"skipped": 1}


def test_without_any_record_one_line_says_how_to_get_one_and_nothing_is_written(project):
    project.suite()
    result = project.run("suites")
    assert result.ret == 0
    assert result.parseoutcomes() == {"skipped": 1}
    result.stdout.fnmatch_lines(["*no recorded best configuration; find one with: pytest suites/quick.yaml --autotune"])
    assert not (project.path / ".autotune").exists()


def test_a_search_that_selects_nothing_leaves_the_record_as_it_was(recorded):
    path = recorded.path / "suites" / "quick.best.json"
    before = path.read_text()
    recorded.suite(SUITE.replace("ttft.p90: 40ms", "ttft.p90: 1ms"))
    assert recorded.run("suites", "--autotune", "--autotune-record").ret == 1
    assert path.read_text() == before


def test_a_part_of_a_verification_is_not_judged(recorded):
    result = recorded.run("suites", "-k", "c1", "-rs")
    assert result.ret == 0
    assert result.parseoutcomes()["skipped"] == 1
    result.stdout.fnmatch_lines(["SKIPPED*only a part of best was measured; the gate judges all*"])


def test_collecting_shows_the_tree_and_starts_nothing(recorded):
    result = recorded.run("suites", "--collect-only", "-q")
    lines = ["suites/quick.yaml::best::deploy", "suites/quick.yaml::best::c1", "suites/quick.yaml::best::c8"]
    result.stdout.fnmatch_lines(lines)
    assert not (recorded.path / ".autotune").exists()


def test_checks_of_a_python_suite_are_tests_like_any_other(recorded):
    recorded.pytester.makepyfile(
        **{
            "suites/suite_quick": """
                SUITE = "quick.yaml"

                def test_first_token(batch):
                    assert batch.ttft.p50 < 0.000001
            """
        }
    )
    result = recorded.run("suites/suite_quick.py", "--junitxml=report.xml")
    assert result.ret == 1
    (failed,) = (case for name, case in recorded.testcases().items() if name.endswith("test_first_token[c8]"))
    assert "assert batch.ttft.p50 < 0.000001" in failed.find("failure").text


def test_workers_verify_several_suites_and_one_gate_each_is_reported(recorded):
    for name in ("second", "third"):
        recorded.suite(SUITE.replace("name: quick", f"name: {name}"), name=f"{name}.yaml")
        record(recorded, name)
    result = recorded.run("suites", "-n2", "-v")
    assert result.ret == 0, result.stdout.str()
    assert result.parseoutcomes()["passed"] == 3
    assert result.parseoutcomes()["deployed"] == 3
    assert result.stdout.str().count("::gate") == 3


def test_bisecting_finds_the_commit_that_made_a_server_slower(recorded):
    def git(*arguments):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *arguments]
        return subprocess.run(command, cwd=recorded.path, capture_output=True, text=True, check=True).stdout

    git("init", "-q")
    for number in range(1, 9):
        suite = SLOWER if number >= 6 else SUITE
        recorded.suite(f"# {number}\n{suite}")
        git("add", "suites")
        git("commit", "-q", "-m", f"change {number}")
    git("bisect", "start", "HEAD", "HEAD~7")
    tested = ["-p", "no:cacheprovider", "-p", "tolerant_load", "suites/quick.yaml"]
    found = git("bisect", "run", *recorded.pytester._getpytestargs(), *tested)
    assert "is the first bad commit" in found
    assert git("show", "-s", "--format=%s", "refs/bisect/bad").strip() == "change 6"
