"""Bad input from the user's side: one line that says what is wrong, and never a traceback."""

import pytest

from tests.conftest import QUICK_SUITE

BROKEN = {
    "value": ("ttft.p90: 40ms", "ttft.p90: 40 parsecs", "*quick.yaml:9: slo.ttft.p90: '40 parsecs' is not a duration*"),
    "key": ("objective:", "objectiv:", "*quick.yaml:11: *objectiv*did you mean 'objective'?*"),
    "engine": ("engine: sim", "engine: simm", "*quick.yaml:2: engine: 'simm' is unknown (did you mean 'sim'?)*"),
    "flag": ("max-num-seqs", "max-num-seq", "*quick.yaml:5: *'max-num-seq'*(did you mean 'max-num-seqs'?)*"),
    "syntax": ("parameters:", "parameters: [", "*quick.yaml:*"),
    "deploy": ("engine: sim", "engine: sim\ndeploy: podmn", "*quick.yaml:3: deploy: 'podmn' is unknown*"),
}


@pytest.mark.parametrize(("old", "new", "line"), BROKEN.values(), ids=BROKEN)
def test_a_broken_suite_is_one_line_at_collection(project, old, new, line):
    project.suite(QUICK_SUITE.replace(old, new))
    result = project.run("suites", "--autotune")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*ERROR collecting suites/quick.yaml*", line])
    told = result.outlines[result.outlines.index(next(n for n in result.outlines if "ERROR collecting" in n)) + 1 :]
    assert told[1].startswith("=")


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--autotune-store=nosuch://x/y", "*nosuch*"),
        ("--autotune-store=.", "*"),
        ("--autotune-store=README.txt", "*README.txt*"),
    ],
    ids=["unknown database", "directory", "not a database"],
)
def test_an_unusable_store_is_one_line_before_anything_starts(project, option, line):
    project.suite()
    (project.path / "README.txt").write_text("no database at all, but long enough to be read as one\n" * 40)
    result = project.run("suites", "--autotune", option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert len(result.errlines) == 2  # the line, and an empty one
    result.stderr.fnmatch_lines([f"ERROR: {line}"])


def test_suites_of_other_tools_are_left_alone(project):
    (project.path / "docker-compose.yaml").write_text("services: {}\n")
    (project.path / "deploy").mkdir()
    (project.path / "deploy" / "values.yaml").write_text("replicas: 1\n")
    result = project.run("--autotune", "--collect-only", "-q")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
