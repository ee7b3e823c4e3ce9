"""A load test as a JSON document: base units throughout (seconds, shares, per second), secrets masked."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pytest_autotune.files import json_value
from pytest_autotune.load_command.measuring import shortfall
from pytest_autotune.load_command.table import client_share
from pytest_autotune.masking import mask
from pytest_autotune.metrics import LATENCIES
from pytest_autotune.records import utc_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from pytest_autotune.load_command.loadtest import LoadTest
    from pytest_autotune.load_command.measuring import LoadBatch
    from pytest_autotune.load_command.reading import Recorded
    from pytest_autotune.slo import Check, Verdict

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class LoadRun:
    """When and where a load test ran."""

    started_at: datetime
    finished_at: datetime | None = None  # None while it runs
    interrupted: bool = False
    environment: Mapping[str, Any] | None = None


def run_document(test: LoadTest, batches: Sequence[LoadBatch], run: LoadRun) -> dict[str, Any]:
    """Return everything about a load test, with a batch for each level that was measured so far."""
    target = test.target
    document = {
        "schema": SCHEMA,
        "target": {
            "url": target.url,
            "model": target.model,
            "api": target.api,
            "token_ids": target.token_ids,
            "ignore_eos": target.ignore_eos,
            "template_tokens": target.template_tokens,
            "prompt_lengths": test.prompt_lengths,
        },
        "options": dict(test.options),
        "seed": test.workload.seed,
        "gpus": test.gpus,
        "run": {
            "started_at": utc_text(run.started_at),
            "finished_at": None if run.finished_at is None else utc_text(run.finished_at),
            "interrupted": run.interrupted,
        },
        "environment": run.environment,
        "batches": [batch_document(batch) for batch in batches],
    }
    masked: dict[str, Any] = mask(json_value(document), test.secrets)
    return masked


def recorded_document(folder: Path, recorded: Recorded) -> dict[str, Any]:
    """Return what a folder of another tool's results holds."""
    document = {
        "schema": SCHEMA,
        "folder": str(folder),
        "skipped": list(recorded.skipped),
        "batches": [batch_document(batch) for batch in recorded.batches],
    }
    plain: dict[str, Any] = json_value(document)
    return plain


def batch_document(batch: LoadBatch) -> dict[str, Any]:
    """Return one batch: its level, the statistics of each latency nested, rates, counts, client and verdict."""
    measurement = batch.measurement
    document: dict[str, Any] = {
        "level": batch.level.name,
        batch.level.shape: _number(batch.level.value),
        **nested(batch.metrics),
        "intervals": nested(batch.intervals),
        "verdict": _verdict(batch.verdict),
        "seed": batch.seed,
        "started_at": None if batch.started_at is None else utc_text(batch.started_at),
        **batch.about,
    }
    if measurement is None:
        return document
    document |= {
        "errors": dict(measurement.errors),
        "window_s": measurement.window_s,
        "warmup_requests": measurement.warmup_requests,
        "stopped": measurement.stopped,
    }
    if batch.recorded:  # the client was another tool, of which nothing is known
        return document
    return document | {
        "delivered": measurement.delivered,
        "shortfall": shortfall(measurement),
        "steady": batch.steadiness,
        "health": {**asdict(measurement.client), "share": client_share(batch)},
    }


def nested(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics, or their intervals: the statistics of each family nested, ``{"ttft": {"p99": ...}}``.

    Latencies without data are there and empty, so that a reader need not ask.
    """
    document: dict[str, Any] = {family: {} for family in LATENCIES}
    for metric, value in metrics.items():
        family, dot, statistic = metric.partition(".")
        if dot:
            document.setdefault(family, {})[statistic] = value
        else:
            document[metric] = int(value) if metric in ("requests", "failed") else value
    return document


def json_text(document: Mapping[str, Any]) -> str:
    """Return a document as the text of a file."""
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "status": str(verdict.status),
        "reason": verdict.reason,
        "checks": [_check(check) for check in verdict.checks],
    }


def _check(check: Check) -> dict[str, Any]:
    limit = check.limit
    return {
        "metric": limit.metric,
        "min" if limit.floor else "max": limit.bound,
        "actual": check.actual,
        "ratio": None if check.actual is None else check.ratio,
        "holds": check.holds,
    }


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else value
