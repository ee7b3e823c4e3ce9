"""Local deployments with a real server process that behaves and misbehaves."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pytest_autotune.control import Control
from pytest_autotune.deploy import leftovers, local, ports
from pytest_autotune.deploy.local import LocalDeployer
from pytest_autotune.engines.engine import CauseKind, Command
from pytest_autotune.errors import DeployError, Infeasible
from tests.deployment import ScriptEngine, eventually, kill_tagged, make_launch, tagged


@pytest.fixture
def run():
    """The run id of one test; whatever carries it is killed in the end."""
    name = f"local-test-{os.getpid()}-{time.monotonic_ns()}"
    yield name
    kill_tagged(name)


@pytest.fixture
def deploy(run, tmp_path):
    """Deploy the script with some behaviours; afterwards nothing may be left and no port be open."""
    engine = ScriptEngine()
    numbers = itertools.count()

    @contextlib.contextmanager
    def deployed(*behaviour, engine=engine, **suite):
        mark = f"{run}-{next(numbers)}"
        owner = leftovers.owner_id(mark)
        launch = make_launch(tmp_path / "server.log", *behaviour, engine=engine, owner=owner, **suite)
        try:
            with LocalDeployer().deploy(launch) as server:
                yield server
        finally:
            assert tagged(f"{mark}/") == []

    deployed.log = tmp_path / "server.log"
    deployed.engine = engine
    return deployed


class Stranger(ThreadingHTTPServer):
    """A server of somebody else on a port that we leased."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            body = json.dumps({"data": [{"id": self.server.model}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def __init__(self, port, model):
        super().__init__(("127.0.0.1", port), self.Handler)
        self.model = model
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def end(self):
        self.shutdown()
        self.server_close()


class Mute:
    """Takes the port, accepts connections, says nothing."""

    def __init__(self, port, _):
        self.socket = socket.create_server(("127.0.0.1", port))

    def end(self):
        self.socket.close()


class DisturbedEngine(ScriptEngine):
    """Lets a stranger take the leased port just before the server starts, so many times."""

    def __init__(self, stranger, times):
        super().__init__()
        self.stranger, self.times, self.strangers = stranger, times, []

    def command(self, suite, configuration, address):
        if len(self.strangers) < self.times:
            self.strangers.append(self.stranger(address.port, address.model_name))
        return super().command(suite, configuration, address)


def test_a_server_is_ready_when_it_is_yielded_and_gone_afterwards(deploy):
    phases = []
    launch = make_launch(deploy.log, phases=phases)
    with LocalDeployer().deploy(launch) as server:
        assert Control(server.url).models() == (server.model_name,)
        assert Control(server.url).generate(server.model_name, 3).json()["usage"]["completion_tokens"] == 3
        assert server.died() is None
        assert 0 < server.started_s < 20
        assert server.effective["lines"] >= 2
        assert server.argv[-2:] == (server.url.rpartition(":")[2], server.model_name)
        assert server.log_tail(1) == "prepared"
    assert phases == ["start", "ready"]
    assert ports.listeners(int(server.url.rpartition(":")[2])) == {}


def test_the_lease_of_the_port_is_held_by_the_guard_and_not_by_the_server(deploy):
    def holds(pid, port):
        links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
        return any(link.endswith(f"/port-{port}.lock") for link in links)

    with deploy() as server:
        port = server.url.rpartition(":")[2]
        assert holds(server.process.guard.pid, port)
        assert not holds(server.process.pid, port)


def test_the_model_name_and_the_port_are_new_each_time(deploy):
    with deploy() as one, deploy() as two:
        assert one.model_name != two.model_name
        assert one.url != two.url
        assert one.model_name.startswith("chat-")


def test_a_fixed_model_name_is_kept(deploy):
    with deploy(model_name="the-model") as server:
        assert server.model_name == "the-model"


