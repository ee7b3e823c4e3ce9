"""An interrupted search is continued by the same command; nothing is measured twice or lost."""

import re
import sqlite3
import sys

import pytest

from tests.conftest import QUICK_SUITE


def counts(result):
    return {
        key: value for key, value in result.parseoutcomes().items() if key in ("compliant", "violating", "deployed")
    }


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_changed_load_is_another_measurement_and_a_changed_limit_is_not(project):
    suite = project.suite()
    project.run("suites", "--autotune")
    suite.write_text(suite.read_text().replace("ttft.p90: 40ms", "ttft.p97: 400ms"))
    relaxed = project.run("suites", "--autotune", "-v")
    assert relaxed.stdout.str().count("[recorded]") == 6
    assert counts(relaxed)["compliant"] == 4
    suite.write_text(suite.read_text().replace("output_tokens: 32", "output_tokens: 16"))
    assert "[recorded]" not in project.run("suites", "--autotune", "-v").stdout.str()


INTERRUPT = """\
import os

def pytest_runtest_setup(item):
    if item.name == "c1" and item.parent.name == "max-num-seqs:64" and os.path.exists("interrupt"):
        os.remove("interrupt")
        raise KeyboardInterrupt
"""


@pytest.mark.slow
def test_an_interrupted_fresh_run_is_continued_in_its_own_generation(project):
    project.suite()
    project.pytester.makeconftest(INTERRUPT)
    assert project.run("suites", "--autotune").ret == 0
    (project.path / "interrupt").touch()
    assert project.run("suites", "--autotune", "--autotune-fresh").ret == 2
    continued = project.run("suites", "--autotune", "-v")
    assert continued.ret == 0
    # Of the fresh run the trial that it finished is kept, and nothing of the first one.
    assert continued.stdout.str().count("[recorded]") == 3
    with project.store() as store:
        last, fresh, first = store.runs()
        (covered,) = store.suites_of_run(last.id)
        history = {trial.slot: (trial.run_id, trial.generation) for trial in store.history(covered.study)}
        slots = [trial.slot for trial in store.trials_of_run(last.id)]
    assert history == {"max-num-seqs:2": (fresh.id, fresh.id), "max-num-seqs:64": (last.id, fresh.id)}
    assert slots == ["max-num-seqs:64"]
    assert (first.outcome, fresh.outcome, last.outcome) == ("ok", "interrupted", "ok")


TERMINATED_IN_EXEC = """\
def pytest_runtest_setup(item):
    if item.name == "c1":
        exec("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
"""


def test_a_signal_in_the_middle_of_generated_code_ends_a_run_like_any_other(project):
    project.suite()
    project.pytester.makeconftest(TERMINATED_IN_EXEC)
    # What hypothesis imports at the end would hide it: it clears what Python remembers of the interrupt.
    assert project.run("suites", "--autotune", "-p", "no:hypothesispytest").ret == 2


# As of the code that Python adds for itself, between two lines of a function.
INTERRUPTED_WITHOUT_LINE = """\
import os, signal

def interrupt():
    os.kill(os.getpid(), signal.{name})
    return None

code = interrupt.__code__
units = len(code.co_code) // 2
no_line = [0x80 | 15 << 3 | min(units - n, 8) - 1 for n in range(0, units, 8)]  # Objects/locations.md of CPython
interrupt.__code__ = code.replace(co_linetable=bytes(no_line))

def pytest_runtest_setup(item):
    if item.name == "c1":
        interrupt()
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_in_code_that_has_no_line_ends_a_run_like_any_other(project, name):
    project.suite()
    project.pytester.makeconftest(INTERRUPTED_WITHOUT_LINE.format(name=name))
    result = project.run("suites", "--autotune")
    assert result.ret == 2, result.stdout.str()
    assert "INTERNALERROR" not in result.stdout.str()


UNLUCKY = """\
import os, sys
if not os.path.exists({path!r}):
    open({path!r}, "w").close()
    sys.exit("cannot reach the licence server")
os.execv(sys.executable, [sys.executable, "-m", "pytest_autotune.engines.sim", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_trouble_that_was_not_the_configurations_is_measured_again(project):
    script = project.path / "server.py"
    script.write_text(UNLUCKY.format(path=str(project.path / "tried")))
    command = [sys.executable, str(script), "--host", "{host}", "--port", "{port}", "--served-model-name"]
    command += ["{model_name}", "--model", "llama-3.1-8b", "{flags}"]
    project.suite(QUICK_SUITE.replace("engine: sim", f"engine: command\ncommand: {command}"))
    first = project.run("suites", "--autotune", "-v")
    assert first.ret == 1
    outcomes = first.parseoutcomes()
    assert (outcomes["errors"], outcomes["deployed"], outcomes["skipped"]) == (1, 1, 2), first.stdout.str()
    first.stdout.fnmatch_lines(["*cannot reach the licence server*"])
    second = project.run("suites", "--autotune", "-v")
    assert second.ret == 0, second.stdout.str()
    assert second.stdout.str().count("[recorded]") == 3
    assert second.parseoutcomes()["deployed"] == 2
    assert project.run("suites", "--autotune", "-v").stdout.str().count("[recorded]") == 6


@pytest.mark.slow
@pytest.mark.parametrize("store", ["elsewhere/kept.db", "sqlite:///elsewhere/kept.db"])
def test_the_store_may_be_anywhere(project, store):
    project.suite()
    assert project.run("suites", "--autotune", f"--autotune-store={store}").ret == 0
    assert (project.path / "elsewhere" / "kept.db").stat().st_size > 0
    assert not (project.path / ".autotune" / "results.db").exists()
    again = project.run("suites", "--autotune", f"--autotune-store={store}", "-v")
    assert again.stdout.str().count("[recorded]") == 6


def newer(path):
    with sqlite3.connect(path) as connection:
        connection.execute("create table autotune_schema (version integer not null)")
        connection.execute("insert into autotune_schema values (1000)")
    connection.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "is a directory: name a file in it"),
        (
            lambda path: path.write_bytes(b"no database at all\n" * 400),
            "is not an SQLite database: move that file away",
        ),
        (newer, "has schema version 1000, this pytest-autotune reads up to"),
    ],
    ids=["directory", "garbage", "newer"],
)
@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["serial", "xdist"])
def test_an_unusable_store_is_one_line_and_a_usage_error(project, make, message, workers):
    project.suite()
    make(project.path / "kept.db")
    result = project.run("suites", "--autotune", "--autotune-store=kept.db", *workers)
    assert result.ret == 4
    (line,) = [line for line in result.errlines if line]
    assert line.startswith("ERROR: ")
    assert message in line
    assert "Traceback" not in result.stdout.str()


def test_a_value_that_the_suite_no_longer_has_is_not_selected(project):
    suite = project.suite()
    first = project.run("suites", "--autotune")
    suite.write_text(suite.read_text().replace("max-num-seqs: [2, 64]", "max-num-seqs: [2]"))
    second = project.run("suites", "--autotune")
    assert "best: max-num-seqs=64" in first.stdout.str()
    assert "best: max-num-seqs=2 " in second.stdout.str()
    assert "1 trial (1 compliant)" in second.stdout.str()


def best_line(result):
    return re.search(r"best output throughput.*", result.stdout.str()).group()
