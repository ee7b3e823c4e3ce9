"""The verdict report in JUnit's format: what was decided, one suite per suite, with stable names."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_autotune.files import write_atomically
from pytest_autotune.formatting import settings, unit
from pytest_autotune.gate import COMPLIANT_CONFIGURATION, SLO
from pytest_autotune.masking import mask, mask_text
from pytest_autotune.records import utc_text
from pytest_autotune.reporting.serving import serving_words
from pytest_autotune.selection import slo_lines
from pytest_autotune.slo import Status, explain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from junit_xml import TestCase

    from pytest_autotune.gate import Rule
    from pytest_autotune.reporting.report import SuiteReport, TierReport
    from pytest_autotune.selection import JudgedBatch, JudgedTrial, Selection

XUNIT2 = "xunit2"  # of pytest's `junit_family`

_TAG = "autotune."
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_ILLEGAL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]")
_UNITS = {
    "ms": "_s",
    "tok/s": "_tok_per_s",
    "tok/s/GPU": "_tok_per_s",
    "req/s": "_req_per_s",
    "req/s/GPU": "_req_per_s",
}


def write_junit(path: Path, reports: Iterable[SuiteReport], *, family: str = XUNIT2) -> None:
    """Write the verdict report of a run, whole or not at all."""
    write_atomically(path, junit_text(reports, family=family))


def junit_text(reports: Iterable[SuiteReport], *, family: str = XUNIT2) -> str:
    """Return the verdict report of a run as XML.

    A rule of the gate that does not hold is a failure. Of the selected configuration, and of no
    other, every batch is listed. As in the run itself, of a search a batch that violates, or that the server
    could not carry, is a finding (skipped, with its reason): the build breaks by the gate. Of a verification it is
    a failure, or an error. One that could not be measured is an error. What is longer than a line stands in the
    element's text, which is what CI systems show.

    `family` is pytest's `junit_family`. What is written for xunit2 conforms to its schema, which allows a test case
    neither a file nor properties. Any other family has them too, for the readers that look for them there.
    """
    root = ET.Element("testsuites")
    root.extend(_suite(report, details=family != XUNIT2) for report in reports)
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in root)))
    root.set("time", _seconds(sum(float(suite.get("time", "0")) for suite in root)))
    ET.indent(root, "\t")
    text = _ILLEGAL.sub("", ET.tostring(root, encoding="unicode"))
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def metric_name(metric: str) -> str:
    """Return a metric's name with its base unit: ``ttft_p90_s``, ``output_throughput_tok_per_s``, ``error_rate``."""
    return metric.replace(".", "_") + _UNITS.get(unit(metric), "")


def _suite(report: SuiteReport, *, details: bool) -> ET.Element:
    from junit_xml import TestSuite

    file, shown = _clean(report.path, report), _shown(report)
    batches = () if shown is None else shown.batches
    cases = [_rule(rule, report) for rule in report.gate.rules]
    cases += [_batch(batch, shown, report) for batch in batches if shown is not None]
    properties = _properties(report) | {f"dd_tags[{_TAG}{name}]": value for name, value in _facts(report).items()}
    suite: ET.Element = TestSuite(
        _clean(report.suite.name, report),
        cases,
        timestamp=utc_text(report.started_at, timespec="seconds"),
        file=file,
        properties={name: _clean(value, report) for name, value in properties.items() if value},
    ).build_xml_doc()
    del suite.attrib["disabled"]  # which junit-xml writes, the schema forbids, and nobody reads
    suite.set("time", _seconds(float(suite.get("time", "0"))))
    if details:
        numbers = {batch.level.name: _numbers(batch) for batch in batches}
        for case in suite.iter("testcase"):
            case.set("file", file)
            _add_properties(case, numbers.get(case.get("name", ""), {}))
    return suite


def _shown(report: SuiteReport) -> JudgedTrial | None:
    """Return the trial whose batches are listed: what was selected, or the worst of what was verified."""
    return report.selection.best if report.verification is None else report.selection.ranking[-1]


def _add_properties(case: ET.Element, numbers: Mapping[str, str]) -> None:
    """Put numbers where pytest puts properties of a test, and once more under the names that Datadog looks for."""
    if not numbers:
        return
    properties = ET.Element("properties")
    for name, value in (*numbers.items(), *((f"dd_tags[{_TAG}{name}]", value) for name, value in numbers.items())):
        ET.SubElement(properties, "property", {"name": name, "value": value})
    case.insert(0, properties)


def _facts(report: SuiteReport) -> dict[str, str]:
    """Return what identifies the measured system: all tests of a suite are tagged with it."""
    best = _shown(report)
    return {
        "engine": report.suite.engine,
        "engine_version": report.engine_version,
        "model": report.suite.model or "",
        "gpu": report.gpu,
        "configuration": "" if best is None else _json(best, report),
    }


def _properties(report: SuiteReport) -> dict[str, str]:
    suite, best = report.suite, report.selection.best
    properties = {
        "engine": suite.engine,
        "engine_version": report.engine_version,
        "model": suite.model or "",
        "gpu": report.gpu,
        "commit": report.commit,
        "run_id": report.run_id,
        "objective": f"{suite.objective.direction} {suite.objective.metric}",
        "price": str(suite.price or ""),
        "trials": str(len(report.selection.ranking)),
    }
    properties |= {f"trials_{outcome.replace(' ', '_')}": str(number) for outcome, number in report.outcomes.items()}
    if best is not None:
        properties["configuration"] = _json(best, report)
        properties["gpus"] = str(best.trial.gpus)
        if best.score is not None:
            properties[f"best_{metric_name(best.metric)}"] = _decimal(best.score)
        if best.capacity is not None:
            properties[f"capacity_{best.capacity.shape}"] = str(best.capacity.number)
    shown = _shown(report)
    for batch in () if shown is None else shown.batches:
        properties |= {f"{batch.level.name}.{name}": number for name, number in _numbers(batch).items()}
    for tier in report.tiers:
        properties |= {f"tier.{tier.name}.{name}": value for name, value in _tier(tier, report).items()}
    return properties


