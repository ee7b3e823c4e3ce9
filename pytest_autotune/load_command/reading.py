"""Results that another load generator has left, as batches of a load test."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pytest_autotune.load.others import read_genai_bench
from pytest_autotune.load_command.measuring import LoadBatch, judge_load
from pytest_autotune.slo import request_limits
from pytest_autotune.statistics import summarise

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pytest_autotune.load.others import RecordedBatch
    from pytest_autotune.slo import Limit


class Recorded(NamedTuple):
    """The batches of a folder, and a line for each file that could not be read."""

    batches: tuple[LoadBatch, ...]
    skipped: tuple[str, ...]


def read_folder(folder: Path, limits: Sequence[Limit], *, gpus: int) -> Recorded:
    """Read an experiment folder of genai-bench and judge its runs; raise `BenchmarkError` when there is none."""
    found = read_genai_bench(folder)
    return Recorded(tuple(_batch(run, limits, gpus) for run in found.batches), found.skipped)


def _batch(run: RecordedBatch, limits: Sequence[Limit], gpus: int) -> LoadBatch:
    measurement = run.measurement
    metrics = summarise(
        measurement.samples,
        measurement.window_s,
        gpus=gpus,
        request_limits=request_limits(limits),
        also=[limit.metric for limit in limits if "." in limit.metric],
    )
    level = run.level.name if run.batch_size is None else f"b{run.batch_size}"
    return LoadBatch(
        level=run.level,
        verdict=judge_load(measurement, metrics, limits),
        metrics=metrics,
        measurement=measurement,
        recorded=f"{run.scenario} {level}".strip(),
        about={"file": str(run.path), "scenario": run.scenario, "task": run.task, "batch_size": run.batch_size},
    )
