"""Where client and truth server meet: cores, repetitions, and each reading beside what really happened."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import processes
from benchmarks.clients import Load
from benchmarks.truth import TruthServer
from pytest_autotune.statistics import percentile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from benchmarks.clients import Client, Reading
    from benchmarks.truth import Truth

PATIENCE_S = 90.0  # beyond warm-up and window


@dataclass(frozen=True, slots=True)
class Meeting:
    """One run of a client against the server."""

    client: str
    load: Load
    reading: Reading
    truths: tuple[Truth, ...]  # of the requests that count
    tokens: int  # that the server wrote in the whole run
    true_tokens_per_s: float
    cpu_s: float  # of the client and its children, without what starting it takes
    wall_s: float
    peak_rss: int
    elsewhere: float  # cores that other processes of this machine kept busy meanwhile

    def true_ttft_s(self, q: float) -> float:
        """Return a percentile of the true TTFT."""
        return percentile(sorted(truth.ttft_s for truth in self.truths), q)

    @property
    def true_tpot_s(self) -> float:
        """The mean of the true TPOT."""
        return fmean(tpot for truth in self.truths if (tpot := truth.tpot_s) is not None)

    @property
    def p99_error_s(self) -> float:
        """How far the reported p99 of TTFT is from the true one."""
        return abs(self.reading.ttft_p99_s - self.true_ttft_s(99))

    @property
    def server_late_s(self) -> float:
        """How late the server was at most, reading a request or writing a token: the truth has it in it."""
        return max(max(truth.late_s, truth.received_s - truth.arrived_s) for truth in self.truths)

    @property
    def cpu_per_million(self) -> float:
        """CPU seconds per million tokens."""
        return self.cpu_s / self.tokens * 1e6

    @property
    def true_rate(self) -> float:
        """Requests per second that reached the server."""
        return (len(self.truths) - 1) / (self.truths[-1].arrived_s - self.truths[0].arrived_s)

    @property
    def true_variation(self) -> float:
        """Coefficient of variation of the gaps between arrivals at the server: 1 for a Poisson process."""
        arrivals = [truth.arrived_s for truth in self.truths]
        gaps = [later - earlier for earlier, later in pairwise(arrivals)]
        return pstdev(gaps) / fmean(gaps)

    @property
    def clock_s(self) -> float:
        """When our client's clock was at 0, on that of the server."""
        arrived = {truth.id: truth.arrived_s for truth in self.truths}
        rows: list[tuple[str, float, float, float, float]] = self.reading.more["rows"]
        return median(arrived[name] - sent for name, _, sent, _, _ in rows if name in arrived)


class Spread(NamedTuple):
    """A figure over the repetitions."""

    middle: float
    low: float
    high: float


def spread(meetings: Iterable[Meeting], figure: Callable[[Meeting], float]) -> Spread:
    """Return median, least and greatest of a figure."""
    values = [figure(meeting) for meeting in meetings]
    return Spread(median(values), min(values), max(values))


class Bench:
    """Runs clients against the truth server, which has a core of its own as far as the machine has enough."""

    def __init__(
        self, executable: Path, raw: Client, peers: Sequence[Client], *, repetitions: int, quick: bool
    ) -> None:
        self._executable = executable
        self._startup: dict[str, float] = {}
        self._cores = sorted(os.sched_getaffinity(0))
        self.raw = raw
        self.peers = peers  # that are installed
        self.repetitions = repetitions
        self.quick = quick

    def client_cores(self, count: int) -> list[int]:
        """Return so many cores for a client: the server's is the last that is shared."""
        return [*self._cores[1:], self._cores[0]][:count]

    @contextmanager
    def serve(self, **settings: float | str) -> Iterator[TruthServer]:
        """Run a server on the first core."""
        with TruthServer(self._executable, core=self._cores[0], **settings) as server:
            yield server

    def meet(
        self, client: Client, server: TruthServer, load: Load, *, cores: int = 1, watch_memory: bool = False
    ) -> Meeting:
        """Run a client to its end; raise `ClientError` when it fails."""
        startup_s = self._startup_s(client)
        with tempfile.TemporaryDirectory(prefix="client-") as text:
            directory = Path(text)
            server.reset()
            others_s = _busy_s() - server.stats()["cpu_s"]
            finished = processes.run(
                client.command(load, directory),
                cores=self.client_cores(cores),
                directory=directory,
                timeout_s=load.warmup_s + load.window_s + PATIENCE_S,
                env={"HF_HUB_OFFLINE": "1"},
                watch_memory=watch_memory,
            )
            others_s = _busy_s() - server.stats()["cpu_s"] - finished.cpu_s - others_s
            reading = client.read(finished.output, directory)
        everything = [truth for truth in server.requests() if truth.end == "ok"]
        truths = _that_count(everything, reading)
        begin_s, end_s = _window_s(truths, reading)
        return Meeting(
            client=client.name,
            load=load,
            reading=reading,
            truths=tuple(truths),
            tokens=round(server.stats()["tok"]),
            true_tokens_per_s=server.tokens_between(begin_s, end_s) / (end_s - begin_s),
            cpu_s=max(finished.cpu_s - startup_s, 0.0),
            wall_s=finished.wall_s,
            peak_rss=finished.peak_rss,
            elsewhere=max(others_s, 0.0) / finished.wall_s,
        )

    def _startup_s(self, client: Client) -> float:
        """Return the CPU seconds that a client takes for next to no load."""
        if client.name not in self._startup:
            with self.serve(ttft_ms=5, itl_ms=1) as server, tempfile.TemporaryDirectory(prefix="client-") as text:
                load = Load(server.url, 1, prompt_tokens=16, output_tokens=4, warmup_s=0.2, window_s=0.4, round_s=0.3)
                finished = processes.run(
                    client.command(load, Path(text)),
                    cores=self.client_cores(1),
                    directory=Path(text),
                    timeout_s=PATIENCE_S,
                    env={"HF_HUB_OFFLINE": "1"},
                )
            self._startup[client.name] = finished.cpu_s
        return self._startup[client.name]


def _busy_s() -> float:
    """Return the CPU seconds that all processes of this machine have used."""
    user, nice, system, _, _, irq, softirq, steal, *_ = Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    return sum(map(int, (user, nice, system, irq, softirq, steal))) / os.sysconf("SC_CLK_TCK")


def _that_count(everything: list[Truth], reading: Reading) -> list[Truth]:
    """Return the truth of the requests that the client's figures are about."""
    if reading.ids:
        return [truth for truth in everything if truth.id in reading.ids]
    if reading.window_s:
        begin_s, end_s = reading.window_s
        return [truth for truth in everything if begin_s <= truth.arrived_s < end_s]
    return everything[-reading.requests :]


def _window_s(truths: list[Truth], reading: Reading) -> tuple[float, float]:
    """Return when the client measured, on the server's clock."""
    if reading.window_s:
        return reading.window_s
    if reading.ids:
        arrived = {truth.id: truth.arrived_s for truth in truths}
        begin_s = median(arrived[name] - sent for name, _, sent, _, _ in reading.more["rows"] if name in arrived)
        return begin_s, begin_s + reading.more["window_s"]
    return truths[0].arrived_s, max(truth.last_s for truth in truths)
