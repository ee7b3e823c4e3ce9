"""The reports as XML against the schemas of xunit2 and of Jenkins (tests/data/README.md says which these are)."""

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import xmlschema

from pytest_autotune.reporting.junit import junit_text
from tests.conftest import QUICK_SUITE
from tests.make_baselines import record
from tests.make_verdicts import CASES, SECRET

DATA = Path(__file__).parent / "data" / "junit"
XUNIT2, JENKINS = (xmlschema.XMLSchema(DATA / name) for name in ("xunit2.xsd", "jenkins.xsd"))
VERIFIED = QUICK_SUITE.replace("objective:", "gate: {throughput: -40%}\nobjective:")


def properties_taken_off(text):
    """Return the document without the properties of its test cases, and how many cases had some.

    Neither schema allows them. pytest writes them nevertheless, as its documentation of `record_property` says, because
    readers look for them there.
    """
    root = ET.fromstring(text)
    had = 0
    for case in root.iter("testcase"):
        for properties in case.findall("properties"):
            case.remove(properties)
            had += 1
    return ET.tostring(root, encoding="unicode"), had


@pytest.mark.parametrize("schema", [pytest.param(XUNIT2, id="xunit2"), pytest.param(JENKINS, id="jenkins")])
@pytest.mark.parametrize("case", CASES)
def test_a_verdict_conforms_to_both_schemas(case, schema):
    text = junit_text([CASES[case]])
    schema.validate(text)
    assert SECRET not in text


@pytest.mark.parametrize("case", CASES)
def test_a_verdict_with_details_has_nothing_that_jenkins_forbids_but_properties_of_tests(case):
    text, had = properties_taken_off(junit_text([CASES[case]], family="xunit1"))
    JENKINS.validate(text)
    assert (had > 0) == (case != "nothing-selected")
    assert SECRET not in text


def test_reports_of_several_suites_and_of_none_conform():
    for reports in ([*CASES.values()], []):
        XUNIT2.validate(junit_text(reports))
        JENKINS.validate(junit_text(reports))


@pytest.mark.parametrize(
    "spoilt",
    [
        pytest.param(lambda text: text.replace("classname=", "klass="), id="attribute"),
        pytest.param(lambda text: text.replace("system-out", "output"), id="element"),
        pytest.param(lambda text: text.replace('time="60.000"', 'time="60.0001"'), id="time"),
    ],
)
def test_the_schemas_tell_a_wrong_document(spoilt):
    text = junit_text([CASES["verified"]])
    assert spoilt(text) != text
    assert not XUNIT2.is_valid(spoilt(text))


def validated(project):
    """Validate both reports of a run, and return the verdicts."""
    text, had = properties_taken_off((project.path / "report.xml").read_text())
    assert had
    verdict = (project.path / "verdict.xml").read_text()
    for schema in (XUNIT2, JENKINS):
        schema.validate(text)
        schema.validate(verdict)
    return project.testcases("verdict.xml")


REPORTS = ("--junitxml=report.xml", "--autotune-junit=verdict.xml")


def test_both_reports_of_a_search_conform(project):
    project.suite(QUICK_SUITE.replace("ttft.p90: 40ms", "ttft.p90: 1ms"))
    assert project.run("suites", "--autotune", *REPORTS).ret == 1
    assert list(validated(project)) == ["quick.gate.compliant-configuration"]
    project.suite()
    assert project.run("suites", "--autotune", *REPORTS).ret == 0
    assert list(validated(project)) == ["quick.gate.compliant-configuration", "quick.c1", "quick.c8"]


def test_both_reports_of_a_verification_conform_and_link_the_log_of_what_failed(project):
    project.suite(VERIFIED)
    record(project)
    result = project.run("suites", *REPORTS)
    assert result.ret == 0, result.stdout.str()
    passed = validated(project)
    assert not [case for case in passed.values() if len(case) != 1]  # no outcome but what is printed
    project.suite(VERIFIED.replace("ttft.p90: 40ms", "ttft.p90: 1ms"))
    assert project.run("suites", *REPORTS).ret == 1
    failed = validated(project)
    assert failed.keys() == passed.keys()
    attached = failed["quick.c8"].findtext("system-out").splitlines()[-1]
    path = attached.removeprefix("[[ATTACHMENT|").removesuffix("]]")
    assert not path.startswith("/")
    assert (project.path / path).is_file()


def test_junit_family_says_for_both_reports_whether_there_are_files_and_properties(project):
    project.suite(VERIFIED)
    record(project)
    result = project.run("suites", *REPORTS, "-o", "junit_family=xunit1")
    assert result.ret == 0, result.stdout.str()
    for name in ("report.xml", "verdict.xml"):
        assert {case.get("file") for case in project.testcases(name).values()} == {"suites/quick.yaml"}
    numbers = project.testcases("verdict.xml")["quick.c8"].find("properties")
    assert "ttft_p90_s" in {one.get("name") for one in numbers}


def test_a_run_without_pytests_own_report_has_verdicts(project):
    project.suite(VERIFIED)
    record(project)
    result = project.run("suites", "-p", "no:junitxml", "--autotune-junit=verdict.xml")
    assert result.ret == 0, result.stdout.str()
    XUNIT2.validate((project.path / "verdict.xml").read_text())
