from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.gate import Gate, Rule
from pytest_autotune.held import Verification
from pytest_autotune.reporting.junit import junit_text, metric_name, write_junit
from pytest_autotune.slo import Limit, Ruling
from pytest_autotune.suite import Objective, Price
from tests.make_baselines import baseline
from tests.make_records import batch, trial
from tests.make_reports import BEST, DEFAULTS, REFUSED, VIOLATING, good, report, suite


def parsed(*reports):
    root = ET.fromstring(junit_text(reports).encode())
    return [(s, {case.get("name"): case for case in s.iter("testcase")}) for s in root.iter("testsuite")]


def test_the_selected_configuration_is_reported_batch_by_batch_under_stable_names():
    ((element, cases),) = parsed(report(DEFAULTS, BEST, VIOLATING))
    assert list(cases) == ["gate.compliant-configuration", "c1", "c8", "c16", "c32"]
    assert {case.get("classname") for case in cases.values()} == {"chat"}
    assert element.get("file") == "suites/chat.yaml"
    counts = {name: element.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "5", "failures": "0", "errors": "0", "skipped": "2"}
    assert element.get("timestamp") == "2026-01-02T03:04:05Z"
    properties = {p.get("name"): p.get("value") for p in element.iter("property")}
    assert properties["engine"] == "vllm"
    assert properties["engine_version"] == "0.11.0"
    assert properties["gpu"] == "2 x NVIDIA H100"
    assert properties["commit"] == "0123abc"
    assert properties["configuration"] == '{"max-num-seqs": 64, "tp": 2}'
    assert properties["best_output_throughput_tok_per_s"] == "231.7"
    assert properties["trials_violating"] == "1"


def test_a_finding_has_its_whole_explanation_in_the_elements_text():
    ((_, cases),) = parsed(report(BEST))
    finding = cases["c16"].find("skipped")
    assert finding.get("message") == "violating: ttft.p90: 612 ms > 500 ms (+22 %)"
    assert finding.text.splitlines() == [
        "violating: ttft.p90: 612 ms > 500 ms (+22 %)",
        "  ttft.p90                 612 ms >  500 ms         +22 %  MISSED",
        "  output_throughput  264.48 tok/s >= 10.00 tok/s  +2545 %  holds",
        "server log: server.log",
    ]
    assert cases["c32"].find("skipped").get("message") == "infeasible: out of memory: CUDA out of memory"
    assert cases["c32"].get("time") is None


def test_a_batch_that_could_not_be_measured_is_an_error():
    broken = trial(1, good(1, 50.0), batch(8, status="failed", reason="timeout after 60 s"))
    ((element, cases),) = parsed(report(broken))
    assert element.get("errors") == "1"
    assert cases["c8"].find("error").get("message") == "failed: timeout after 60 s"
    assert cases["c1"].find("error") is None


def test_numbers_are_plain_decimals_in_base_units_with_the_unit_in_the_name():
    measured = trial(
        1,
        batch(
            1, ttft__p90=0.000012, output_throughput=1.5e20, error_rate=0.0, request_throughput_per_gpu=2.5, custom=1
        ),
    )
    of = suite(slo=())
    ((_, cases),) = parsed(report(measured, of=of))
    assert cases["c1"].find("system-out").text.splitlines() == [
        "compliant",
        "custom=1",
        "error_rate=0",
        "output_throughput_tok_per_s=150000000000000000000",
        "request_throughput_per_gpu_req_per_s=2.5",
        "ttft_p90_s=0.000012",
        "requests=100",
        "window_s=30",
    ]


def test_without_a_selected_configuration_the_gate_fails_and_no_batch_is_listed():
    ((element, cases),) = parsed(report(VIOLATING, REFUSED))
    assert list(cases) == ["gate.compliant-configuration"]
    assert element.get("failures") == "1"
    failure = cases["gate.compliant-configuration"].find("failure")
    assert failure.get("type") == "compliant-configuration"
    assert failure.get("message") == (
        "No configuration meets the SLO: the binding limit is ttft.p90: 610 ms > 500 ms (+22 %) at concurrency 1 in max-num-seqs=8 tp=1"
    )
    assert "Relax that limit" in failure.text
    assert "closest: max-num-seqs=8 tp=1 at concurrency=1" in failure.text
    assert "[slo] concurrency=8 violates ttft.p90: 800 ms > 500 ms (+60 %)" in failure.text
    assert "max-num-seqs=999 tp=1: infeasible: out of memory: 3 GiB short" in failure.text


