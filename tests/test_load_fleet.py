"""Load workers: they start together, are heard, and are gone when the batch ends, however it ends."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from itertools import pairwise

import psutil
import pytest

from pytest_autotune.errors import BenchmarkError
from pytest_autotune.load import fleet, worker
from pytest_autotune.samples import Level
from tests.load_servers import EVENTS, chunked, in_peace, load


def workers():
    """The worker processes that this process started."""
    return [child for child in psutil.Process().children() if "load.worker" in " ".join(child.cmdline())]


def begin_to_measure(action):
    """Call `action` with the workers when the window has opened."""

    def on_progress(progress):
        if progress.phase == "measure" and not done:
            done.append(time.monotonic())
            action(workers())

    done = []
    return on_progress, done


@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_has_as_many_workers_as_asked_for_and_leaves_none(scripted, count):
    seen = []
    server = scripted(0.01, chunked(EVENTS))
    measurement = load(server.url, 6, workers=count, on_progress=lambda _: seen.append(len(workers())))
    assert measurement.client.workers == count
    assert max(seen) == count
    assert workers() == []
    assert not measurement.errors


def test_workers_begin_together_with_their_connections_open(scripted):
    def first_requests():
        server = scripted(0.05, chunked(EVENTS))
        load(server.url, 12, workers=3, warmup_s=0.4, max_requests=12)
        assert server.connections == 12
        first = sorted(head["at"] for head in server.heads)[:12]
        gaps = [later - earlier for earlier, later in pairwise(first)]
        return max(gaps), first[-1] - first[0]

    gap_s, ramp_s = in_peace(first_requests, lambda times: times[0] < 0.1 and 0.05 < times[1] < 0.35)
    assert gap_s < 0.1, "the streams of all workers take turns in one ramp of 0.2 s"
    assert ramp_s == pytest.approx(0.2, abs=0.15)


def test_a_worker_that_is_killed_invalidates_the_batch_with_its_cause(scripted):
    on_progress, killed = begin_to_measure(lambda crew: crew[1].kill())
    with pytest.raises(BenchmarkError, match=r"load worker \d of 3 \(pid \d+\) ended with status -9; the batch is inv"):
        load(scripted(0.01, chunked(EVENTS)).url, 6, workers=3, duration_s=30.0, on_progress=on_progress)
    assert time.monotonic() - killed[0] < 10, "long before the window of 30 s ends, on a busy machine too"
    assert workers() == []


def test_a_silent_worker_invalidates_the_batch_and_is_killed(scripted, monkeypatch):

    def silence(crew):
        monkeypatch.setattr(fleet, "SILENCE_S", 1.0)  # not before: to start may take as long
        crew[0].suspend()

    on_progress, stopped = begin_to_measure(silence)
    with pytest.raises(BenchmarkError, match=r"\(pid \d+\) has been silent for 1 s; the batch is invalid"):
        load(scripted(0.01, chunked(EVENTS)).url, 6, workers=2, duration_s=30.0, on_progress=on_progress)
    assert time.monotonic() - stopped[0] < 1 + fleet.STOP_S + 10
    assert workers() == []


def test_stopping_reaches_all_workers_in_under_two_seconds_even_those_that_do_not_listen(scripted):
    class Enough(Exception):
        pass

    def stop(crew):
        crew[0].suspend()
        raise Enough

    def stopping_s():
        on_progress, stopped = begin_to_measure(stop)
        with pytest.raises(Enough):
            load(scripted(0.01, chunked(EVENTS)).url, 6, workers=3, duration_s=30.0, on_progress=on_progress)
        taken_s = time.monotonic() - stopped[0]
        assert workers() == []
        return taken_s

    assert in_peace(stopping_s, lambda taken_s: taken_s < 2) < 2


@dataclass(frozen=True)
class Broken:
    """A distribution that fails when a worker asks it."""

    def at(self, quantile):  # noqa: ARG002
        raise LookupError("no length today")


def test_what_went_wrong_inside_a_worker_is_told(scripted):
    with pytest.raises(BenchmarkError, match=r"ended with status 1: LookupError: no length today; the batch is"):
        load(scripted(chunked(EVENTS)).url, 2, output_tokens=Broken())
    assert workers() == []


def test_workers_end_with_the_process_that_started_them(scripted):
    server = scripted(0.01, chunked(EVENTS))
    script = f"""
        from tests.load_servers import load
        load({server.url!r}, 4, workers=2, duration_s=60.0, on_progress=lambda p: print(p.phase, flush=True))
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    with parent.stdout:
        while parent.stdout.readline() != "measure\n":
            assert parent.poll() is None
        crew = psutil.Process(parent.pid).children()
        assert len(crew) == 2
        parent.kill()
        parent.wait()
    assert psutil.wait_procs(crew, timeout=60)[1] == []


