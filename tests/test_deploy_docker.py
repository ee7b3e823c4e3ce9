"""Servers in containers of a real Docker engine, in an image made of this Python: ready, watched, and never left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import docker.errors
import pytest

from pytest_autotune.control import Control
from pytest_autotune.deploy import leftovers
from pytest_autotune.deploy.container import Spec, device_requests
from pytest_autotune.deploy.docker import LABEL, DockerDeployer, connect, image_digest
from pytest_autotune.deploy.docker_errors import cause_of
from pytest_autotune.engines.engine import CauseKind
from pytest_autotune.engines.sim.engine import SimEngine
from pytest_autotune.errors import DeployError, Infeasible
from pytest_autotune.suite_cores import Cores
from pytest_autotune.suite_docker import read_run
from pytest_autotune.suite_gpus import GpuPool
from tests import image
from tests.conftest import QUICK_SUITE
from tests.deployment import eventually, tagged
from tests.docker_proxy import DockerProxy
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


def test_a_server_that_takes_no_name_is_asked_for_its_models_own(containers, tmp_path):
    class OwnName(SimEngine):
        abilities = replace(SimEngine.abilities, own_name=str.upper)

    launch = replace(docker_launch(tmp_path / "server.log"), engine=OwnName())
    with DockerDeployer().deploy(launch) as server:
        assert Control(server.url).models() == ("LLAMA-3.1-8B",) == (server.model_name,)
        (container,) = containers()
        assert container.startswith("boxed-")


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


def test_flags_of_docker_run_reach_the_container_and_the_command_that_starts_it_again(engine, containers, tmp_path):
    run = {"cap-add": ["SYS_NICE"], "ulimit": ["core=0", "nofile=1024:2048"], "cpuset-cpus": "0", "init": True}
    with DockerDeployer().deploy(docker_launch(tmp_path / "server.log", run=read_run(run))) as server:
        config = engine.containers.get(server.model_name).attrs["HostConfig"]
        assert (config["CapAdd"], config["CpusetCpus"], config["Init"]) == (["SYS_NICE"], "0", True)
        assert [(limit["Name"], limit["Soft"], limit["Hard"]) for limit in config["Ulimits"]] == [
            ("core", 0, 0),
            ("nofile", 1024, 2048),
        ]
        flags = {
            "--cap-add=SYS_NICE",
            "--ulimit=core=0",
            "--ulimit=nofile=1024:2048",
            "--cpuset-cpus=0",
            "--init=true",
        }
        assert flags < set(server.argv)


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


class Registry(BaseHTTPRequestHandler):
    """A registry that knows no image: whatever is asked is answered with the status of its server."""

    def do_GET(self):
        self.answer()

    def do_HEAD(self):
        self.answer()

    def answer(self):
        ping = self.path == "/v2/"
        body = b"{}" if ping else b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
        self.send_response(200 if ping else self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def log_message(self, *_):
        """Say nothing."""


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        pytest.param(404, CauseKind.IMAGE, id="unknown"),
        pytest.param(401, CauseKind.IMAGE, id="denied"),
        pytest.param(503, CauseKind.INFRASTRUCTURE, id="out of order"),
        pytest.param(None, CauseKind.INFRASTRUCTURE, id="not there"),
    ],
)
def test_an_image_that_cannot_be_pulled_is_missing_or_its_registry_is(containers, tmp_path, status, kind):
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server, ThreadPoolExecutor() as pool:
        server.status = status
        if status is not None:
            pool.submit(server.serve_forever)
        else:
            server.server_close()
        name = f"127.0.0.1:{server.server_port}/nobody/nothing:v1"
        launch = docker_launch(tmp_path / "server.log", image=name, pull="missing")
        try:
            with pytest.raises(DeployError) as failed, DockerDeployer().deploy(launch):
                pass
        finally:
            if status is not None:
                server.shutdown()
    assert failed.value.cause.kind is kind, failed.value
    assert not isinstance(failed.value, Infeasible)
    assert f"[autotune] pulling {name}" in (tmp_path / "server.log").read_text()


def test_a_port_that_is_taken_is_told_from_other_failures_to_start(engine, containers):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {"8000/tcp": ("127.0.0.1", taken.getsockname()[1])}
        container = engine.containers.create(
            image.IMAGE, ["-c", ""], entrypoint=["python3"], ports=ports, labels={LABEL: leftovers.owner_id("test")}
        )
        try:
            with pytest.raises(docker.errors.APIError) as failed:
                container.start()
        finally:
            container.remove(force=True)
    assert cause_of(failed.value.explanation, "").kind is CauseKind.PORT


def test_a_full_disk_is_infrastructure(containers, tmp_path):
    fill = "open('/dev/shm/full', 'wb', buffering=0).write(bytes(2 << 20)); open('/dev/shm/more', 'wb', buffering=0).write(b'x')"
    launch = docker_launch(tmp_path / "server.log", code=fill, shm_bytes=2**20)
    with pytest.raises(DeployError, match="No space left on device") as failed, DockerDeployer().deploy(launch):
        pass
    assert failed.value.cause.kind is CauseKind.INFRASTRUCTURE


def test_a_tag_that_is_moved_is_another_image(engine, containers):
    tag = ("pytest-autotune-test", "moved")
    suite = docker_launch(Path("server.log"), image=":".join(tag)).suite
    original = engine.images.get(image.IMAGE)
    assert image_digest(suite) == "pytest-autotune-test:moved"  # not there yet, and never pulled
    try:
        original.tag(*tag)
        before = image_digest(suite)
        container = engine.containers.create(image.IMAGE, ["-c", ""], labels={LABEL: leftovers.owner_id("test")})
        try:
            container.commit(*tag)
        finally:
            container.remove(force=True)
        after = image_digest(suite)
    finally:
        engine.images.remove(":".join(tag))
    assert before == original.id != after
    assert after.startswith("sha256:")


def test_an_image_by_digest_is_what_it_says(tmp_path):
    digest = f"sha256:{'5f' * 32}"
    assert image_digest(docker_launch(tmp_path / "server.log", image=f"nobody/nothing@{digest}").suite) == digest


def test_another_socket_is_used_where_docker_host_names_one(containers, monkeypatch, tmp_path):
    proxy = DockerProxy(tmp_path / "podman.sock")
    monkeypatch.setenv("DOCKER_HOST", proxy.url)
    with DockerDeployer().deploy(docker_launch(tmp_path / "server.log")) as server:
        assert containers() == [server.model_name]
    assert proxy.served > 1
    proxy.cut()


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


def test_an_engine_that_goes_away_under_load_leaves_the_batches_before_and_the_container_to_a_sweep(
    engine, containers, project, monkeypatch, tmp_path
):
    text = f'deploy: docker\ndocker: {{image: "{image.IMAGE}", pull: never, shm: 64MiB}}\n'
    project.suite(
        QUICK_SUITE.replace("[2, 64]", "[64]").replace("600ms", "4s").replace("engine: sim\n", f"engine: sim\n{text}")
    )
    proxy = DockerProxy(tmp_path / "docker.sock")
    monkeypatch.setenv("DOCKER_HOST", proxy.url)

    def trials():
        with project.store() as store:
            return store.trials_of_run(store.runs()[0].id)

    def cut_in_the_second_batch():
        eventually(
            lambda: (project.path / ".autotune" / "results.db").exists() and containers() and trials()[0].batches
        )
        proxy.cut()

    with ThreadPoolExecutor() as pool:
        cutter = pool.submit(cut_in_the_second_batch)
        project.run("suites", "--autotune")
        cutter.result()
    measured, died = trials()[0].batches
    assert (measured.level.name, measured.status) == ("c1", "measured")
    assert (died.level.name, died.status, died.cause) == ("c8", "died", "infrastructure")
    assert "no answer of the Docker engine" in died.reason
    monkeypatch.delenv("DOCKER_HOST")
    (left,) = containers()
    (swept,) = DockerDeployer().sweep()
    assert swept.startswith(f"removed container {left}, left behind by the dead run ")


def test_the_quickstart_has_the_same_best_as_with_local_servers(engine, containers, project):
    text = f'deploy: docker\ndocker: {{image: "{image.IMAGE}", pull: never, shm: 64MiB}}\n'
    project.suite(QUICK_SUITE.replace("engine: sim\n", f"engine: sim\n{text}"))
    result = project.run("suites", "--autotune")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(["*1 *c8*c8*compliant*max-num-seqs=64", "*1 passed, 2 deployed, *"])
    with project.store() as store:
        (covered,) = store.suites_of_run(store.runs()[0].id)
    assert covered.document["image_digest"] == engine.images.get(image.IMAGE).id
