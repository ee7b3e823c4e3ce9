"""What the processors and the memory of this machine do."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from pytest_autotune.hardware import cores
from pytest_autotune.telemetry.machine import Machine, Reading, machine_figures


def reading(at_s, busy_s, *, ours=None, server=None, memory=100, resident=10):
    return Reading(at_s, busy_s, memory, ours or {}, server or {}, resident)


def test_cpu_is_a_difference_and_what_is_nobodys_of_ours_is_the_others():
    figures = machine_figures(
        [
            reading(10.0, 500.0, ours={1: 50.0, 2: 7.0}, server={2: 7.0}),
            reading(11.0, 502.0, ours={1: 50.5, 2: 7.5, 3: 0.25}, server={2: 7.5, 3: 0.25}, memory=300, resident=40),
            reading(12.0, 504.0, ours={1: 51.0, 3: 0.5}, server={3: 0.5}),
        ],
        told=True,
    )
    assert figures["host.cpu.mean"] == 2.0
    assert figures["server.cpu.mean"] == pytest.approx((0.75 + 0.25) / 2)
    assert figures["host.other_cpu.mean"] == pytest.approx(2.0 - (1.25 + 0.75) / 2)
    assert (figures["host.memory.max"], figures["server.memory.max"]) == (300, 40)
    assert figures["host.cores"] == cores()


def test_others_never_use_less_than_nothing():
    figures = machine_figures([reading(10.0, 5.0, ours={1: 0.0}), reading(11.0, 5.5, ours={1: 3.0})], told=True)
    assert figures["host.other_cpu.mean"] == 0.0


def test_without_the_servers_processes_only_the_host_is_told():
    figures = machine_figures([reading(10.0, 5.0), reading(11.0, 5.5)], told=False)
    assert figures.keys() == {"host.cores", "host.memory.max", "host.cpu.mean"}


@pytest.mark.parametrize("readings", [[], [reading(10.0, 5.0)]], ids=["none", "one"])
def test_time_takes_two_readings(readings):
    assert not any("cpu" in name for name in machine_figures(readings, told=True))


def test_a_process_of_ours_is_seen_working_and_its_end_is_no_error():
    code = "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass\nprint(); input()"
    worker = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with worker:
        machine = Machine(lambda: [worker.pid, os.getpid(), 2**22 + 1])  # the last can be nobody's
        first = machine.read()
        worker.stdout.readline()
        second = machine.read()
        worker.communicate(b"\n")
        third = machine.read()
    assert worker.pid in second.ours_s
    assert second.server_s[worker.pid] - first.server_s[worker.pid] > 0.2
    assert second.busy_s > first.busy_s
    assert second.server_bytes > 10 * 2**20
    assert worker.pid not in third.server_s
    assert first.at_s < second.at_s < third.at_s <= time.monotonic()
