"""Port leases, with real sockets and real processes."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_autotune.deploy import locks, ports
from pytest_autotune.errors import DeployError
from tests.deployment import ROOT

LEASING = """
import contextlib, json, sys
from pytest_autotune.deploy import ports
ports._candidates = lambda: list(range(*json.loads(sys.argv[1])))
with contextlib.ExitStack() as held:
    print(json.dumps([held.enter_context(ports.lease()).port for _ in range(3)]), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def few(monkeypatch):
    """Leave only three ports to choose from."""
    with contextlib.ExitStack() as held:
        chosen = [held.enter_context(ports.lease()).port for _ in range(3)]
    monkeypatch.setattr(ports, "_candidates", lambda: list(chosen))
    return chosen


@contextlib.contextmanager
def listening(host, port=0, family=socket.AF_INET):
    with socket.socket(family) as listener:
        listener.bind((host, port))
        listener.listen()
        yield listener


def test_eight_processes_never_hold_the_same_port():
    low = ports._candidates()[500]
    argv = [sys.executable, "-c", LEASING, json.dumps([low, low + 40])]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    children = [subprocess.Popen(argv, cwd=ROOT, **pipes) for _ in range(8)]
    try:
        held = [port for child in children for port in json.loads(child.stdout.readline())]
    finally:
        for child in children:
            child.communicate(timeout=120)
    assert len(held) == 24
    assert len(set(held)) == 24


def test_a_port_is_free_again_after_the_lease(few):
    for _ in range(4):
        with ports.lease() as one, ports.lease() as two, ports.lease() as three:
            assert {one.port, two.port, three.port} == set(few)
            with pytest.raises(DeployError, match="no free port among 3 candidates"), ports.lease():
                pass


def test_ports_to_avoid_are_avoided(few):
    with ports.lease(few[:2]) as lease:
        assert lease.port == few[2]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_with_a_listener_is_not_leased(few, host):
    with listening(host, few[0]), listening(host, few[1]), ports.lease() as lease:
        assert lease.port == few[2]


def test_a_lease_lives_as_long_as_another_process_holds_its_descriptor(few):
    script = "import fcntl, sys; sys.stdin.read()"
    with ports.lease(few[1:]) as lease:
        holder = subprocess.Popen([sys.executable, "-S", "-c", script], stdin=subprocess.PIPE, pass_fds=[lease.fd])
        copy = os.dup(lease.fd)
        os.close(lease.fd)  # as if this process had died without the orderly end of the lease
        try:
            with pytest.raises(DeployError), ports.lease(few[1:]):
                pass
            holder.communicate()
            with pytest.raises(DeployError), ports.lease(few[1:]):
                pass
        finally:
            os.dup2(copy, lease.fd)
            os.close(copy)


def test_a_forked_copy_of_the_owner_does_not_prolong_the_lease(few):
    with ports.lease(few[1:]) as lease:
        copy = os.dup(lease.fd)
    try:
        with ports.lease(few[1:]) as again:
            assert again.port == few[0]
    finally:
        os.close(copy)


@pytest.mark.parametrize(
    ("ephemeral", "reserved", "expected"),
    [
        pytest.param("32768 60999", "", range(20000, 32768), id="usual"),
        pytest.param("20000 29999", "", range(30000, 60001), id="low ephemeral range"),
        pytest.param("1024 65535", "", range(20000, 60001), id="everything is ephemeral"),
        pytest.param("21000 65535", "20000-20899,20950", [*range(20900, 20950), *range(20951, 21000)], id="reserved"),
    ],
)
def test_candidates_lie_outside_the_ephemeral_range(monkeypatch, ephemeral, reserved, expected):
    settings = {"ip_local_port_range": ephemeral, "ip_local_reserved_ports": reserved}
    monkeypatch.setattr(ports, "_setting", lambda name, _: settings[name])
    assert ports._candidates() == list(expected)


def test_listeners_are_found_with_their_owners():
    with listening("127.0.0.1") as mine:
        port = mine.getsockname()[1]
        (inode,) = ports.listeners(port)
        assert inode in ports.sockets_of([os.getpid()])
        assert inode not in ports.sockets_of([1, 2**22 + 1])
        with socket.create_connection(("127.0.0.1", port)):
            assert set(ports.listeners(port)) == {inode}
    assert ports.listeners(port) == {}


@pytest.mark.skipif(not Path("/proc/net/tcp6").exists(), reason="IPv6 is switched off")
def test_listeners_on_ipv6_are_found():
    with listening("::1", family=socket.AF_INET6) as mine:
        assert set(ports.listeners(mine.getsockname()[1])) <= ports.sockets_of([os.getpid()])
        assert ports.listeners(mine.getsockname()[1])


@pytest.mark.parametrize("trouble", ["writable by others", "a link", "a file"])
def test_a_runtime_directory_that_others_could_tamper_with_is_refused(monkeypatch, tmp_path, trouble):
    monkeypatch.setattr(locks.tempfile, "tempdir", str(tmp_path))
    directory = tmp_path / f"pytest-autotune-{os.getuid()}"
    if trouble == "a file":
        directory.touch()
    elif trouble == "a link":
        (tmp_path / "elsewhere").mkdir()
        directory.symlink_to(tmp_path / "elsewhere")
    else:
        directory.mkdir()
        directory.chmod(0o777)
    with pytest.raises(DeployError, match="is not a directory of this user alone"), ports.lease():
        pass
