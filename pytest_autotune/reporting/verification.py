"""What a verification came to in the terminal: each metric then and now, and each rule of the gate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_autotune.formatting import change, count, duration, points, quantity, title
from pytest_autotune.metrics import SHARES
from pytest_autotune.reporting.lines import clean, configured, cut, table
from pytest_autotune.reporting.sending import sending_lines, warning_lines
from pytest_autotune.reporting.trend import change_sentences
from pytest_autotune.selection import slo_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_autotune.comparison import Effect
    from pytest_autotune.gate import Rule
    from pytest_autotune.held import Held, Verification
    from pytest_autotune.reporting.report import SuiteReport

RECENT = 5  # newest verifications: only a level that began in one of them is told; it takes three to be found
WEAKER = "one stored measurement, so what differs between machines and hours is in every change"


def verification_lines(report: SuiteReport, *, width: int = 80, verbose: bool = False) -> list[str]:
    """Return the lines of a suite that was verified; `verbose` adds how its load was sent."""
    verification = report.verification
    assert verification is not None, "only a verification has such lines"
    judged = report.selection.ranking[-1]  # of several the worst
    version = f" {report.engine_version}" if report.engine_version else ""
    headline = (
        f"{report.path}: {report.suite.name} on {report.suite.engine}{version}: verified "
        f"{configured(judged, report)}, {duration(report.elapsed_s)}"
    )
    lines = [clean(headline, report)]
    if verification.comparison is None:
        lines.append(f"  held against {verification.baseline.origin}: {WEAKER}")
        lines += [f"  not compared: {clean(text, report)}" for text in verification.refused]
    else:
        effects = verification.comparison.effects
        pairs = max((effect.pairs for effect in effects), default=0)
        lines.append(f"  compared with {verification.baseline.origin}: {count(pairs, 'pair')} of deployments in turn")
    lines += [f"  changed: {clean(text, report)}" for text in verification.changed]
    header, rows = measured_table(verification)
    if rows:
        lines += ["", *cut(table(header, rows, left=(0, 1, len(header) - 1)), width)]
    lines += ["", *(_ruled(rule, report) for rule in report.gate.rules)]
    lines += [f"  history: {clean(text, report)}" for text in change_sentences(report.history, newest=RECENT)]
    told = report.selection.ranking if verbose else (judged,)
    for one in told:
        lines += [f"  {clean(line, report)}" for line in slo_lines(one) if verbose]
        tell = sending_lines if verbose else warning_lines
        lines += [f"  {clean(line, report)}" for batch in one.batches for line in tell(batch.record)]
    return lines


def measured_table(verification: Verification) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of what was compared, of each metric by load level, and of all that is judged."""
    if verification.comparison is None:
        rows = [row for held in verification.held for row in _rows(held)]
        return ["", "at", "baseline", "now", "change", ""], rows
    rows = [row for effect in verification.comparison.effects for row in _effect_rows(effect)]
    return ["", "at", "change", "from", "to", "allowed", ""], rows


def _ruled(rule: Rule, report: SuiteReport) -> str:
    return f"  {'holds' if rule.holds else 'OPEN' if rule.open else 'BROKEN'}: {clean(rule.explanation, report)}"


def _effect_rows(effect: Effect) -> list[list[str]]:
    """Return a row for each load level, and one for all of them with its interval, which is what is judged."""
    name, write = title(effect.metric), _writer(effect.metric)
    interval = [write(effect.low), write(effect.high)] if effect.noise is not None else ["-", "-"]
    judged = [*interval, write(effect.tolerance.worse).lstrip("+"), str(effect.outcome)]
    if len(effect.by_level) == 1:
        return [[name, *effect.levels, write(effect.change), *judged]]
    levels = [[name, level, write(value)] for level, value in effect.by_level.items()]
    return [*levels, [name, "all", write(effect.change), *judged]]


def _writer(metric: str) -> Callable[[float], str]:
    return points if metric in SHARES else change


def _rows(held: Held) -> list[list[str]]:
    """Return a row for each load level, and with several one for all of them, which is what is judged."""
    write = _writer(held.metric)
    levels = [
        [title(held.metric), name, *(quantity(held.metric, value) for value in (then, now)), write(difference)]
        for name, (then, now) in held.levels.items()
        for difference in (now - then if held.metric in SHARES else now / then - 1,)
    ]
    judged = [] if held.tolerance is None else [held.outcome]
    if len(levels) == 1:
        return [[*levels[0], *judged]]
    return [*levels, [title(held.metric), "all", "", "", write(held.change), *judged]]
