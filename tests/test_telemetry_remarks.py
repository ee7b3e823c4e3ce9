"""Which of a server's figures make a batch doubtful."""

from __future__ import annotations

import pytest

from pytest_autotune.telemetry.remarks import doubtful, doubts

GIB = 2**30


@pytest.mark.parametrize(
    ("figures", "remarks"),
    [
        pytest.param({}, (), id="nothing seen"),
        pytest.param({"host.cores": 16, "host.other_cpu.mean": 3.9}, (), id="others used less than a quarter"),
        pytest.param(
            {"host.cores": 16, "host.other_cpu.mean": 4.0},
            ("disturbed: other processes used 4.0 of 16 cores meanwhile; measure again on a quiet machine",),
            id="a quarter",
        ),
        pytest.param({"gpu.0.throttled.power_cap": 1.0}, (), id="at its power cap"),
        pytest.param(
            {"gpu.1.throttled.thermal": 0.4, "gpu.0.throttled.slowdown": 1.0},
            (
                "throttled: GPU 0 was slowed down by the hardware for 100 % of the time",
                "throttled: GPU 1 was too hot for 40 % of the time",
            ),
            id="throttled",
        ),
        pytest.param({"engine.preemptions": 0.0}, (), id="no preemption"),
        pytest.param(
            {"engine.preemptions": 3.0},
            ("near out of memory: the KV cache was full, 3 requests had to be computed again",),
            id="preempted",
        ),
        pytest.param({"gpu.0.memory.max": 79 * GIB, "gpu.0.memory.total": 80 * GIB}, (), id="98.75 %"),
        pytest.param(
            {"gpu.0.memory.max": 79.5 * GIB, "gpu.0.memory.total": 80 * GIB, "gpu.energy": 5.0},
            ("near out of memory: 99.4 % of the memory of GPU 0 was in use",),
            id="within one per cent",
        ),
    ],
)
def test_a_batch_is_marked_by_what_spoils_it(figures, remarks):
    assert doubts(figures) == remarks
    assert all(doubtful(remark) for remark in remarks)


def test_other_remarks_are_not_doubtful():
    assert not doubtful("steady state: level")
