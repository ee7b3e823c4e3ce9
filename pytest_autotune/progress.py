"""Live progress: where a trial stands, in the terminal, in CI logs and under xdist."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_autotune.formatting import duration, quantity, settings
from pytest_autotune.selection import judge_trial, select

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_autotune.load.generator import Progress
    from pytest_autotune.store import Store
    from pytest_autotune.trial import LiveTrial

CI_INTERVAL_S = 10.0  # between lines in a log that keeps every one
PROBES_EXPECTED = 7  # loads that a search for the capacity tries, about
STORE_INTERVAL_S = 2.0  # between notes that a worker leaves for the controller


class Reporter(Protocol):
    """Shows progress lines somewhere, as often as suits the place."""

    def show(self, line: str) -> None:
        """Show `line`, or leave it out when the last one is still fresh."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a trial's place in its search when it begins."""

    trial: LiveTrial
    number: int
    of: int
    best: str
    remaining_s: float  # for this trial and those after it
    begun: float  # time.monotonic()

    @classmethod
    def of_trial(cls, trial: LiveTrial, store: Store, *, workers: int) -> Standing:
        """Look the search up in the store."""
        plan = trial.plan
        suite = plan.suite
        history = plan.history(store)
        finished = [record for record in history if record.state == "finished"]
        judged = [
            judge_trial(record, limits=suite.slo, objective=suite.objective, steepness=suite.steepness)
            for record in finished
        ]
        best = select(judged).best
        batch_s = suite.load.planned_warmup_s + (suite.load.planned_duration_s or suite.load.duration_s)
        planned_s = (len(plan.levels) or PROBES_EXPECTED) * batch_s
        elapsed = [record.elapsed_s for record in finished if record.elapsed_s is not None]
        per_trial_s = sum(elapsed) / len(elapsed) if elapsed else planned_s
        return cls(
            trial=trial,
            number=min(len(finished) + 1, len(plan.slots)),
            of=len(plan.slots),
            best="" if best is None or best.score is None else quantity(suite.objective.metric, best.score),
            remaining_s=per_trial_s * max(len(plan.slots) - len(finished), 1) / workers,
            begun=time.monotonic(),
        )

    def line(self, phase: str, progress: Progress | None) -> str:
        """Say it in one line: trial n of m, configuration, batch, elapsed, current TTFT, best so far, time left."""
        parts = [
            f"{self.trial.plan.suite.name}: trial {self.number} of {self.of}",
            settings(self.trial.configuration),
            phase,
        ]
        if progress is not None:
            parts.append(f"{progress.phase} {progress.elapsed_s:.0f}/{progress.total_s:.0f} s")
            if progress.ttft_s is not None:
                parts.append(f"ttft {quantity('ttft.p50', progress.ttft_s)}")
            if progress.failed:
                parts.append(f"{progress.failed} failed")
        if self.best:
            parts.append(f"best {self.best}")
        left_s = self.remaining_s - (time.monotonic() - self.begun)
        if left_s > 0:
            parts.append(f"about {duration(round(left_s))} left")
        return "  ".join(parts)


class Throttled:
    """A reporter that writes at most one line per interval."""

    def __init__(self, write: Callable[[str], None], *, interval_s: float) -> None:
        self._write = write
        self._interval_s = interval_s
        self._last = float("-inf")

    def show(self, line: str) -> None:
        """Write the line unless the last one is younger than the interval."""
        now = time.monotonic()
        if now - self._last >= self._interval_s:
            self._last = now
            self._write(line)


class StoreReporter:
    """In an xdist worker, which has no terminal: leaves the line in the store for the controller."""

    def __init__(self, store: Store, run_id: str, owner: str) -> None:
        self._store = store
        self._run_id = run_id
        self._owner = owner
        self._throttled = Throttled(self._note, interval_s=STORE_INTERVAL_S)

    def show(self, line: str) -> None:
        """Note the line, at most once per interval."""
        self._throttled.show(line)

    def _note(self, line: str) -> None:
        self._store.set_progress(self._run_id, self._owner, line)


class StoreWatcher:
    """On the controller of an xdist run: prints what the workers note in the store, each note once."""

    def __init__(self, store: Store, run_id: str, write: Callable[[str], None]) -> None:
        self._store = store
        self._run_id = run_id
        self._write = write
        self._seen: dict[str, str] = {}

    def look(self) -> None:
        """Print the notes that are new."""
        for owner, text, _at in self._store.progress(self._run_id):
            if self._seen.get(owner) != text:
                self._seen[owner] = text
                self._write(text)
