"""When a batch is the client's doing: lag of the event loop and the thresholds."""

from __future__ import annotations

import asyncio
import time

import pytest

from pytest_autotune.load.health import BEAT_S, Pulse, bottleneck
from pytest_autotune.samples import Level

KEPT_UP = {"lag_p50_s": 0.0006, "lag_tail_s": 0.004, "send_tail_s": 0.001, "ttft_s": 0.05, "tpot_s": 0.01}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"lag_tail_s": 0.024},
        {"lag_tail_s": 0.09, "ttft_s": 1.0},
        {"send_tail_s": 0.09, "ttft_s": 1.0},
        {"lag_p50_s": 0.0049},
        {"lag_p50_s": 0.0019, "tpot_s": 0.0001},
        {"lag_p50_s": 0.02, "tpot_s": None},
        {"ttft_s": None, "tpot_s": None},
    ],
    ids=str,
)
def test_a_client_that_kept_up_is_no_bottleneck(change):
    assert bottleneck(**KEPT_UP | change) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lag_tail_s": 0.026}, "its event loop ran 26 ms late (p99, limit 25 ms)"),
        ({"lag_tail_s": 0.06, "ttft_s": 0.5}, "its event loop ran 60 ms late (p99, limit 50 ms)"),
        ({"lag_tail_s": 0.11, "ttft_s": 9.0}, "its event loop ran 110 ms late (p99, limit 100 ms)"),
        ({"lag_tail_s": 0.03, "ttft_s": None}, "its event loop ran 30 ms late (p99, limit 25 ms)"),
        ({"send_tail_s": 0.03}, "it sent requests 30 ms late (p99, limit 25 ms)"),
        ({"lag_p50_s": 0.006}, "its event loop ran 6 ms late (p50, limit 5 ms)"),
        ({"lag_p50_s": 0.0022, "tpot_s": 0.0005}, "its event loop ran 2.2 ms late (p50, limit 2 ms)"),
    ],
)
def test_a_late_client_is_a_bottleneck(change, message):
    assert bottleneck(**KEPT_UP | change) == message


def test_a_single_hiccup_is_forgiven_in_a_short_measurement():
    async def hiccup():
        await asyncio.sleep(0.3)
        time.sleep(0.1)  # noqa: ASYNC251
        await asyncio.sleep(0.3)

    for _ in range(5):  # the machine's own hiccups come on top
        if (health := measure(hiccup)).saturated is None:
            break
    assert health.lag_p99_s > 0.05
    assert health.saturated is None


def measure(work):
    """Run `work` on a loop with a pulse and return the client's health."""

    async def main():
        pulse = Pulse()
        pulse.start()
        await work()
        pulse.stop()
        return pulse.read(Level(512), send_delays_s=[0.001, 0.002], ttft_s=0.05, tpot_s=0.01)

    return asyncio.run(main())


def test_a_blocked_loop_is_saturated_and_the_message_says_what_to_do():
    async def block():
        for _ in range(4):
            await asyncio.sleep(0.02)
            time.sleep(0.2)  # noqa: ASYNC251 -- that is what is measured
        await asyncio.sleep(0.02)

    health = measure(block)
    assert health.lag_max_s == pytest.approx(0.2, abs=0.1)
    assert health.lag_p99_s > 0.15
    assert health.saturated is not None
    assert health.saturated.startswith("client saturated: its event loop ran ")
    assert "at concurrency=512" in health.saturated
    assert "use fewer streams per process" in health.saturated


def test_every_missed_beat_counts_with_its_own_delay():
    pulse = Pulse()

    async def block_once():
        pulse.start()
        time.sleep(20 * BEAT_S)  # noqa: ASYNC251
        await asyncio.sleep(0)
        await asyncio.sleep(BEAT_S)
        pulse.stop()

    asyncio.run(block_once())
    health = pulse.read(Level(1), send_delays_s=[], ttft_s=None, tpot_s=None)
    # Late by 190, 180, ... 0 ms: the mean over all beats, not one outlier among punctual ones.
    assert health.lag_max_s > 18 * BEAT_S
    assert health.lag_p99_s > 15 * BEAT_S


def test_busy_work_shows_as_cpu_share():
    async def spin():
        end = time.process_time() + 0.2
        while time.process_time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def idle():
        await asyncio.sleep(0.2)

    assert measure(spin).cpu_share > 3 * measure(idle).cpu_share
