"""Reading GPUs through NVML: a stand-in for the driver, with the names and numbers of the real module."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest

from pytest_autotune.telemetry.gpus import THROTTLES, GpuReading, Gpus, gpu_figures


def nvml(*refuses):
    """Answer as pynvml does, for one GPU with the index 1; `refuses` are functions that it has no answer to."""

    def refuse(*_):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def handle(index):
        return "handle" if index == 1 else refuse()

    answers = {
        "nvmlInit": lambda: driver.calls.append("init"),
        "nvmlShutdown": lambda: driver.calls.append("shutdown"),
        "nvmlDeviceGetHandleByIndex": handle,
        "nvmlDeviceGetUtilizationRates": lambda _: SimpleNamespace(gpu=93, memory=40),
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=70 * 2**30, total=80 * 2**30),
        "nvmlDeviceGetPowerUsage": lambda _: 612_500,
        "nvmlDeviceGetTotalEnergyConsumption": lambda _: 5_000_000,
        "nvmlDeviceGetClockInfo": lambda _, kind: {pynvml.NVML_CLOCK_SM: 1755}[kind],
        "nvmlDeviceGetTemperature": lambda _, kind: {pynvml.NVML_TEMPERATURE_GPU: 61}[kind],
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _: 0x40 | 0x04 | 0x01,
    }
    assert all(hasattr(pynvml, name) for name in answers)
    constants = {name: getattr(pynvml, name) for name in ("NVMLError", "NVML_CLOCK_SM", "NVML_TEMPERATURE_GPU")}
    driver = SimpleNamespace(calls=[], **constants, **answers | dict.fromkeys(refuses, refuse))
    return driver


def test_a_gpu_is_read_in_base_units_and_the_driver_is_closed():
    driver = nvml()
    with Gpus([1], driver) as gpus:
        assert driver.calls == ["init"]
        (reading,) = gpus.read().values()
    assert driver.calls == ["init", "shutdown"]
    assert (reading.utilisation, reading.memory_bytes, reading.memory_total) == (0.93, 70 * 2**30, 80 * 2**30)
    assert (reading.power_w, reading.energy_j, reading.temperature_c) == (612.5, 5000.0, 61)
    assert reading.sm_clock_hz == 1.755e9
    assert reading.throttles == ("power_cap", "thermal")


@pytest.mark.parametrize(
    ("function", "field"),
    [
        ("nvmlDeviceGetUtilizationRates", "utilisation"),
        ("nvmlDeviceGetMemoryInfo", "memory_bytes"),
        ("nvmlDeviceGetPowerUsage", "power_w"),
        ("nvmlDeviceGetTotalEnergyConsumption", "energy_j"),
        ("nvmlDeviceGetClockInfo", "sm_clock_hz"),
        ("nvmlDeviceGetTemperature", "temperature_c"),
    ],
)
def test_what_a_gpu_does_not_tell_is_left_out(function, field):
    with Gpus([1], nvml(function)) as gpus:
        (reading,) = gpus.read().values()
    assert getattr(reading, field) is None
    assert "None" not in repr(gpu_figures([{1: reading}, {1: reading}]))


@pytest.mark.parametrize(
    ("indices", "refuses", "calls"),
    [
        pytest.param([], [], [], id="no GPU"),
        pytest.param([0], [], ["init", "shutdown"], id="another GPU"),
        pytest.param([1], ["nvmlInit"], [], id="no driver"),
    ],
)
def test_where_there_is_no_such_gpu_nothing_is_read_and_nothing_fails(indices, refuses, calls):
    driver = nvml(*refuses)
    with Gpus(indices, driver) as gpus:
        assert gpus.read() == {}
    assert driver.calls == calls
    assert gpu_figures([{}]) == {}


def test_the_real_module_is_asked_where_none_is_given():
    with Gpus([10**6]) as gpus:  # no machine has so many, and most that test have no driver
        assert gpus.read() == {}


def test_throttle_reasons_are_those_of_the_real_module():
    assert {
        "power_cap": pynvml.nvmlClocksThrottleReasonSwPowerCap,
        "slowdown": pynvml.nvmlClocksThrottleReasonHwSlowdown | pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
        "thermal": pynvml.nvmlClocksThrottleReasonSwThermalSlowdown | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
    } == THROTTLES


def test_a_window_has_means_extremes_and_the_share_of_throttling():
    readings = [
        {0: GpuReading(10.0, utilisation=0.5, power_w=100.0, sm_clock_hz=1e9, memory_total=80)},
        {0: GpuReading(11.0, utilisation=1.0, power_w=300.0, sm_clock_hz=5e8, throttles=("thermal",))},
    ]
    figures = gpu_figures(readings)
    assert (figures["gpu.0.utilisation.mean"], figures["gpu.0.utilisation.max"]) == (0.75, 1.0)
    assert figures["gpu.0.sm_clock.min"] == 5e8
    assert figures["gpu.0.throttled.thermal"] == 0.5
    assert "gpu.0.throttled.power_cap" not in figures
    assert figures["gpu.0.memory.total"] == 80


@pytest.mark.parametrize(
    ("first", "last", "joules"),
    [
        pytest.param({"energy_j": 100.0}, {"energy_j": 350.0}, 250.0, id="its counter"),
        pytest.param({"power_w": 100.0}, {"power_w": 300.0}, 400.0, id="its power times two seconds"),
        pytest.param({"energy_j": 100.0, "power_w": 50.0}, {"energy_j": 3.0}, 100.0, id="a counter that went back"),
        pytest.param({}, {}, None, id="nothing told"),
    ],
)
def test_energy_is_counted_or_computed_over_all_gpus(first, last, joules):
    readings = [{0: GpuReading(10.0, **first)}, {0: GpuReading(12.0, **last)}]
    assert gpu_figures(readings).get("gpu.energy") == joules
    twice = gpu_figures([{0: reading[0], 3: reading[0]} for reading in readings])
    assert twice.get("gpu.energy") == (None if joules is None else 2 * joules)
    half = gpu_figures([{0: reading[0], 3: GpuReading(reading[0].at_s)} for reading in readings])
    assert "gpu.energy" not in half, "of one GPU it is not known"
