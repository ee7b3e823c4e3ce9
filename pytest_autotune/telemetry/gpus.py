"""What the GPUs of a server do while it is loaded, as their driver tells."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

# Bits of nvmlClocksEventReason*; that the GPU idles, or runs at clocks that somebody set, is none of them.
THROTTLES = {
    "power_cap": 0x04,  # at the power that it may take: usual under full load
    "slowdown": 0x08 | 0x80,  # by the hardware, or by the machine's power supply
    "thermal": 0x20 | 0x40,  # too hot, by the driver or by the hardware
}


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at a moment of the monotonic clock; None for what it does not tell."""

    at_s: float
    utilisation: float | None = None  # share of the last moments in which some kernel ran
    memory_bytes: int | None = None
    memory_total: int | None = None
    power_w: float | None = None
    energy_j: float | None = None  # since the driver was loaded
    temperature_c: float | None = None
    sm_clock_hz: float | None = None
    throttles: Collection[str] = field(default=())  # of THROTTLES, those at work


class Gpus:
    """Reads GPUs through NVML, which is open as long as the context; without a driver there are none."""

    def __init__(self, indices: Sequence[int], nvml: Any = None) -> None:
        """`indices` count as the driver does; `nvml` is the module ``pynvml``, or what answers as it does."""
        self._indices = indices
        self._nvml = nvml
        self._handles: dict[int, Any] = {}
        self._open = False

    def __enter__(self) -> Self:
        if not self._indices:
            return self
        try:
            self._nvml = self._nvml or importlib.import_module("pynvml")
            self._nvml.nvmlInit()
        except ImportError:
            return self
        except self._nvml.NVMLError:  # no driver, or one that is not running
            return self
        self._open = True
        asked = {index: self._ask(self._nvml.nvmlDeviceGetHandleByIndex, index) for index in self._indices}
        self._handles = {index: handle for index, handle in asked.items() if handle is not None}
        return self

    def __exit__(self, *_: object) -> None:
        if self._open:
            self._nvml.nvmlShutdown()

    def read(self) -> dict[int, GpuReading]:
        """Return what each GPU does now, by its index."""
        return {index: self._read(handle) for index, handle in self._handles.items()}

    def _read(self, handle: Any) -> GpuReading:
        nvml, ask = self._nvml, self._ask
        use = ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        memory = ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        power_mw = ask(nvml.nvmlDeviceGetPowerUsage, handle)
        energy_mj = ask(nvml.nvmlDeviceGetTotalEnergyConsumption, handle)
        clock_mhz = ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM)
        reasons = ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle) or 0
        return GpuReading(
            at_s=monotonic(),
            utilisation=None if use is None else use.gpu / 100,
            memory_bytes=None if memory is None else int(memory.used),
            memory_total=None if memory is None else int(memory.total),
            power_w=None if power_mw is None else power_mw / 1000,
            energy_j=None if energy_mj is None else energy_mj / 1000,
            temperature_c=ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            sm_clock_hz=None if clock_mhz is None else clock_mhz * 1e6,
            throttles=tuple(name for name, bits in THROTTLES.items() if reasons & bits),
        )

    def _ask(self, question: Callable[..., Any], *of: Any) -> Any:
        try:
            return question(*of)
        except self._nvml.NVMLError:  # this GPU does not tell, or is lost
            return None


def gpu_figures(readings: Sequence[Mapping[int, GpuReading]]) -> dict[str, float]:
    """Return what the readings of a window come to, by GPU; `gpu.energy` is that of all of them, in joules.

    Energy is the counter's difference, else the mean power times the time. A share of throttling is that of the
    readings at which it was at work.
    """
    figures: dict[str, float] = {}
    energies: list[float | None] = []
    for index in sorted({index for reading in readings for index in reading}):
        of_one = [reading[index] for reading in readings if index in reading]
        for name, value in _of_one(of_one).items():
            figures[f"gpu.{index}.{name}"] = value
        energies.append(_energy_j(of_one))
    if energies and None not in energies:
        figures["gpu.energy"] = sum(energy for energy in energies if energy is not None)
    return figures


def _of_one(readings: Sequence[GpuReading]) -> dict[str, float]:
    told: dict[str, list[float | None]] = {
        "utilisation": [reading.utilisation for reading in readings],
        "memory": [reading.memory_bytes for reading in readings],
        "power": [reading.power_w for reading in readings],
        "temperature": [reading.temperature_c for reading in readings],
        "sm_clock": [reading.sm_clock_hz for reading in readings],
    }
    figures: dict[str, float] = {}
    for name, values in told.items():
        if known := [value for value in values if value is not None]:
            figures[f"{name}.mean"] = sum(known) / len(known)
            figures[f"{name}.max"] = max(known)
            figures[f"{name}.min"] = min(known)
    if totals := [reading.memory_total for reading in readings if reading.memory_total is not None]:
        figures["memory.total"] = max(totals)
    for name in THROTTLES:
        if share := sum(name in reading.throttles for reading in readings) / len(readings):
            figures[f"throttled.{name}"] = share
    return figures


def _energy_j(readings: Sequence[GpuReading]) -> float | None:
    first, last = readings[0], readings[-1]
    if first.energy_j is not None and last.energy_j is not None and last.energy_j >= first.energy_j:
        return last.energy_j - first.energy_j
    powers = [reading.power_w for reading in readings if reading.power_w is not None]
    return sum(powers) / len(powers) * (last.at_s - first.at_s) if powers else None
