"""The summary of a suite in the terminal, as lines; the caller writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_autotune.confirmation import confirmation_lines
from pytest_autotune.explanation import step_words
from pytest_autotune.formatting import amount, change, count, duration, quantity, title, unit
from pytest_autotune.masking import mask_text
from pytest_autotune.metrics import COSTS
from pytest_autotune.reporting.command import one_line
from pytest_autotune.reporting.lines import clean, configured, cut, inaccurate_lines, table
from pytest_autotune.reporting.report import UNFINISHED
from pytest_autotune.reporting.sending import sending_lines, warning_lines
from pytest_autotune.selection import NOISE, slo_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pytest_autotune.explanation import Explanation
    from pytest_autotune.reporting.report import SuiteReport
    from pytest_autotune.selection import JudgedTrial
    from pytest_autotune.slo import Limit

_KEY_METRICS = ("output_throughput", "cost_per_million_output_tokens", "ttft.p90", "tpot.mean", "e2e.p90")


def summary_lines(
    report: SuiteReport, *, width: int = 80, files: Iterable[Path | str] = (), top: int = 5, verbose: bool = False
) -> list[str]:
    """Return the summary of one suite, ASCII unless the user's own words are not.

    Lines are cut at `width`, except for explanations, paths and the command line, which are
    there to be read whole and copied. `verbose` adds the `[slo]` and `[load]`
    lines of every trial; else only what spoils a batch is told of its load.
    """
    selection = report.selection
    lines = [_headline(report), *_economy(report)]
    if selection.best is not None:
        lines.append(f"  best: {configured(selection.best, report)}  [{clean(selection.best.trial.slot, report)}]")
        if (found := selection.best.trial.accuracy) is not None:
            lines.append(f"  accuracy: {clean(found.words, report)}")
        if selection.best is selection.reference:
            lines.append("  nothing that was tried beats the engine's defaults")
        lines += ["", *cut(_comparison(report, selection.best), width)]
    lines += [f"  {line}" for line in confirmation_lines(selection)]
    lines += [f"  {line}" for line in inaccurate_lines(report, top)]
    lines += [f"  {clean(rule.explanation, report)}" for rule in report.gate.rules if not rule.holds]
    if len(selection.tied) > 1:
        lines.append(
            f"  {count(len(selection.tied), 'trial')} are within {NOISE * 100:g} % of the highest value, a tie: "
            "fewer overrides win, then fewer GPUs, then the earlier trial"
        )
    if selection.ranking:
        lines += ["", *cut(_ranking(report, top), width)]
    if report.front:
        lines += ["", *cut(_front(report), width)]
    if (why := report.explanation) is not None:
        lines += ["", *_reasons(why, report, width)]
    if report.tiers:
        lines += ["", *_tiers(report, width)]
    if told := _told(report, verbose=verbose):
        for judged in told:
            lines += ["", *cut([f"  {configured(judged, report)}:"], width)]
            lines += [f"  {clean(line, report)}" for line in slo_lines(judged)]
            tell = sending_lines if verbose else warning_lines
            lines += [f"  {clean(line, report)}" for batch in judged.batches for line in tell(batch.record)]
    if selection.best is not None and selection.best.trial.argv:
        lines += ["", "  start it with:", f"    {one_line(report, selection.best.trial.argv)}"]
    if paths := [str(path) for path in files]:
        lines += ["", *(f"  written: {path}" for path in paths)]
    return lines


def _headline(report: SuiteReport) -> str:
    version = f" {report.engine_version}" if report.engine_version else ""
    outcomes = ", ".join(f"{number} {outcome}" for outcome, number in report.outcomes.items())
    trials = count(len(report.selection.ranking), "trial") + (f" ({outcomes})" if outcomes else "")
    recorded = f", {report.recorded} recorded before" if report.recorded else ""
    return clean(
        f"{report.path}: {report.suite.name} on {report.suite.engine}{version}: {trials}{recorded}, "
        f"{count(report.deployments, 'server')} started, {duration(report.elapsed_s)}",
        report,
    )


def _economy(report: SuiteReport) -> list[str]:
    """Say why the search ended before its last trial, what it saved, and what costs are computed with."""
    ended = f"the search has ended: {report.ended}" if report.ended else ""
    price = f"costs are at {report.suite.price}" if report.suite.price else ""
    return [f"  {line}" for line in (ended, report.screened, report.saved, price) if line]


def _comparison(report: SuiteReport, best: JudgedTrial) -> list[str]:
    """Return the best trial's numbers next to the defaults', each column from one batch of its own.

    Changes are given only against a compliant batch: a throughput that breaks the limits is no
    yardstick.
    """
    reference = report.selection.reference
    columns = [(best, best.best)]
    if reference is not None and reference is not best:
        columns.append((reference, reference.best or reference.least_violating or reference.at(best.level)))
    bounds = {limit.metric: _bound(limit) for limit in report.suite.slo}
    rows = [
        ["measured at", *(batch.level.name if batch else "-" for _, batch in columns)],
        ["verdict", *(str(batch.verdict.status if batch else judged.status) for judged, batch in columns)],
    ]
    for metric in dict.fromkeys((best.metric, *_KEY_METRICS, *bounds)):
        values = [batch.record.metrics.get(metric) if batch else None for _, batch in columns]
        if values[0] is None:
            continue
        cells = ["-" if value is None else _cell(metric, value) for value in values]
        comparable = all(batch is not None and batch.compliant for _, batch in columns)
        rows.append([_title(metric, report), *cells, *_difference(values if comparable else values[:1], len(columns))])
        rows[-1].append(bounds.get(metric, ""))
    rows += [
        ["capacity", *(judged.capacity.name if judged.capacity else "-" for judged, _ in columns)],
        ["GPUs", *(str(judged.trial.gpus) for judged, _ in columns)],
        ["start-up", *(_start_up(judged) for judged, _ in columns)],
    ]
    header = ["", "best", "defaults", "change", "limit"] if len(columns) == 2 else ["", "best", "limit"]
    return table(header, rows, left=(0,))


def _difference(values: Sequence[float | None], columns: int) -> list[str]:
    """Return the cell of the column "change", which exists only next to a second column of values."""
    if columns < 2:
        return []
    if len(values) < 2 or values[0] is None or not values[1]:
        return [""]
    return [change(values[0] / values[1] - 1)]


def _bound(limit: Limit) -> str:
    return f"{'>=' if limit.floor else '<='} {_cell(limit.metric, limit.bound)}"


def _cell(metric: str, value: float) -> str:
    """Write a value beside the title of its metric, which says of a cost what it is for."""
    return amount(metric, value) if metric in COSTS else quantity(metric, value)


def _start_up(judged: JudgedTrial) -> str:
    return "-" if judged.trial.deploy_s is None else duration(judged.trial.deploy_s)


def _ranking(report: SuiteReport, top: int) -> list[str]:
    """Return the first `top` trials, and the engine's defaults wherever they stand."""
    selection = report.selection
    numbered = list(enumerate(selection.ranking, start=1))
    shown = numbered[:top] + [pair for pair in numbered[top:] if pair[1] is selection.reference]
    metric = selection.ranking[0].metric
    header = ["#", _unit(metric, report) or title(metric), "at", "capacity", "GPUs", "outcome", "configuration"]
    rows = [
        [
            str(number),
            "-" if judged.score is None else amount(metric, judged.score),
            judged.level.name if judged.level else "-",
            judged.capacity.name if judged.capacity else "-",
            str(judged.trial.gpus),
            _outcome(judged),
            configured(judged, report),
        ]
        for number, judged in shown
    ]
    head, *body = table(header, rows, left=(5, 6))
    lines = [f"  by {_title(metric, report)}, compliant batches only:", head]
    for line, (_, judged) in zip(body, shown, strict=True):
        lines += [line, f"       {clean(judged.reason, report)}"] if judged.reason else [line]
    if rest := len(numbered) - len(shown):
        lines.append(f"  ... and {count(rest, 'more trial')}")
    return lines


