"""What of a server and its machine makes the numbers of a batch doubtful, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_autotune.formatting import count
from pytest_autotune.telemetry.gpus import THROTTLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DISTURBED, THROTTLED, NEAR_OOM = "disturbed", "throttled", "near out of memory"  # how such a remark begins
OTHERS = 0.25  # share of the machine's cores from which on others disturb a measurement
FULL = 0.99  # share of a GPU's memory from which on it is nearly out of it
_HARMFUL = {"thermal": "too hot", "slowdown": "slowed down by the hardware"}  # at its power cap a GPU usually is


def doubts(figures: Mapping[str, float]) -> tuple[str, ...]:
    """Return a remark for each thing that another measurement might not meet, or that nearly ended the server."""
    return (*_disturbed(figures), *_throttled(figures), *_near_out_of_memory(figures))


def doubtful(remark: str) -> bool:
    """Say whether a remark is one of these."""
    return remark.startswith((f"{DISTURBED}: ", f"{THROTTLED}: ", f"{NEAR_OOM}: "))


def _disturbed(figures: Mapping[str, float]) -> Iterator[str]:
    other, cores = figures.get("host.other_cpu.mean", 0.0), figures.get("host.cores", 0.0)
    if cores and other >= OTHERS * cores:
        yield (
            f"{DISTURBED}: other processes used {other:.1f} of {cores:g} cores meanwhile; "
            "measure again on a quiet machine"
        )


def _throttled(figures: Mapping[str, float]) -> Iterator[str]:
    for index in _gpus(figures):
        for reason in THROTTLES:
            share = figures.get(f"gpu.{index}.throttled.{reason}", 0.0)
            if share and reason in _HARMFUL:
                yield f"{THROTTLED}: GPU {index} was {_HARMFUL[reason]} for {100 * share:.0f} % of the time"


def _near_out_of_memory(figures: Mapping[str, float]) -> Iterator[str]:
    if preempted := round(figures.get("engine.preemptions", 0.0)):
        yield f"{NEAR_OOM}: the KV cache was full, {count(preempted, 'request')} had to be computed again"
    for index in _gpus(figures):
        used, total = (figures.get(f"gpu.{index}.memory.{what}", 0.0) for what in ("max", "total"))
        if total and used >= FULL * total:
            yield f"{NEAR_OOM}: {100 * used / total:.1f} % of the memory of GPU {index} was in use"


def _gpus(figures: Mapping[str, float]) -> list[int]:
    return sorted({int(name.split(".")[1]) for name in figures if name.startswith("gpu.") and name[4].isdigit()})
