"""Baselines in one line each, and a record of the quick suite as a search on a machine like this one writes it."""

from __future__ import annotations

from pytest_autotune.baseline import Baseline, write_baseline
from pytest_autotune.hardware import fingerprint

LEVELS = {
    "c1": {"output_throughput": 705.0, "ttft.p90": 0.00400, "error_rate": 0.0, "tpot.mean": 0.00132},
    "c8": {"output_throughput": 5650.0, "ttft.p90": 0.00350, "error_rate": 0.0, "tpot.mean": 0.00135},
}


def record(project, name="quick"):
    """Write the record of `QUICK_SUITE` under a name beside that suite."""
    write_baseline(project.path / "suites" / f"{name}.best.json", baseline(suite=name))


def baseline(**changed):
    settings = {
        "suite": "quick",
        "engine": "sim",
        "engine_version": "0.1.0",
        "model": "llama-3.1-8b",
        "hardware": fingerprint(),
        "configuration": {"max-num-seqs": 64},
        "server": {"fixed": {"gpu": "H100", "time-scale": 0.2, "max-model-len": 4096}},
        "load": {"prompt_tokens": 128, "output_tokens": 32, "duration_s": 0.6, "warmup_s": 0.1},
        "levels": LEVELS,
        "run": "20260102T030405Z-abcd",
        "recorded_at": "2026-01-02T03:04:05Z",
    }
    return Baseline.model_validate(settings | changed)
