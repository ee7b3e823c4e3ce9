"""A process that owns a deployment in a container, to be killed by the tests: docker_owner.py RUN DIRECTORY.

Prints the phases of the deployment as it enters them: launch, start, ready, then "load" and its guard's pid; "stop" when
it is told to leave by the end of its standard input.
"""

import sys
from pathlib import Path

from pytest_autotune.deploy import leftovers
from pytest_autotune.deploy.docker import DockerDeployer

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.dockered import docker_launch


class Told(list):
    def append(self, phase):
        print(phase, flush=True)


run, directory = sys.argv[1:]
phases = Told()
launch = docker_launch(Path(directory) / "server.log", owner=leftovers.owner_id(run), phases=phases)
phases.append("launch")
with DockerDeployer().deploy(launch) as server:
    phases.append(f"load {server.process.guard.pid}")
    sys.stdin.read()
    phases.append("stop")
