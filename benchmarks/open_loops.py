"""The points with open loops: arrivals, and a server that stalls."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.bench import spread
from benchmarks.clients import Load, Ours
from benchmarks.runs import ITL_MS, MS, PERCENT, TOKENS, TTFT_MS, closed, interleaved, notes, p99_error_ms
from pytest_autotune.statistics import percentile

if TYPE_CHECKING:
    from benchmarks.bench import Bench, Meeting
    from benchmarks.tables import Printer
    from benchmarks.truth import Stall


def open_loop(bench: Bench, out: Printer) -> None:
    """Poisson arrivals: do they reach the server as such, and is the latency true."""
    rate = 400.0
    out.title("Open loop", f"Poisson, {rate:g} requests/s; true TTFT {TTFT_MS:g} ms, {TOKENS} tokens; times in ms.")
    rows: list[list[str]] = []
    ours: list[Meeting] = []
    seen: list[Meeting] = []
    with bench.serve(ttft_ms=TTFT_MS, itl_ms=ITL_MS) as server:
        load = replace(closed(server, 1, quick=bench.quick), streams=None, rate=rate, window_s=4 if bench.quick else 20)
        able = [client for client in bench.peers if client.open_loop]
        for client, meetings in interleaved(bench, out, [Ours(), *able], server, load):
            rates, variation = spread(meetings, lambda m: m.true_rate), spread(meetings, lambda m: m.true_variation)
            times = [
                spread(meetings, figure).middle * MS
                for figure in (
                    lambda m: m.reading.ttft_p50_s,
                    lambda m: m.true_ttft_s(50),
                    lambda m: m.reading.ttft_p99_s,
                    lambda m: m.true_ttft_s(99),
                )
            ]
            head = [client.name, f"{len(meetings[0].truths)}", f"{rates.middle:.1f}", f"{variation.middle:.3f}"]
            rows.append([*head, *(f"{time:.2f}" for time in times)])
            seen += meetings
            if client.name == "ours":
                ours = meetings
    out.table(
        ("client", "requests", "rate at the server", "CV of gaps", "TTFT p50", "true", "p99", "true"),
        rows,
    )
    notes(out, seen)
    if ours:
        delivered = spread(ours, lambda m: m.true_rate / rate * PERCENT).middle
        out.verdict("rate that reached the server", delivered, 98, "%", at_least=True)
        out.verdict("CV of the gaps, off 1 by", spread(ours, lambda m: abs(m.true_variation - 1)).middle, 0.1, "")
        out.verdict("p99 TTFT, error", p99_error_ms(ours), 2, "ms")


def stall(bench: Bench, out: Printer) -> None:
    """A server that stands still for two seconds: an open loop shows it, a closed one hides it."""
    rate, tokens, window_s, stall_s = 200.0, 16, 20.0 if bench.quick else 60.0, 2.0
    round_s = (TTFT_MS + ITL_MS * (tokens - 1)) / 1000
    out.title(
        "Stall",
        f"The server does nothing for {stall_s:g} s in the middle of {window_s:g} s; {rate:g} requests/s as a Poisson "
        "process, and as many streams as give that rate in a closed loop; TTFT in ms.",
    )
    settings = {"ttft_ms": TTFT_MS, "itl_ms": ITL_MS, "stall_at_ms": 500 * window_s + 3000, "stall_ms": 1000 * stall_s}
    with bench.serve(**settings) as server:
        load = Load(server.url, None, 64, tokens, warmup_s=2, window_s=window_s, round_s=round_s, rate=rate)
        opened = bench.meet(Ours(), server, load)
        stalls = server.stalls()
        closed_loop = bench.meet(Ours(), server, replace(load, rate=None, streams=round(rate * round_s)))
    if len(stalls) != 1:
        out.note(f"the client ended before the stall began ({'; '.join(opened.reading.more['notes'])})")
        return
    expected = simulated(opened, stalls[0])
    quantiles = (50.0, 99.0, 99.9)
    rows = [
        [
            "open loop, reported",
            *(cell(opened.reading.more[key]) for key in ("ttft_p50_s", "ttft_p99_s", "ttft_p999_s")),
        ],
        ["computed from the intended times", *(cell(percentile(expected, q)) for q in quantiles)],
        ["computed for a Poisson process", cell(TTFT_MS / MS), cell(poisson(stall_s, window_s, 0.01)), "-"],
        [
            "closed loop, reported",
            *(cell(closed_loop.reading.more[key]) for key in ("ttft_p50_s", "ttft_p99_s", "ttft_p999_s")),
        ],
    ]
    out.table(("", "p50", "p99", "p99.9"), rows)
    notes(out, [opened, closed_loop])
    off = abs(opened.reading.ttft_p99_s - percentile(expected, 99)) * MS
    out.verdict("p99 TTFT of the open loop, off the computed truth by", off, 10, "ms")
    hidden = closed_loop.reading.ttft_p99_s * MS
    out.verdict("p99 TTFT of the closed loop, which hides the stall", hidden, 2 * TTFT_MS, "ms")


def simulated(meeting: Meeting, pause: Stall) -> list[float]:
    """Return, sorted, the TTFT that the intended times and the stall allow: nothing is read or written in it."""
    zero_s = meeting.clock_s
    ttfts = []
    for _, due_s, *_ in meeting.reading.more["rows"]:
        due = zero_s + due_s
        read = pause.end_s if pause.begin_s <= due < pause.end_s else due
        first = read + TTFT_MS / MS
        ttfts.append((pause.end_s if pause.begin_s <= first < pause.end_s else first) - due)
    return sorted(ttfts)


def poisson(stall_s: float, window_s: float, share: float) -> float:
    """Return the TTFT that a share of evenly spread requests exceeds.

    Those due in the stall wait for its end and then a TTFT; those due a TTFT or less before it wait for its
    end. A TTFT above x, between TTFT and stall, has whoever is due in a stretch of stall + 2 TTFT - x.
    """
    return stall_s + 2 * TTFT_MS / MS - share * window_s


def cell(seconds: float) -> str:
    return f"{seconds * MS:.1f}"
