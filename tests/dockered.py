"""What the tests of containers share: launches in the image that `image` makes."""

from __future__ import annotations

from pathlib import Path

from pytest_autotune.deploy import leftovers
from pytest_autotune.deploy.server import Launch
from pytest_autotune.engines.command import CommandEngine
from pytest_autotune.engines.sim.engine import SimEngine
from pytest_autotune.suite import Suite, TimeoutsBlock
from pytest_autotune.suite_cores import NONE
from pytest_autotune.suite_docker import DockerBlock
from pytest_autotune.suite_gpus import GpuPool
from tests.image import IMAGE


def docker_launch(log, *, owner="", code=None, phases=None, stop_s=1.0, gpus=0, pool=None, cores=NONE, **docker):
    """Return a launch of the embedded engine, or of a piece of Python."""
    docker = DockerBlock(**{"image": IMAGE, "pull": "never", "shm_bytes": 2**26, **docker})
    suite = Suite(
        name="boxed",
        engine="command" if code else "sim",
        model=None if code else "llama-3.1-8b",
        deploy="docker",
        docker=docker,
        fixed={} if code else {"time-scale": 0.1},
        command=("{python}", "-c", code) if code else (),
        timeouts=TimeoutsBlock(start_s=30.0, ready_s=30.0, stop_s=stop_s),
        path=Path("boxed.yaml"),
        pool=pool or GpuPool(),
        cores=cores,
    )
    return Launch(
        suite=suite,
        engine=CommandEngine() if code else SimEngine(),
        configuration={},
        log=log,
        owner=owner or leftovers.owner_id("test"),
        on_phase=(phases if phases is not None else []).append,
        gpus=gpus,
    )
