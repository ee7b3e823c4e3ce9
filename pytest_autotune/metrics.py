"""Names of the metrics of a batch: families, statistics, units of counting, and how a name is read."""

from __future__ import annotations

import re
from typing import Literal

from pytest_autotune.spelling import closest

LATENCIES = ("ttft", "tpot", "itl", "e2e")  # seconds, each with a statistic: ttft.p90; goodput's limits are on these
FURTHER_TIMES = ("ttft_sent", "e2e_sent", "client")  # seconds too, for comparison with the latencies
TIMES = (*LATENCIES, *FURTHER_TIMES)
STATISTICS = ("mean", "std", "min", "max", "p25", "p50", "p75", "p90", "p95", "p99", "p99.9")  # of every time
IN_FLIGHT = "in_flight"  # requests, with one of:
IN_FLIGHT_STATISTICS = ("mean", "max")
RATES = (  # per second, each also with the suffix _per_gpu
    "output_throughput",
    "total_throughput",
    "input_throughput",
    "request_throughput",
    "goodput",
)
PER_GPU = "_per_gpu"
COSTS = {  # in the currency of the suite's price, each by the rate that it is divided by
    "cost_per_million_output_tokens": "output_throughput",
    "cost_per_million_tokens": "total_throughput",
}
SHARES = ("error_rate", "delivered")
COUNTS = ("requests", "failed")

_PERCENTILE = re.compile(r"p(100|[1-9]?[0-9](?:\.[0-9]*[1-9])?)")  # one spelling for each: p99, not p99.0 or p099
_PLAIN = (*RATES, *(rate + PER_GPU for rate in RATES), *COSTS, *SHARES, *COUNTS)


def parse_metric(name: str) -> tuple[str, str | None]:
    """Split ``ttft.p90`` into its family and statistic; raise `ValueError` naming what is allowed and the nearest.

    Any percentile from ``p0`` to ``p100`` is a statistic of a time (``p97``, ``p99.95``). Rates, costs, shares
    and counts have none: ``goodput_per_gpu`` gives ``("goodput_per_gpu", None)``.
    """
    family, dot, statistic = name.partition(".")
    if name in _PLAIN:
        return name, None
    if family in TIMES and dot and (statistic in STATISTICS or _PERCENTILE.fullmatch(statistic)):
        return family, statistic
    if family == IN_FLIGHT and statistic in IN_FLIGHT_STATISTICS:
        return family, statistic
    raise ValueError(f"{name!r} is not a metric{_nearest(name)} (allowed: {_allowed()})")


def is_extra(name: str) -> bool:
    """Say whether a batch has a metric only when it is asked for: a percentile beyond the usual ones."""
    family, _, statistic = name.partition(".")
    return family in TIMES and statistic not in STATISTICS


def worse_when(name: str) -> Literal["larger", "smaller"] | None:
    """Say in which direction a metric gets worse; None when that depends: counts and requests in flight."""
    family = name.partition(".")[0]
    if family in TIMES or family in COSTS or family == "error_rate":
        return "larger"
    return "smaller" if family.removesuffix(PER_GPU) in RATES or family == "delivered" else None


def _allowed() -> str:
    statistics = ", ".join(s for s in STATISTICS if not s.startswith("p"))
    return (
        f"{', '.join(LATENCIES)} with one of {statistics}, p0 ... p100, as in ttft.p90; "
        f"{', '.join(FURTHER_TIMES)} likewise; {' and '.join(f'{IN_FLIGHT}.{s}' for s in IN_FLIGHT_STATISTICS)}; "
        f"{', '.join(RATES)}, each also with {PER_GPU}; {', '.join(COSTS)}; "
        f"{', '.join((*SHARES, *COUNTS))}"
    )


def _nearest(name: str) -> str:
    known = (
        *(f"{family}.{statistic}" for family in TIMES for statistic in STATISTICS),
        *(f"{IN_FLIGHT}.{statistic}" for statistic in IN_FLIGHT_STATISTICS),
        *_PLAIN,
    )
    close = closest(name, known, cutoff=0.5)
    return "" if close is None else f"; did you mean {close!r}?"
