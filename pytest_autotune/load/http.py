"""The load generator over HTTP: one batch from its workers' start to what they measured together."""

from __future__ import annotations

import math
import os
import resource
import secrets
import socket
from array import array
from collections import Counter, deque
from statistics import median
from time import monotonic
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

import numpy as np

from pytest_autotune.errors import BenchmarkError
from pytest_autotune.load.arrivals import most_streams, requests_due, sent_by_clock
from pytest_autotune.load.exchange import Job
from pytest_autotune.load.fleet import Fleet
from pytest_autotune.load.generator import Progress, never
from pytest_autotune.load.health import judge_client
from pytest_autotune.load.link import Address
from pytest_autotune.load.wire import Beat, Begin, Close, Done, Finished, Health, Ready
from pytest_autotune.samples import Measurement, Sample
from pytest_autotune.statistics import measured
from pytest_autotune.steadiness import oversaturation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_autotune.load.generator import Target, Workload
    from pytest_autotune.samples import Level

POLL_S = 0.05  # between two looks at whether the server lives
REPORT_S = 1.0  # between two progress reports
STREAMS_PER_WORKER = 512  # of a closed loop; benchmarks/load.py says what one process holds
RATE_PER_WORKER = 500.0  # requests per second of an open loop
READY_S = 60.0  # for all workers to start and to connect
FEW_REQUESTS = 20  # of fewer no share of errors is judged
_LEAD_S = 0.02  # from the word to all workers until they begin
_RECENT = 64  # requests whose median TTFT is reported while the batch runs
_SPARE_FILES = 32  # that a worker may open beside its connections
_GRACE_S = 0.1  # a request that is due when the window closes may be sent this much later

Phase = Literal["warm-up", "measure", "drain"]


class HttpLoad:
    """Loads a server over HTTP/1.1 from processes of its own, as many as the load needs.

    Closed loop: so many streams with a keep-alive connection each send a request, wait for the whole
    answer and send the next. Their first requests are spread evenly over the first half of the
    warm-up (at most a second), so that the server does not meet them as one burst. Open loop: every
    request is sent at its intended time.

    When the window closes, the load goes on until every request that was sent before has ended: the
    last ones are measured under the same load as the first. Requests sent after it are in no
    figure and are given up when the last measured one ends. A window that closes early, after so many
    requests for example, closes at the very moment of the one that was the last, even when that is
    noticed later.
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

        `died`, `on_progress` and `enough` are called in this process, which does not measure. Raises
        `BenchmarkError` within a fraction of a second when the server is gone or a worker fails, and
        for a URL that cannot be loaded.
        """
        host, addresses = resolve(target.url)
        count = workload.workers or workers_for(level, workload)
        name = secrets.token_hex(4)  # engines refuse an id that an aborted request of an earlier batch still has
        jobs = [Job(target, level, workload, addresses, host, name, index, count) for index in range(count)]
        _check_files(level, workload, count)
        with Fleet(jobs) as fleet:
            batch = _Batch(level, workload, fleet, died=died, on_progress=on_progress, enough=enough)
            batch.await_ready()
            batch.run()
        return batch.measurement()


