"""Looking at a server while it is loaded."""

from __future__ import annotations

import os
import socket
import time

import pytest

from pytest_autotune.control import Control
from pytest_autotune.engines.metric_names import VLLM
from pytest_autotune.telemetry.exposition import read_page
from pytest_autotune.telemetry.watch import Watch
from tests.simserver import FAST, sim_server

NEVER_S = 600.0  # between two looks of a test that says itself when to look


class Local:
    """A server whose processes are known."""

    def __init__(self, pid):
        self.pid = pid

    def pids(self):
        return [self.pid]


def looked(watch):
    figures = watch.figures(0.0, 0.0)
    return figures["engine.scrapes"] + figures["engine.failed_scrapes"]


def note(watch, phase, *, looks):
    """Tell a phase, and return once there were so many looks, one for each phase."""
    watch.note(phase)
    await_looks(watch, looks)


def await_looks(watch, number):
    deadline = time.monotonic() + 60
    while looked(watch) < number:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_a_server_counts_in_a_window_is_seen_to_the_request():
    with sim_server(*FAST) as server:
        control = Control(f"http://127.0.0.1:{server.port}")
        with Watch(control, VLLM, server=Local(server.process.pid), interval_s=NEVER_S) as watch:
            server.complete(max_tokens=3, ignore_eos=True)
            note(watch, "warm-up", looks=1)
            server.complete(max_tokens=3, ignore_eos=True)
            note(watch, "measure", looks=2)
            opened_s = time.monotonic()
            for _ in range(4):
                server.complete(max_tokens=5, ignore_eos=True)
            watch.note("measure")  # which it is already
            time.sleep(1.0)  # no page of one edge may be as near to the other
            note(watch, "drain", looks=3)
            window_s = time.monotonic() - opened_s
            server.complete(max_tokens=7, ignore_eos=True)
        figures = watch.figures(opened_s, window_s)
    assert (figures["engine.finished"], figures["engine.output_tokens"], figures["engine.queue.count"]) == (4, 20, 4)
    assert (figures["engine.scrapes"], figures["engine.failed_scrapes"]) == (3, 0)
    assert figures["engine.running.max"] == figures["engine.preemptions"] == 0
    assert figures["server.memory.max"] > 2**20
    assert figures["host.other_cpu.mean"] >= 0
    assert not any(name.startswith("gpu.") for name in figures)


def test_the_embedded_engine_tells_all_that_vllm_tells_but_of_speculation():
    with sim_server(*FAST) as server:
        page = Control(f"http://127.0.0.1:{server.port}").metrics()
    assert VLLM.lines() - read_page(page, VLLM.lines()).keys() == {VLLM.drafted, VLLM.accepted}


def test_it_looks_by_the_clock_too():
    with sim_server(*FAST) as server:
        control = Control(f"http://127.0.0.1:{server.port}")
        with Watch(control, VLLM, server=object(), interval_s=0.02) as watch:
            await_looks(watch, 5)


@pytest.mark.parametrize("listens", [False, True], ids=["nobody is there", "somebody who never answers"])
def test_a_page_that_does_not_come_is_counted_and_nothing_waits_for_it(listens):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if listens:
            listener.listen()
        control = Control(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.2)
        with Watch(control, VLLM, server=Local(os.getpid()), interval_s=NEVER_S) as watch:
            note(watch, "measure", looks=1)
            opened_s = time.monotonic()
            note(watch, "drain", looks=2)
    figures = watch.figures(opened_s, time.monotonic() - opened_s)
    assert (figures["engine.scrapes"], figures["engine.failed_scrapes"]) == (0, 2)
    assert [name for name in figures if name.startswith("engine.")] == ["engine.scrapes", "engine.failed_scrapes"]
    assert figures["host.memory.max"] > 0


def test_a_page_without_anything_of_the_engine_is_none():
    with sim_server(*FAST) as server:
        control = Control(f"http://127.0.0.1:{server.port}/v1/models?")
        with Watch(control, VLLM, server=object(), interval_s=NEVER_S) as watch:
            note(watch, "measure", looks=1)
    assert watch.figures(time.monotonic(), 1.0)["engine.failed_scrapes"] == 1


def test_without_names_the_server_is_not_asked_and_without_a_window_nothing_is_told():
    nobody = Control("http://127.0.0.1:9")
    with Watch(nobody, None, server=object(), interval_s=NEVER_S) as watch:
        watch.note("measure")
    assert watch.figures(None, 5.0) == {}
    assert watch.figures(time.monotonic(), 5.0).keys() == {"host.cores", "host.memory.max"}
