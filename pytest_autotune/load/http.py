"""The closed-loop load generator over HTTP: so many streams, each sending its next request as the last one ends."""

from __future__ import annotations

import asyncio
import gc
import resource
import socket
from collections import Counter, deque
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import monotonic
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from pytest_autotune.errors import BenchmarkError
from pytest_autotune.load.connection import Connection, Exchange
from pytest_autotune.load.generator import Progress, never
from pytest_autotune.load.health import Pulse
from pytest_autotune.load.workload import Requests
from pytest_autotune.samples import Measurement, Sample
from pytest_autotune.statistics import measured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_autotune.load.generator import Target, Workload
    from pytest_autotune.samples import Level

POLL_S = 0.1  # between two looks at whether the server lives
REPORT_S = 1.0  # between two progress reports
RAMP_S = 1.0  # at most this long, and at most half of the warm-up, are the first requests spread over
BACKOFF_S = (0.05, 1.0)  # a stream pauses after a failure, twice as long after each further one, up to a limit
_RECENT = 64  # requests whose median TTFT is reported while the batch runs
_SPARE_FILES = 32  # files that a batch may open beside its connections


class HttpLoad:
    """Loads a server over plain HTTP/1.1 from one event loop of its own, in this process.

    `concurrency` streams with a keep-alive connection each send a request, wait for the whole
    answer and send the next. Their first requests are spread evenly over the first half of the
    warm-up (at most a second), so that the server does not meet them as one burst.

    When the window closes, the load goes on until every request that was sent before has ended:
    the last ones are measured under the same load as the first. Requests sent after it are in no
    figure and are given up when the last measured one ends.

    Garbage is not collected while a batch runs: nothing cyclic is made per token.
    """

    def run(
        self,
        target: Target,
        level: Level,
        workload: Workload,
        *,
        died: Callable[[], object | None],
        on_progress: Callable[[Progress], None],
        enough: Callable[[Sequence[Sample], float], str] = never,
    ) -> Measurement:
        """Load `target` at `level` and return every request that was in flight inside the window.

        `died` and `on_progress` are called on the event loop and must not block. Raises
        `BenchmarkError` within a fraction of a second when the server is gone, and for a URL
        that cannot be loaded.
        """
        addresses = _resolve(target.url)
        batch = _Batch(addresses, level, workload, Requests(target, workload))
        with _open_files(level), _no_collection(), asyncio.Runner(debug=False) as runner:
            gone = runner.run(batch.run(died, on_progress, enough))
        if gone:
            raise BenchmarkError(f"server died during {level}")
        return batch.measurement()