def test_numbers_are_properties_of_the_suite_and_of_a_test_only_where_the_schema_is_not_asked_for():
    root = ET.fromstring(junit_text([report(BEST)]))
    assert len(root.findall(".//properties")) == 1
    properties = {p.get("name"): p.get("value") for p in root.iter("property")}
    assert properties["c1.ttft_p90_s"] == "0.1"
    assert properties["dd_tags[autotune.gpu]"] == "2 x NVIDIA H100"
    for family in ("xunit1", "legacy"):
        root = ET.fromstring(junit_text([report(BEST)], family=family))
        assert {case.get("file") for case in root.iter("testcase")} == {"suites/chat.yaml"}
        (case,) = root.findall(".//testcase[@name='c1']")
        properties = {p.get("name"): p.get("value") for p in case[0]}
        assert properties["ttft_p90_s"] == properties["dd_tags[autotune.ttft_p90_s]"] == "0.1"
        assert [len(case.findall("properties")) for case in root.iter("testcase")] == [0, 1, 1, 1, 1]


def logged(path, **fields):
    """The system-out of what failed, of a verification whose server wrote its log to a path."""
    served = dataclasses.replace(BEST, server_log=path)
    ((_, cases),) = parsed(report(served, verification=VERIFIED, root="/builds", **fields))
    return cases["c1"].findtext("system-out"), cases["c16"].findtext("system-out"), cases["c16"].findtext("failure")


def test_the_log_of_a_server_is_linked_from_what_it_failed_at_by_its_path_below_the_root_directory():
    passed, failed, text = logged("/builds/.autotune/run/chat/best/server.log")
    assert failed.splitlines()[-1] == "[[ATTACHMENT|.autotune/run/chat/best/server.log]]"
    assert "ATTACHMENT" not in passed
    assert text.splitlines()[-1] == "server log: .autotune/run/chat/best/server.log"
    assert logged("/elsewhere/server.log")[1].splitlines()[-1] == "[[ATTACHMENT|/elsewhere/server.log]]"


@pytest.mark.parametrize(
    ("path", "deploy"),
    [("", "local"), ("/builds/server.log", "endpoint"), ("/builds/[a]/x", "local"), ("/builds/a|b", "local")],
)
def test_a_log_that_is_not_there_or_cannot_be_named_is_not_linked(path, deploy):
    _, failed, text = logged(path, of=suite(deploy=deploy))
    assert "ATTACHMENT" not in failed
    assert ("server log" in text) == (bool(path) and deploy == "local")


def test_the_log_of_a_server_that_did_not_come_up_is_linked_from_the_gate():
    gone = dataclasses.replace(trial(1, status="infeasible", reason="no memory"), server_log="/builds/a/server.log")
    gate = Gate((Rule("slo", False, "Nothing was measured: no memory."), Rule("not-worse.x", False, "Not compared.")))
    ((_, cases),) = parsed(report(gone, gate=gate, verification=VERIFIED, root="/builds"))
    assert cases["gate.slo"].findtext("system-out") == "[[ATTACHMENT|a/server.log]]"
    assert cases["gate.not-worse.x"].find("system-out") is None
    assert cases["gate.not-worse.x"].findtext("failure") == "Not compared."


def test_a_rule_that_fails_although_something_was_selected_is_a_failure_next_to_the_batches():
    gate = Gate((Rule("compliant-configuration", True, "fine"), Rule("not-slower", False, "12 % slower. Look at it.")))
    ((_, cases),) = parsed(report(BEST, gate=gate))
    assert list(cases)[:3] == ["gate.compliant-configuration", "gate.not-slower", "c1"]
    assert cases["gate.not-slower"].find("failure").text == "12 % slower. Look at it."


def test_every_suite_of_a_run_has_its_own_testsuite(tmp_path):
    path = tmp_path / "new" / "verdict.xml"
    write_junit(path, [report(BEST), report(VIOLATING, of=suite(name="code"))])
    root = ET.parse(path).getroot()
    assert [s.get("name") for s in root.iter("testsuite")] == ["chat", "code"]
    assert (root.get("tests"), root.get("failures")) == ("6", "1")
    assert path.read_text().startswith('<?xml version="1.0" encoding="utf-8"?>')


def test_equal_input_gives_equal_output():
    assert junit_text([report(DEFAULTS, BEST)]) == junit_text([report(DEFAULTS, BEST)])


def test_secrets_are_masked():
    of = suite(env={"HF_TOKEN": "very-secret-value"})
    refused = dataclasses.replace(REFUSED, reason="token very-secret-value refused")
    text = junit_text([report(refused, of=of), report(BEST, of=of)])
    assert "very-secret" not in text
    assert "token *** refused" in text


@pytest.mark.parametrize(
    "reason", ["\x1b[31mred\x1b[0m", "nul\0", "\ud800", "\x08\x0b\x0c\uffff\ufffe", "]]>", "<&>\"'"]
)
def test_what_xml_cannot_hold_is_left_out(reason):
    ((_, cases),) = parsed(report(dataclasses.replace(REFUSED, reason=f"a{reason}b")))
    text = cases["gate.compliant-configuration"].find("failure").text
    assert re.search("a.*b", text)
    assert "[31m" not in text


