"""A process that owns a deployment, to be killed by the tests.

deploy_owner.py RUN DIRECTORY MODE [behaviour...]; prints one line of JSON when the server is ready, then waits.
Modes: plain; fork (a copy of this process, made without exec, stays alive); leasing (both of two pretended GPUs);
sweepable (in the others the server's tag says that it belongs to another container, so that no sweep on this machine
does the guard's work).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from deployment import make_launch

from pytest_autotune.deploy import leftovers
from pytest_autotune.deploy.local import LocalDeployer
from pytest_autotune.suite_gpus import GpuPool

run, directory, mode, *behaviour = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)
owner = leftovers.owner_id(run)
if mode != "sweepable":
    owner = leftovers.parse_owner(owner)
    owner = str(owner._replace(place=owner.place._replace(pid_namespace=1)))
taken = {"gpus": 2, "pool": GpuPool(pretended=2)} if mode == "leasing" else {}
launch = make_launch(Path(directory) / "server.log", *behaviour, owner=owner, stop_s=0.5, **taken)
with LocalDeployer().deploy(launch) as server:
    copy = 0
    if mode == "fork" and (copy := os.fork()) == 0:
        time.sleep(600)
    ready = {
        "port": int(server.url.rpartition(":")[2]),
        "guard": server.process.guard.pid,
        "pids": server.process.pids(),
        "copy": copy,
    }
    print(json.dumps(ready), flush=True)
    time.sleep(600)
