"""Shared by all tests."""

import fcntl
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# numpy, which comes with optuna, cannot be imported twice in a process, and in-process pytester
# runs restore sys.modules: import it once before any of them.
import optuna  # noqa: F401
import psutil
import pytest
from hypothesis import HealthCheck, settings

from pytest_autotune.store import Store
from tests.load_servers import executable, scripted, serve

__all__ = ["executable", "scripted", "serve"]  # fixtures

# A busy machine is no counterexample: neither a slow example nor slow drawing of examples fails a test.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """With ``pytest -n``, a test that is marked ``alone`` has the machine to itself."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    with _turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@contextmanager
def _turn(*, alone: bool) -> Iterator[None]:
    """A readers-writer lock of all test processes on this checkout; fair, as all of them pass the turnstile in turn."""
    here = Path(__file__)
    with here.open() as hall, here.with_name("__init__.py").open() as turnstile:
        fcntl.flock(turnstile, fcntl.LOCK_EX)
        fcntl.flock(hall, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(turnstile, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(hall, fcntl.LOCK_UN)


QUICK_SUITE = """\
name: quick
engine: sim
model: llama-3.1-8b
parameters:
  max-num-seqs: [2, 64]
fixed: {gpu: H100, time-scale: 0.2, max-model-len: 4096}
load: {prompt_tokens: 128, output_tokens: 32, concurrency: [1, 8], duration: 600ms, warmup: 100ms}
slo:
  ttft.p90: 40ms
  error_rate: 1%
objective: maximize output_throughput
search: {defaults: false}
timeouts: {stop: 1s}
"""


# Measures for real, but takes every measurement: these tests are about outcomes, records and processes,
# and the machine that runs them may be too busy to time a server (tests/test_load_health.py is about that).
# What was measured while a process stood still is measured again: within a window of half a second, a
# pause of as long decides every percentile, and whether an open loop was delivered.
TOLERANT_LOAD = """\
from dataclasses import replace
from statistics import median

from pytest_autotune.load.http import HttpLoad

PAUSE_S = 0.1  # between two tokens of a simulated server, which come every few milliseconds

def disturbed(measurement):
    gaps = [gap for sample in measurement.samples if sample.error is None for gap in sample.gaps_s]
    paused = bool(gaps) and max(gaps) > max(PAUSE_S, 20 * median(gaps))
    unsent = measurement.level.open_loop and not measurement.oversaturated and measurement.delivered < 0.98
    return paused or unsent or not measurement.samples

class Tolerant(HttpLoad):
    def run(self, target, level, workload, **keywords):
        for _ in range(3):
            measurement = super().run(target, level, workload, **keywords)
            if measurement.stopped or not disturbed(measurement):
                break
        return replace(measurement, client=replace(measurement.client, saturated=None))

def pytest_autotune_load_generator(suite):
    return Tolerant()
"""


class Project:
    """A scratch directory with suites, in which pytest is run as a user would, in a process of its own."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path: Path = pytester.path
        (self.path / "suites").mkdir()
        (self.path / "tolerant_load.py").write_text(TOLERANT_LOAD)

    def suite(self, text: str = QUICK_SUITE, name: str = "quick.yaml") -> Path:
        path = self.path / "suites" / name
        path.write_text(text)
        return path

    def run(self, *arguments: str, timeout: float = 900) -> pytest.RunResult:
        plugins = ["-p", "no:cacheprovider", "-p", "tolerant_load"]
        return self.pytester.runpytest_subprocess(*plugins, *arguments, timeout=timeout)

    def store(self) -> Store:
        return Store(f"sqlite:///{self.path / '.autotune' / 'results.db'}")

    def testcases(self, report: str = "report.xml") -> dict[str, ET.Element]:
        """JUnit test cases by ``classname.name``."""
        cases = ET.parse(self.path / report).getroot().iter("testcase")
        return {f"{case.get('classname')}.{case.get('name')}": case for case in cases}


@pytest.fixture
def project(pytester):
    return Project(pytester)


@pytest.fixture(autouse=True)
def nothing_is_left_behind(tmp_path_factory):
    """Every test ends without a process that it, or what it ran, has started."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    tagged = [process for process in psutil.process_iter() if _owned_below(process, os.getpid())]
    children = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert not [process for process in (*children, *tagged) if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != "zombie"
    except psutil.NoSuchProcess:  # it has just been reaped
        return False


def _owned_below(process: psutil.Process, pid: int) -> bool:
    """Whether a process carries the tag of a run that this test process has started."""
    try:
        return process.environ().get("PYTEST_AUTOTUNE_TEST_RUNNER") == str(pid)
    except (psutil.Error, OSError):
        return False


@pytest.fixture(autouse=True)
def tag_child_processes(monkeypatch):
    monkeypatch.setenv("PYTEST_AUTOTUNE_TEST_RUNNER", str(os.getpid()))