class _Batch:
    """One batch while it runs, and what its workers tell of it."""

    def __init__(
        self,
        level: Level,
        workload: Workload,
        fleet: Fleet,
        *,
        died: Callable[[], object | None],
        on_progress: Callable[[Progress], None],
        enough: Callable[[Sequence[Sample], float], str],
    ) -> None:
        self._level = level
        self._workload = workload
        self._fleet = fleet
        self._died = died
        self._on_progress = on_progress
        self._enough = enough
        self._open_loop = sent_by_clock(level, workload)
        self._finished: list[Finished] = []  # that ended after the window opened
        self._ends: list[float] = []  # of those that began in the window
        self._failures: list[float] = []  # of those that failed among them
        self._running: dict[int, int] = {}
        self._exhausted: set[int] = set()
        self._warmed_up: dict[int, int] = {}
        self._healths: dict[int, Health] = {}
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._succeeded = self._failed = self._tokens = 0
        self._told = (0.0, 0)  # when progress was last told, and the tokens then
        self._stopped = self._oversaturated = ""
        self._in_flight: list[tuple[float, float]] = []  # once a second: time since the batch began, requests
        self._ttfts: list[tuple[float, float]] = []  # of answered requests: time since then when due, TTFT
        self._filled_s = math.inf  # when the first request ended, since the batch began
        self._begins_s = self._opens_s = self._closes_s = 0.0

    def await_ready(self) -> None:
        """Wait until every worker stands at the line."""
        ready: set[int] = set()
        deadline_s = monotonic() + READY_S
        jobs = self._fleet.size
        while len(ready) < jobs:
            ready |= {index for index, message in self._hear(POLL_S) if isinstance(message, Ready)}
            if monotonic() > deadline_s:
                raise BenchmarkError(
                    f"{jobs - len(ready)} of {jobs} load workers were not ready within {READY_S:g} s; "
                    "lower load.workers or free the machine"
                )

    def run(self) -> None:
        """Let the workers begin together, and close the window on time or when it is to end early."""
        self._begins_s = monotonic() + _LEAD_S
        self._opens_s = self._begins_s + self._workload.warmup_s
        self._closes_s = self._opens_s + self._workload.duration_s
        self._told = (self._begins_s, 0)
        self._fleet.tell(Begin(self._begins_s, self._closes_s))
        phase: Phase = "warm-up"
        report_s = self._begins_s
        looked_s = 0.0
        while len(self._healths) < self._fleet.size:
            for index, message in self._hear(POLL_S):
                self._take(index, message)
            now_s = monotonic()
            before, phase = phase, self._phase(now_s)
            if phase != before or now_s >= report_s:
                self._on_progress(self._progress(phase, now_s))
                report_s = now_s + REPORT_S
            look = now_s >= looked_s + REPORT_S
            if look:
                looked_s = now_s
                self._in_flight.append((now_s - self._begins_s, sum(self._running.values())))
            if phase == "measure":
                self._stop_early(now_s, look=look)

    def measurement(self) -> Measurement:
        """Return what a batch that has run measured."""
        # A worker may have told of an earlier end after the window was closed for another's.
        self._closes_s = min(self._closes_s, self._last_asked_for_s() or math.inf)
        window_s = self._closes_s - self._opens_s
        samples = tuple(sample for finished in self._finished if (sample := self._sample(finished)).start_s < window_s)
        batch = measured(samples, window_s)
        good = [sample for sample in batch if sample.error is None]
        errors = Counter(sample.error for sample in batch if sample.error is not None)
        ttfts = [value for sample in good if (value := sample.ttft_s) is not None]
        tpots = [value for sample in good if (value := sample.tpot_s) is not None]
        delivered = self._delivered(samples, window_s)
        explained = self._open_loop or errors or self._workload.think_s or self._level.shape == "stages"
        client = judge_client(
            list(self._healths.values()),
            self._level,
            send_delays_s=[f.sent_s - f.ready_s for f in self._finished if f.sent_s and f.due_s < self._closes_s],
            ttft_s=median(ttfts) if ttfts else None,
            tpot_s=median(tpots) if tpots else None,
            held=1.0 if explained else delivered,
            turn_s=(1 - delivered) * self._level.value * window_s / max(len(batch), 1),
            without_socket=errors["no-socket"],
        )
        return Measurement(
            level=self._level,
            samples=samples,
            window_s=window_s,
            warmup_requests=sum(self._warmed_up.values()),
            client=client,
            errors=errors,
            delivered=delivered,
            oversaturated=self._oversaturated,
            stopped=self._stopped,
            opened_s=self._opens_s,
        )

    def _hear(self, timeout_s: float) -> Iterator[tuple[int, object]]:
        yield from self._fleet.hear(timeout_s)
        if self._died() is not None:
            raise BenchmarkError(f"server died during {self._level}")

    def _take(self, index: int, message: object) -> None:
        if isinstance(message, Done):
            self._healths[index] = message.health
        if not isinstance(message, Beat):
            return
        self._running[index], self._warmed_up[index] = message.running, message.warmed_up
        if message.exhausted:
            self._exhausted.add(index)
        for finished in message.finished:
            self._finished.append(finished)
            if finished.due_s >= self._opens_s:
                self._ends.append(finished.end_s)
                if finished.error is not None:
                    self._failures.append(finished.end_s)
            self._filled_s = min(self._filled_s, finished.end_s - self._begins_s)
            if finished.error is not None:
                self._failed += 1
                if finished.error == "timeout":  # its first token would have taken even longer
                    self._ttfts.append((finished.due_s - self._begins_s, finished.end_s - finished.due_s))
                continue
            self._succeeded += 1
            self._tokens += finished.output_tokens
            if finished.arrivals and finished.sent_s is not None:
                first_s = float(np.frombuffer(finished.arrivals, count=1)[0])
                self._recent.append(first_s - finished.sent_s)
                self._ttfts.append((finished.due_s - self._begins_s, first_s - finished.due_s))

    def _phase(self, now_s: float) -> Phase:
        if now_s < self._opens_s:
            return "warm-up"
        return "measure" if now_s < self._closes_s else "drain"

    def _stop_early(self, now_s: float, *, look: bool) -> None:
        """Close the window when one of the conditions has come about, at the moment it did."""
        workload, ended, failed = self._workload, self._ends, self._failures
        last_s = self._last_asked_for_s()
        if len(self._exhausted) == self._fleet.size:
            self._close(max((f.end_s for f in self._finished), default=now_s), "")
        elif last_s is not None:
            too_many = workload.max_errors is not None and len(failed) >= workload.max_errors
            self._close(last_s, f"{len(failed)} requests failed" if too_many else "")
        elif (
            workload.max_error_share is not None
            and len(ended) >= FEW_REQUESTS
            and len(failed) > workload.max_error_share * len(ended)
        ):
            self._close(now_s, f"{len(failed)} of {len(ended)} requests failed")
        elif look and self._level.shape == "rate" and workload.stop_oversaturated and self._fell_behind(now_s):
            self._close(now_s, "over-saturated", abandon=True)
        elif look and self._enough is not never:
            samples = tuple(self._sample(f) for f in self._finished if f.due_s >= self._opens_s)
            if reason := self._enough(samples, now_s - self._opens_s):
                self._close(now_s, reason)

    def _last_asked_for_s(self) -> float | None:
        """Return when the last request, or the last failed one, of as many as are wanted ended; None before."""
        wanted = ((self._ends, self._workload.max_requests), (self._failures, self._workload.max_errors))
        last = [sorted(ends)[most - 1] for ends, most in wanted if most is not None and len(ends) >= most]
        return min(last, default=None)

    def _fell_behind(self, now_s: float) -> bool:
        self._oversaturated = oversaturation(
            self._in_flight,
            self._ttfts,
            now_s - self._begins_s,
            rate=self._level.value,
            filled_s=self._filled_s,
        )
        return bool(self._oversaturated)

    def _close(self, closes_s: float, reason: str, *, abandon: bool = False) -> None:
        self._closes_s = min(self._closes_s, closes_s)
        self._stopped = reason
        self._fleet.tell(Close(self._closes_s, abandon))

    def _delivered(self, samples: Sequence[Sample], window_s: float) -> float:
        """Return the share of the load asked for that the server got."""
        if self._open_loop:
            due = [sample for sample in samples if 0 <= sample.start_s < window_s]
            asked = len(due) + sum(health.unsent for health in self._healths.values())
            sent = sum(sample.sent_s < window_s + _GRACE_S for sample in due)
            return sent / asked if asked else 1.0
        if self._level.shape != "concurrency" or not window_s:
            return 1.0
        busy_s = sum(min(sample.end_s, window_s) - max(sample.sent_s, 0.0) for sample in samples)
        return min(busy_s / (self._level.value * window_s), 1.0)

    def _progress(self, phase: Phase, now_s: float) -> Progress:
        rate = (self._tokens - self._told[1]) / max(now_s - self._told[0], POLL_S)
        self._told = (now_s, self._tokens)
        return Progress(
            phase,
            elapsed_s=now_s - self._begins_s,
            total_s=self._workload.warmup_s + self._workload.duration_s,
            finished=self._succeeded,
            failed=self._failed,
            ttft_s=median(self._recent) if self._recent else None,
            running=sum(self._running.values()),
            output_rate=rate,
        )

    def _sample(self, finished: Finished) -> Sample:
        """Return an exchange that has ended as times within the window."""
        origin_s = self._opens_s
        arrivals = np.frombuffer(finished.arrivals)
        gaps: array[float] = array("d")
        gaps.frombytes(np.diff(arrivals).tobytes())
        return Sample(
            sent_s=(finished.ready_s if finished.sent_s is None else finished.sent_s) - origin_s,
            first_s=float(arrivals[0]) - origin_s if arrivals.size else None,
            end_s=finished.end_s - origin_s,
            prompt_tokens=finished.prompt_tokens,
            output_tokens=finished.output_tokens,
            gaps_s=gaps,
            error=finished.error,
            id=finished.id,
            due_s=finished.due_s - origin_s if self._open_loop else None,
            client_s=finished.client_s,
        )


