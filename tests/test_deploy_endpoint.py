"""Endpoints: real servers that are already running, and that we never stop."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time

import pytest

from pytest_autotune.deploy import endpoint
from pytest_autotune.deploy.endpoint import EndpointDeployer
from pytest_autotune.engines.engine import CauseKind
from pytest_autotune.errors import DeployError, SuiteError
from pytest_autotune.suite import LoadBlock
from tests.deployment import SCRIPT, eventually, make_launch


@pytest.fixture
def running():
    """Start a server of somebody else, with behaviours; return its process and URL."""
    started = []

    def start(*behaviour):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-S", str(SCRIPT), str(port), "theirs", *behaviour], stdout=subprocess.DEVNULL
        )
        started.append(process)

        def answers():
            with socket.socket() as client:
                return client.connect_ex(("127.0.0.1", port)) == 0

        eventually(answers)
        return process, f"http://127.0.0.1:{port}"

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_running_server_is_used_and_left_running(running, tmp_path):
    process, url = running()
    phases = []
    with EndpointDeployer().deploy(make_launch(tmp_path / "x.log", url=url + "/v1/", phases=phases)) as server:
        assert (server.url, server.model_name, server.argv, server.effective) == (url, "theirs", (), {})
        assert server.died() is None
        assert server.log_tail() == ""
    assert phases == ["start", "ready"]
    assert process.poll() is None
    assert EndpointDeployer().sweep() == ()
    assert not (tmp_path / "x.log").exists()


def test_the_key_of_the_load_opens_a_server_that_a_variable_names(running, tmp_path, monkeypatch):
    _, url = running("needs-key")
    monkeypatch.setenv("OUR_SERVER", url)
    monkeypatch.setenv("OUR_KEY", "sesame-open")
    asked = {"url": "${OUR_SERVER}", "load": LoadBlock(api_key="${OUR_KEY}")}
    with EndpointDeployer().deploy(make_launch(tmp_path / "x.log", **asked)) as server:
        assert server.url == url
    monkeypatch.setenv("OUR_KEY", "another")
    with (
        pytest.raises(DeployError, match="answered 401"),
        EndpointDeployer().deploy(make_launch(tmp_path / "x.log", **asked)),
    ):
        pass


def test_its_death_is_noticed_without_blocking(running, tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "_REST_S", 0.05)
    process, url = running()
    with EndpointDeployer().deploy(make_launch(tmp_path / "x.log", url=url)) as server:
        for _ in range(20):
            assert server.died() is None
            time.sleep(0.02)
        process.kill()
        process.wait()
        eventually(lambda: server.died() is not None)
        assert str(server.died()) == f"crash: {url} accepts no connections: Connection refused"


def test_a_host_that_swallows_packets_is_noticed_without_blocking(monkeypatch):
    monkeypatch.setattr(endpoint, "_REST_S", 0.0)
    monkeypatch.setattr(endpoint, "_CONNECT_S", 3.0)  # longer than a busy machine lets this process stand still
    with socket.socket() as full:  # a listener with a full queue drops what comes
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        watch = endpoint._Watch(f"http://127.0.0.1:{full.getsockname()[1]}")
        longest = 0.0

        def looked():
            nonlocal longest
            began = time.monotonic()
            problem = watch.look()
            longest = max(longest, time.monotonic() - began)
            return problem

        eventually(looked)
        assert looked() == "no connection within 3 s"
        assert longest < 2.9
        watch.close()
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize(
    ("behaviour", "suite", "kind", "text"),
    [
        pytest.param("never-healthy", {}, CauseKind.WRONG_SERVER, "answered 503", id="not healthy"),
        pytest.param("hang", {"start_s": 0.5}, CauseKind.WRONG_SERVER, "no complete answer within 0.5 s", id="hangs"),
        pytest.param(
            "plain", {"model_name": "ours"}, CauseKind.WRONG_SERVER, "serves theirs and not ours", id="other model"
        ),
        pytest.param("no-model", {}, CauseKind.WRONG_SERVER, "serves no model$", id="no model"),
        pytest.param("no-generation", {}, CauseKind.WRONG_SERVER, "answered 500", id="no generation"),
        pytest.param("needs-key", {}, CauseKind.WRONG_SERVER, "answered 401", id="asks for a key"),
    ],
)
def test_an_endpoint_that_cannot_be_used_is_explained(running, tmp_path, behaviour, suite, kind, text):
    _, url = running(behaviour)
    launch = make_launch(tmp_path / "x.log", url=url, **suite)
    with pytest.raises(DeployError, match=text) as caught, EndpointDeployer().deploy(launch):
        pass
    assert caught.value.cause.kind is kind


def test_the_wanted_one_of_several_models_is_used(running, tmp_path):
    _, url = running("two-models")
    with EndpointDeployer().deploy(make_launch(tmp_path / "x.log", url=url, model_name="theirs")) as server:
        assert server.model_name == "theirs"
    launch = make_launch(tmp_path / "x.log", url=url)
    with pytest.raises(DeployError, match="serves theirs, adapter; say which one"), EndpointDeployer().deploy(launch):
        pass


def test_a_service_without_a_health_page_is_fine(running, tmp_path):
    _, url = running("no-health-page")
    with EndpointDeployer().deploy(make_launch(tmp_path / "x.log", url=url)) as server:
        assert server.model_name == "theirs"


def test_nobody_there_is_one_clear_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    launch = make_launch(tmp_path / "x.log", url=url)
    text = re.escape(f"no usable server: GET {url}/health: connection refused")
    with pytest.raises(DeployError, match=text) as caught, EndpointDeployer().deploy(launch):
        pass
    assert caught.value.cause.kind is CauseKind.CRASH


@pytest.mark.parametrize("url", [None, "", "localhost:8000", "ftp://x", "http://"])
def test_a_url_that_is_none_is_one_clear_error(tmp_path, url):
    launch = make_launch(tmp_path / "x.log", url=url)
    with pytest.raises(SuiteError, match=r"chat.yaml: url: .* is not the address"), EndpointDeployer().deploy(launch):
        pass
