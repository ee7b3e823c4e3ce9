"""Recorded baselines in one line each, for the tests of everything that holds a measurement against one."""

from __future__ import annotations

from pytest_autotune.baseline import Baseline, Served


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
