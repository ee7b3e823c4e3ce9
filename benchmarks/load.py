"""Hold the load generator's figures against the truth: python -m benchmarks.load [concurrency ...].

The server runs on the first core and the client on the second, where there are two. It prints,
and asserts nothing: the figures are the machine's.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks.truth import Truth, TruthServer, build
from pytest_autotune.load.generator import Target, Workload
from pytest_autotune.load.http import HttpLoad
from pytest_autotune.load.lengths import Fixed
from pytest_autotune.samples import Level
from pytest_autotune.statistics import measured, percentile, summarise

if TYPE_CHECKING:
    from pytest_autotune.samples import Measurement

TTFT_MS, ITL_MS, TOKENS = 50, 10, 64
HEADER = (
    "streams",
    "requests",
    "TTFT p50",
    "true",
    "p99",
    "true",
    "TPOT",
    "true",
    "tokens/s",
    "ideal",
    "lag p99",
    "CPU",
)


def main(levels: list[int]) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[1:2])
    print(f"true TTFT {TTFT_MS} ms, ITL {ITL_MS} ms, {TOKENS} tokens; times in ms, CPU as a share of one core")
    print("".join(f"{name:>10}" for name in HEADER))
    with tempfile.TemporaryDirectory() as directory:
        executable = build(Path(directory))
        with TruthServer(executable, core=cores[0], ttft_ms=TTFT_MS, itl_ms=ITL_MS) as server:
            for concurrency in levels:
                server.reset()
                measurement = measure(server.url, concurrency)
                print("".join(f"{cell:>10}" for cell in row(measurement, server.log())))
                if measurement.client.saturated:
                    print(f"    {measurement.client.saturated}")


def measure(url: str, concurrency: int) -> Measurement:
    workload = Workload(
        prompt_tokens=Fixed(512),
        output_tokens=Fixed(TOKENS),
        duration_s=5.0,
        warmup_s=1.5,
        request_timeout_s=30.0,
        seed=concurrency,
    )
    target = Target(url, "truth", ignore_eos=True)
    return HttpLoad().run(target, Level(concurrency), workload, died=lambda: None, on_progress=lambda _: None)


def row(measurement: Measurement, log: dict[str, Truth]) -> list[str]:
    metrics = summarise(measurement.samples, measurement.window_s, gpus=0, request_limits={})
    truths = [log[sample.id] for sample in measured(measurement.samples, measurement.window_s)]
    ttfts = sorted(truth.ttft_s for truth in truths)
    concurrency, client = measurement.level.concurrency, measurement.client
    ideal = concurrency * TOKENS / (TTFT_MS + ITL_MS * (TOKENS - 1)) * 1000
    times = (
        metrics["ttft.p50"],
        percentile(ttfts, 50),
        metrics["ttft.p99"],
        percentile(ttfts, 99),
        metrics["tpot.mean"],
        fmean(truth.tpot_s for truth in truths),
    )
    return [
        f"{concurrency}",
        f"{metrics['requests']:.0f}",
        *(f"{1000 * time:.2f}" for time in times),
        f"{metrics['output_throughput']:.0f}",
        f"{ideal:.0f}",
        f"{1000 * client.lag_p99_s:.1f}",
        f"{client.cpu_share:.2f}",
    ]


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]] or [1, 16, 64, 256])
