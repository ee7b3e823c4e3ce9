"""How the load of a batch was sent: what arrived, what the client itself adds to latencies, why it ended early."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_autotune.formatting import count, quantity, seconds, title
from pytest_autotune.reporting.serving import serving_words
from pytest_autotune.telemetry.remarks import doubtful

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_autotune.records import BatchRecord, Interval

DRIFTING = "drifting"  # of `Steadiness`, in words
_SHOWN = ("ttft", "tpot", "itl", "e2e")
_CERTAIN = ("ttft.p99", "e2e.p99", "output_throughput")  # metrics whose intervals are shown


def client_shares(record: BatchRecord) -> dict[str, float]:
    """Return how much of each latency may be the client's own, as a share of it.

    That is how late the client read what had arrived, p99 by p99, and for `tpot` the same delay spread
    over the tokens of a request as its time is. An upper bound: where the kernel's time stamps are
    used, nothing of it is in the latencies.
    """
    if record.client is None:
        return {}
    lag_s, metrics = record.client.lag_p99_s, record.metrics
    lengths = {family: metrics[f"{family}.p99"] for family in ("ttft", "itl", "e2e") if f"{family}.p99" in metrics}
    if "e2e.mean" in metrics and "ttft.mean" in metrics and "tpot.p99" in metrics:
        lengths["tpot"] = metrics["e2e.mean"] - metrics["ttft.mean"]
    return {family: lag_s / lengths[family] for family in _SHOWN if lengths.get(family, 0.0) > 0}


def sending_lines(record: BatchRecord, *, metrics: Sequence[str] = _CERTAIN) -> list[str]:
    """Return the log lines of a batch: how its load was sent, how sure its numbers are, and what spoils them."""
    if record.client is None:
        return []
    client = record.client
    parts = [
        f"{quantity('delivered', record.delivered)} delivered",
        f"{count(client.workers, 'worker')} at {client.cpu_share:.0%} of a core",
        f"read {seconds(client.lag_p99_s)} late (p99)",
    ]
    if shares := client_shares(record):
        told = ", ".join(f"{family} {_share(share)}" for family, share in shares.items())
        parts.append(f"at most so much of it the client's own: {told}")
    if record.stopped:
        parts.append(f"ended early: {record.stopped}")
    lines = [f"[load] {record.level}: {', '.join(parts)}"]
    if certain := [_certain(metric, record.intervals[metric]) for metric in metrics if metric in record.intervals]:
        lines.append(f"[load] {record.level}: 95 % confidence: {', '.join(certain)}")
    if seen := serving_words(record):
        lines.append(f"[load] {record.level}: server: {seen}")
    lines += [f"[load] {record.level}: {remark}" for remark in record.remarks]
    return lines


def warning_lines(record: BatchRecord) -> list[str]:
    """Return the log lines about what spoils the numbers of a batch: a server that was not steady, a busy machine."""
    spoiled = (remark for remark in record.remarks if DRIFTING in remark or doubtful(remark))
    return [f"[load] {record.level}: {remark}" for remark in spoiled]


def _certain(metric: str, interval: Interval) -> str:
    low, high = (None if side is None else quantity(metric, side) for side in interval)
    if low is None or high is None:  # too few requests for a bound on that side
        known = f"at least {low}" if low else f"at most {high}" if high else "anything"
        return f"{title(metric)} {known}"
    return f"{title(metric)} {low} to {high}"


def _share(share: float) -> str:
    return f"{share * 100:.2g} %"
