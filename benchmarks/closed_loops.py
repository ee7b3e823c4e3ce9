"""The points with closed loops: truth, peers, capacity and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.bench import spread
from benchmarks.clients import Load, Ours
from benchmarks.runs import (
    ITL_MS,
    MS,
    PERCENT,
    PROMPT,
    TOKENS,
    TTFT_MS,
    closed,
    ideal,
    interleaved,
    notes,
    p99_error_ms,
    repeat,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.bench import Bench, Meeting
    from benchmarks.tables import Printer

TIMES = ("TTFT p50", "true", "p99", "true", "TPOT", "true", "tokens/s", "true", "ideal")


def truth(bench: Bench, out: Printer) -> None:
    """Closed loops of one process on one core, then of two processes: what is reported against what was."""
    out.title(
        "Truth",
        f"Closed loops; true TTFT {TTFT_MS:g} ms, ITL {ITL_MS:g} ms, {TOKENS} tokens; times in ms; medians of "
        f"{bench.repetitions} runs, with the range of the p99's error.",
    )
    rows: list[list[str]] = []
    one: dict[int, list[Meeting]] = {}
    with bench.serve(ttft_ms=TTFT_MS, itl_ms=ITL_MS) as server:
        for streams in (16, 64, 256, 512):
            one[streams] = repeat(bench, Ours(), server, closed(server, streams, quick=bench.quick))
            rows.append(closed_row(f"{streams} streams, 1 process", one[streams]))
        two = repeat(bench, Ours(2), server, closed(server, 512, quick=bench.quick), cores=2)
        rows.append(closed_row("512 streams, 2 processes", two))
        # At the server's rate of before, so that it is not its speed that is measured.
        server.set(itl_ms=4 * ITL_MS)
        many = repeat(bench, Ours(2), server, closed(server, 2048, itl_ms=4 * ITL_MS, quick=bench.quick), cores=2)
        rows.append(closed_row(f"2048 streams, 2 processes, ITL {4 * ITL_MS:g}", many))
    out.table(("load", "requests", *TIMES, "p99 error", "from", "to", "client lag p99", "CPU"), rows)
    notes(out, [meeting for meetings in (*one.values(), two, many) for meeting in meetings])
    for streams, limit_ms in ((64, 2), (256, 3), (512, 5)):
        out.verdict(f"p99 TTFT at {streams} streams, error", p99_error_ms(one[streams]), limit_ms, "ms")
    for streams, meetings in one.items():
        out.verdict(f"TPOT at {streams} streams, error", tpot_error(meetings), 1, "%")
        out.verdict(f"throughput at {streams} streams, error", throughput_error(meetings), 0.5, "%")
    delivered = spread(one[512], lambda m: m.true_tokens_per_s).middle / ideal(one[512][0].load) * PERCENT
    out.verdict("load delivered at 512 streams", delivered, 98, "% of the ideal", at_least=True)
    halved = max(p99_error_ms(one[512]) / 2, 2.0)
    out.verdict("p99 TTFT at 512 streams in two processes, error", p99_error_ms(two), halved, "ms")
    out.verdict("p99 TTFT at 2048 streams in two processes, error", p99_error_ms(many), 10, "ms")


def peers(bench: Bench, out: Printer) -> None:
    """The same closed loops with every client, and what a token costs each."""
    out.title(
        "Peers",
        f"Closed loops, clients on one core; true TTFT {TTFT_MS:g} ms, ITL {ITL_MS:g} ms, {TOKENS} tokens; times in "
        "ms; CPU seconds are those of the whole client process less those of a run with next to no load.",
    )
    rows: list[list[str]] = []
    cost: dict[str, float] = {}
    seen: list[Meeting] = []
    with bench.serve(ttft_ms=TTFT_MS, itl_ms=ITL_MS) as server:
        for streams in (16, 64, 512) if bench.quick else (16, 64, 256, 512):
            for client, meetings in interleaved(
                bench, out, [bench.raw, Ours(), *bench.peers], server, closed(server, streams, quick=bench.quick)
            ):
                per_million = spread(meetings, lambda m: m.cpu_per_million)
                row = closed_row(f"{client.name}, {streams} streams", meetings)[:-3]
                cpu_s = spread(meetings, lambda m: m.cpu_s).middle
                rows.append([*row[:-2], f"{cpu_s:.2f}", f"{per_million.middle:.2f}"])
                seen += meetings
                if streams == 512:
                    cost[client.name] = per_million.middle
    out.table(("client", "requests", *TIMES, "CPU s", "CPU s per 1e6 tokens"), rows)
    notes(out, seen)
    ours, floor = cost.pop("ours", None), cost.pop("raw C", None)
    if ours is not None and cost:
        best = min(cost, key=cost.__getitem__)
        out.verdict(f"CPU per token at 512 streams, of the best peer's ({best})", ours / cost[best], 0.5, "times")
    if ours is not None and floor:
        out.verdict("CPU per token at 512 streams, of raw C's", ours / floor, 4, "times")


def capacity(bench: Bench, out: Printer) -> None:
    """How many tokens per second a client on one core takes from a server that answers at once."""
    tokens, streams = 128, 64
    out.title("Capacity", f"{streams} streams, {tokens} tokens at once, one write per token; clients on one core.")
    rates: dict[str, float] = {}
    rows: list[list[str]] = []
    seen: list[Meeting] = []
    with bench.serve() as server:
        load = Load(server.url, streams, PROMPT, tokens, warmup_s=0.5, window_s=2 if bench.quick else 6, round_s=0.15)
        for client, meetings in interleaved(bench, out, [bench.raw, Ours(), *bench.peers], server, load):
            rate = spread(meetings, lambda m: m.true_tokens_per_s)
            cost = spread(meetings, lambda m: m.cpu_per_million)
            rates[client.name] = rate.middle
            seen += meetings
            rows.append([client.name, *(f"{value:.0f}" for value in rate), f"{cost.middle:.2f}"])
    out.table(("client", "tokens/s", "from", "to", "CPU s per 1e6 tokens"), rows)
    notes(out, seen)
    if {"ours", "vllm bench serve"} <= rates.keys():
        ratio = rates["ours"] / rates["vllm bench serve"]
        out.verdict("capacity, of vllm bench serve's", ratio, 1.5, "times", at_least=True)


def memory(bench: Bench, out: Printer) -> None:
    """What a batch of very many tokens, summarised, holds in memory."""
    wanted = 1_000_000 if bench.quick else 10_000_000
    out.title("Memory", f"{wanted:,} tokens, each in a write of its own; resident memory of all client processes.")
    with bench.serve() as server:
        load = Load(server.url, 64, PROMPT, 1000, warmup_s=0.2, window_s=400, round_s=0.5, count=wanted // 1000)
        meeting = bench.meet(Ours(), server, load, watch_memory=True)
    held = meeting.reading.more["tokens"]
    peak = meeting.peak_rss / 1e6
    out.table(
        ("client", "tokens", "seconds", "peak MB"), [["ours", f"{held:,}", f"{meeting.wall_s:.0f}", f"{peak:.0f}"]]
    )
    notes(out, [meeting])
    out.verdict(f"peak memory with {held:,} tokens", peak, 500, "MB")


def closed_row(name: str, meetings: Sequence[Meeting]) -> list[str]:
    """Return the cells of a closed loop."""
    times = [
        spread(meetings, figure).middle * MS
        for figure in (
            lambda m: m.reading.ttft_p50_s,
            lambda m: m.true_ttft_s(50),
            lambda m: m.reading.ttft_p99_s,
            lambda m: m.true_ttft_s(99),
            lambda m: m.reading.tpot_mean_s,
            lambda m: m.true_tpot_s,
        )
    ]
    rates = [
        spread(meetings, lambda m: m.reading.tokens_per_s).middle,
        spread(meetings, lambda m: m.true_tokens_per_s).middle,
        ideal(meetings[0].load),
    ]
    errors = spread(meetings, lambda m: m.p99_error_s * MS)
    lag = spread(meetings, lambda m: m.reading.more.get("lag_p99_s", 0.0) * MS).middle
    share = spread(meetings, lambda m: m.cpu_s / m.wall_s).middle
    return [
        name,
        f"{len(meetings[0].truths)}",
        *(f"{time:.2f}" for time in times),
        *(f"{rate:.0f}" for rate in rates),
        *(f"{error:.2f}" for error in errors),
        f"{lag:.2f}",
        f"{share:.2f}",
    ]


def tpot_error(meetings: Sequence[Meeting]) -> float:
    """Return how many per cent the reported TPOT is off."""
    return spread(meetings, lambda m: abs(m.reading.tpot_mean_s / m.true_tpot_s - 1) * PERCENT).middle


def throughput_error(meetings: Sequence[Meeting]) -> float:
    """Return how many per cent the reported throughput is off."""
    return spread(meetings, lambda m: abs(m.reading.tokens_per_s / m.true_tokens_per_s - 1) * PERCENT).middle