@settings(max_examples=50, deadline=None)
@given(st.text(), st.text())
def test_the_report_is_valid_whatever_a_server_said(name, reason):
    of = suite(name=name or "x")
    assert len(parsed(report(dataclasses.replace(REFUSED, reason=reason), of=of), report(BEST, of=of, gpu=reason))) == 2


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("ttft.p90", "ttft_p90_s"),
        ("output_throughput_per_gpu", "output_throughput_per_gpu_tok_per_s"),
        ("goodput", "goodput_req_per_s"),
        ("error_rate", "error_rate"),
        ("custom.thing", "custom_thing"),
    ],
)
def test_a_metric_is_named_with_its_base_unit(metric, name):
    assert metric_name(metric) == name


def test_a_compliant_configuration_without_a_score_is_listed_by_the_gate_only():
    unscored = trial(1, batch(1, ttft__p90=0.1, output_throughput=50.0))
    ((_, cases),) = parsed(report(unscored, of=suite(objective=Objective(metric="goodput"))))
    assert list(cases) == ["gate.compliant-configuration"]
    assert "no compliant batch has the objective goodput" in cases["gate.compliant-configuration"].find("failure").text


def test_each_tier_has_properties():
    tiers = {"quick": (Limit("ttft.p90", 0.2),), "never": (Limit("e2e.p90", 1.0),)}
    text = junit_text([report(BEST, of=suite(price=Price(per_gpu_hour=2.5, currency="EUR")), tiers=tiers)])
    properties = {p.get("name"): p.get("value") for p in ET.fromstring(text).iter("property")}
    assert properties["price"] == "2.5 EUR per GPU and hour"
    assert {name: value for name, value in properties.items() if name.startswith("tier.")} == {
        "tier.quick.configuration": '{"max-num-seqs": 64, "tp": 2}',
        "tier.quick.gpus": "2",
        "tier.quick.concurrency": "1",
        "tier.quick.best_output_throughput_tok_per_s": "45",
        "tier.never.none": "at concurrency 1: e2e.p90: 4.5 s > 1.0 s (+350 %)",
    }


VERIFIED = Verification(baseline(), ())
UNSURE = dataclasses.replace(good(64, 300.0), rulings={"ttft.p90": Ruling("open", 0.8, 0.9, 100)})
MIXED = trial(2, *BEST.batches, UNSURE, batch(128, status="failed", reason="timeout after 60 s"))


@pytest.mark.parametrize(
    ("verification", "outcomes"),
    [
        pytest.param(
            None,
            {"c1": None, "c8": None, "c16": "skipped", "c32": "skipped", "c64": "skipped", "c128": "error"},
            id="search",
        ),
        pytest.param(
            VERIFIED,
            {"c1": None, "c8": None, "c16": "failure", "c32": "error", "c64": "failure", "c128": "error"},
            id="verification",
        ),
    ],
)
def test_what_is_a_finding_of_a_search_fails_in_a_verification(verification, outcomes):
    ((_, cases),) = parsed(report(MIXED, verification=verification))
    found = {
        name: next((kind for kind in ("skipped", "failure", "error") if case.find(kind) is not None), None)
        for name, case in cases.items()
    }
    del found["gate.compliant-configuration"]
    assert found == outcomes


def test_a_batch_that_violates_in_a_verification_is_a_failure_with_its_whole_explanation():
    ((_, cases),) = parsed(report(BEST, verification=VERIFIED))
    failure = cases["c16"].find("failure")
    assert failure.get("type") == "violating"
    assert failure.get("message") == "violating: ttft.p90: 612 ms > 500 ms (+22 %)"
    assert failure.text.splitlines()[-1] == "server log: server.log"


def test_batches_of_a_verification_are_listed_although_none_complies_and_of_several_trials_those_of_the_worst():
    ((element, cases),) = parsed(report(BEST, VIOLATING, verification=VERIFIED))
    assert list(cases) == ["gate.compliant-configuration", "c1", "c8"]
    assert element.get("failures") == "2"


def test_a_rule_that_could_not_be_told_is_skipped():
    gate = Gate(
        (Rule("slo", True, "fine"), Rule("not-worse.ttft.p99", False, "Not resolved. Measure longer.", open=True))
    )
    ((_, cases),) = parsed(report(BEST, gate=gate, verification=VERIFIED))
    case = cases["gate.not-worse.ttft.p99"]
    assert case.find("failure") is None
    assert case.find("skipped").get("message") == "Not resolved"
    assert case.find("skipped").text == "Not resolved. Measure longer."
