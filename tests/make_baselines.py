"""Baselines in one line each, and the record of the quick suite as a search on a machine like this one writes it."""

from __future__ import annotations

from pytest_autotune.baseline import Baseline, Served, write_baseline
from pytest_autotune.hardware import fingerprint


def baseline(levels=None, **fields) -> Baseline:
    return Baseline(
        **{
            "suite": "chat",
            "engine": "vllm",
            "engine_version": "0.11.0",
            "model": "meta/Llama 3",
            "hardware": "2 x NVIDIA H100",
            "configuration": {"max-num-seqs": 64},
            "server": Served(),
            "load": {"prompt_tokens": 512},
            "levels": {"c8": {"output_throughput": 200.0, "ttft.p90": 0.4}} if levels is None else levels,
            "run": "20260101-020304",
            "recorded_at": "2026-01-01T02:03:04Z",
            **fields,
        }
    )


def record(project, name="quick"):
    """Write the record of `QUICK_SUITE` under a name beside that suite."""
    found = baseline(
        {
            "c1": {"output_throughput": 705.0, "ttft.p90": 0.00400, "error_rate": 0.0, "tpot.mean": 0.00132},
            "c8": {"output_throughput": 5650.0, "ttft.p90": 0.00350, "error_rate": 0.0, "tpot.mean": 0.00135},
        },
        suite=name,
        engine="sim",
        engine_version="0.1.0",
        model="llama-3.1-8b",
        hardware=fingerprint(),
        server=Served(fixed={"gpu": "H100", "time-scale": 0.2, "max-model-len": 4096}),
        load={"prompt_tokens": 128, "output_tokens": 32, "duration_s": 0.6, "warmup_s": 0.1},
    )
    write_baseline(project.path / "suites" / f"{name}.best.json", found)