@pytest.mark.parametrize(
    ("behaviour", "error", "kind", "text"),
    [
        pytest.param("oom", Infeasible, CauseKind.OUT_OF_MEMORY, "out of memory: CUDA", id="out of memory"),
        pytest.param("exit-with-daemon", DeployError, CauseKind.CRASH, "status 3", id="ends, leaving a daemon"),
        pytest.param("die-on-request", DeployError, CauseKind.CRASH, "status 7", id="dies of the first request"),
        pytest.param(
            "wrong-model", DeployError, CauseKind.WRONG_SERVER, "serves somebody-else and not chat-", id="model"
        ),
        pytest.param("needs-key", DeployError, CauseKind.WRONG_SERVER, "answered 401", id="asks for a key"),
    ],
)
def test_a_server_that_cannot_be_used_is_torn_down_and_explained(deploy, run, behaviour, error, kind, text):
    began = time.monotonic()
    with pytest.raises(error, match=text) as caught, deploy(behaviour, "daemon", stop_s=0.2):
        pass
    assert type(caught.value) is error
    assert caught.value.cause.kind is kind
    assert "arguments" in caught.value.log_tail
    assert time.monotonic() - began < 15  # long before any deadline
    assert ports.listeners(deploy.engine.addresses[0].port) == {}


@pytest.mark.parametrize(
    ("behaviour", "limits", "text"),
    [
        pytest.param(
            "never-listen", {"start_s": 3}, r"no health within 3 s \(timeouts.start\): nothing listens", id="no port"
        ),
        pytest.param("never-healthy", {"start_s": 3}, r"no health within 3 s \(timeouts.start\): .* 503", id="503"),
        pytest.param("hang", {"start_s": 3}, r"no health within 3 s \(timeouts.start\): .* no complete", id="hangs"),
        pytest.param("no-model", {"ready_s": 3}, r"within 3 s \(timeouts.ready\): it lists no model", id="no model"),
        pytest.param("no-generation", {"ready_s": 3}, r"within 3 s \(timeouts.ready\): .* 500", id="no generation"),
    ],
)
def test_a_phase_ends_at_its_deadline_and_names_it(deploy, behaviour, limits, text):
    began = time.monotonic()
    with pytest.raises(DeployError, match=text) as caught, deploy(behaviour, "ignore-term", stop_s=0.3, **limits):
        pass
    assert caught.value.cause.kind is CauseKind.TIMEOUT
    assert str(deploy.log) in str(caught.value)
    assert time.monotonic() - began < 3 + 0.3 + 12


def test_a_slow_start_is_waited_for(deploy):
    with deploy("slow-start") as server:
        assert server.started_s >= 1.0


def test_a_deadline_in_a_log_full_of_trouble_is_the_engines_to_explain(deploy):
    class Pessimist(ScriptEngine):
        def classify(self, log, returncode):
            return super().classify(log + "out of memory", returncode)

    with (
        pytest.raises(Infeasible, match=r"out of memory: CUDA out of memory \(no health within 0.5 s"),
        deploy("never-healthy", engine=Pessimist(), start_s=0.5),
    ):
        pass


def test_a_command_that_is_not_there_is_one_clear_error(deploy):
    class Missing(ScriptEngine):
        def command(self, *_):
            return Command(("/no/such/server", "--x"))

    with (
        pytest.raises(DeployError, match="cannot be executed: /no/such/server: No such file"),
        deploy(engine=Missing()),
    ):
        pass


def test_a_death_is_noticed_at_once_with_its_status(deploy):
    with deploy() as server:
        os.kill(server.process.pid, 9)
        eventually(lambda: server.died() is not None)
        assert server.process.returncode == -9
        assert server.died().kind is CauseKind.KILLED
        assert server.died() is server.died()


def test_the_server_dies_under_load_and_the_trial_goes_on(deploy):
    with deploy() as server:
        os.kill(server.process.pid, 15)
        eventually(lambda: server.died() is not None)
        assert "status -15" in str(server.died())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_inside_tears_the_server_down_and_passes(deploy, error):
    with pytest.raises(error), deploy("daemon", "ignore-term", stop_s=0.2):
        raise error


def test_an_interrupt_while_starting_tears_the_server_down(deploy, run, tmp_path):
    def interrupt(phase):
        if phase == "ready":
            raise KeyboardInterrupt

    launch = make_launch(tmp_path / "x.log", "daemon", owner=leftovers.owner_id(run), stop_s=0.2)
    object.__setattr__(launch, "on_phase", interrupt)
    with pytest.raises(KeyboardInterrupt), LocalDeployer().deploy(launch):
        pass
    assert tagged(run) == []