def workers_for(level: Level, workload: Workload) -> int:
    """Return how many processes a load is likely to need, at most as many as this process has cores."""
    cores = len(os.sched_getaffinity(0))
    if sent_by_clock(level, workload):
        span_s = workload.warmup_s + workload.duration_s
        needed = requests_due(level, workload, 0.0, span_s) / span_s / RATE_PER_WORKER
    else:
        streams = most_streams(workload) if level.shape == "stages" else level.value
        needed = streams / STREAMS_PER_WORKER
    return max(1, min(int(np.ceil(needed)), cores))


def more_workers(used: int) -> int:
    """Return how many processes are to send a load that `used` of them were too slow for: twice as many, by cores."""
    return max(used, min(2 * used, len(os.sched_getaffinity(0))))


def _check_files(level: Level, workload: Workload, workers: int) -> None:
    """Refuse a closed loop that needs more open files than the hard limit, to which workers raise theirs."""
    if sent_by_clock(level, workload):
        return
    streams = most_streams(workload) if level.shape == "stages" else int(level.value)
    needed = -(-streams // workers) + _SPARE_FILES
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BenchmarkError(
            f"{level} needs {needed} open files and the limit is {hard}; raise it (ulimit -n) or lower the concurrency"
        )


def resolve(url: str) -> tuple[str, tuple[Address, ...]]:
    """Return a server's name and the address to load, once for a batch: look-ups do not belong into its figures.

    Of several addresses (``localhost`` often has two) the first that takes a connection.
    """
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return "localhost", (Address(socket.AF_UNIX, unquote(parts.path)),)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BenchmarkError(f"{url!r} cannot be loaded: it must be http://host[:port][/path], https:// or unix://")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (ValueError, OSError) as error:
        raise BenchmarkError(f"{url!r} cannot be loaded: {error}; check the host and port") from error
    addresses = [Address(family, place) for family, _, _, _, place in found]  # type: ignore[arg-type]
    distinct = list(dict.fromkeys(addresses))
    return parts.hostname, tuple(distinct if len(distinct) == 1 else sorted(distinct, key=_refuses))


def _refuses(address: Address) -> bool:
    """Say whether nobody listens there."""
    try:
        with socket.socket(address.family) as probe:
            probe.settimeout(1.0)
            probe.connect(address.place)
    except OSError:
        return True
    return False
