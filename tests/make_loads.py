"""Load tests, measurements and a load generator that hands them out, for tests of what is made of them."""

from __future__ import annotations

from collections import Counter

from pytest_autotune.load_command.loadtest import read_load_test
from pytest_autotune.load_command.options import Written
from pytest_autotune.samples import ClientHealth, Level, Measurement, Sample

HEALTHY = ClientHealth(lag_p99_s=0.0001, lag_max_s=0.0002, send_p99_s=0.0002, cpu_share=0.1)
BUSY = ClientHealth(0.2, 0.3, 0.2, 1.0, saturated="client saturated: its event loop ran 200 ms late")
ONE = Level(1)
KEY = "sk-under-the-doormat"


def load_test(**options):
    written = {"url": "http://127.0.0.1:8000", "model": "m", "concurrency": "1", "seed": "1", **options}
    return read_load_test(Written(written))


def sample(start=0.0, *, error=None, ttft=0.05, tokens=11, gap=0.01, due=None):
    gaps = (gap,) * (tokens - 1)
    if error is not None:
        return Sample(start, None, start + 1, 10, 0, (), error, due_s=due)
    return Sample(start, start + ttft, start + ttft + sum(gaps), 10, tokens, gaps, due_s=due)


def measurement(good=10, *, failed=(), level=ONE, client=HEALTHY, **fields):
    """A window of 10 s in which as many requests succeeded, and these failed."""
    samples = [sample(number * 9 / max(good, 1)) for number in range(good)]
    samples += [sample(1.0, error=kind) for kind in failed]
    return Measurement(level, samples, 10.0, 0, client, Counter(failed), **fields)


class Handing:
    """A load generator that hands out what it was given, one after the other; an error is raised."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.runs = []

    def run(self, target, level, workload, **_):
        self.runs.append((target, level, workload))
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome
