"""The history of a suite in the reports of its verifications, through whole runs."""

import re
import sqlite3

from tests.conftest import QUICK_SUITE
from tests.make_baselines import record

SUITE = QUICK_SUITE.replace("objective:", "gate: {throughput: -40%}\nobjective:")


def verify(project):
    result = project.run("suites", "--autotune-export=markdown=m.md")
    assert result.ret == 0, result.stdout.str()
    return result, (project.path / "m.md").read_text()


def test_from_the_second_verification_on_the_summary_has_the_history(project):
    project.suite(SUITE)
    record(project)
    _, first = verify(project)
    assert "history" not in first
    result, second = verify(project)
    lines = second.splitlines()
    start = lines.index("| history | at | trend | first → last | since the first | verifications |")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[start + 2 : start + 4]]
    assert [(row[:2], row[5]) for row in rows] == [(["output throughput", at], "2") for at in ("c1", "c8")]
    assert all(re.fullmatch(r"`[▁█]{2}`", row[2]) for row in rows)
    assert lines[start + 4] == ""  # the metrics with a tolerance and no others
    with project.store() as store:
        measured = [
            [batch.metrics["output_throughput"] for trial in store.trials_of_run(run.id) for batch in trial.batches]
            for run in reversed(store.runs())
        ]
    assert [row[3] for row in rows] == [
        f"{first:.2f} tok/s → {last:.2f} tok/s" for first, last in zip(*measured, strict=True)
    ]
    assert "history:" not in result.stdout.str()  # too few for a change of level


def test_without_tolerances_objective_and_limits_have_a_history(project):
    project.suite()
    record(project)
    verify(project)
    _, text = verify(project)
    table = text.partition("| history |")[2]
    named = re.findall(r"^\| ([\w. ]+) \| c8 \|", table, re.MULTILINE)
    assert named == ["output throughput", "ttft.p90", "error rate"]


def test_what_cannot_be_read_of_an_earlier_run_is_one_line_and_turns_nothing_red(project):
    project.suite(SUITE)
    record(project)
    verify(project)
    with sqlite3.connect(project.path / ".autotune" / "results.db") as connection:
        connection.execute("UPDATE suites SET document = document || '}'")
    connection.close()
    result, text = verify(project)
    (line,) = [line for line in result.outlines if "history" in line]
    assert line.startswith("  history: not shown, as it cannot be read from the store: ")
    assert text.startswith("### quick: passed")
    assert "history" not in text
