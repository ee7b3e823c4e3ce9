"""A process that takes leases, to be killed by the tests: leasing.py LOG SEED ROUNDS.

Each line of its log is JSON: seconds of the machine's monotonic clock, this process, what happened. What is written of
a lease is written while it is held, so that what overlaps in the log has overlapped.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

from pytest_autotune.deploy import gpus
from pytest_autotune.suite_gpus import GpuPool
from tests.deployment import make_launch

GPUS, NEEDS = 8, (1, 2, 4)
LOG = Path(sys.argv[1])
choose = gpus.choose


def say(what, **more):
    with LOG.open("a") as file:
        file.write(json.dumps({"at": time.monotonic(), "pid": os.getpid(), "what": what, **more}) + "\n")


def chosen(*arguments):
    """Write it down as long as nobody else can be served."""
    found = choose(*arguments)
    say("has", gpus=[gpu.index for gpu in found])
    return found


def main(seed, rounds):
    chance = random.Random(seed)
    gpus.choose = chosen
    for _ in range(rounds):
        launch = make_launch(
            Path(), gpus=chance.choice(NEEDS), pool=GpuPool(pretended=GPUS, wait_s=300.0), phases=_Phases()
        )
        say("asks", needs=launch.gpus)
        with gpus.leased(launch):
            time.sleep(chance.uniform(0.0, 0.1))
            say("gives back")


class _Phases:
    def append(self, phase):
        if phase.startswith("waiting"):
            say("waits")


main(int(sys.argv[2]), int(sys.argv[3]))
