"""What the store keeps of runs and trials, as plain data that selection and reports work on."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.samples import ClientHealth, Level
    from pytest_autotune.slo import Ruling, Status
    from pytest_autotune.space import Configuration, Value

Interval = tuple[float | None, float | None]  # None: the data gives no bound on that side


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
    failed_checks: tuple[str, ...] = ()  # "name: problem" for each check of a Python suite that failed on it
    delivered: float = 1.0  # share of the load asked for that reached the server
    oversaturated: str = ""  # how the server fell behind an open loop without bound; empty when it did not
    stopped: str = ""  # why the window closed before its time
    intervals: Mapping[str, Interval] = field(default_factory=dict)  # of metrics, at 95 % confidence
    rulings: Mapping[str, Ruling] = field(default_factory=dict)  # of limits that were tested, by metric
    remarks: tuple[str, ...] = ()  # what the reader of the numbers should know: a batch that was not steady
    server: Mapping[str, float] = field(default_factory=dict)  # what was seen of the server and its machine meanwhile


@dataclass(frozen=True, slots=True)
class Answers:
    """What a server answered to the questions of an accuracy gate, as stored; it is judged anew whenever it is read."""

    questions: str  # fingerprint of the questions and of how they were asked
    texts: tuple[str | None, ...]  # one for each question, shortened; None: the server refused to answer it


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How the answers of a trial stand against those of the reference."""

    kept: int  # answers that are right, or where nothing else is known the reference's
    asked: int  # that count
    reference: int | None  # how many the reference keeps; None without one
    missed: tuple[int, ...]  # questions whose answer is not right, by their place
    words: str  # one sentence, with what is less exact
    holds: bool
    against: Answers | None = None  # of the reference


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One attempt at a trial as stored, with its batches in the order they ran.

    Only a finished attempt counts. An interrupted one keeps the batches it had measured; its slot
    is measured again, with the same configuration, as the next attempt.
    """

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
    study: str = ""
    generation: str = ""  # id of the run that began this search; later runs continue it
    attempt: int = 1
    ended_at: datetime | None = None
    url: str = ""  # where the server listened
    model_name: str = ""  # the name it answered to
    cores: tuple[int, ...] = ()  # that its server had for itself; none where all share all
    waited_s: float = 0.0  # for GPUs and cores
    answers: Answers | None = None  # None: nothing was asked
    accuracy: Accuracy | None = None  # not stored: how it stands now; None where it may lose nothing, or is not judged

    @property
    def inaccurate(self) -> str:
        """Why it can never win, whatever its batches come to; empty when its answers do not keep it from that."""
        return "" if self.accuracy is None or self.accuracy.holds else self.accuracy.words

    @property
    def launched(self) -> bool:
        """Whether a server was launched for it, ready or not; else it was settled by what was known before."""
        return bool(self.server_log)


@dataclass(frozen=True, slots=True)
class StartRecord:
    """One launch of a server as stored: it became ready, or ran out of memory before."""

    run_id: str
    document: Mapping[str, Any]  # of the suite, as that run had it
    configuration: Configuration
    started_at: datetime
    ready: bool
    reason: str = ""  # what it said when it ran out of memory


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One invocation of pytest as stored."""

    id: str
    started_at: datetime
    ended_at: datetime | None  # None while it runs, and for ever when it was killed
    outcome: str | None
    arguments: tuple[str, ...]
    environment: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SuiteRecord:
    """One suite that a run covered."""

    run_id: str
    study: str
    suite: str  # node id
    document: Mapping[str, Any]


class MeasuredRecord(NamedTuple):
    """The numbers of one batch that a finished trial measured, and whose they are."""

    run_id: str
    study: str
    slot: str
    level: Level
    metrics: Mapping[str, float]


class Note(NamedTuple):
    """What one process of a run was doing last."""

    owner: str
    text: str
    at: datetime


def utc_now() -> datetime:
    """Return the current moment, aware, in UTC."""
    return datetime.now(UTC)


def utc_text(moment: datetime, *, timespec: str = "microseconds") -> str:
    """Return an aware moment as ISO 8601 in UTC with ``Z``; texts of one `timespec` sort in order of time."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment!r} has no time zone")
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec=timespec)}Z"
