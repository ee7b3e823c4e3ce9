"""What the server and its machine did during a batch, in a line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_autotune.formatting import count, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pytest_autotune.records import BatchRecord


def serving_words(record: BatchRecord) -> str:
    """Return what was seen, most telling first; empty when nothing was."""
    return ", ".join([*_engine(record.server), *_gpu(record.server), *_host(record.server)])


def _engine(server: Mapping[str, float]) -> Iterator[str]:
    shown: tuple[tuple[str, Callable[[float], str]], ...] = (
        ("running.mean", lambda value: f"{value:.1f} running"),
        ("waiting.mean", lambda value: f"{value:.1f} waiting"),
        ("kv_use.max", lambda value: f"KV cache up to {_percent(value)}"),
        ("preemptions", lambda value: count(round(value), "preemption") if round(value) else "no preemption"),
        ("prefix_hit_rate", lambda value: f"{_percent(value)} of prompts from the prefix cache" if value else ""),
        ("draft_acceptance", lambda value: f"{_percent(value)} of drafts accepted"),
        ("queue.mean", lambda value: f"queued {seconds(value)} (mean)"),
        ("prefill.mean", lambda value: f"prefill {seconds(value)} (mean)"),
    )
    told = (write(server[f"engine.{name}"]) for name, write in shown if f"engine.{name}" in server)
    return filter(None, told)


def _gpu(server: Mapping[str, float]) -> Iterator[str]:
    uses = [value for name, value in server.items() if name.startswith("gpu.") and name.endswith(".utilisation.mean")]
    if uses:
        yield f"GPUs {_percent(sum(uses) / len(uses))} busy"
    if (joules := server.get("gpu.energy_per_output_token")) is not None:
        yield f"{joules:.3g} J per output token"


def _host(server: Mapping[str, float]) -> Iterator[str]:
    if (used := server.get("server.cpu.mean")) is not None:
        yield f"{used:.2g} of {server['host.cores']:g} cores used by the server"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"
