"""Stored trials and batches in one line each, for the tests of everything that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pytest_autotune.records import BatchRecord, TrialRecord
from pytest_autotune.samples import ClientHealth, Level

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HEALTHY = ClientHealth(0.001, 0.002, 0.001, 0.2)


@dataclass(frozen=True)
class Aim:
    direction: str = "maximize"
    metric: str = "output_throughput"


def batch(concurrency: int, *, status="measured", reason="", cause="", requests=100, client=HEALTHY, **metrics: float):
    """Metrics are given with `__` for the dot: ``e2e__p90=5.71``."""
    return BatchRecord(
        level=Level(concurrency),
        status=status,
        metrics={name.replace("__", "."): value for name, value in metrics.items()},
        client=client if status == "measured" else None,
        errors={},
        requests=requests,
        window_s=30.0,
        started_at=START,
        reason=reason,
        cause=cause,
    )


def died(concurrency: int, reason="CUDA out of memory", cause="out of memory"):
    return batch(concurrency, status="died", reason=reason, cause=cause, requests=0)


def trial(
    number: int,
    *batches: BatchRecord,
    configuration=None,
    state="finished",
    gpus=1,
    status=None,
    reason="",
    cause="",
    argv=(),
    slot="",
):
    configuration = {"max-num-seqs": 64} if configuration is None else configuration
    return TrialRecord(
        id=number,
        slot=slot or f"trial-{number:03d}",
        configuration=configuration,
        state=state,
        status=status,
        reason=reason,
        cause=cause,
        owner="run/1",
        argv=tuple(argv),
        effective={},
        gpus=gpus,
        deploy_s=41.5,
        elapsed_s=180.0,
        server_log="server.log",
        started_at=START + timedelta(minutes=number),
        run_id="run",
        batches=batches,
    )
