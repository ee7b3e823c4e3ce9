"""GPU leases: what is chosen, and that nobody shares one, with real processes that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune import hardware
from pytest_autotune.deploy import _guard, gpus, locks
from pytest_autotune.deploy.gpus import Lease, choose, leased, refusal, score
from pytest_autotune.deploy.local import LocalDeployer
from pytest_autotune.deploy.turns import NotNow
from pytest_autotune.errors import DeployError
from pytest_autotune.hardware import Gpu, GpuState
from pytest_autotune.suite_gpus import GpuPool
from tests.deployment import ROOT, eventually, kill_tagged, make_launch
from tests.test_deploy_leftovers import OwnerProcess

ROUNDS = 10  # of leases, in each process
LEASING = Path(__file__).with_name("leasing.py")
GIB = 2**30
EIGHT = tuple(Gpu(index, f"GPU-{index:08x}", "NVIDIA H100", 80 * GIB, "570") for index in range(8))


@pytest.fixture
def runtime(monkeypatch, tmp_path):
    """A runtime directory of the test's own: what others lease on this machine is not in its way."""
    monkeypatch.setattr(locks.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return locks.runtime_directory()


def pretending(needed, *, of=8, wait_s=60.0, phases=None):
    return make_launch(Path(), gpus=needed, phases=phases, pool=GpuPool(pretended=of, wait_s=wait_s))


def indices(lease):
    return [gpu.index for gpu in lease.gpus]


# --- the choice ----------------------------------------------------------------------------------------------------


def state(free_gib, busy=0.0, *processes, total_gib=80):
    return GpuState(round(free_gib * GIB), total_gib * GIB, busy, processes)


@pytest.mark.parametrize(
    ("states", "needed", "pool", "expected"),
    [
        pytest.param([state(80), state(80)], 1, {}, [0], id="the first of equals"),
        pytest.param([state(60), state(80)], 1, {}, [1], id="more free memory"),
        pytest.param([state(80, 0.4), state(80, 0.1)], 1, {}, [1], id="less to do"),
        pytest.param([state(80, 0.4), state(60)], 1, {}, [1], id="memory counts for 60 %"),
        pytest.param([state(80, 0.4), state(60)], 1, {"weight": 0.9}, [0], id="or for what the suite says"),
        pytest.param([state(80), state(50), state(50), state(50)], 2, {}, [1, 2], id="balanced rather than most"),
        pytest.param([state(80), state(50)], 2, {"balance": 0.5}, [0, 1], id="balanced enough"),
        pytest.param([state(80), state(70), state(64)], 3, {}, [0, 1, 2], id="at the limit of balance"),
        pytest.param([state(80, 0.0, 17), state(80, 0.0, 18), state(60)], 1, {}, [2], id="others are respected"),
        pytest.param([state(80, 0.0, 17)], 1, {"shared": True}, [0], id="or shared with"),
        pytest.param([state(50), state(30)], 1, {"memory_share": 0.0, "memory_bytes": 45 * GIB}, [0], id="a size"),
        pytest.param([state(0, 0.1, total_gib=0), state(0, 0.2, total_gib=0)], 1, {}, [0], id="memory of the host"),
    ],
)
def test_the_best_balanced_set_is_chosen(states, needed, pool, expected):
    found = EIGHT[: len(states)]
    told = {gpu.uuid: one for gpu, one in zip(found, states, strict=True)}
    assert [gpu.index for gpu in choose(found, told, needed, GpuPool(**pool))] == expected


@pytest.mark.parametrize(
    ("states", "needed", "reason"),
    [
        pytest.param([state(80)], 2, "1 free", id="leased"),
        pytest.param([state(80), state(80, 0.0, 17)], 2, "1 free: GPU 1 is used by process 17 (gpus: shared)", id="used"),
        pytest.param(
            [state(80), state(80, 0.51)], 2, "1 free: GPU 1 is busy for 51% of the time (gpus: utilization)", id="busy"
        ),
        pytest.param([state(39)], 1, "0 free: GPU 0 has 39.0 of 80.0 GiB free (gpus: memory)", id="full"),
        pytest.param(
            [state(80), state(60)], 2,
            "no 2 of 2 free ones have about equal memory (gpus: balance): 80.0, 60.0 GiB", id="unbalanced",
        ),
    ],
)  # fmt: skip
def test_what_is_lacking_is_said(states, needed, reason):
    found = EIGHT[: len(states)]
    told = {gpu.uuid: one for gpu, one in zip(found, states, strict=True)}
    with pytest.raises(NotNow) as lacking:
        choose(found, told, needed, GpuPool())
    assert str(lacking.value) == reason


def test_a_gpu_whose_driver_is_gone_is_not_given_away():
    with pytest.raises(NotNow, match="0 free: GPU 0 has no driver"):
        choose(EIGHT[:1], {}, 1, GpuPool())


figures = st.builds(
    state, st.integers(0, 80), st.sampled_from([0.0, 0.1, 0.4, 0.9]), st.sampled_from([17, 18])
) | st.builds(state, st.integers(0, 80), st.sampled_from([0.0, 0.2, 0.4]))


@given(st.lists(figures, min_size=1, max_size=6), st.integers(1, 4), st.sampled_from([0.5, 0.8, 1.0]))
def test_no_other_set_is_better(states, needed, balance):
    pool = GpuPool(balance=balance, memory_share=0.1)
    found = EIGHT[: len(states)]
    told = {gpu.uuid: one for gpu, one in zip(found, states, strict=True)}

    def worth(several):
        return sum(score(told[gpu.uuid], pool) for gpu in several)

    def allowed(several):
        free = [told[gpu.uuid].free_bytes for gpu in several]
        return not any(refusal(told[gpu.uuid], pool) for gpu in several) and min(free) >= balance * max(free) - 1

    possible = [several for several in combinations(found, needed) if allowed(several)]
    try:
        chosen = choose(found, told, needed, pool)
    except NotNow:
        assert not possible
        return
    assert allowed(chosen)
    assert worth(chosen) == pytest.approx(max(map(worth, possible)))


# --- leases --------------------------------------------------------------------------------------------------------


def test_what_is_leased_is_not_leased_again_until_it_is_given_back(runtime):
    with leased(pretending(4)) as one, leased(pretending(3)) as two:
        assert indices(one) + indices(two) == list(range(7))
        with leased(pretending(1)) as three:
            assert indices(three) == [7]
        with pytest.raises(DeployError) as late, leased(pretending(2, wait_s=0.0)):
            pass
        assert str(late.value) == "no 2 GPUs (gpus: wait): not within 0 s: 1 free"
    with leased(pretending(8)) as all_of_them:
        assert indices(all_of_them) == list(range(8))
    assert not list(runtime.glob("gpu/queue.[0-9]*"))


def test_what_can_never_be_had_is_refused_at_once(runtime):
    message = "takes 4 GPUs, and 2 may be taken; allow more by gpus: pool, or keep no count of them: gpus: {pool: none}"
    with pytest.raises(DeployError) as refused, leased(pretending(4, of=2)):
        pass
    assert str(refused.value) == message


@pytest.mark.parametrize(("needed", "pool"), [(0, GpuPool(pretended=2)), (2, GpuPool(leased=False))])
def test_nothing_is_leased_where_nothing_is_taken_or_counted(runtime, needed, pool):
    with leased(make_launch(Path(), gpus=needed, pool=pool)) as lease:
        assert (lease.gpus, lease.fds, lease.variables) == ((), (), {})
    assert not list(runtime.iterdir())


def waiting(runtime):
    return len(list(runtime.glob("gpu/queue.[0-9]*")))


def test_who_asked_first_is_served_first_and_nobody_overtakes_one_who_needs_more(runtime):
    served, phases = [], {}

    def serve(name, needed):
        with leased(pretending(needed, phases=phases.setdefault(name, []))):
            served.append(name)

    threads = [threading.Thread(target=serve, args=each) for each in (("four", 4), ("one", 1), ("two", 2))]
    with leased(pretending(5)):
        for number, thread in enumerate(threads, start=1):
            thread.start()
            eventually(lambda number=number: waiting(runtime) == number)
        eventually(lambda: len(phases) == 3 and all(phases.values()))
        assert phases == {
            "four": ["waiting for 4 GPUs: 3 free"],
            "one": ["waiting for 1 GPU: 1 asked before"],
            "two": ["waiting for 2 GPUs: 2 asked before"],
        }
        assert served == []  # though three are free
    for thread in threads:
        thread.join(60)
    assert served == ["four", "one", "two"]


def test_those_who_ask_for_others_are_not_waited_for(runtime, monkeypatch):
    monkeypatch.setattr(hardware, "_all_gpus", lambda: EIGHT[:4])
    monkeypatch.setattr(hardware, "states", lambda found: {gpu.uuid: state(80) for gpu in found})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    low, high = GpuPool(members=(0, 1)), GpuPool(members=(2, EIGHT[3].uuid))
    served = []

    def serve():
        with leased(make_launch(Path(), gpus=2, pool=low)) as lease:
            served.append(indices(lease))

    with leased(make_launch(Path(), gpus=1, pool=low)):
        waiter = threading.Thread(target=serve)
        waiter.start()
        eventually(lambda: waiting(runtime) == 1)
        with leased(make_launch(Path(), gpus=2, pool=high)) as lease:
            assert (indices(lease), served) == ([2, 3], [])
    waiter.join(60)
    assert served == [[0, 1]]


def run_leasing(runtime, log, seed, rounds):
    env = {**os.environ, "TMPDIR": str(runtime.parent), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, str(LEASING), str(log), str(seed), str(rounds)], env=env)