def _tier(tier: TierReport, report: SuiteReport) -> dict[str, str]:
    best = tier.best
    if best is None or best.score is None or best.level is None:
        return {"none": tier.outcome.binding}
    return {
        "configuration": _json(best, report),
        "gpus": str(best.trial.gpus),
        best.level.shape: str(best.level.number),
        f"best_{metric_name(best.metric)}": _decimal(best.score),
    }


def _json(judged: JudgedTrial, report: SuiteReport) -> str:
    configuration = mask(dict(judged.trial.configuration), report.secrets)
    return json.dumps(configuration, sort_keys=True, ensure_ascii=False)


def _rule(rule: Rule, report: SuiteReport) -> TestCase:
    case = _case(f"gate.{rule.name}", report)
    if rule.holds:
        case.stdout = _clean(rule.explanation, report)
        return case
    if rule.open:
        case.add_skipped_info(_line(rule.explanation.partition(". ")[0], report), _clean(rule.explanation, report))
        return case
    text = rule.explanation
    if rule.name in {COMPLIANT_CONFIGURATION, SLO}:
        text = "\n".join([text, *_evidence(report.selection)])
        named = _named(report.selection)
        case.stdout = None if named is None else _clean("\n".join(_attachment(named, report)), report)
    case.add_failure_info(
        _line(rule.explanation.partition(". ")[0], report), _clean(text, report), failure_type=rule.name
    )
    return case


def _named(selection: Selection) -> JudgedTrial | None:
    """Return the trial that the explanation names of a rule about limits."""
    return selection.closest.trial if selection.closest is not None else next(iter(selection.ranking), None)


def _evidence(selection: Selection) -> list[str]:
    lines = []
    if selection.closest is not None:
        closest = selection.closest
        lines += ["", f"closest: {settings(closest.trial.trial.configuration)} at {closest.batch.level}"]
        lines += [explain(closest.batch.verdict), "", *slo_lines(closest.trial)]
    if selection.best is None:
        lines += ["", "trials, best first:"]
        lines += [
            f"  {settings(judged.trial.configuration)}: {judged.status}: {' '.join(judged.reason.split())}"
            for judged in selection.ranking
        ]
    return lines


def _batch(batch: JudgedBatch, judged: JudgedTrial, report: SuiteReport) -> TestCase:
    verdict = batch.verdict
    case = _case(batch.level.name, report, elapsed_s=batch.record.window_s if batch.record.metrics else None)
    lines = [explain(verdict), *(f"{name}={number}" for name, number in _numbers(batch).items())]
    if seen := serving_words(batch.record):
        lines.append(f"server: {seen}")
    if verdict.status is not Status.COMPLIANT:
        lines += _attachment(judged, report)
    case.stdout = _clean("\n".join(lines), report)
    message = _line(f"{verdict.status}: {verdict.reason}", report)
    text = _clean("\n".join([explain(verdict), *_where(judged, report)]), report)
    match verdict.status:
        case Status.COMPLIANT:
            pass
        case Status.VIOLATING | Status.INCONCLUSIVE | Status.INFEASIBLE if report.verification is None:
            case.add_skipped_info(message, text)
        case Status.VIOLATING | Status.INCONCLUSIVE:
            case.add_failure_info(message, text, failure_type=str(verdict.status))
        case _:
            case.add_error_info(message, text, error_type=str(verdict.status))
    return case


def _where(judged: JudgedTrial, report: SuiteReport) -> list[str]:
    log = _log(judged, report)
    return [f"server log: {log}"] if log else []


def _attachment(judged: JudgedTrial, report: SuiteReport) -> list[str]:
    """Return the line by which GitLab, Jenkins and Azure link a file; their notation has no escapes."""
    log = _log(judged, report)
    return [f"[[ATTACHMENT|{log}]]"] if log and not set("[]|\r\n") & set(log) else []


def _log(judged: JudgedTrial, report: SuiteReport) -> str:
    """Return the path of a server's log as seen from the root directory; empty where there is none."""
    if not judged.trial.launched or report.suite.deploy == "endpoint":  # then the log is where the server runs
        return ""
    log = Path(judged.trial.server_log)
    return str(log.relative_to(report.root) if report.root and log.is_relative_to(report.root) else log)


def _numbers(batch: JudgedBatch) -> dict[str, str]:
    numbers = {metric_name(metric): value for metric, value in batch.record.metrics.items()}
    facts = {"requests": batch.record.requests, "window_s": batch.record.window_s}
    return {name: _decimal(value) for name, value in (*sorted(numbers.items()), *facts.items()) if math.isfinite(value)}


def _case(name: str, report: SuiteReport, *, elapsed_s: float | None = None) -> TestCase:
    from junit_xml import TestCase

    return TestCase(name, classname=_clean(report.suite.name, report), elapsed_sec=elapsed_s)


def _seconds(value: float) -> str:
    return f"{value:.3f}"  # the schema allows three digits


def _decimal(value: float) -> str:
    """Write a number without an exponent, as every reader understands it."""
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _line(text: str, report: SuiteReport) -> str:
    return re.sub(r"\s+", " ", _clean(text, report)).strip()


def _clean(text: str, report: SuiteReport) -> str:
    """Mask secrets, and leave out what XML 1.0 cannot hold and terminals' colours."""
    return _ILLEGAL.sub("", _ESCAPES.sub("", mask_text(text, report.secrets)))
