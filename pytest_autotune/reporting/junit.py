"""The verdict report in JUnit's format: what was decided, one suite per suite, with stable names."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING

from pytest_autotune.files import write_atomically
from pytest_autotune.formatting import settings, unit
from pytest_autotune.masking import mask, mask_text
from pytest_autotune.records import utc_text
from pytest_autotune.selection import slo_lines
from pytest_autotune.slo import Status, explain

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from junit_xml import TestCase, TestSuite

    from pytest_autotune.gate import Rule
    from pytest_autotune.reporting.report import SuiteReport, TierReport
    from pytest_autotune.selection import JudgedBatch, JudgedTrial, Selection

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_ILLEGAL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufffd\U00010000-\U0010ffff]")
_UNITS = {
    "ms": "_s",
    "tok/s": "_tok_per_s",
    "tok/s/GPU": "_tok_per_s",
    "req/s": "_req_per_s",
    "req/s/GPU": "_req_per_s",
}


def write_junit(path: Path, reports: Iterable[SuiteReport]) -> None:
    """Write the verdict report of a run, whole or not at all."""
    write_atomically(path, junit_text(reports))


def junit_text(reports: Iterable[SuiteReport]) -> str:
    """Return the verdict report of a run as XML.

    A rule of the gate that does not hold is a failure. Of the selected configuration, and of no
    other, every batch is listed. As in the run itself, of a search a batch that violates, or that the server
    could not carry, is a finding (skipped, with its reason): the build breaks by the gate. Of a verification it is
    a failure, or an error. One that could not be measured is an error. What is longer than a line stands in the
    element's text, which is what CI systems show.
    """
    from junit_xml import to_xml_report_string

    text: str = to_xml_report_string([_suite(report) for report in reports], encoding="utf-8")
    return text


def metric_name(metric: str) -> str:
    """Return a metric's name with its base unit: ``ttft_p90_s``, ``output_throughput_tok_per_s``, ``error_rate``."""
    return metric.replace(".", "_") + _UNITS.get(unit(metric), "")


def _suite(report: SuiteReport) -> TestSuite:
    from junit_xml import TestSuite

    best = report.selection.best if report.verification is None else report.selection.ranking[-1]
    cases = [_rule(rule, report) for rule in report.gate.rules]
    if best is not None:
        cases.extend(_batch(batch, best, report) for batch in best.batches)
    return TestSuite(
        _clean(report.suite.name, report),
        cases,
        timestamp=utc_text(report.started_at, timespec="seconds"),
        file=_clean(report.path, report),
        properties={name: _clean(value, report) for name, value in _properties(report).items() if value},
    )


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
    evidence = "\n".join([rule.explanation, *_evidence(report.selection)])
    case.add_failure_info(
        _line(rule.explanation.partition(". ")[0], report), _clean(evidence, report), failure_type=rule.name
    )
    return case


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
    case.stdout = _clean("\n".join([explain(verdict), *_numbers(batch)]), report)
    message = _line(f"{verdict.status}: {verdict.reason}", report)
    text = _clean(f"{explain(verdict)}\nserver log: {judged.trial.server_log}", report)
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


def _numbers(batch: JudgedBatch) -> list[str]:
    numbers = {metric_name(metric): value for metric, value in batch.record.metrics.items()}
    facts = {"requests": batch.record.requests, "window_s": batch.record.window_s}
    return [
        f"{name}={_decimal(value)}"
        for name, value in (*sorted(numbers.items()), *facts.items())
        if math.isfinite(value)
    ]


def _case(name: str, report: SuiteReport, *, elapsed_s: float | None = None) -> TestCase:
    from junit_xml import TestCase

    suite = _clean(report.suite.name, report)
    return TestCase(name, classname=suite, elapsed_sec=elapsed_s, file=_clean(report.path, report))


def _decimal(value: float) -> str:
    """Write a number without an exponent, as every reader understands it."""
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _line(text: str, report: SuiteReport) -> str:
    return re.sub(r"\s+", " ", _clean(text, report)).strip()


def _clean(text: str, report: SuiteReport) -> str:
    """Mask secrets, and leave out what XML 1.0 cannot hold and terminals' colours."""
    return _ILLEGAL.sub("", _ESCAPES.sub("", mask_text(text, report.secrets)))
