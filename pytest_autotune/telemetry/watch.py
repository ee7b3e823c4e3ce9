"""Looking at a server and its machine about once a second while it is loaded, from a thread of its own."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Literal, Protocol, Self, TypeVar, runtime_checkable

from pytest_autotune.control import Control, ControlError
from pytest_autotune.telemetry.exposition import read_page
from pytest_autotune.telemetry.gpus import Gpus, gpu_figures
from pytest_autotune.telemetry.machine import Machine, machine_figures
from pytest_autotune.telemetry.scrapes import Scrape, engine_figures

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pytest_autotune.engines.metric_names import MetricNames
    from pytest_autotune.telemetry.gpus import GpuReading
    from pytest_autotune.telemetry.machine import Reading

INTERVAL_S = 1.0  # between two looks, and after one at the edge of a window
SCRAPE_S = 2.0  # for a server to answer: a later answer is of another moment

log = logging.getLogger(__name__)

_Look = TypeVar("_Look")


@runtime_checkable
class Processes(Protocol):
    """A server whose processes run on this machine and are known."""

    def pids(self) -> Collection[int]:
        """Return the living processes of the server."""


@runtime_checkable
class OnGpus(Protocol):
    """A server that was given certain GPUs of this machine."""

    gpus: Sequence[int]  # by the driver's indices; empty where nobody keeps count, or they are pretended


@dataclass(slots=True)
class _Seen:
    scrapes: list[Scrape] = field(default_factory=list)
    failed: int = 0
    machine: list[Reading] = field(default_factory=list)
    gpus: list[tuple[float, Mapping[int, GpuReading]]] = field(default_factory=list)


class Watch:
    """Looks while the context is open, and then says what it saw of a window.

    Pages come over connections of their own, apart from the load's. A page that does not come, or has nothing of the
    engine on it, is counted and else left out.
    """

    def __init__(
        self,
        control: Control,
        names: MetricNames | None,
        *,
        server: object,
        gpus: Sequence[int] = (),
        interval_s: float = INTERVAL_S,
    ) -> None:
        """`server` may be one of `Processes`; `gpus` are the indices of those that it takes; `names` None: no page."""
        self._control = control
        self._names = names
        self._local = isinstance(server, Processes)
        self._machine = Machine(server.pids if isinstance(server, Processes) else None)
        self._gpus = Gpus(gpus)
        self._interval_s = interval_s
        self._seen = _Seen()
        self._phase = ""
        self._words: SimpleQueue[Literal["look", "stop"]] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="autotune-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._words.put("stop")  # behind looks that were asked for
        self._thread.join()

    def note(self, phase: str) -> None:
        """Look at once when a phase of the batch begins that is another than before: the edges of the window."""
        if phase != self._phase:
            self._phase = phase
            self._words.put("look")

    def figures(self, opened_s: float | None, window_s: float) -> dict[str, float]:
        """Return what was seen of a window that opened then on the monotonic clock; of no known window nothing.

        Call it after the context was left.
        """
        if opened_s is None:
            return {}
        closed_s, seen = opened_s + window_s, self._seen
        figures: dict[str, float] = {}
        if self._names is not None:
            told = engine_figures(seen.scrapes, self._names, opened_s=opened_s, closed_s=closed_s)
            told |= {"scrapes": len(seen.scrapes), "failed_scrapes": seen.failed}
            figures |= {f"engine.{name}": value for name, value in told.items()}
        machine = _within([(reading.at_s, reading) for reading in seen.machine], opened_s, closed_s)
        figures |= machine_figures(machine, told=self._local)
        return figures | gpu_figures(_within(seen.gpus, opened_s, closed_s))

    def _run(self) -> None:
        with self._gpus:
            while True:
                try:
                    word = self._words.get(timeout=self._interval_s)
                except Empty:
                    word = "look"
                if word == "stop":
                    return
                self._look()

    def _look(self) -> None:
        if self._names is not None:
            self._scrape(self._names)
        self._seen.machine.append(self._machine.read())
        if gpus := self._gpus.read():
            self._seen.gpus.append((monotonic(), gpus))

    def _scrape(self, names: MetricNames) -> None:
        asked_s = monotonic()
        try:
            page = self._control.metrics(names.path)
        except ControlError as error:
            self._seen.failed += 1
            log.debug("no metrics: %s", error)
            return
        values = read_page(page, names.lines())
        if not values:
            self._seen.failed += 1
            return
        self._seen.scrapes.append(Scrape((asked_s + monotonic()) / 2, values))


def _within(seen: Sequence[tuple[float, _Look]], opened_s: float, closed_s: float) -> list[_Look]:
    """Return what was seen from the look nearest to the window's begin to the one nearest to its end."""
    if not seen:
        return []
    first, last = (min(seen, key=lambda look: abs(look[0] - edge_s))[0] for edge_s in (opened_s, closed_s))
    return [what for at_s, what in seen if first <= at_s <= last]
