"""What a run came to as Markdown, for a job's summary page or a comment on a merge request."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from pytest_autotune.formatting import count, duration, quantity, title
from pytest_autotune.reporting.lines import clean, configured, inaccurate_lines
from pytest_autotune.reporting.serving import serving_words
from pytest_autotune.reporting.trend import change_sentences, history_rows
from pytest_autotune.reporting.verification import measured_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_autotune.gate import Rule
    from pytest_autotune.reporting.report import SuiteReport

TOP = 5  # trials of a search


def markdown_text(reports: Iterable[SuiteReport]) -> str:
    """Return the summary of a run: for each suite its gate, a table, and what is to be done."""
    return "\n".join("\n".join(_suite(report)) + "\n" for report in reports)


def _suite(report: SuiteReport) -> list[str]:
    gate = report.gate
    outcome = "passed" if gate.holds else "failed" if gate.broken else "not resolved"
    version = f" {report.engine_version}" if report.engine_version else ""
    lines = [f"### {_text(report.suite.name, report)}: {outcome}", ""]
    lines += [_search(report, version) if report.verification is None else _verification(report, version), ""]
    header, rows = _ranking(report) if report.verification is None else measured_table(report.verification)
    if rows:
        lines += [*_table(header, rows, report), *_serving(report), ""]
    if report.history:
        lines += [*_history(report), ""]
    if report.verification is None and (refused := inaccurate_lines(report, TOP)):
        lines += [*(f"- {_text(text, report)}" for text in refused), ""]
    return [*lines, *(_rule(rule, report) for rule in gate.rules)]


def _search(report: SuiteReport, version: str) -> str:
    outcomes = ", ".join(f"{number} {outcome}" for outcome, number in report.outcomes.items())
    trials = count(len(report.selection.ranking), "trial")
    took = f"{count(report.deployments, 'server')} started, {duration(report.elapsed_s)}"
    return _text(f"Searched on {report.suite.engine}{version}: {trials} ({outcomes}), {took}.", report)


def _verification(report: SuiteReport, version: str) -> str:
    verification = report.verification
    assert verification is not None, "of a verification"
    judged = report.selection.ranking[-1]
    text = (
        f"Verified {configured(judged, report)} on {report.suite.engine}{version}, against "
        f"{verification.baseline.origin}, {duration(report.elapsed_s)}."
    )
    told = [
        *(f"changed: {each}" for each in verification.changed),
        *(f"not compared: {each}" for each in verification.refused),
    ]
    return "  \n".join(_text(each, report) for each in (text, *told))


def _ranking(report: SuiteReport) -> tuple[list[str], list[list[str]]]:
    ranking = report.selection.ranking[:TOP]
    if not ranking:
        return [], []
    metric = ranking[0].metric
    rows = [
        [
            str(number),
            "-" if judged.score is None else quantity(metric, judged.score),
            judged.level.name if judged.level else "-",
            str(judged.status),
            configured(judged, report),
        ]
        for number, judged in enumerate(ranking, start=1)
    ]
    return ["#", title(metric), "at", "outcome", "configuration"], rows


def _serving(report: SuiteReport) -> list[str]:
    """Say what the server did that served best, where the best was measured."""
    best = report.selection.best
    seen = "" if best is None or best.best is None else serving_words(best.best.record)
    return ["", _text(f"The best at {best.level}: {seen}.", report)] if best is not None and seen else []


def _history(report: SuiteReport) -> list[str]:
    header = "| history | at | trend | first → last | since the first | verifications |"
    lines = [header, "|" + "---|" * 6]
    for row in history_rows(report.history):
        values = f"{row.first} → {row.last}"
        cells = [row.metric, row.level, f"`{row.drawn}`", values, row.change, str(row.verifications)]
        lines.append("| " + " | ".join(cells) + " |")
    changes = [f"- {_text(text, report)}" for text in change_sentences(report.history)]
    return [*lines, "", *changes] if changes else lines


def _rule(rule: Rule, report: SuiteReport) -> str:
    word = "holds" if rule.holds else "open" if rule.open else "**broken**"
    return f"- {word}: `{rule.name}`: {_text(rule.explanation, report)}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], report: SuiteReport) -> list[str]:
    filled = [[*row, *[""] * (len(header) - len(row))] for row in (header, *rows)]
    lines = ["| " + " | ".join(_text(cell, report) for cell in row) + " |" for row in filled]
    return [lines[0], "|" + "---|" * len(header), *lines[1:]]


def _text(text: str, report: SuiteReport) -> str:
    """Write other people's words as text: no markup, no secrets."""
    escaped = html.escape(clean(text, report), quote=False)
    return "".join(f"\\{sign}" if sign in "\\`*_[]|~" else sign for sign in escaped)
