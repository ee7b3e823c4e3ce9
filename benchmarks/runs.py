"""What the points share: the loads, runs in turn, and how far a reading is from the truth."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.bench import spread
from benchmarks.clients import Load
from benchmarks.processes import ClientError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.bench import Bench, Meeting
    from benchmarks.clients import Client
    from benchmarks.tables import Printer
    from benchmarks.truth import TruthServer

TTFT_MS, ITL_MS, TOKENS, PROMPT = 50.0, 10.0, 64, 512  # what the server is set to, unless a point says otherwise
MS, PERCENT = 1e3, 1e2
SERVER_LATE_S = 0.005
ELSEWHERE = 0.1  # cores: with more, the figures are as much about the machine as about the client


def closed(server: TruthServer, streams: int, *, itl_ms: float = ITL_MS, quick: bool) -> Load:
    """Return a closed loop of so many streams."""
    round_s = (TTFT_MS + itl_ms * (TOKENS - 1)) / 1000
    return Load(server.url, streams, PROMPT, TOKENS, 1.5, 2 if quick else 5, round_s)


def ideal(load: Load) -> float:
    """Return the tokens per second of a client that adds nothing."""
    assert load.streams is not None
    return load.streams * load.output_tokens / load.round_s


def repeat(bench: Bench, client: Client, server: TruthServer, load: Load, *, cores: int = 1) -> list[Meeting]:
    """Run a client a few times, with other prompts each time."""
    return [bench.meet(client, server, replace(load, seed=n), cores=cores) for n in range(bench.repetitions)]


def interleaved(
    bench: Bench, out: Printer, clients: Sequence[Client], server: TruthServer, load: Load
) -> list[tuple[Client, list[Meeting]]]:
    """Run the clients in turn, a few times, so that all meet the machine in the same states; leave out who fails."""
    met: dict[str, list[Meeting]] = {client.name: [] for client in clients}
    able = [client for client in clients if load.streams is None or load.streams <= client.most_streams]
    for seed in range(bench.repetitions):
        for client in list(able):
            try:
                met[client.name].append(bench.meet(client, server, replace(load, seed=seed)))
            except ClientError as error:
                out.note(f"{client.name}: {error}")
                able.remove(client)
    return [(client, met[client.name]) for client in clients if met[client.name]]


def notes(out: Printer, meetings: Sequence[Meeting]) -> None:
    """Print what stood in the way: other processes, the server, and what clients say about themselves."""
    busy = max(meeting.elsewhere for meeting in meetings)
    if busy > ELSEWHERE:
        out.note(f"disturbed: other processes of this machine used up to {busy:.2f} cores during these runs")
    late, worst = max((meeting.server_late_s, meeting.client) for meeting in meetings)
    if late > SERVER_LATE_S:
        out.note(f"the server itself was up to {late * MS:.1f} ms late (with {worst}); the true figures say so too")
    for meeting in meetings:
        where = f"{meeting.client} at {meeting.load.streams or meeting.load.rate}"
        for note in meeting.reading.more.get("notes", ()):
            out.note(f"{where}: {note}")
        if meeting.reading.failed:
            out.note(f"{where}: {meeting.reading.failed} requests failed {meeting.reading.more.get('errors', '')}")


def p99_error_ms(meetings: Sequence[Meeting]) -> float:
    """Return how far the reported p99 of TTFT is from the true one."""
    return spread(meetings, lambda m: m.p99_error_s * MS).middle
