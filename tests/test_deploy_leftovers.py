"""Nothing survives its owner, however the owner ends; what survives a killed guard is swept."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.deploy import _guard, leftovers
from pytest_autotune.deploy.local import LocalDeployer
from tests.deployment import ROOT, eventually, kill_tagged, make_launch, tagged

# Other tests sweep, too: what is left here by owners that are dead would be theirs to kill.
pytestmark = pytest.mark.alone

SCRIPT = Path(__file__).with_name("deploy_owner.py")
NASTY = ("ignore-term", "daemon", "bare-daemon", "stopped-child")


class OwnerProcess:
    """A running `deploy_owner.py` whose server is ready."""

    def __init__(self, directory, mode, behaviour):
        self.run = f"owner-test-{os.getpid()}-{time.monotonic_ns()}"
        argv = [sys.executable, str(SCRIPT), self.run, str(directory), mode, *behaviour]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True, env=env)
        ready = json.loads(self.process.stdout.readline())
        self.port, self.guard, self.copy = ready["port"], ready["guard"], ready["copy"]
        self.everything = [_guard.look_up(pid) for pid in [*ready["pids"], self.guard]]

    def end(self, number):
        os.kill(self.process.pid, number)
        self.process.wait(60)

    def left(self):
        """Return what is left of the deployment, tagged or not."""
        seen = [_guard.look_up(old.pid) for old in self.everything]
        known = [new for old, new in zip(self.everything, seen, strict=True) if new and new.start == old.start]
        return [process.pid for process in known if not process.zombie] + tagged(self.run)


@pytest.fixture
def owner(tmp_path):
    """Start owners; whatever they leave is killed in the end."""
    started = []

    def start(*behaviour, mode="plain"):
        directory = tmp_path / str(len(started))
        directory.mkdir()
        started.append(OwnerProcess(directory, mode, behaviour))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
        each.process.stdout.close()
        kill_tagged(each.run)
        for process in each.everything:
            _guard.send(process, signal.SIGKILL)


def bindable(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@pytest.mark.parametrize("behaviour", [pytest.param(NASTY, id="nasty"), pytest.param(("keep-forking",), id="forking")])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_survives_its_owner(owner, number, behaviour):
    victim = owner(*behaviour)
    assert len(victim.everything) >= 2
    assert not bindable(victim.port)
    victim.end(number)
    eventually(lambda: victim.left() == [])
    assert bindable(victim.port)


def test_a_forked_copy_of_the_owner_does_not_keep_the_server_alive(owner):
    victim = owner(*NASTY, mode="fork")
    try:
        victim.end(signal.SIGKILL)
        eventually(lambda: victim.left() == [])
        assert not _guard.look_up(victim.copy).zombie
    finally:
        os.kill(victim.copy, signal.SIGKILL)
        eventually(lambda: (copy := _guard.look_up(victim.copy)) is None or copy.zombie)


def test_the_whole_process_group_of_the_owner_may_be_killed(owner):
    victim = owner(*NASTY)
    os.killpg(victim.process.pid, signal.SIGKILL)
    eventually(lambda: victim.left() == [])


def test_the_leftovers_of_a_killed_guard_and_owner_are_swept_and_named(owner):
    victim, bystander = (owner("daemon", "ignore-term", mode="sweepable") for _ in range(2))
    os.kill(victim.process.pid, signal.SIGSTOP)
    os.kill(victim.guard, signal.SIGKILL)
    eventually(lambda: len(victim.left()) == 2)  # the daemon, tagged: counted twice
    (daemon,) = tagged(victim.run)
    name = _guard.look_up(daemon).name
    victim.end(signal.SIGKILL)
    lines = [line for line in LocalDeployer().sweep() if victim.run in line]
    assert victim.left() == []
    expected = f"killed process {daemon} ({name}), left behind by the dead run {victim.run}"
    assert lines in ([expected], [])  # a test that sweeps at the same time may have been quicker
    assert len(tagged(bystander.run)) == 3  # guard, server, daemon of a living owner
    assert bystander.process.poll() is None


def test_a_sweep_takes_descendants_without_the_tag_and_waits_for_the_guard(owner):
    victim = owner("bare-daemon", mode="sweepable")
    os.kill(victim.guard, signal.SIGSTOP)  # a guard that does not do its work
    assert len(victim.left()) == 5  # guard and server, tagged, are counted twice
    victim.end(signal.SIGKILL)
    LocalDeployer().sweep()
    assert victim.left() == []


def test_a_sweep_of_a_process_below_a_dead_owner_spares_itself(tmp_path):
    run = f"sweeper-{os.getpid()}-{time.monotonic_ns()}"
    dead = leftovers.Owner(run, 2**22 + 1, 1, leftovers.this_place())
    code = "from pytest_autotune.deploy import leftovers; print(*leftovers.sweep())"
    env = {**os.environ, leftovers.OWNER: str(dead), leftovers.GUARD: "1.1"}
    child = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run not in child.stdout


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({}, True, id="this process"),
        pytest.param({"start": 1}, False, id="same pid, other process"),
        pytest.param({"pid": 2**22 + 1}, False, id="no such pid"),
        pytest.param({"place": leftovers.this_place()._replace(pid_namespace=1)}, None, id="another container"),
        pytest.param({"place": leftovers.this_place()._replace(boot=1, machine=1)}, None, id="another machine"),
        pytest.param({"place": leftovers.this_place()._replace(boot=0)}, None, id="unknown boot"),
    ],
)
def test_an_owner_is_alive(change, expected):
    owner = leftovers.parse_owner(leftovers.owner_id("run"))
    assert leftovers.owner_alive(str(owner._replace(**change))) is expected


HOST = leftovers.Place(pid_namespace=0xEFFFFFFC, boot=7, machine=9)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({}, True, id="this boot"),
        pytest.param({"machine": 8}, True, id="this boot under another host name"),
        pytest.param({"boot": 6}, False, id="an earlier boot of this machine"),
        pytest.param({"machine": 8, "boot": 6}, None, id="another machine"),
        pytest.param({"machine": 0, "boot": 6}, None, id="a machine without an id"),
        pytest.param({"pid_namespace": 4026532000}, None, id="a container of this machine"),
        pytest.param({"pid_namespace": 4026532000, "boot": 6}, None, id="a container elsewhere, of a like image"),
        pytest.param({"boot": 0}, None, id="unknown boot"),
    ],
)
def test_an_owner_of_another_machine_is_not_known_to_be_dead(change, expected):
    owner = leftovers.parse_owner(leftovers.owner_id("run"))
    assert leftovers.owner_alive(str(owner._replace(place=HOST._replace(**change))), here=HOST) is expected


@pytest.mark.parametrize("unknown", ["boot", "machine"])
def test_what_cannot_be_read_of_this_machine_proves_no_death(unknown):
    owner = leftovers.parse_owner(leftovers.owner_id("run"))._replace(place=HOST._replace(boot=6))
    here = HOST._replace(**{unknown: 0})
    assert leftovers.owner_alive(str(owner), here=here) is None
    container = HOST._replace(pid_namespace=4026532000)
    assert leftovers.owner_alive(str(owner._replace(place=container)), here=container._replace(boot=6)) is None


def test_the_place_is_the_same_in_each_process_of_this_machine():
    code = "from pytest_autotune.deploy import leftovers; print(*leftovers.this_place())"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert child.stdout.split() == list(map(str, leftovers.this_place()))
    assert leftovers.this_place().boot


def test_a_dead_owner_that_nobody_has_waited_for_is_dead():
    child = subprocess.Popen([sys.executable, "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    process = _guard.look_up(child.pid)
    owner = leftovers.parse_owner(leftovers.owner_id("run"))._replace(pid=process.pid, start=process.start)
    assert leftovers.owner_alive(str(owner)) is True
    child.stdin.close()
    eventually(lambda: _guard.look_up(child.pid).zombie)
    assert leftovers.owner_alive(str(owner)) is False
    child.wait()


def owner_of(process):
    found = _guard.look_up(process.pid)
    return str(leftovers.Owner("run", found.pid, found.start, leftovers.this_place()))


def test_an_interrupted_owner_ends_and_whoever_waits_for_one_of_several_notices():
    sleepers = [subprocess.Popen(["sleep", "60"]) for _ in range(2)]
    try:
        owners = [owner_of(process) for process in sleepers]
        began = time.monotonic()
        leftovers.await_end_of_any(owners, timeout_s=0.2)
        assert time.monotonic() - began >= 0.2
        leftovers.interrupt_owner(owners[1])
        leftovers.await_end_of_any(owners, timeout_s=30)
        assert [leftovers.owner_alive(owner) for owner in owners] == [True, False]
        leftovers.await_end_of_any(owners, timeout_s=30)  # it is dead already: nothing to wait for
        assert time.monotonic() - began < 20
    finally:
        for process in sleepers:
            process.kill()
            process.wait()


def test_an_owner_elsewhere_is_neither_interrupted_nor_waited_for():
    here = leftovers.this_place()
    elsewhere = leftovers.Owner("run", os.getpid(), 1, here._replace(boot=here.boot + 1))
    leftovers.interrupt_owner(str(elsewhere))
    leftovers.await_end_of_any([str(elsewhere), "no owner"], timeout_s=30)


@given(st.text(), *[st.integers(0)] * 5)
def test_an_owner_string_reads_back(run_id, pid, start, namespace, boot, machine):
    owner = leftovers.Owner(run_id, pid, start, leftovers.Place(namespace, boot, machine))
    assert leftovers.parse_owner(str(owner)) == owner


@pytest.mark.parametrize(
    "text",
    [
        "",
        "run",
        "run/1",
        "run/1.2",
        "run/1.2.x",
        "1.2.3",
        "run/1.2.3",
        "run/1.2.3.4.5.6",
        "run/-1.2.3.4.5",
        "run/².1.1.1.1",
    ],
)
def test_other_strings_are_no_owners_and_never_swept(text):
    assert leftovers.parse_owner(text) is None
    assert leftovers.owner_alive(text) is None


def test_leaving_sweeps_after_a_killed_guard(tmp_path, caplog):
    run = f"killed-guard-{os.getpid()}-{time.monotonic_ns()}"
    launch = make_launch(tmp_path / "server.log", "daemon", "ignore-term", owner=leftovers.owner_id(run), stop_s=0.2)
    try:
        with LocalDeployer().deploy(launch) as server:
            os.kill(server.process.guard.pid, signal.SIGKILL)
            eventually(lambda: server.died() is not None)
            assert "guard process" in str(server.died())
        assert tagged(run) == []
        assert "left behind" in caplog.text
    finally:
        kill_tagged(run)
