"""What this machine is made of."""

from __future__ import annotations

import json
import os

import pytest

from pytest_autotune import hardware
from pytest_autotune.hardware import Gpu

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
