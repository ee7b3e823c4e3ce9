"""What the store keeps of a trial, as plain data that selection and reports work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from pytest_autotune.samples import ClientHealth, Level
    from pytest_autotune.slo import Status
    from pytest_autotune.space import Configuration, Value


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """One measured (or failed) batch as stored; it is judged anew whenever it is read."""

    level: Level
    status: Literal["measured", "failed", "died"]  # died: the server did, while under this load
    metrics: Mapping[str, float]  # empty unless measured
    client: ClientHealth | None
    errors: Mapping[str, int]
    requests: int
    window_s: float
    started_at: datetime  # UTC
    reason: str = ""  # why it failed or died
    cause: str = ""  # CauseKind value when it died


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial as stored, with its batches in the order they ran."""

    id: int
    slot: str  # node name
    configuration: Configuration
    state: Literal["running", "finished", "interrupted"]
    status: Status | None  # verdict when it finished; None while running
    reason: str
    cause: str  # CauseKind value of a failed deployment, else empty
    owner: str
    argv: tuple[str, ...]
    effective: Mapping[str, Value]
    gpus: int
    deploy_s: float | None
    elapsed_s: float | None
    server_log: str
    started_at: datetime
    run_id: str
    batches: tuple[BatchRecord, ...]
