"""Loading the server of one trial, a batch at a time: what came of each, as the store records it."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pytest_autotune.batches import record_of, record_of_lost, watch_of, when_resolved
from pytest_autotune.errors import BenchmarkError, DeployError, Infeasible
from pytest_autotune.liveness import silent, why_dead
from pytest_autotune.records import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from pytest_autotune.bench import Plan
    from pytest_autotune.deploy.server import Server
    from pytest_autotune.engines.engine import Cause
    from pytest_autotune.load.generator import LoadGenerator, Progress, Target, Workload
    from pytest_autotune.records import BatchRecord
    from pytest_autotune.samples import Level, Sample
    from pytest_autotune.screening import Screening
    from pytest_autotune.slo import Ruling

log = logging.getLogger(__name__)


class Loading:
    """What loads one running `server`; `announce` is told how far it is, `name` is the trial's in the log."""

    def __init__(
        self,
        server: Server,
        plan: Plan,
        generator: LoadGenerator,
        *,
        name: str,
        gpus: int,
        announce: Callable[[str, Progress], None],
    ) -> None:
        self.server = server
        self._plan = plan
        self._generator = generator
        self._name = name
        self._gpus = gpus
        self._announce = announce
        self._template_tokens: int | None = None  # that the server adds to a prompt; None before it was asked
        self._loaded = False  # whether the server was sent anything before

    def settle(self, *, repetition: str) -> str:
        """Load the new server until it is as fast as it stays, and say how that went.

        Raises `DeployError` when it takes too long, and what the death of a server is when it dies of it.
        """
        from pytest_autotune.settling import Settling, settling_workload

        level, workload = settling_workload(self._plan.suite, repetition=repetition)
        target = self._target(made_up=not any(row.text or row.turns for row in workload.rows))
        self._loaded = True
        settling = Settling(level)
        try:
            measurement = self._generator.run(
                target,
                level,
                workload,
                died=self.server.died,
                on_progress=partial(self._announce, "settling"),
                enough=settling.enough,
            )
        except BenchmarkError as error:
            cause = self.server.died()
            text = f"not settled at {level}: {error if cause is None else f'the server died: {cause}'}"
            kind = Infeasible if cause is not None and cause.kind.finding else DeployError
            raise kind(text, log_tail=self.server.log_tail(), cause=cause) from error
        if not measurement.stopped:
            raise DeployError(settling.problem(workload.duration_s, sum(measurement.errors.values())))
        remark = settling.remark
        log.info("%s: %s", self._name, remark)
        return remark

    def batch(
        self, level: Level, workload: Workload, screening: Screening | None
    ) -> tuple[BatchRecord, tuple[Sample, ...]]:
        """Load the server once, and return what came back; of a server that died, its status says so."""
        suite, load = self._plan.suite, self._plan.suite.load
        started_at = utc_now()
        target = self._target(made_up=not any(row.text or row.turns for row in workload.rows))
        limit_s = suite.timeouts.for_batch(workload, load.generator)
        deadline = time.monotonic() + limit_s
        remarks = self._forget(target, workload)
        self._loaded = True
        decided: dict[str, Ruling] = {}

        def overdue() -> str | None:
            late = time.monotonic() > deadline
            return f"not finished within {limit_s:g} s (timeouts.batch)" if late else None

        def progressed(progress: Progress) -> None:
            watch.note(progress.phase)
            self._announce(level.name, progress)

        watch = watch_of(self.server, self._plan.engine.abilities, headers=target.headers)
        try:
            with watch:
                measurement = self._generator.run(
                    target,
                    level,
                    workload,
                    died=lambda: self.server.died() or overdue(),
                    on_progress=progressed,
                    **when_resolved(suite, level, decided, screening),
                )
        except BenchmarkError as error:
            cause = self.server.died() or (self._why_dead() if overdue() else None)
            return self._lost(level, started_at, overdue() or str(error), cause), ()
        if silent(measurement.samples) and (cause := self._why_dead()):
            return self._lost(level, started_at, "", cause), tuple(measurement.samples)
        seen = watch.figures(measurement.opened_s, measurement.window_s)
        record = record_of(measurement, started_at, suite, gpus=self._gpus, decided=decided, server=seen)
        return replace(record, remarks=(*record.remarks, *remarks)), tuple(measurement.samples)

    def _why_dead(self) -> Cause | None:
        return why_dead(self.server, self._plan.engine, self._plan.suite)

    def _lost(self, level: Level, started_at: datetime, reason: str, cause: Cause | None) -> BatchRecord:
        if cause is not None:
            log.info("%s died at %s: %s\n%s", self._name, level, cause, self.server.log_tail())
        return record_of_lost(level, started_at, reason, cause)

    def _forget(self, target: Target, workload: Workload) -> tuple[str, ...]:
        """Have the server forget what it was sent before; return what readers of the next numbers should know.

        Made-up prompts are others in each batch: where they stay in the cache nothing is faster for it.
        """
        from pytest_autotune.caching import empty_prefix_cache

        if self._plan.suite.load.keep_cache:
            return ()
        problem = empty_prefix_cache(target.url, self._plan.engine.abilities, headers=target.headers)
        again = self._loaded and any(row.text or row.turns for row in workload.rows)
        return (f"may be faster for prompts that it was sent before: {problem}",) if problem and again else ()

    def _target(self, *, made_up: bool) -> Target:
        """Return what is loaded, with how the server counts made-up texts; it is asked once."""
        from pytest_autotune.load.calibrate import calibrate
        from pytest_autotune.load.generator import Target
        from pytest_autotune.load.plan import headers_of

        abilities, load = self._plan.engine.abilities, self._plan.suite.load
        target = Target(
            url=self.server.url,
            model=self.server.model_name,
            api=load.api,
            token_ids=abilities.token_ids and load.api == "completions",
            ignore_eos=abilities.ignore_eos,
            headers=headers_of(load),
            uuids=abilities.uuids,
            keeps_connections=abilities.keeps_connections,
            template_tokens=self._template_tokens or 0,
        )
        if target.token_ids or not made_up or self._template_tokens is not None:
            return target
        calibration = calibrate(target)
        log.info("%s: %s", self._name, calibration.finding)
        self._template_tokens = calibration.target.template_tokens
        return calibration.target