def test_logs_and_heartbeats_of_workers_reach_the_run_log_by_age(scripted, caplog, monkeypatch):
    monkeypatch.setattr(fleet, "LOG_S", 0.5)
    caplog.set_level(logging.INFO, "pytest_autotune.load")
    load(scripted(0.01, chunked(EVENTS)).url, 4, workers=2, duration_s=worker.LOG_AGE_S + 1)
    texts = [record.getMessage() for record in caplog.records]
    for number in (1, 2):
        mine = [text for text in texts if text.startswith(f"load worker {number} of 2: ")]
        assert sum("requests in flight" in text for text in mine) >= 5
        assert sum("connections to open" in text for text in mine) == 1


def test_what_a_worker_logs_in_a_short_batch_is_not_lost(scripted, caplog):
    caplog.set_level(logging.INFO, "pytest_autotune.load")
    load(scripted(0.01, chunked(EVENTS)).url, 4, workers=2)
    said = [record.getMessage() for record in caplog.records if "2 connections to open" in record.getMessage()]
    assert sorted(text.partition(":")[0] for text in said) == ["load worker 1 of 2", "load worker 2 of 2"]


def test_log_records_are_handed_over_by_number_or_by_age(monkeypatch):
    records = worker._Records()
    logger = logging.getLogger("tests.worker")
    logger.setLevel(logging.INFO)
    logger.addHandler(records)
    logger.info("first")
    now_s = time.monotonic()
    assert records.take(now_s) == []
    assert records.take(now_s + worker.LOG_AGE_S) == [(logging.INFO, "first")]
    for number in range(worker.LOG_SIZE):
        logger.warning("%d", number)
    assert len(records.take(time.monotonic())) == worker.LOG_SIZE
    logger.info("last")
    assert records.take(time.monotonic(), rest=True) == [(logging.INFO, "last")]
    assert records.take(now_s + 100) == []


def test_a_stop_of_the_measuring_process_does_not_reach_its_workers(scripted):
    """Ctrl-C is for pytest, which ends the workers: a worker that died of it would be an error beside the interrupt."""

    def interrupt(crew):
        for process in crew:
            os.kill(process.pid, signal.SIGINT)

    on_progress, interrupted = begin_to_measure(interrupt)
    measurement = load(scripted(0.01, chunked(EVENTS)).url, 4, workers=2, duration_s=2.5, on_progress=on_progress)
    assert interrupted
    assert measurement.samples


def test_open_loops_and_large_loads_get_more_workers(monkeypatch):
    from pytest_autotune.load import http
    from pytest_autotune.load.generator import Workload
    from pytest_autotune.load.lengths import Fixed

    monkeypatch.setattr(http.os, "sched_getaffinity", lambda _: set(range(8)))
    workload = Workload(Fixed(1), Fixed(1), 10.0, 0.0, 1.0)
    assert [http.workers_for(Level(streams), workload) for streams in (1, 512, 513, 2048, 10**6)] == [1, 1, 2, 4, 8]
    assert [http.workers_for(Level(rate, "rate"), workload) for rate in (1, 400, 1400)] == [1, 1, 3]