def test_whoever_is_killed_no_gpu_is_ever_leased_twice_and_everybody_is_served_in_turn(runtime, tmp_path):
    log, chance = tmp_path / "leases.log", random.Random(6)
    processes = [run_leasing(runtime, log, seed, ROUNDS) for seed in range(4)]
    killed = []
    eventually(lambda: log.exists() and "has" in log.read_text())
    for seed in range(4, 10):
        time.sleep(chance.uniform(0.0, 0.4))
        victim = chance.choice([each for each in processes if each.poll() is None] or processes)
        killed.append({"at": time.monotonic(), "pid": victim.pid, "what": "is killed"})
        victim.send_signal(signal.SIGKILL)
        processes.append(run_leasing(runtime, log, seed, ROUNDS))
    ends = {process.pid: process.wait(120) for process in processes}
    victims = {each["pid"]: each["at"] for each in killed}
    assert {pid: end for pid, end in ends.items() if pid not in victims and end} == {}  # nobody starves
    written = [json.loads(line) for line in log.read_text().splitlines()]
    # What one did between the note of its end and the signal, it does not have for long.
    lived = [each for each in written if each["at"] <= victims.get(each["pid"], each["at"])]
    events = sorted([*lived, *killed], key=lambda each: each["at"])
    assert sum(each["what"] == "has" for each in events) >= ROUNDS * (len(processes) - len(victims))
    held, needs, asked, queued = {}, {}, {}, {}
    for each in events:
        pid = each["pid"]
        match each["what"]:
            case "asks":
                needs[pid], asked[pid] = each["needs"], each["at"]
            case "waits":
                queued.setdefault(pid, each["at"])  # it was in the queue by then
            case "has":
                queued.pop(pid, None)
                assert len(each["gpus"]) == needs[pid]
                assert {gpu for gpus in held.values() for gpu in gpus}.isdisjoint(each["gpus"])
                assert not [other for other, since in queued.items() if since < asked[pid]]
                held[pid] = each["gpus"]
            case "gives back" | "is killed":
                held.pop(pid, None)
                queued.pop(pid, None)
    assert waiting(runtime) <= len(killed)
    with leased(pretending(8)):
        assert waiting(runtime) == 0  # what the dead left in the queue is removed


