"""The load levels of a load test, and how long each is loaded and measured."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pytest_autotune.errors import SuiteError
from pytest_autotune.load.generator import Stage
from pytest_autotune.load_command import values
from pytest_autotune.samples import Level
from pytest_autotune.spelling import nearest, show

if TYPE_CHECKING:
    from pytest_autotune.load.generator import Workload
    from pytest_autotune.load_command.options import Written
    from pytest_autotune.samples import Shape

SHAPES: tuple[Shape, ...] = ("concurrency", "rate", "burst", "stages", "replay")  # options that make load levels
_WARMED_UP = ("concurrency", "rate")  # of the others every request is the point: no warm-up unless asked for
_STAGE = re.compile(r"(.+?)(?:\.\.(.+?))?\s+for\s+(.+)")


@dataclass(frozen=True, slots=True)
class Levels:
    """What is loaded one after the other, and for how long."""

    levels: tuple[Level, ...]
    warmup_s: float
    duration_s: float | None  # None: as long as the trace takes at the level's speed
    stages: tuple[Stage, ...] = ()
    stages_of: Literal["rate", "concurrency"] = "rate"


def read_levels(written: Written) -> Levels:
    """Return the levels of the one shape that was given; raise `SuiteError` for none or several."""
    shapes = [shape for shape in SHAPES if shape in written]
    if len(shapes) != 1:
        allowed = ", ".join(written.label(shape) for shape in SHAPES)
        found = " and ".join(written.label(shape) for shape in shapes) or "no load level"
        raise SuiteError(f"{found}: give one of {allowed}, e.g. {written.label('concurrency')} 1,8,64")
    shape = shapes[0]
    usual_warmup = shape in _WARMED_UP or "warmup" in written
    warmup_s = written.read("warmup", values.read_duration) if usual_warmup else 0.0
    duration_s = written.read("duration", values.read_positive_duration)
    if shape == "burst" and warmup_s:
        raise written.wrong("warmup", "a burst meets a server at rest; remove it")
    if shape == "stages":
        return _read_stages(written, warmup_s)
    if shape == "replay":
        speeds = written.read("speed", _levels_of("replay"))
        return Levels(speeds, warmup_s, duration_s if "duration" in written else None)
    return Levels(written.read(shape, _levels_of(shape)), warmup_s, duration_s)


def at_level(workload: Workload, level: Level, *, whole_trace: bool) -> Workload:
    """Return the workload of one level: a burst ends with its last answer, a trace lasts by its speed."""
    if level.shape == "burst":
        # Nothing is sent after it that a longer window could count.
        return replace(workload, max_requests=int(level.value))
    if whole_trace:
        gaps = len(workload.times_s) - 1
        span_s = workload.times_s[-1] * (gaps + 1) / gaps if gaps and workload.times_s[-1] else 1.0
        return replace(workload, duration_s=max(span_s / level.value - workload.warmup_s, 0.001))
    return workload


def _levels_of(shape: Shape) -> Any:
    def read(value: Any) -> tuple[Level, ...]:
        number = values.read_positive_number if shape in ("rate", "replay") else values.read_positive_count
        found = tuple(Level(number(item), shape) for item in values.split_list(value))
        twice = next((level for level in found if found.count(level) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is listed twice; remove one")
        return found

    return read


def _read_stages(written: Written, warmup_s: float) -> Levels:
    if "duration" in written:
        raise written.wrong("duration", "the stages say how long the batch is; remove it")
    stages = written.read("stages", _stages)
    length_s = sum(stage.duration_s for stage in stages)
    if warmup_s >= length_s:
        raise written.wrong("warmup", f"is a part of the stages, and takes all of their {length_s:g} s; shorten it")
    kind = written.read("stages_of", _kind)
    return Levels((Level(1, "stages"),), warmup_s, length_s - warmup_s, stages, kind)


def _stages(value: Any) -> tuple[Stage, ...]:
    """Return stages from text like ``5 for 30s, 5..50 for 1m``."""
    return tuple(_stage(text) for text in values.split_list(value))


def _stage(text: Any) -> Stage:
    match = _STAGE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{show(text)} is not a stage; write '5 for 30s', or '5..50 for 30s' for a ramp")
    start = _load(match[1])
    end = start if match[2] is None else _load(match[2])
    if not start and not end:
        raise ValueError(f"{show(text)} is no load; one end must be above 0")
    return Stage(values.read_positive_duration(match[3]), start, end)


def _load(text: str) -> float:
    return 0.0 if text.strip() == "0" else values.read_positive_number(text)


def _kind(value: Any) -> Literal["rate", "concurrency"]:
    if value == "rate":
        return "rate"
    if value == "concurrency":
        return "concurrency"
    hint = nearest(str(value), ("rate", "concurrency"))
    raise ValueError(f"{show(value)} is nothing that stages can be of{hint}; use rate or concurrency")
