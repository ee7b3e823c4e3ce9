"""Servers in containers of a real Docker engine, in an image made of this Python: ready, watched, and never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_autotune.control import Control
from pytest_autotune.deploy.container import Spec, device_requests
from pytest_autotune.deploy.docker import LABEL, DockerDeployer, connect
from pytest_autotune.engines.engine import CauseKind
from pytest_autotune.errors import DeployError, Infeasible
from pytest_autotune.suite_cores import Cores
from pytest_autotune.suite_gpus import GpuPool
from tests import image
from tests.conftest import QUICK_SUITE
from tests.deployment import eventually, tagged
from tests.dockered import docker_launch

pytestmark = pytest.mark.alone  # they count containers, and sweep those of dead owners

OWNER = Path(__file__).with_name("docker_owner.py")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    try:
        client = connect()
    except DeployError as error:
        pytest.skip(str(error))
    with contextlib.closing(client):
        image.build(client, tmp_path_factory.mktemp("image") / "root.tar")
        yield client


@pytest.fixture
def containers(engine):
    """Names of the containers of ours that there are; the test fails when it leaves one."""

    def names(part=""):
        found = engine.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
        return [one.name for one in found if part in one.labels[LABEL]]

    yield names
    left = names()
    for name in left:
        engine.containers.get(name).remove(force=True)
    assert not left


def test_a_server_is_ready_under_a_name_and_a_port_of_its_own_and_gone_afterwards(containers, tmp_path):
    phases = []
    with DockerDeployer().deploy(docker_launch(tmp_path / "server.log", phases=phases)) as server:
        assert containers() == [server.model_name]
        assert Control(server.url).models() == (server.model_name,)
        assert server.url.startswith("http://127.0.0.1:")
        assert server.effective["time-scale"] == 0.1
        assert server.died() is None
    assert phases == ["start", "ready"]
    assert containers() == []
    log = (tmp_path / "server.log").read_text()
    assert log.startswith("[autotune] container ")
    assert "non-default args" in log


def test_a_container_is_told_which_pretended_gpus_it_has_and_docker_is_asked_for_none(engine, containers, tmp_path):
    phases = []
    launch = docker_launch(tmp_path / "server.log", phases=phases, gpus=2, pool=GpuPool(pretended=2))
    with DockerDeployer().deploy(launch) as server:
        attributes = engine.containers.get(server.model_name).attrs
        assert "PYTEST_AUTOTUNE_GPUS=0,1" in attributes["Config"]["Env"]
        assert not attributes["HostConfig"]["DeviceRequests"]
    assert phases == ["on pretended GPUs 0, 1", "start", "ready"]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_container_runs_on_its_cores(engine, containers, tmp_path):
    generator, own, *_ = sorted(os.sched_getaffinity(0))
    launch = docker_launch(tmp_path / "server.log", cores=Cores(per_server=1, members=(generator, own)))
    with DockerDeployer().deploy(launch) as server:
        assert engine.containers.get(server.model_name).attrs["HostConfig"]["CpusetCpus"] == str(own)
        assert os.sched_getaffinity(0) == {generator}
    assert f"--cpuset-cpus={own}" in server.argv


def test_a_container_gets_the_gpus_that_were_leased_or_any_where_nobody_keeps_count():
    spec = Spec(name="boxed", image="", argv=(), variables=(), labels={}, stop_s=1.0, port=1)
    assert device_requests(spec) == []
    (leased,) = device_requests(replace(spec, devices=("GPU-5fd4", "GPU-5fd5")))
    assert (leased["DeviceIDs"], leased["Count"], leased["Capabilities"]) == (["GPU-5fd4", "GPU-5fd5"], 0, [["gpu"]])
    (counted,) = device_requests(replace(spec, gpus=2))
    assert (counted["DeviceIDs"], counted["Count"]) == ([], 2)


def test_several_servers_share_no_port(containers, tmp_path):
    with contextlib.ExitStack() as held:
        servers = [
            held.enter_context(DockerDeployer().deploy(docker_launch(tmp_path / f"{number}.log")))
            for number in range(2)
        ]
        assert len({server.url for server in servers}) == 2
        assert len(containers()) == 2


def test_a_container_that_is_killed_is_noticed(engine, containers, tmp_path):
    with DockerDeployer().deploy(docker_launch(tmp_path / "server.log")) as server:
        engine.containers.get(server.model_name).kill()
        eventually(server.died, within_s=10)
        assert server.died().kind is CauseKind.KILLED


def test_an_end_in_want_of_memory_is_told_from_the_state_of_the_container(containers, tmp_path):
    launch = docker_launch(tmp_path / "server.log", code="x = bytearray(400 << 20)", memory_bytes=64 * 2**20)
    with pytest.raises(Infeasible) as failed, DockerDeployer().deploy(launch):
        pass
    assert str(failed.value.cause) == "out of memory: container: it ran into its memory limit of 64 MiB"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"image": "nobody/nothing:v1"}, "No such image: nobody/nothing:v1: docker pull nobody/nothing:v1, or name"),
        ({"network": "nowhere"}, "network nowhere not found"),
        ({"user": "nobody-knows"}, "unable to find user nobody-knows"),
        ({"volumes": ("/dev/null:relative",)}, "mount path must be absolute"),
    ],
)
def test_what_docker_refuses_is_one_error(containers, tmp_path, wrong, said):
    launch = docker_launch(tmp_path / "server.log", **wrong)
    with pytest.raises(DeployError, match=said) as failed, DockerDeployer().deploy(launch):
        pass
    assert "no container: " in str(failed.value)


def test_an_engine_that_does_not_answer_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    launch = docker_launch(tmp_path / "server.log")
    told = r"no Docker engine answers at unix://.*none\.sock.*start it, or set"
    with pytest.raises(DeployError, match=told), DockerDeployer().deploy(launch):
        pass
    assert DockerDeployer().sweep() == ()


@contextlib.contextmanager
def owner(run, tmp_path):
    """Run a process that owns a deployment; the second value waits for a phase, and returns what is said with it."""
    command = [sys.executable, OWNER, run, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def await_phase(phase):
            return next(line.split()[1:] for line in process.stdout if line.split()[0] == phase)

        try:
            yield process, await_phase
        finally:
            process.kill()


@pytest.mark.parametrize("phase", ["launch", "start", "ready", "load", "stop"])
def test_a_killed_owner_leaves_no_container_where_its_guard_lives(containers, tmp_path, phase):
    run = f"killed-at-{phase}"
    with owner(run, tmp_path) as (process, await_phase):
        if phase == "stop":
            await_phase("load")
            process.stdin.close()
        await_phase(phase)
        process.kill()
        process.wait()
        eventually(lambda: not containers(run) and not tagged(run), within_s=15)


def test_a_killed_owner_and_guard_leave_no_container_to_the_next_run(containers, tmp_path):
    with owner("killed-both", tmp_path) as (process, await_phase):
        (guard,) = await_phase("load")
        (name,) = containers("killed-both")
        os.kill(int(guard), signal.SIGKILL)
        process.kill()
        process.wait()
        assert containers("killed-both") == [name]
        assert DockerDeployer().sweep() == (f"removed container {name}, left behind by the dead run killed-both",)
        assert containers("killed-both") == []


def test_the_containers_of_living_owners_are_not_swept(containers, tmp_path):
    with DockerDeployer().deploy(docker_launch(tmp_path / "server.log")) as server:
        assert DockerDeployer().sweep() == ()
        assert containers() == [server.model_name]


def test_a_container_that_is_killed_under_load_leaves_the_batches_before(engine, containers, project):
    text = f'deploy: docker\ndocker: {{image: "{image.IMAGE}", pull: never, shm: 64MiB}}\n'
    suite = (
        QUICK_SUITE.replace("[2, 64]", "[64]").replace("600ms", "4s").replace("engine: sim\n", f"engine: sim\n{text}")
    )
    project.suite(suite)

    def batches():
        with project.store() as store:
            return [batch for trial in store.trials_of_run(store.runs()[0].id) for batch in trial.batches]

    def kill_in_the_second_batch():
        eventually(lambda: (project.path / ".autotune" / "results.db").exists() and containers() and batches())
        engine.containers.get(containers()[0]).kill()

    with ThreadPoolExecutor() as pool:
        killer = pool.submit(kill_in_the_second_batch)
        project.run("suites", "--autotune")
        killer.result()
    measured, died = batches()
    assert (measured.level.name, measured.status) == ("c1", "measured")
    assert (died.level.name, died.status) == ("c8", "died")
    assert "killed by SIGKILL" in died.reason


def test_the_quickstart_has_the_same_best_as_with_local_servers(engine, containers, project):
    text = f'deploy: docker\ndocker: {{image: "{image.IMAGE}", pull: never, shm: 64MiB}}\n'
    project.suite(QUICK_SUITE.replace("engine: sim\n", f"engine: sim\n{text}"))
    result = project.run("suites", "--autotune")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(["*1 *c8*c8*compliant*max-num-seqs=64", "*1 passed, 2 deployed, *"])