# --- servers -------------------------------------------------------------------------------------------------------


@pytest.fixture
def run():
    name = f"gpus-test-{os.getpid()}-{time.monotonic_ns()}"
    yield name
    kill_tagged(name)


def test_a_killed_owners_gpus_are_free_when_its_server_is_dead_and_not_before(runtime, tmp_path):
    victim = OwnerProcess(tmp_path, "leasing", ("ignore-term", "daemon"))
    servers = [process for process in victim.everything if process.pid != victim.guard]
    assert len(servers) == 2
    try:
        victim.end(signal.SIGKILL)
        phases = []
        with leased(pretending(1, of=2, phases=phases)):
            seen = [_guard.look_up(server.pid) for server in servers]
            assert not [now for now, server in zip(seen, servers, strict=True) if now and now.start == server.start]
        assert phases[0] == "waiting for 1 GPU: 0 free"
    finally:
        victim.process.stdout.close()
        kill_tagged(victim.run)


def environment_in(log):
    line = next(line for line in log.read_text().splitlines() if line.startswith("environment "))
    return json.loads(line.removeprefix("environment "))


def test_a_server_is_told_which_pretended_gpus_it_has_and_cuda_is_not(runtime, run, tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    log, phases = tmp_path / "server.log", []
    pool = GpuPool(pretended=4)
    with (
        leased(pretending(1, of=4)),
        LocalDeployer().deploy(make_launch(log, owner=f"{run}/", gpus=2, pool=pool, phases=phases)),
        pytest.raises(DeployError, match="1 free"),
        leased(pretending(2, of=4, wait_s=0.0)),
    ):
        pass
    environment = environment_in(log)
    assert environment["PYTEST_AUTOTUNE_GPUS"] == "1,2"
    assert "CUDA_VISIBLE_DEVICES" not in environment
    assert phases == ["on pretended GPUs 1, 2", "start", "ready"]
    with leased(pretending(4, of=4)):
        pass


def test_a_server_sees_its_gpus_only_and_they_go_on_when_their_memory_is_back(runtime, run, tmp_path, monkeypatch):
    """There is no GPU here: two are made up, and the memory of one is back at the third look after its server's end."""
    free = [state(10), state(40), state(79)]
    ended = threading.Event()

    def states(found):
        return {gpu.uuid: free.pop(0) if ended.is_set() and gpu.index == 5 else state(80) for gpu in found}

    monkeypatch.setattr(hardware, "_all_gpus", lambda: EIGHT[4:6])
    monkeypatch.setattr(hardware, "states", states)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    log, phases = tmp_path / "server.log", []
    with leased(make_launch(Path(), gpus=1)) as other:
        with LocalDeployer().deploy(make_launch(log, owner=f"{run}/", gpus=1, phases=phases)):
            ended.set()
        assert free == []
    assert indices(other) == [4]
    environment = environment_in(log)
    assert environment["CUDA_VISIBLE_DEVICES"] == "5"
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert phases == ["on GPU 5", "start", "ready"]


def test_memory_that_does_not_come_back_is_told_and_not_waited_for_any_longer(runtime, monkeypatch, caplog):
    monkeypatch.setattr(gpus, "_MEMORY_BACK_S", 0.2)
    free = iter([state(80), state(80)])
    monkeypatch.setattr(hardware, "_all_gpus", lambda: EIGHT[:1])
    monkeypatch.setattr(hardware, "states", lambda found: {gpu.uuid: next(free, state(10)) for gpu in found})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with leased(make_launch(Path(), gpus=1)):
        pass
    assert "memory of GPUs 0 is not free 0.2 s after the end of their server" in caplog.text


def test_a_server_tells_which_gpus_of_the_machine_it_was_given():
    assert Lease((EIGHT[1], EIGHT[3])).real == (1, 3)
    assert Lease((EIGHT[1], EIGHT[3]), pretended=True).real == ()
