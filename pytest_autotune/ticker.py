"""Doing something every few seconds on the side: heartbeats, and progress lines of an xdist run."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Self

from pytest_autotune.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


class Ticker:
    """A thread that calls `action` every `interval_s` while the context is open; the first time after one interval.

    A store that cannot be reached is logged, and tried again at the next tick.
    """

    def __init__(self, action: Callable[[], object], *, interval_s: float) -> None:
        self._action = action
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="autotune-ticker", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self._action()
            except StoreError as error:
                log.warning("%s", error)