class _Batch:
    """One batch while it runs, and what it recorded."""

    def __init__(self, addresses: list[tuple[str, int]], level: Level, workload: Workload, requests: Requests) -> None:
        self._addresses = addresses
        self._level = level
        self._workload = workload
        self._requests = requests
        self._pulse = Pulse()
        self._exchanges: list[Exchange] = []  # ended after the window opened, begun before it closed
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._warmup_requests = self._finished = self._failed = 0
        self._in_window = 0  # sent inside the window and ended
        self._awaited = 0  # counted exchanges under way
        self._settled = asyncio.Event()  # the window has closed and all it waited for has ended
        self._begins_s = self._opens_s = self._closes_s = 0.0
        self._stopped = ""

    async def run(
        self,
        died: Callable[[], object | None],
        on_progress: Callable[[Progress], None],
        enough: Callable[[Sequence[Sample], float], str],
    ) -> bool:
        """Run the batch; return whether it was given up because the server is gone."""
        self._begins_s = monotonic()
        self._opens_s = self._begins_s + self._workload.warmup_s
        self._closes_s = self._opens_s + self._workload.duration_s
        streams = self._level.concurrency or 1
        ramp_s = min(RAMP_S, self._workload.warmup_s / 2)
        # Not a TaskGroup: it wraps what a callback raises, and raises a signal handler's SystemExit a second time.
        tasks = [
            asyncio.create_task(self._stream(self._begins_s + ramp_s * number / streams)) for number in range(streams)
        ]
        try:
            return await self._supervise(tasks, died, on_progress, enough)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def measurement(self) -> Measurement:
        """Return what a batch that has run measured."""
        window_s = self._closes_s - self._opens_s
        samples = tuple(sample for exchange in self._exchanges if (sample := self._sample(exchange)).sent_s < window_s)
        batch = measured(samples, window_s)
        good = [sample for sample in batch if sample.error is None]
        ttfts = [value for sample in good if (value := sample.ttft_s) is not None]
        tpots = [value for sample in good if (value := sample.tpot_s) is not None]
        health = self._pulse.read(
            self._level,
            send_delays_s=[exchange.sent_s - exchange.due_s for exchange in self._exchanges if exchange.sent_s],
            ttft_s=median(ttfts) if ttfts else None,
            tpot_s=median(tpots) if tpots else None,
        )
        errors = Counter(sample.error for sample in batch if sample.error is not None)
        return Measurement(self._level, samples, window_s, self._warmup_requests, health, errors, stopped=self._stopped)

    async def _stream(self, start_s: float) -> None:
        """Keep one request in flight until cancelled."""
        request = self._requests.build()
        await asyncio.sleep(start_s - monotonic())
        connection: Connection | None = None
        pause_s = 0.0
        due_s = monotonic()
        try:
            while True:
                exchange = Exchange(request, due_s, counted=due_s < self._closes_s)
                self._awaited += exchange.counted
                deadline_s = due_s + self._workload.request_timeout_s
                if connection is None or not connection.usable:
                    connection = await self._connect(exchange, deadline_s)
                if connection is not None:
                    ended = connection.send(exchange, deadline_s)
                    request = self._requests.build()  # while the server is at work, so that it is ready when due
                    await ended
                self._note(exchange)
                if exchange.error is None:
                    pause_s = 0.0
                    due_s = exchange.end_s
                else:
                    pause_s = min(max(2 * pause_s, BACKOFF_S[0]), BACKOFF_S[1])
                    await asyncio.sleep(pause_s)
                    due_s = monotonic()
        finally:
            if connection is not None:
                connection.abort()

    async def _connect(self, exchange: Exchange, deadline_s: float) -> Connection | None:
        """Return a new connection; without one end the exchange and return None."""
        loop = asyncio.get_running_loop()
        error = ""
        for host, port in self._addresses:
            try:
                async with asyncio.timeout_at(deadline_s):
                    _, connection = await loop.create_connection(Connection, host, port)
            except TimeoutError:
                error = "connect-timeout"
            except ConnectionRefusedError:
                error = error or "connect-refused"
            except OSError:
                error = error or "connect-failed"
            else:
                self._addresses = [(host, port)]  # the one that answers, from now on
                exchange.due_s = monotonic()
                return connection
        exchange.end(error, monotonic())
        return None

    def _note(self, exchange: Exchange) -> None:
        """Record an exchange that has ended."""
        if not exchange.counted:
            return
        self._awaited -= 1
        self._finished += exchange.error is None
        self._failed += exchange.error is not None
        if exchange.error is None:
            self._recent.append(exchange.stream.arrivals[0] - (exchange.sent_s or exchange.due_s))
        if exchange.end_s < self._opens_s:
            self._warmup_requests += 1
            return
        self._exchanges.append(exchange)
        self._in_window += exchange.due_s >= self._opens_s
        if self._in_window == self._workload.max_requests:
            self._closes_s = min(self._closes_s, exchange.end_s)
        if exchange.end_s >= self._closes_s and not self._awaited:
            self._settled.set()

    async def _supervise(
        self,
        tasks: Sequence[asyncio.Task[None]],
        died: Callable[[], object | None],
        on_progress: Callable[[Progress], None],
        enough: Callable[[Sequence[Sample], float], str],
    ) -> bool:
        """Open and close the window on time, watch the server, report; return whether the server died."""
        phase: Literal["warm-up", "measure", "drain"] = "warm-up"
        report_s = self._begins_s
        while True:
            now_s = monotonic()
            if died() is not None:
                return True
            for task in tasks:
                if task.done():
                    task.result()  # a stream ends by a defect only
            if phase == "warm-up" and now_s >= self._opens_s:
                phase, report_s = "measure", now_s
                self._pulse.start()
            if phase == "measure" and now_s >= self._closes_s:
                phase, report_s = "drain", now_s
            if phase == "drain" and not self._awaited:
                self._pulse.stop()
                return False
            if now_s >= report_s:
                if phase == "measure" and (
                    reason := enough([self._sample(e) for e in self._exchanges], now_s - self._opens_s)
                ):
                    self._stopped, self._closes_s = reason, now_s
                on_progress(self._progress(phase, now_s))
                report_s = now_s + REPORT_S
            edges = {"warm-up": self._opens_s, "measure": self._closes_s, "drain": now_s + POLL_S}
            try:
                async with asyncio.timeout_at(min(now_s + POLL_S, edges[phase])):
                    await self._settled.wait()
            except TimeoutError:
                continue

    def _progress(self, phase: Literal["warm-up", "measure", "drain"], now_s: float) -> Progress:
        return Progress(
            phase,
            elapsed_s=now_s - self._begins_s,
            total_s=self._workload.warmup_s + self._workload.duration_s,
            finished=self._finished,
            failed=self._failed,
            ttft_s=median(self._recent) if self._recent else None,
        )

    def _sample(self, exchange: Exchange) -> Sample:
        """Return an exchange that has ended as times within the window."""
        stream, origin_s = exchange.stream, self._opens_s
        arrivals = stream.arrivals
        return Sample(
            sent_s=(exchange.sent_s or exchange.due_s) - origin_s,
            first_s=arrivals[0] - origin_s if arrivals else None,
            end_s=exchange.end_s - origin_s,
            prompt_tokens=stream.prompt_tokens or exchange.request.prompt_tokens,
            output_tokens=stream.output_tokens or len(arrivals),
            gaps_s=tuple(later - earlier for earlier, later in pairwise(arrivals)),
            error=exchange.error,
            id=exchange.request.id,
        )


def _resolve(url: str) -> list[tuple[str, int]]:
    """Return the addresses of a server, once for the batch: name look-ups do not belong into its figures."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise BenchmarkError(f"{url!r} cannot be loaded: it must be http://host[:port][/path] (TLS is not supported)")
    try:
        port = parts.port or 80
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (ValueError, OSError) as error:
        raise BenchmarkError(f"{url!r} cannot be loaded: {error}; check the host and port") from error
    return list(dict.fromkeys((str(address[0]), port) for *_, address in found))


@contextmanager
def _open_files(level: Level) -> Iterator[None]:
    """Allow this process the open files that a level needs, for a while."""
    needed = len(list(Path("/proc/self/fd").iterdir())) + (level.concurrency or 1) + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise BenchmarkError(
                f"{level} needs {needed} open files and the limit is {hard}; "
                "raise it (ulimit -n) or lower the concurrency"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Switch garbage collection off for a while."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