def _front(report: SuiteReport) -> list[str]:
    """Return the Pareto front: what no other compliant measurement beats in every objective."""
    objectives = report.suite.objectives
    header = [*(_title(objective.metric, report) for objective in objectives), "at", "GPUs", "configuration"]
    rows = [
        [
            *(_cell(objective.metric, value) for objective, value in zip(objectives, point.values, strict=True)),
            point.batch.level.name,
            str(point.trial.trial.gpus),
            configured(point.trial, report),
        ]
        for point in report.front
    ]
    return [
        "  no compliant measurement beats these in every objective:",
        *table(header, rows, left=(len(header) - 1,)),
    ]


def _tiers(report: SuiteReport, width: int) -> list[str]:
    """Return the best for each tier, after that for the suite's own limits, and what binds each."""
    metric = report.suite.objective.metric
    rows = [_tier_row("slo", report.selection.best, report)]
    rows += [_tier_row(tier.name, tier.best, report, nearest=tier.outcome.nearest) for tier in report.tiers]
    header = ["tier", _unit(metric, report) or title(metric), "at", "GPUs", "configuration"]
    head, own, *body = cut(table(header, rows, left=(0, 4)), width)
    lines = [*cut([f"  best for each tier by {_title(metric, report)}:"], width), head, own]
    for line, tier in zip(body, report.tiers, strict=True):
        lines += [line, f"       binds: {clean(tier.outcome.binding, report)}"]
    return lines


