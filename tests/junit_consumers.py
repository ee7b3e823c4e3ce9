"""What each reader of JUnit XML takes from a report, by its documentation or its source: one function for each.

Nothing here judges. Each returns what is shown in the order in which it stands in the document: one
dictionary for each test, without what is empty.
"""

import re
import xml.etree.ElementTree as ET

FAILED = ("failure", "error")


def gitlab(text):
    """GitLab, merge request and pipeline: docs.gitlab.com/ci/testing/unit_test_reports, parser lib/gitlab/ci/parsers/test/junit.rb.

    The suite shown is the class name. Of a failure the text counts, never the message. Of tests with equal names
    the first is used. The attachment is a path among the job's artifacts, the first one in system-out.
    """
    seen = set()
    for case in ET.fromstring(text.encode()).iter("testcase"):
        key = (case.get("classname"), case.get("name"))
        if key in seen:
            continue
        seen.add(key)
        outcome = next((case.find(kind) for kind in (*FAILED, "skipped") if case.find(kind) is not None), None)
        attached = None
        if outcome is not None and outcome.tag in FAILED:
            attached = re.search(r"\[\[ATTACHMENT\|([^\[\]|]+?)\]\]", case.findtext("system-out", ""))
        yield _told(
            suite=case.get("classname"),
            name=case.get("name"),
            file=case.get("file"),
            time=case.get("time"),
            status={"failure": "failed", None: "success"}.get(_tag(outcome), _tag(outcome)),
            output=None if outcome is None else outcome.text,
            attachment=attached and attached[1],
        )


def jenkins(text):
    """Jenkins, plugins JUnit (with keepProperties) and JUnit Attachments: their READMEs, and CaseResult.java.

    Details are the message, the stack trace is the text. The output of a test that has not failed is cut in its middle,
    to 1,000 characters. An attachment stands on a line of its own; a relative path begins at the workspace.
    """
    for suite, case in _cases(text):
        failed = next((case.find(kind) for kind in ("error", "failure") if case.find(kind) is not None), None)
        skipped, out = case.find("skipped"), case.findtext("system-out")
        if out is not None and failed is None and len(out) > 1000:
            out = f"{out[:500]}\n...[truncated {len(out) - 1000} chars]...\n{out[-500:]}"
        yield _told(
            suite=suite.get("name"),
            className=case.get("classname", suite.get("name")),
            name=case.get("name"),
            duration=case.get("time"),
            status="PASSED" if failed is None and skipped is None else "SKIPPED" if failed is None else "FAILED",
            errorDetails=None if failed is None else failed.get("message"),
            errorStackTrace=None if failed is None else failed.text,
            skippedMessage=None if skipped is None else skipped.get("message", skipped.text),
            stdout=out,
            properties=_lines(_properties(case)),
            attachments="\n".join(re.findall(r"^\[\[ATTACHMENT\|(.+)\]\]$", out or "", re.MULTILINE)),
        )


def buildkite(text):
    """Buildkite Test Engine: buildkite.com/docs/test-engine/importing-junit-xml.

    It needs class name and name. For all else it refers to github.com/testmoapp/junitxml, whose elements
    and attributes are returned as they are.
    """
    for _, case in _cases(text):
        outcome = next((case.find(kind) for kind in (*FAILED, "skipped") if case.find(kind) is not None), None)
        yield _told(
            classname=case.attrib["classname"],
            name=case.attrib["name"],
            file=case.get("file"),
            line=case.get("line"),
            time=case.get("time"),
            result="passed" if outcome is None else outcome.tag,
            message=None if outcome is None else outcome.get("message"),
            details=None if outcome is None else outcome.text,
            properties=_lines(_properties(case)),
        )


def github_action(text):
    """mikepenz/action-junit-report: src/testParser.ts. Failed tests become annotations on a file and a line.

    The file is that of the test, or of its suite. Without a line it looks for the file's name with one in
    the text, and takes the first line if there is none.
    """
    for suite, case in _cases(text):
        failed = next((case.find(kind) for kind in FAILED if case.find(kind) is not None), None)
        details = "" if failed is None else (failed.text or "").strip()
        file = case.get("file") or suite.get("file") or case.get("classname", "").rpartition(".")[2]
        line = case.get("line") or suite.get("line")
        if line is None:
            line = (re.findall(rf" [^ ]*{re.escape(file)}.*?:(\d+)", details) or ["1"])[-1]
        skipped = case.find("skipped") is not None
        if failed is None or skipped:
            yield _told(title=f"{file}.{case.get('name')}", status="skipped" if skipped else "success")
            continue
        yield _told(
            title=f"{file}.{case.get('name')}",
            status="failure",
            at=f"{file.removeprefix('./')}:{line}",
            message=failed.get("message") or "\n".join(details.split("\n")[:2]) or case.get("name"),
            raw_details=details,
        )


def github_reporter(text):
    """dorny/test-reporter (reporters java-junit and python-xunit): src/parsers/java-junit/java-junit-parser.ts.

    Tests are grouped by their class name where it is not the suite's. Of a failure the text is shown.
    """
    for suite, case in _cases(text):
        failed = next((case.find(kind) for kind in FAILED if case.find(kind) is not None), None)
        result = "failed" if failed is not None else "success" if case.find("skipped") is None else "skipped"
        yield _told(
            suite=suite.attrib["name"].strip(),
            group=None if case.get("classname") == suite.get("name") else case.get("classname"),
            name=case.attrib["name"].strip(),
            time=case.get("time"),
            result=result,
            details=None if failed is None else failed.text,
        )


def datadog(text):
    """Datadog Test Optimization, `datadog-ci junit upload --logs`: docs.datadoghq.com/tests/setup/junit_xml.

    A property of a suite (for all of its tests) or of a test is a tag when its name is ``dd_tags[...]``, and ignored
    otherwise. The file, for code owners, is that of the test or of its suite. Texts become logs.
    """
    for suite, case in _cases(text):
        outcome = next((case.find(kind) for kind in (*FAILED, "skipped") if case.find(kind) is not None), None)
        properties = _properties(suite) | _properties(case)
        tags = {tag[1]: value for name, value in properties.items() if (tag := re.fullmatch(r"dd_tags\[(.+)\]", name))}
        yield _told(
            suite=suite.get("name"),
            name=case.get("name"),
            duration=case.get("time"),
            status={"skipped": "skip", None: "pass"}.get(_tag(outcome), "fail"),
            source_file=case.get("file") or suite.get("file"),
            error=outcome.get("message") if _tag(outcome) in FAILED else None,
            tags=_lines(tags),
            logs="\n".join(filter(None, (case.findtext("system-out"), case.findtext("failure")))),
        )


def rendered(tests):
    """Write what was read as text: a field for each line, longer ones indented, an empty line between tests."""
    return "\n".join("".join(_field(name, value) for name, value in test.items()) for test in tests)


def _field(name, value):
    if "\n" not in value:
        return f"{name}: {value}\n"
    return f"{name}:\n" + "".join(f"    {line}".rstrip() + "\n" for line in value.split("\n"))


def _told(**fields):
    return {name: value for name, value in fields.items() if value}


def _cases(text):
    for suite in ET.fromstring(text.encode()).iter("testsuite"):
        for case in suite.iter("testcase"):
            yield suite, case


def _properties(element):
    return {one.get("name"): one.get("value") for one in element.iterfind("properties/property")}


def _lines(values):
    return "\n".join(f"{name} = {value}" for name, value in values.items())


def _tag(element):
    return None if element is None else element.tag
