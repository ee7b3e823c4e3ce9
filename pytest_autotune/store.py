"""The results store: runs, trials, batches, samples; atomic claims; migrations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from pytest_autotune.records import BatchRecord, TrialRecord
    from pytest_autotune.samples import Sample
    from pytest_autotune.slo import Status
    from pytest_autotune.space import Value


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

    def begin_run(
        self, run_id: str, *, started_at: datetime, environment: Mapping[str, Any], arguments: Sequence[str]
    ) -> None: ...

    def end_run(self, run_id: str, *, outcome: str) -> None: ...

    def record_suite(self, run_id: str, study: str, *, suite: str, document: Mapping[str, Any]) -> None:
        """Note that the run covers this suite (node id) under this study key."""

    def claim(self, run_id: str, study: str, slot: str, *, owner: str, fresh: bool, choose: Any) -> Claim: ...

    def record_deployment(
        self,
        trial: int,
        *,
        argv: Sequence[str],
        effective: Mapping[str, Value],
        gpus: int,
        deploy_s: float,
        server_log: str,
    ) -> None: ...

    def record_batch(self, trial: int, batch: BatchRecord, samples: Sequence[Sample]) -> None: ...

    def finish(self, trial: int, *, status: Status, reason: str = "", cause: str = "", elapsed_s: float) -> None: ...