def _tier_row(
    name: str, best: JudgedTrial | None, report: SuiteReport, *, nearest: JudgedTrial | None = None
) -> list[str]:
    if best is None or best.score is None:
        closest = "" if nearest is None else f", closest: {configured(nearest, report)}"
        return [name, "-", "-", "-", f"none complies{closest}"]
    level = best.level.name if best.level else "-"
    return [name, amount(best.metric, best.score), level, str(best.trial.gpus), configured(best, report)]


def _title(metric: str, report: SuiteReport) -> str:
    """Return a metric's name in running text; a cost with the currency that the suite names."""
    price = report.suite.price
    if metric not in COSTS or price is None or not price.currency:
        return title(metric)
    return title(metric).replace("cost", price.currency, 1)


def _unit(metric: str, report: SuiteReport) -> str:
    """Return the unit of a column of amounts; of a cost with the currency that the suite names."""
    price = report.suite.price
    currency = price.currency or "cost" if metric in COSTS and price is not None else ""
    return " ".join(filter(None, (currency, unit(metric))))


def _reasons(why: Explanation, report: SuiteReport, width: int) -> list[str]:
    """Say what keeps the best from a higher load, which parameters mattered, and what one step from it did."""
    lines = [f"  what binds the best: {clean(why.binding, report)}"]
    if clear := [importance for importance in why.importances if importance.low > 0]:
        lines.append(f"  differences between trials go with: {', '.join(map(str, clear))}")
    elif why.importances:
        trials = count(sum(report.outcomes.values()), "trial")
        lines.append(f"  {trials} do not tell which parameter their differences go with")
    if why.steps:
        rows = [[clean(mask_text(cell, report.secrets), report) for cell in step_words(step)] for step in why.steps]
        header = ["one step from the best", "", _title(report.suite.objective.metric, report)]
        lines += ["", *cut(table(header, rows, left=(0, 1, 2)), width)]
    return lines


def _outcome(judged: JudgedTrial) -> str:
    if judged.trial.state != "finished":
        return UNFINISHED
    return f"{judged.status}, worst of {1 + len(judged.repeats)}" if judged.repeats else str(judged.status)


def _told(report: SuiteReport, *, verbose: bool) -> list[JudgedTrial]:
    if verbose:
        return [judged for judged in report.selection.ranking if judged.batches]
    if report.selection.closest is not None:
        return [report.selection.closest.trial]
    return [] if report.selection.best is None else [report.selection.best]
