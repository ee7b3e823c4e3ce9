"""Deploys a server that asks for more memory than its control group has: ``python memory_group.py GROUP LOG``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pytest_autotune.deploy import leftovers
from pytest_autotune.deploy.local import LocalDeployer
from pytest_autotune.deploy.server import Launch
from pytest_autotune.engines.command import CommandEngine
from pytest_autotune.errors import DeployError
from pytest_autotune.suite import Suite, TimeoutsBlock

group, log = map(Path, sys.argv[1:])
(group / "cgroup.procs").write_text(str(os.getpid()))
suite = Suite(
    name="greedy",
    engine="command",
    command=(sys.executable, "-c", "kept = b'x' * (1 << 30)"),
    timeouts=TimeoutsBlock(start_s=60.0, stop_s=1.0),
)
launch = Launch(
    suite=suite,
    engine=CommandEngine(),
    configuration={},
    log=log,
    owner=leftovers.owner_id("greedy"),
    on_phase=lambda _: None,
)
try:
    with LocalDeployer().deploy(launch):
        pass
except DeployError as error:
    sys.stdout.write(f"{type(error).__name__} {error.cause}")
