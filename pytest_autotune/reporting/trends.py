"""The numbers of a run for what plots them over time: github-action-benchmark, Bencher, Prometheus."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_autotune.baseline import recorded_metrics
from pytest_autotune.formatting import title
from pytest_autotune.metrics import COSTS, PER_GPU, RATES, SHARES, TIMES, worse_when
from pytest_autotune.reporting.lines import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_autotune.records import Interval
    from pytest_autotune.reporting.report import SuiteReport

_REQUESTS = ("request_throughput", "goodput")
_LABEL = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}


class Number(NamedTuple):
    """One metric of one load level of the configuration that a suite selected or verified, in its base unit."""

    report: SuiteReport
    level: str
    metric: str
    value: float
    interval: Interval

    @property
    def unit(self) -> str:
        """The base unit: ``s``, ``tokens/s``, ``requests/s``; empty for a share or a count."""
        family = self.metric.partition(".")[0]
        if family in TIMES:
            return "s"
        if family in COSTS:
            price = self.report.suite.price
            return "" if price is None else price.currency
        rate = family.removesuffix(PER_GPU)
        return "" if rate not in RATES else "requests/s" if rate in _REQUESTS else "tokens/s"

    @property
    def suite(self) -> str:
        """The name of the suite."""
        return clean(self.report.suite.name, self.report)


def github_benchmark(reports: Iterable[SuiteReport], *, bigger: bool) -> str:
    """Return the metrics of which `bigger` (or smaller) values are better, as github-action-benchmark's custom tools.

    That is ``customBiggerIsBetter`` or ``customSmallerIsBetter``, each a file of its own:
    https://github.com/benchmark-action/github-action-benchmark#examples
    """
    worse = "smaller" if bigger else "larger"
    entries: list[dict[str, Any]] = []
    for number in _numbers(reports):
        if worse_when(number.metric) != worse:
            continue
        entry: dict[str, Any] = {"name": f"{number.suite} {number.level} {title(number.metric)}", "unit": number.unit}
        entry["value"] = number.value
        low, high = number.interval
        if low is not None and high is not None:
            entry["range"] = f"{low:.6g} to {high:.6g}"
        entries.append(entry | {"extra": _origin(number.report)})
    return _json(entries)


def bencher(reports: Iterable[SuiteReport]) -> str:
    """Return the metrics in the Bencher Metric Format: https://bencher.dev/docs/reference/bencher-metric-format/."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for number in _numbers(reports):
        low, high = number.interval
        bounds = {"lower_value": low, "upper_value": high}
        measure = {"value": number.value, **{name: bound for name, bound in bounds.items() if bound is not None}}
        found.setdefault(f"{number.suite}/{number.level}", {})[number.metric.replace("_", "-").replace(".", "-")] = (
            measure
        )
    return _json(found)


def openmetrics(reports: Iterable[SuiteReport]) -> str:
    """Return the metrics as OpenMetrics text, for a push gateway or a file that a node exporter reads.

    https://prometheus.io/docs/specs/om/open_metrics_spec/. A metric is one family, ``autotune_ttft_p99_seconds``;
    suite, load level and engine are its labels. Each suite also has ``autotune_gate``, 1 when it holds.
    """
    reports = list(reports)
    families: dict[tuple[str, str], list[str]] = {}
    for number in _numbers(reports):
        labels = {"suite": number.report.suite.name, "level": number.level, **_labels(number.report)}
        family = _family(number)
        families.setdefault(family, []).append(f"{family[0]}{_written(labels, number.report)} {number.value!r}")
    for report in reports:
        labels = {"suite": report.suite.name, **_labels(report)}
        line = f"autotune_gate{_written(labels, report)} {int(report.gate.holds)}"
        families.setdefault(("autotune_gate", ""), []).append(line)
    lines = []
    for (name, unit), samples in sorted(families.items()):
        lines.append(f"# TYPE {name} gauge")
        lines += [f"# UNIT {name} {unit}"] if unit else []
        lines += samples
    return "\n".join([*lines, "# EOF", ""])


def _numbers(reports: Iterable[SuiteReport]) -> Iterator[Number]:
    for report in reports:
        ranking = report.selection.ranking
        judged = report.selection.best if report.verification is None else ranking[-1] if ranking else None
        for batch in () if judged is None else judged.batches:
            metrics = batch.record.metrics
            for name in recorded_metrics(report.suite):
                if name in metrics and math.isfinite(metrics[name]):
                    interval = batch.record.intervals.get(name, (None, None))
                    yield Number(report, batch.level.name, name, metrics[name], interval)


def _family(number: Number) -> tuple[str, str]:
    """Return the name of a metric's family with its unit at its end, and that unit."""
    family = number.metric.partition(".")[0]
    unit = {"s": "seconds"}.get(number.unit, "ratio" if family in SHARES else "")
    plain = re.sub(r"[^a-z0-9]+", "_", f"autotune_{number.metric}")
    rate = {"tokens/s": "tokens_per_second", "requests/s": "requests_per_second"}.get(number.unit, unit)
    return (f"{plain}_{rate}", rate) if rate else (plain, "")


def _labels(report: SuiteReport) -> dict[str, str]:
    return {"engine": report.suite.engine, "engine_version": report.engine_version, "model": report.suite.model or ""}


def _written(labels: dict[str, str], report: SuiteReport) -> str:
    pairs = (f'{name}="{_escaped(clean(value, report))}"' for name, value in labels.items() if value)
    return f"{{{','.join(pairs)}}}"


def _escaped(text: str) -> str:
    return "".join(_LABEL.get(sign, sign) for sign in text)


def _origin(report: SuiteReport) -> str:
    version = f" {report.engine_version}" if report.engine_version else ""
    return clean(f"{report.suite.engine}{version}, run {report.run_id}", report)


def _json(content: Sequence[Any] | dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
