"""A level of a load test: measured once more when the client was busy, and judged."""

import os

import pytest

from pytest_autotune.errors import BenchmarkError
from pytest_autotune.load_command.command import HELD, INTERRUPTED, MISSED, UNMEASURED, exit_status
from pytest_autotune.load_command.measuring import judge_load, measure
from pytest_autotune.samples import Level
from pytest_autotune.slo import Limit, Status
from pytest_autotune.statistics import summarise
from tests.make_loads import BUSY, Handing, load_test, measurement

FAST, SLOW = Limit("ttft.p99", 0.1), Limit("ttft.p99", 0.01)
RATE = Level(5.0, "rate")
HALF = Limit("delivered", 0.5, floor=True)
FEW_ERRORS = Limit("error_rate", 0.01)


def verdict(measured, *limits):
    share = measured.delivered
    metrics = summarise(measured.samples, measured.window_s, gpus=1, request_limits={}, delivered=share)
    return judge_load(measured, metrics, limits)


@pytest.mark.parametrize(
    ("measured", "limits", "status", "reason"),
    [
        pytest.param(measurement(), [], "compliant", "", id="no limits"),
        pytest.param(measurement(), [FAST], "compliant", "", id="a limit that holds"),
        pytest.param(measurement(), [SLOW], "violating", "ttft.p99: 50 ms > 10 ms", id="a limit that is missed"),
        pytest.param(measurement(client=BUSY), [FAST], "failed", "client saturated", id="a saturated client"),
        pytest.param(measurement(client=BUSY), [], "failed", "client saturated", id="a saturated client, no limits"),
        pytest.param(measurement(0), [], "failed", "no request was sent inside the window", id="no request"),
        pytest.param(
            measurement(0, failed=["reset", "http-503", "http-503"]),
            [],
            "failed",
            "no request succeeded (http-503 2, reset 1)",
            id="only failures",
        ),
        pytest.param(measurement(0, failed=["reset"]), [FAST], "failed", "no request succeeded", id="no latency"),
        pytest.param(
            measurement(0, failed=["reset"]), [FEW_ERRORS], "violating", "error_rate: 100 % > 1 %", id="error rate"
        ),
        pytest.param(measurement(level=RATE, delivered=0.98), [FAST], "compliant", "", id="enough delivered"),
        pytest.param(
            measurement(level=RATE, delivered=0.9),
            [FAST],
            "violating",
            "90 % of the load was delivered (at least 98 %)",
            id="too little delivered",
        ),
        pytest.param(measurement(delivered=0.5), [FAST], "compliant", "", id="a closed loop with pauses"),
        pytest.param(measurement(level=RATE, delivered=0.9), [HALF], "compliant", "", id="a limit of its own"),
        pytest.param(
            measurement(level=RATE, delivered=0.5, stopped="interrupted"),
            [FAST],
            "compliant",
            "",
            id="stopped, not under-delivered",
        ),
        pytest.param(
            measurement(oversaturated="400 requests wait, 40 more each second"),
            [SLOW],
            "violating",
            "over-saturated: 400 requests wait, 40 more each second; ttft.p99: 50 ms > 10 ms",
            id="over-saturated",
        ),
    ],
)
def test_a_batch_is_judged_by_its_limits_its_client_and_its_load(measured, limits, status, reason):
    judged = verdict(measured, *limits)
    assert judged.status == status
    assert reason in judged.reason
    assert bool(judged.reason) is (status != "compliant")


def test_a_batch_of_a_busy_client_is_measured_once_more_with_other_requests():
    generator, told = Handing(measurement(client=BUSY), measurement()), []
    batch = measure(load_test(), Level(1), generator, on_retry=told.append)
    assert batch.verdict.status is Status.COMPLIANT
    assert told == [BUSY.saturated]
    first, second = (workload for _, _, workload in generator.runs)
    assert first.seed != second.seed == batch.seed
    assert first.workers is None
    assert second.workers == min(2, len(os.sched_getaffinity(0)))


def test_a_number_of_processes_that_was_asked_for_is_kept():
    generator = Handing(measurement(client=BUSY), measurement())
    measure(load_test(workers="3"), Level(1), generator)
    assert [workload.workers for _, _, workload in generator.runs] == [3, 3]


def test_a_client_that_stays_busy_is_no_measurement():
    batch = measure(load_test(), Level(1), Handing(measurement(client=BUSY), measurement(client=BUSY)))
    assert not batch.valid
    assert "client saturated" in batch.verdict.reason


def test_a_batch_that_was_stopped_is_not_repeated():
    generator = Handing(measurement(client=BUSY, stopped="interrupted"))
    assert not measure(load_test(), Level(1), generator).valid
    assert len(generator.runs) == 1


def test_a_generator_that_gives_up_leaves_a_failed_batch_with_its_reason():
    batch = measure(load_test(), Level(1), Handing(BenchmarkError("a worker died: killed by signal 9")))
    assert (batch.valid, batch.measurement, dict(batch.metrics)) == (False, None, {})
    assert batch.verdict.reason == "no data: a worker died: killed by signal 9"


def test_limits_make_goodput_and_the_percentiles_that_they_name():
    test = load_test(slo="ttft.p97<=10ms,e2e.p99<=1s")
    metrics = measure(test, Level(1), Handing(measurement())).metrics
    assert metrics["ttft.p97"] == pytest.approx(0.05)
    assert metrics["goodput"] == 0
    assert metrics["request_throughput"] == 1.0


def batch(measured, **options):
    return measure(load_test(**options), Level(1), Handing(measured, measured))


GOOD, MISS = batch(measurement()), batch(measurement(), slo="ttft.p99<=10ms")
INVALID = batch(measurement(client=BUSY))


@pytest.mark.parametrize(
    ("batches", "of", "interrupted", "status"),
    [
        ([GOOD], 1, False, HELD),
        ([GOOD, MISS], 2, False, MISSED),
        ([MISS, INVALID], 2, False, UNMEASURED),
        ([GOOD], 2, False, UNMEASURED),
        ([], 1, False, UNMEASURED),
        ([INVALID], 2, True, INTERRUPTED),
    ],
)
def test_the_worst_of_all_levels_is_the_exit_status(batches, of, interrupted, status):
    assert exit_status(batches, of=of, interrupted=interrupted) == status
