"""This package's load generator as a process of its own, so that it is measured like its peers.

    python -m benchmarks.ours '{"url": ..., "streams": 64 or null, "rate": 400.0 or null, ...}'

Prints one JSON object of figures; writes every request of the window to the file "samples" when it is named.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pytest_autotune.load.generator import Row, Target, Workload
from pytest_autotune.load.http import HttpLoad
from pytest_autotune.load.lengths import Fixed
from pytest_autotune.samples import Level
from pytest_autotune.statistics import measured, summarise


def main() -> None:
    """Load, summarise and print."""
    load = json.loads(sys.argv[1])
    conversations = json.loads(Path(load["prompts"]).read_text()) if load["prompts"] else []
    level = Level(load["streams"]) if load["rate"] is None else Level(load["rate"], "rate")
    workload = Workload(
        prompt_tokens=Fixed(load["prompt_tokens"]),
        output_tokens=Fixed(load["output_tokens"]),
        duration_s=load["window_s"],
        warmup_s=load["warmup_s"],
        request_timeout_s=60.0,
        max_requests=load["count"],
        seed=load["seed"],
        workers=load["processes"],
        rows=tuple(Row(text=each["conversations"][0]["value"]) for each in conversations),
    )
    target = Target(load["url"], load["model"], ignore_eos=True)
    measurement = HttpLoad().run(target, level, workload, died=lambda: None, on_progress=lambda _: None)
    metrics = summarise(measurement.samples, measurement.window_s, gpus=0, request_limits={})
    if load["samples"]:
        requests = measured(measurement.samples, measurement.window_s)
        rows = [(one.id, one.start_s, one.sent_s, one.first_s, one.end_s) for one in requests]
        Path(load["samples"]).write_text(json.dumps(rows))
    health = measurement.client
    print(
        json.dumps(
            {
                "requests": metrics["requests"] - metrics["failed"],
                "failed": metrics["failed"],
                "ttft_mean_s": metrics.get("ttft.mean"),
                "ttft_p50_s": metrics.get("ttft.p50"),
                "ttft_p99_s": metrics.get("ttft.p99"),
                "ttft_p999_s": metrics.get("ttft.p99.9"),
                "tpot_mean_s": metrics.get("tpot.mean"),
                "tpot_p99_s": metrics.get("tpot.p99"),
                "tokens_per_s": metrics.get("output_throughput", 0.0),
                "window_s": measurement.window_s,
                "tokens": sum(sample.output_tokens for sample in measurement.samples),
                "delivered": measurement.delivered,
                "lag_p99_s": health.lag_p99_s,
                "notes": [note for note in (health.saturated, measurement.oversaturated, measurement.stopped) if note],
                "errors": dict(measurement.errors),
            }
        )
    )


if __name__ == "__main__":
    main()
