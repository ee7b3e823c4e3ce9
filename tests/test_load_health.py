"""When a batch is the client's doing: what lay unread, what was sent late, and the thresholds."""

from __future__ import annotations

from array import array

import pytest

from pytest_autotune.load.health import bottleneck, judge_client
from pytest_autotune.load.wire import Health
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
        {"held": 0.981, "turn_s": 0.01},
        {"held": 0.5, "turn_s": 0.0009},
    ],
    ids=str,
)
def test_a_client_that_kept_up_is_no_bottleneck(change):
    assert bottleneck(**KEPT_UP | change) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lag_tail_s": 0.026}, "it read what had arrived 26 ms late (p99, limit 25 ms)"),
        ({"lag_tail_s": 0.06, "ttft_s": 0.5}, "it read what had arrived 60 ms late (p99, limit 50 ms)"),
        ({"lag_tail_s": 0.11, "ttft_s": 9.0}, "it read what had arrived 110 ms late (p99, limit 100 ms)"),
        ({"lag_tail_s": 0.03, "ttft_s": None}, "it read what had arrived 30 ms late (p99, limit 25 ms)"),
        ({"send_tail_s": 0.03}, "it sent requests 30 ms late (p99, limit 25 ms)"),
        ({"lag_p50_s": 0.006}, "it read what had arrived 6 ms late (p50, limit 5 ms)"),
        ({"lag_p50_s": 0.0022, "tpot_s": 0.0005}, "it read what had arrived 2.2 ms late (p50, limit 2 ms)"),
        (
            {"held": 0.97, "turn_s": 0.002},
            "it kept 97.0% of its streams busy, with 2 ms between two requests (limit 98%)",
        ),
        (
            {"without_socket": 3},
            "it had no socket for 3 requests (raise ulimit -n, or net.ipv4.ip_local_port_range)",
        ),
    ],
)
def test_a_late_client_is_a_bottleneck(change, message):
    assert bottleneck(**KEPT_UP | change) == message


def health(lags_s, *, cpu_s=1.0, elapsed_s=10.0, **more):
    fields = {"gc_s": 0.0, "bytes_sent": 10, "bytes_received": 20, "unsent": 0, "clock_set_s": 0.0}
    return Health(lags_s=array("d", lags_s).tobytes(), cpu_s=cpu_s, elapsed_s=elapsed_s, **fields | more)


def judge(*workers, delays_s=(0.001,), **more):
    return judge_client(workers, Level(512), send_delays_s=delays_s, ttft_s=0.05, tpot_s=0.01, **more)


def test_workers_are_judged_by_all_their_lags_together():
    merged = judge(health([0.001] * 98), health([0.2, 0.2]))
    assert merged.lag_p50_s == pytest.approx(0.001)
    assert merged.lag_p99_s == pytest.approx(0.2)
    assert merged.lag_max_s == pytest.approx(0.2)
    assert merged.workers == 2
    assert (merged.bytes_sent, merged.bytes_received) == (20, 40)


def test_the_busiest_worker_says_how_much_of_a_core_was_used():
    assert judge(health([0.0], cpu_s=2.0), health([0.0], cpu_s=9.0)).cpu_share == pytest.approx(0.9)


def test_a_single_hiccup_is_forgiven_in_a_short_measurement():
    lags = [0.001] * 90 + [0.1] * 10
    assert judge(health(lags, elapsed_s=0.7)).saturated is None
    assert judge(health(lags, elapsed_s=30.0)).saturated is not None


def test_a_saturated_client_says_what_it_was_and_what_to_do():
    text = judge(health([0.2] * 100, cpu_s=9.9)).saturated
    assert text.startswith("client saturated: it read what had arrived 200 ms late (p99, limit 25 ms) at ")
    assert "at concurrency=512, with 1 worker of which the busiest used 0.99 of a core" in text
    assert "use more workers" in text


def test_a_clock_that_was_set_makes_the_batch_invalid():
    assert judge(health([0.0], clock_set_s=0.004)).saturated is None
    text = judge(health([0.0], clock_set_s=3.0)).saturated
    assert text == "the system's clock was set by 3e+03 ms during concurrency=512; measure it again"


def test_a_batch_without_any_answer_has_a_health():
    empty = judge(health([], elapsed_s=0.0), delays_s=())
    assert (empty.lag_max_s, empty.send_p99_s, empty.cpu_share, empty.saturated) == (0.0, 0.0, 0.0, None)
