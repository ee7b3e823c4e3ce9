"""Whether a server that answered nothing at the end of a batch still generates: its health page cannot tell.

The HTTP front of a server is often a process of its own, which answers ``/health`` with 200 while the engine behind
it hangs or fails every request. Only a generation tells, and it is asked for when no load is on the server.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_autotune.control import Control, ControlError
from pytest_autotune.engines.engine import Cause, CauseKind
from pytest_autotune.load.plan import headers_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_autotune.deploy.server import Server
    from pytest_autotune.engines.engine import Engine
    from pytest_autotune.samples import Sample
    from pytest_autotune.suite import Suite

ERRORS = 3  # answers in a row that are errors, before a server counts as dead: it may have refused one for its load
PAUSE_S = 1.0  # between two of them
HEALTH_S = 5.0  # for the health page afterwards
LOG_LINES = 400  # at the end of its log, in which the reason is looked for
_TOLD = (CauseKind.OUT_OF_MEMORY, CauseKind.DRIVER)  # of an engine's end, in the log of a server that still listens


def silent(samples: Sequence[Sample]) -> bool:
    """Say whether a batch ended without an answer: it has none at all, or what came last was a failure."""
    last = max(samples, key=lambda sample: sample.end_s, default=None)
    return last is None or last.error is not None


def why_dead(server: Server, engine: Engine, suite: Suite) -> Cause | None:
    """Return why a server does not generate any more, or None while it does; takes `timeouts.alive` where it hangs.

    An answer that blames the request (status 4xx) comes from a server that lives.
    """
    limit_s = suite.timeouts.alive_s
    control = Control(server.url, headers=headers_of(suite.load), timeout_s=limit_s)
    problem = ""
    for attempt in range(ERRORS):
        if attempt:
            time.sleep(PAUSE_S)
        if cause := server.died():
            return cause
        try:
            control.generate(server.model_name, 2, api=suite.load.api)
        except ControlError as error:
            if error.status is not None and 400 <= error.status < 500:
                return None
            problem = f"{error.operation}: {error.problem}"
            if error.late:
                problem += " (timeouts.alive)"
                break
        else:
            return None
    return server.died() or _classified(server, engine, replace(control, timeout_s=HEALTH_S), problem)


def _classified(server: Server, engine: Engine, control: Control, problem: str) -> Cause:
    path = engine.abilities.health
    told = engine.classify(server.log_tail(LOG_LINES), None)
    if told.kind in _TOLD:
        return replace(told, message=f"{told.message} (since then {problem})")
    try:
        control.health(path)
    except ControlError as error:
        return Cause(CauseKind.TIMEOUT, f"{problem}; {error.operation}: {error.problem}")
    return Cause(CauseKind.ENGINE_DEAD, f"{problem}, while {path} answers 200")
