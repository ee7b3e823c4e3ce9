"""What this machine is made of."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pynvml
import pytest

from pytest_autotune import hardware
from pytest_autotune.hardware import Gpu, GpuState

PAIR = tuple(
    Gpu(index, f"GPU-{letter}{letter}{letter}", "NVIDIA H100", 80 * 2**30, "570") for index, letter in enumerate("ab")
)


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, [0, 1]),
        ("", []),
        ("1", [1]),
        ("1,0", [1, 0]),
        ("GPU-bb", [1]),
        ("0,7,1", [0]),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_visible_devices_are_chosen_as_cuda_chooses_them(visible, indices):
    assert [gpu.index for gpu in hardware.select(PAIR, visible)] == indices


def test_the_processor_and_its_memory_are_described():
    assert hardware.cpu_model()
    assert hardware.cores() == len(os.sched_getaffinity(0))
    assert 2**28 < hardware.memory_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_the_description_is_json_and_the_fingerprint_one_line():
    assert json.loads(json.dumps(hardware.describe())) == hardware.describe()
    assert hardware.fingerprint() == hardware.fingerprint()
    assert "\n" not in hardware.fingerprint()


class Drivers:
    """What NVIDIA's management library says, in place of a driver: there is none here."""

    def __init__(self, monkeypatch, **answers):
        monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: self.closed.append(True))
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
        self.closed = []
        told = {
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(free=60, total=80),
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=25),
            "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=17)],
        } | answers
        for name, answer in told.items():
            monkeypatch.setattr(pynvml, name, lambda _, answer=answer: self.say(answer))

    def say(self, answer):
        if isinstance(answer, type):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        pytest.param({}, GpuState(60, 80, 0.25, (17,)), id="all"),
        pytest.param(
            {"nvmlDeviceGetMemoryInfo": pynvml.NVMLError_NotSupported}, GpuState(0, 0, 0.25, (17,)), id="host's memory"
        ),
        pytest.param(
            {"nvmlDeviceGetUtilizationRates": pynvml.NVMLError_NotSupported}, GpuState(60, 80, 0, (17,)), id="divided"
        ),
        pytest.param(
            {"nvmlDeviceGetComputeRunningProcesses": pynvml.NVMLError_NoPermission},
            GpuState(60, 80, 0.25),
            id="other users",
        ),
    ],
)
def test_the_state_of_a_gpu_is_what_its_driver_says(monkeypatch, answers, expected):
    drivers = Drivers(monkeypatch, **answers)
    assert hardware.states(PAIR) == {"GPU-aaa": expected, "GPU-bbb": expected}
    assert drivers.closed == [True]


def test_a_machine_without_a_driver_tells_no_states(monkeypatch):
    def init():
        raise pynvml.NVMLError_LibraryNotFound

    monkeypatch.setattr(pynvml, "nvmlInit", init)
    assert hardware.states(PAIR) == {}
