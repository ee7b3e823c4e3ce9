"""Suites written in Python: the same tree, one deployment, one measurement per load."""

CHECKS = """\
import urllib.request

SUITE = "quick.yaml"

def test_short_first_token(batch, slo):
    assert batch.ttft.p90 <= slo.ttft.p90

def test_no_request_fails(batch):
    assert batch.error_rate == 0
    assert batch["requests"] == len(batch.samples)

def test_server_says_which_model_it_is(model_server, trial):
    with urllib.request.urlopen(f"{model_server.url}/v1/models") as answer:
        assert model_server.model_name in answer.read().decode()
    assert trial.configuration["max-num-seqs"] in (2, 64)

def test_of_another_kind():
    assert True
"""


def test_checks_join_the_tree_of_their_suite(project):
    project.suite()
    (project.path / "suites" / "suite_quick.py").write_text(CHECKS)
    result = project.run("suites/suite_quick.py", "--autotune", "--collect-only", "-q")
    names = [line.removeprefix("suites/suite_quick.py::") for line in result.outlines if "::" in line]
    assert names == [
        "test_of_another_kind",
        *(
            f"max-num-seqs:{seqs}::{item}"
            for seqs in (2, 64)
            for item in (
                "deploy",
                "c1",
                "test_short_first_token[c1]",
                "test_no_request_fails[c1]",
                "c8",
                "test_short_first_token[c8]",
                "test_no_request_fails[c8]",
                "test_server_says_which_model_it_is",
            )
        ),
    ]


def test_checks_share_one_deployment_and_one_measurement(project):
    project.suite()
    (project.path / "suites" / "suite_quick.py").write_text(CHECKS)
    result = project.run("suites/suite_quick.py", "--autotune", "-v")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(
        ["*max-num-seqs:2::test_short_first_token[[]c8] VIOLATES*(assert ttft.p90 * <= ttft.p90 40 ms*"]
    )
    with project.store() as store:
        (run,) = store.runs()
        trials = store.trials_of_run(run.id)
    assert len(trials) == 2
    assert [len(trial.batches) for trial in trials] == [2, 2]


def test_a_failed_check_of_the_users_own_makes_the_batch_not_compliant(project):
    project.suite()
    (project.path / "suites" / "suite_quick.py").write_text(
        'SUITE = "quick.yaml"\ndef test_never(batch):\n    assert batch.concurrency < 8\n'
    )
    result = project.run("suites/suite_quick.py", "--autotune", "-v")
    assert result.ret == 0
    assert "1/2 batches compliant" in result.stdout.str()
    assert "2/2 batches compliant" not in result.stdout.str()


def test_parametrize_on_a_check_is_refused_at_collection(project):
    project.suite()
    (project.path / "suites" / "suite_quick.py").write_text(
        'import pytest\nSUITE = "quick.yaml"\n@pytest.mark.parametrize("x", [1, 2])\ndef test_it(batch, x): pass\n'
    )
    result = project.run("suites/suite_quick.py", "--autotune")
    assert result.ret == 2
    result.stdout.fnmatch_lines(["*test_it: a check of a suite cannot be parametrized*"])
    assert "Traceback" not in result.stdout.str()


def test_a_check_without_suite_is_told_what_to_add(project):
    (project.path / "suites" / "suite_quick.py").write_text("def test_it(batch): pass\n")
    result = project.run("suites/suite_quick.py", "--autotune")
    assert result.ret == 2
    result.stdout.fnmatch_lines(["*has no SUITE; add SUITE = *"])


def test_checks_of_recorded_batches_count_as_they_are_now(project):
    project.suite()
    checks = project.path / "suites" / "suite_quick.py"
    checks.write_text('SUITE = "quick.yaml"\ndef test_few(batch):\n    assert batch.concurrency < 8\n')
    assert "2/2 batches compliant" not in project.run("suites/suite_quick.py", "--autotune", "-v").stdout.str()

    checks.write_text('SUITE = "quick.yaml"\ndef test_few(batch):\n    assert batch.concurrency < 80\n')
    mended = project.run("suites/suite_quick.py", "--autotune", "-v").stdout.str()
    assert "2/2 batches compliant" in mended
    assert "[recorded]" in mended

    checks.write_text('SUITE = "quick.yaml"\ndef test_none(batch):\n    assert batch.concurrency < 1\n')
    assert project.run("suites/suite_quick.py", "--autotune").ret == 1

    checks.write_text('SUITE = "quick.yaml"\n')
    without = project.run("suites/suite_quick.py", "--autotune", "-v")
    assert without.ret == 0
    assert "2/2 batches compliant" in without.stdout.str()
