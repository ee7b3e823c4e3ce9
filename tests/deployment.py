"""What the deployment tests share: an engine that runs `deploy_server.py`, and counting what is left of it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from pytest_autotune.deploy import leftovers
from pytest_autotune.deploy.server import Launch
from pytest_autotune.engines.engine import Abilities, Cause, CauseKind, Command, Installed
from pytest_autotune.suite import LoadBlock
from pytest_autotune.suite_cores import NONE
from pytest_autotune.suite_gpus import GpuPool

SCRIPT = Path(__file__).with_name("deploy_server.py")
ROOT = Path(__file__).parent.parent


class ScriptEngine:
    """An `Engine` whose server is `deploy_server.py`; the configuration names its behaviours."""

    name = "script"
    abilities = Abilities()

    def __init__(self):
        self.addresses = []

    def inspect(self, _suite):
        return Installed()

    def command(self, _suite, configuration, address):
        self.addresses.append(address)
        argv = (sys.executable, "-S", str(SCRIPT), str(address.port), address.model_name)
        return Command((*argv, *configuration.get("behave", ())), {"FROM_ENGINE": "1"})

    def gpus(self, _suite, _configuration):
        return 0

    def classify(self, log, returncode):
        lines = log.splitlines()
        if any("out of memory" in line for line in lines):
            return Cause(CauseKind.OUT_OF_MEMORY, "CUDA out of memory")
        if any("[Errno 98]" in line for line in lines):
            return Cause(CauseKind.PORT, "address already in use")
        if returncode is None:
            return Cause(CauseKind.TIMEOUT, "no answer before the deadline")
        return Cause(CauseKind.KILLED if returncode < 0 else CauseKind.CRASH, f"exited with status {returncode}")

    def effective(self, log):
        return {"lines": len(log.splitlines())}


def make_suite(
    *, start_s=20.0, ready_s=20.0, stop_s=1.0, env=None, model_name=None, url=None, load=None, pool=None, cores=NONE
):
    return SimpleNamespace(
        name="chat",
        env=env or {},
        model_name=model_name,
        url=url,
        path=Path("chat.yaml"),
        timeouts=SimpleNamespace(start_s=start_s, ready_s=ready_s, stop_s=stop_s),
        load=load or LoadBlock(),
        pool=pool or GpuPool(),
        cores=cores,
    )


def make_launch(log, *behaviour, engine=None, owner=None, phases=None, gpus=0, **suite):
    return Launch(
        suite=make_suite(**suite),
        engine=engine or ScriptEngine(),
        configuration={"behave": behaviour},
        log=log,
        owner=owner or leftovers.owner_id("test"),
        on_phase=(phases if phases is not None else []).append,
        gpus=gpus,
    )


def tagged(owner_part):
    """Return the pids of all processes, zombies aside, whose owner in the environment contains `owner_part`."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit()
        for line in _environment(entry)
        if line.startswith(b"PYTEST_AUTOTUNE_OWNER=") and owner_part.encode() in line
    ]


def _environment(entry):
    try:
        return (entry / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def eventually(condition, *, within_s=60.0):
    """Wait until the condition holds; fail the test when it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "not within the time allowed"
        time.sleep(0.02)


def kill_tagged(owner_part):
    """Clean up after a test, whatever it did."""
    deadline = time.monotonic() + 60
    while (pids := tagged(owner_part)) and time.monotonic() < deadline:
        for pid in pids:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
        time.sleep(0.02)
