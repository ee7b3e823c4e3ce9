"""What GitLab, Jenkins, Buildkite, reporters for GitHub, and Datadog show of a verdict: kept in tests/data/junit/.

After a change that is meant, write the files anew, and read the difference:

    AUTOTUNE_WRITE_GOLDEN=1 python -m pytest tests/test_junit_consumers.py
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_autotune.reporting.junit import XUNIT2, junit_text
from tests.junit_consumers import buildkite, datadog, github_action, github_reporter, gitlab, jenkins, rendered
from tests.make_records import trial
from tests.make_reports import BEST, VIOLATING, good, report
from tests.make_verdicts import CASES, measured

DATA = Path(__file__).parent / "data" / "junit"
FAMILIES = {  # as docs/ci.md tells to run pytest for them
    gitlab: "xunit1",
    jenkins: "xunit1",
    buildkite: "xunit1",
    github_action: XUNIT2,
    github_reporter: XUNIT2,
    datadog: "xunit1",
}
FASTER = replace(trial(5, good(1, 50.0), good(8, 400.0), configuration={"max-num-seqs": 128}), reason="")


@pytest.mark.parametrize("case", ["search", "verified", "red"])
@pytest.mark.parametrize("read", FAMILIES, ids=lambda read: read.__name__)
def test_a_reader_shows_what_it_did(read, case):
    shown = rendered(read(junit_text([CASES[case]], family=FAMILIES[read])))
    path = DATA / f"{read.__name__}-{case}.txt"
    if os.environ.get("AUTOTUNE_WRITE_GOLDEN"):
        path.write_text(shown)
    assert shown == path.read_text()


def test_no_golden_file_is_left_over():
    names = {f"{read.__name__}-{case}.txt" for read in FAMILIES for case in ("search", "verified", "red")}
    assert {path.name for path in DATA.glob("*.txt")} == names


@pytest.mark.parametrize("read", FAMILIES, ids=lambda read: read.__name__)
def test_every_reader_tells_why_the_gate_is_red(read):
    shown = rendered(read(junit_text([CASES["red"]])))
    assert "Output throughput fell by" in shown
    assert "ttft.p90: 612 ms > 500 ms (+22 %)" in shown


def names(found):
    return [(test["suite"], test["name"]) for test in gitlab(junit_text([found]))]


def test_another_winner_changes_no_name():
    before, after = report(BEST, VIOLATING), report(BEST, FASTER, VIOLATING)
    assert before.selection.best.trial != after.selection.best.trial
    assert (
        names(before)[:3]
        == names(after)[:3]
        == [("chat", name) for name in ("gate.compliant-configuration", "c1", "c8")]
    )


def test_a_verification_has_the_same_names_whatever_it_comes_to():
    kinds = [measured(45.0, 200.0), measured(45.0, 150.0), measured(45.0, 200.0, ttft=0.612)]
    assert len({tuple(names(found)) for found in kinds}) == 1
    assert names(kinds[0]) == [("chat", name) for name in ("gate.slo", "gate.not-worse.output_throughput", "c1", "c8")]


def test_details_are_added_and_nothing_else_changes():
    strict = junit_text([CASES["red"]])
    for read in (gitlab, jenkins, buildkite, datadog):
        added = {"file", "properties", "tags", "source_file"}
        detailed = read(junit_text([CASES["red"]], family="xunit1"))
        for test, more in zip(read(strict), detailed, strict=True):
            assert {name: value for name, value in more.items() if name not in added} == {
                name: value for name, value in test.items() if name not in added
            }
