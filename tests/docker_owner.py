"""A process that owns a deployment in a container, to be killed by the tests: docker_owner.py RUN DIRECTORY.

Prints a line when the server is ready, then waits.
"""

import sys
import time
from pathlib import Path

from dockered import docker_launch

from pytest_autotune.deploy import leftovers
from pytest_autotune.deploy.docker import DockerDeployer

run, directory = sys.argv[1:]
launch = docker_launch(Path(directory) / "server.log", owner=leftovers.owner_id(run))
with DockerDeployer().deploy(launch) as server:
    print(server.process.guard.pid, flush=True)
    time.sleep(600)
