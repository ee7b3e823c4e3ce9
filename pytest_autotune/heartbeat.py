"""Says every few seconds that a trial's owner lives, for processes on other machines that share the store."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Self

from pytest_autotune.errors import StoreError

if TYPE_CHECKING:
    from pytest_autotune.store import Store

INTERVAL_S = 20.0  # a third of the silence after which an owner on another machine is taken for dead

log = logging.getLogger(__name__)


class Heartbeat:
    """A thread that beats while the context is open. A store that cannot be reached is tried again at the next beat."""

    def __init__(self, store: Store, trial: int) -> None:
        self._store = store
        self._trial = trial
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="autotune-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(INTERVAL_S):
            try:
                self._store.heartbeat(self._trial)
            except StoreError as error:
                log.warning("heartbeat of trial %d: %s", self._trial, error)
