"""A recorded result that later runs are compared with: what was served and loaded how, and what it came to."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from pytest_autotune.errors import SuiteError
from pytest_autotune.files import write_atomically
from pytest_autotune.noise import Noise
from pytest_autotune.problems import dotted
from pytest_autotune.samples import Level
from pytest_autotune.space import Value
from pytest_autotune.spelling import show
from pytest_autotune.suite import sent
from pytest_autotune.suite_docker import DockerBlock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_autotune.suite import Suite

SUFFIX = ".best.json"
RECORDED = ("output_throughput", "ttft.p50", "ttft.p99", "tpot.mean", "e2e.p99")  # beside what the suite is about
LEVELS = ("concurrency", "rate", "burst")  # of a load: each level is compared with itself
DIGITS = 4  # significant ones that a file keeps of a number: what differs beyond them is noise


def _level(name: str) -> str:
    Level.named(name)
    return name


class Served(BaseModel):
    """What a server depends on beside engine, model and configuration: keys of a suite, by the same names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    deploy: str = "local"
    fixed: dict[str, Value] = {}
    env: dict[str, str] = {}  # secrets masked
    engine_python: str | None = None
    command: tuple[str, ...] = ()
    url: str | None = None
    model_name: str | None = None
    gpus: int | None = None
    docker: DockerBlock = DockerBlock()


class Answered(BaseModel):
    """How accurate a configuration was that may have lost something, and what a verification holds it against."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    questions: str  # fingerprint of what was asked
    kept: int
    asked: int
    reference: tuple[str | None, ...] | None  # answers of the reference, shortened; None: there was none


class Baseline(BaseModel):
    """A configuration with what it came to at each load level, small enough to be reviewed as a diff.

    Numbers are in base units: seconds, shares of one, per second.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = Field(default=1, alias="schema")
    suite: str
    engine: str
    engine_version: str
    model: str | None
    hardware: str  # as `pytest_autotune.hardware.fingerprint` describes it
    configuration: dict[str, Value]
    server: Served
    load: dict[str, Any]  # the suite's load, but how it is sent
    levels: dict[Annotated[str, AfterValidator(_level)], dict[str, float]] = Field(min_length=1)  # name, metric
    accuracy: Answered | None = None  # None: it loses nothing, or nothing was asked
    noise: dict[str, Noise] = {}  # by metric: what pairs of equal sides differed by, over all levels
    run: str
    recorded_at: str  # UTC
    commit: str = ""  # git revision of the suite's repository

    @property
    def measured(self) -> dict[Level, Mapping[str, float]]:
        """The metrics of each load level, in the order in which they are measured."""
        return {Level.named(name): metrics for name, metrics in self.levels.items()}

    @property
    def origin(self) -> str:
        """Where it comes from, in words: ``commit 1a2b3c4d5e of 2026-11-27``."""
        day = self.recorded_at.partition("T")[0]
        return f"commit {self.commit[:10]} of {day}" if self.commit else f"run {self.run} of {day}"


def beside(suite: Path) -> Path:
    """Return where the baseline of a suite file is kept: ``chat.best.json`` for ``chat.yaml``."""
    return suite.with_suffix(SUFFIX)


def recorded_metrics(suite: Suite) -> tuple[str, ...]:
    """Return the metrics that a baseline of the suite has: those of its objective, limits and gate, and a usual few."""
    named = [suite.objective.metric, *suite.gate.tolerances, *(limit.metric for limit in suite.slo)]
    return tuple(dict.fromkeys((*named, *RECORDED)))


def workload(load: Mapping[str, Any]) -> dict[str, Any]:
    """Return what two loads must have in common for their numbers to be compared, level by level."""
    return {name: value for name, value in sent(load).items() if name not in LEVELS}


def rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics as a file keeps them; those that are not finite are left out."""
    return {name: _short(value) for name, value in metrics.items() if math.isfinite(value)}


def with_noise(baseline: Baseline, measured: Mapping[str, Noise]) -> Baseline:
    """Return a baseline with what another comparison of equal sides has shown of the noise, beside what it knew."""
    noise = dict(baseline.noise)
    for metric, more in measured.items():
        known = noise[metric].with_more(more) if metric in noise else more
        noise[metric] = Noise(_short(known.deviation), known.freedom)
    return baseline.model_copy(update={"noise": noise})


def baseline_text(baseline: Baseline) -> str:
    """Return a baseline as the text of its file: equal ones give equal texts, each number a line of its own."""
    content = baseline.model_dump(mode="json", by_alias=True)
    content["server"] = _said(baseline.server)
    if not baseline.noise:
        del content["noise"]
    if baseline.accuracy is None:
        del content["accuracy"]
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline, whole or not at all."""
    write_atomically(path, baseline_text(baseline))


def record_anew(path: Path, baseline: Baseline) -> None:
    """Write a baseline over another; the noise that is known there is kept if it is of the same load on this hardware.

    Whatever is wrong with the file that was there ends with it.
    """
    try:
        before = read_baseline(path)
    except SuiteError:
        before = baseline
    known = {} if any(differences(before, baseline)) else before.noise
    write_baseline(path, baseline.model_copy(update={"noise": known}))


def read_baseline(path: Path) -> Baseline:
    """Read a baseline; raise `SuiteError` naming file, place, value and remedy."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SuiteError(f"cannot be read: {error}", path=path) from None
    return parse_baseline(text, path)


def parse_baseline(text: str, path: Path | str) -> Baseline:
    """Return the baseline that a file's text holds; `path` names it in errors."""
    remedy = "record it anew with: pytest <suite> --autotune --autotune-record"
    try:
        return Baseline.model_validate_json(text)
    except ValidationError as error:
        raise SuiteError(f"{_told(error)}; {remedy}", path=path) from None


def differences(baseline: Baseline, now: Baseline) -> Iterator[str]:
    """Yield what keeps the numbers of two baselines from being compared, each difference with both values."""
    for name in ("suite", "engine", "model", "hardware"):
        then_value, now_value = getattr(baseline, name), getattr(now, name)
        if then_value != now_value:
            yield f"{name}: {then_value} then, {now_value} now"
    yield from _differing("load", baseline.load, now.load)


def changes(baseline: Baseline, now: Baseline) -> Iterator[str]:
    """Yield what is another thing to serve now: engine version, settings, configuration; what a comparison is about."""
    if baseline.engine_version != now.engine_version:
        yield f"engine_version: {baseline.engine_version} then, {now.engine_version} now"
    yield from _differing("server", _said(baseline.server), _said(now.server))
    yield from _differing("configuration", baseline.configuration, now.configuration)


def _told(error: ValidationError) -> str:
    """Say the first thing that pydantic found wrong: where, which value, what is expected."""
    first = next(iter(error.errors(include_url=False)))
    where = dotted(tuple(step for step in first["loc"] if step != "[key]"))
    place = f"{where}: " if where else ""
    if first["type"] == "value_error":
        return f"{place}{first['ctx']['error']}"
    if first["type"] in ("json_invalid", "missing"):  # whose value is all of the file, or nothing
        return f"{place}{first['msg']}"
    return f"{place}{show(first['input'])}: {first['msg']}"


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _said(served: Served) -> dict[str, Any]:
    return served.model_dump(mode="json", exclude_defaults=True)


def _differing(where: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*then, *now}):
        old, new = then.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differing(f"{where}.{name}", old, new)
        elif old != new:
            yield f"{where}.{name}: {_shown(then, name)} then, {_shown(now, name)} now"


def _shown(mapping: Mapping[str, Any], name: str) -> str:
    return json.dumps(mapping[name], ensure_ascii=False, default=str) if name in mapping else "not set"
