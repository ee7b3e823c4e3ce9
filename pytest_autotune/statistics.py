"""Percentiles and the metrics of a batch, each by one documented definition."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_autotune.samples import Sample

LATENCIES = ("ttft", "tpot", "itl", "e2e")  # seconds; each with a statistic: ttft.p90
RATES = (  # per second, each also with the suffix _per_gpu
    "output_throughput",
    "total_throughput",
    "input_throughput",
    "request_throughput",
    "goodput",
)


def parse_metric(name: str) -> tuple[str, str | None]:
    """Split ``ttft.p90`` into its family and statistic; raise `ValueError` naming what is allowed and the nearest."""
    raise NotImplementedError


def percentile(ordered: Sequence[float], q: float) -> float:
    """Return the q-th percentile (0..100) of sorted values by linear interpolation (Hyndman-Fan type 7)."""
    raise NotImplementedError


def summarise(
    samples: Sequence[Sample],
    window_s: float,
    *,
    gpus: int,
    request_limits: Mapping[str, float],
    also: Sequence[str] = (),
) -> dict[str, float]:
    """Return every standard metric of a batch, plus the percentiles named in `also`.

    `request_limits` (family -> seconds) are the per-request limits of goodput. A metric without
    data is absent, never zero or NaN.
    """
    raise NotImplementedError
