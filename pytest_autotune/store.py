"""The results store: runs, trials, batches, samples; atomic claims; migrations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from pytest_autotune.samples import ClientHealth, Level, Sample
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


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a claim: who may measure a slot.

    * ``granted``: `trial` is ours to measure, now
    * ``recorded``: it was measured before; `trial` has the result
    * ``busy``: a living owner (`trial.owner`) is measuring it
    """

    kind: Literal["granted", "recorded", "busy"]
    trial: TrialRecord


class Store:
    """A results store behind any SQLAlchemy URL; SQLite runs in WAL mode. One per process, a context manager."""

    def __init__(self, url: str) -> None:
        raise NotImplementedError

    def migrate(self) -> None:
        """Create or upgrade the schema; the controller calls it before any worker opens the store."""

    def begin_run(self, run_id: str, *, started_at: datetime, environment: Mapping[str, Any], arguments: Sequence[str]) -> None: ...

    def end_run(self, run_id: str, *, outcome: str) -> None: ...

    def record_suite(self, run_id: str, study: str, *, suite: str, document: Mapping[str, Any]) -> None:
        """Note that the run covers this suite (node id) under this study key."""

    def claim(self, run_id: str, study: str, slot: str, *, owner: str, fresh: bool, choose: Any) -> Claim: ...

    def record_deployment(self, trial: int, *, argv: Sequence[str], effective: Mapping[str, Value], gpus: int, deploy_s: float, server_log: str) -> None: ...

    def record_batch(self, trial: int, batch: BatchRecord, samples: Sequence[Sample]) -> None: ...

    def finish(self, trial: int, *, status: Status, reason: str = "", cause: str = "", elapsed_s: float) -> None: ...