@pytest.mark.parametrize("stranger", [Stranger, Mute], ids=["answers like us", "says nothing"])
def test_a_taken_port_is_left_to_the_stranger_and_another_one_is_used(deploy, stranger):
    engine = DisturbedEngine(stranger, times=2)
    try:
        with deploy(engine=engine) as server:
            assert [address.url for address in engine.addresses][2:] == [server.url]
            assert Control(server.url).generate(server.model_name).status == 200
            first = deploy.log.read_text().splitlines()[0]
            assert first.startswith(f"[autotune] attempt 3: port {engine.addresses[1].port} was taken (")
            assert "[autotune]" not in server.log_text()
        assert [len(ports.listeners(address.port)) for address in engine.addresses] == [1, 1, 0]
    finally:
        for each in engine.strangers:
            each.end()
    assert sorted(path.name for path in deploy.log.parent.iterdir()) == ["server.1.log", "server.2.log", "server.log"]


def test_a_stranger_on_every_port_is_never_taken_for_ours(deploy):
    engine = DisturbedEngine(Stranger, times=10)
    try:
        with pytest.raises(DeployError) as caught, deploy(engine=engine):
            pass
    finally:
        for each in engine.strangers:
            each.end()
    assert type(caught.value) is DeployError
    assert caught.value.cause.kind in (CauseKind.WRONG_SERVER, CauseKind.PORT)
    assert len({address.port for address in engine.addresses}) == 4


def test_a_stranger_beside_a_server_that_never_listens_is_noticed(deploy):
    engine = DisturbedEngine(Stranger, times=10)
    try:
        with (
            pytest.raises(DeployError, match="served by a process that we did not start"),
            deploy("never-listen", engine=engine),
        ):
            pass
    finally:
        for each in engine.strangers:
            each.end()


def test_every_deployment_has_a_log_of_its_own(deploy):
    with deploy() as first:
        inode = deploy.log.stat().st_ino
        with deploy() as second:
            assert deploy.log.stat().st_ino != inode
            os.kill(first.process.pid, 15)
            eventually(lambda: first.died() is not None)
            assert first.model_name not in deploy.log.read_text()
            assert second.model_name in deploy.log.read_text()
    assert first.model_name in deploy.log.with_name("server.1.log").read_text()


def test_the_server_sees_the_environment_of_the_suite_but_not_of_the_test_run(deploy, run, monkeypatch):
    for name in ("PYTEST_XDIST_WORKER", "COV_CORE_SOURCE", "COVERAGE_PROCESS_START", "PYTEST_ADDOPTS"):
        monkeypatch.setenv(name, "leaks")
    monkeypatch.setenv("INHERITED", "yes")
    monkeypatch.setenv("no_proxy", "example.org,localhost")
    with deploy(env={"FROM_SUITE": "1", "PYTHONUNBUFFERED": "0"}):
        line = next(line for line in deploy.log.read_text().splitlines() if line.startswith("environment "))
    env = json.loads(line.partition(" ")[2])
    assert {name for name in env if name.startswith(("PYTEST_", "COV"))} == {leftovers.OWNER, leftovers.GUARD}
    assert leftovers.parse_owner(env[leftovers.OWNER]).run_id == f"{run}-0"
    assert (env["INHERITED"], env["FROM_SUITE"], env["FROM_ENGINE"], env["PYTHONUNBUFFERED"]) == ("yes", "1", "1", "0")
    assert env["no_proxy"] == "example.org,localhost,127.0.0.1,::1"
    assert "PYTEST_CURRENT_TEST" in os.environ


def test_a_log_that_cannot_be_written_is_one_clear_error(run, tmp_path):
    launch = make_launch(tmp_path / "missing" / "server.log", owner=leftovers.owner_id(run))
    with (
        pytest.raises(DeployError, match=r"cannot write the server's log .*server.log: No such file"),
        LocalDeployer().deploy(launch),
    ):
        pass


def test_other_systems_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(local.sys, "platform", "darwin")
    with (
        pytest.raises(DeployError, match=r"needs Linux.*darwin.*deploy: endpoint"),
        LocalDeployer().deploy(make_launch(tmp_path / "x")),
    ):
        pass
