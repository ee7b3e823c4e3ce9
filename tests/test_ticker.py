"""The thread on the side."""

import threading

from pytest_autotune.errors import StoreError
from pytest_autotune.ticker import Ticker


def test_it_ticks_until_the_context_ends_and_outlives_a_store_that_is_away(caplog):
    ticks = []
    three = threading.Event()

    def tick():
        ticks.append(threading.current_thread())
        if len(ticks) == 1:
            raise StoreError("the store is away")
        if len(ticks) >= 3:
            three.set()

    with Ticker(tick, interval_s=0.005):
        assert three.wait(10)
    assert not ticks[0].is_alive()
    assert "the store is away" in caplog.text


def test_a_context_shorter_than_the_interval_never_ticks():
    ticks = []
    with Ticker(lambda: ticks.append(1), interval_s=60):
        pass
    assert ticks == []
