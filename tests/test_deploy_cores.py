"""Core leases: what is chosen, where servers and load generator then run, and that nobody shares a core."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune import hardware
from pytest_autotune.deploy import locks
from pytest_autotune.deploy.cores import Lease, choose, division_of, leased, ranges
from pytest_autotune.deploy.local import LocalDeployer
from pytest_autotune.deploy.turns import NotNow
from pytest_autotune.errors import DeployError
from pytest_autotune.suite_cores import Cores
from tests.deployment import eventually, kill_tagged, make_launch, make_suite

two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


@pytest.fixture
def runtime(monkeypatch, tmp_path):
    """A runtime directory of the test's own: what others lease on this machine is not in its way."""
    monkeypatch.setattr(locks.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return locks.runtime_directory()


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Eight cores of four physical ones, whose hyper-threads are four apart; nobody is really moved to them."""
    for core in range(8):
        topology = tmp_path / f"cpu{core}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{core % 4},{core % 4 + 4}\n")
        (topology / "physical_package_id").write_text(f"{core % 4 // 2}\n")
    monkeypatch.setattr(hardware, "_CPUS", tmp_path)
    monkeypatch.setattr(hardware, "usable_cores", lambda: frozenset(range(8)))
    monkeypatch.setattr(hardware, "cpu_quota", lambda: None)
    monkeypatch.setattr(hardware, "confined", lambda _to: contextlib.nullcontext())


def asking(needed, *, wait_s=60.0, generator=1, phases=None, waited=None):
    launch = make_launch(Path(), phases=phases, cores=Cores(per_server=needed, generator=generator, wait_s=wait_s))
    return launch if waited is None else replace(launch, on_waited=waited.append)


# --- the choice ----------------------------------------------------------------------------------------------------

PAIRS = ((0, 4), (1, 5), (2, 6), (3, 7))


@pytest.mark.parametrize(
    ("free", "needed", "expected"),
    [
        pytest.param(range(8), 2, (0, 4), id="both hyper-threads of one"),
        pytest.param(range(8), 3, (0, 1, 4), id="and half of another"),
        pytest.param([4, 1, 5, 2, 6], 2, (1, 5), id="a whole one rather than the first"),
        pytest.param([4, 1, 5, 2, 6], 1, (4,), id="a half rather than to break a whole one"),
        pytest.param([4, 1, 5, 2, 6], 3, (1, 4, 5), id="a whole one and the half"),
        pytest.param([0, 1, 2, 3], 2, (0, 1), id="halves are all there is"),
    ],
)
def test_hyper_threads_stay_together(free, needed, expected):
    assert choose(tuple(free), needed, PAIRS) == expected


def test_what_is_lacking_is_said():
    with pytest.raises(NotNow, match=r"^3 free$"):
        choose((0, 1, 4), 4, PAIRS)


groupings = st.lists(st.integers(1, 4), min_size=1, max_size=6)


@given(groupings, st.data())
def test_no_choice_shares_more_physical_cores_than_it_must(sizes, data):
    numbers = iter(range(sum(sizes)))
    groups = [tuple(next(numbers) for _ in range(size)) for size in sizes]
    everything = [core for group in groups for core in group]
    free = data.draw(st.sets(st.sampled_from(everything), min_size=1))
    needed = data.draw(st.integers(1, len(free)))
    chosen = choose(tuple(free), needed, groups)
    assert len(set(chosen)) == len(chosen) == needed
    assert set(chosen) <= free
    whole = [group for group in groups if set(group) <= free]
    split = [group for group in whole if 0 < len(set(group) & set(chosen)) < len(group)]
    assert len(split) <= 1
    if split:  # nothing that was in pieces already was left
        assert all(set(group) & free <= set(chosen) for group in groups if group not in whole)


def test_the_generators_cores_are_the_same_for_everybody_and_never_a_servers(machine):
    division = division_of(make_suite(cores=Cores(generator=2)))
    assert division.generator == (0, 4)
    assert division.servers == (1, 5, 2, 6, 3, 7)
    assert division.physical == PAIRS
    assert division_of(make_suite(cores=Cores(members=(1, 2, 3, 5)))).generator == (2,)


def test_without_a_topology_each_core_is_one_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "_CPUS", tmp_path)
    assert hardware.physical_cores([2, 0]) == ((0,), (2,))


@pytest.mark.parametrize(("cores", "shown"), [([], ""), ([3], "3"), ([0, 1, 2, 8, 10, 11], "0-2, 8, 10-11")])
def test_cores_are_listed_as_linux_does(cores, shown):
    assert ranges(cores) == shown


# --- leases --------------------------------------------------------------------------------------------------------


def test_nothing_is_leased_where_nobody_keeps_count(runtime):
    with leased(make_launch(Path())) as lease:
        assert lease == Lease()
    assert not list(runtime.iterdir())


def test_what_is_leased_is_not_leased_again_until_it_is_given_back(runtime, machine):
    waited = []
    with leased(asking(4, waited=waited)) as one, leased(asking(2)) as two:
        assert (one.cores, two.cores) == ((1, 2, 5, 6), (3, 7))
        with pytest.raises(DeployError) as late, leased(asking(2, wait_s=0.0, waited=waited)):
            pass
        assert str(late.value) == "no 2 cores (cores: wait): not within 0 s: 1 free"
        with leased(asking(1)) as three:
            assert three.cores == (4,)
    assert waited == [(1, 2, 5, 6), ()]
    with leased(asking(7)) as all_but_the_generators:
        assert all_but_the_generators.cores == (1, 2, 3, 4, 5, 6, 7)


def test_what_can_never_be_had_is_refused_at_once(runtime, machine):
    with pytest.raises(
        DeployError, match=r"^cores: 1 server of 8 cores and 1 for the load generator need 9 of 8 cores; "
    ):
        leased(asking(8)).__enter__()


def test_who_asked_first_is_served_first(runtime, machine):
    served, phases = [], {}

    def serve(name, needed):
        with leased(asking(needed, phases=phases.setdefault(name, []))):
            served.append(name)

    threads = [threading.Thread(target=serve, args=each) for each in (("four", 4), ("one", 1))]
    with leased(asking(5)):
        for number, thread in enumerate(threads, start=1):
            thread.start()
            eventually(lambda number=number: len(list(runtime.glob("core/queue.[0-9]*"))) == number)
        eventually(lambda: len(phases) == 2 and all(phases.values()))
        assert phases == {"four": ["waiting for 4 cores: 2 free"], "one": ["waiting for 1 core: 1 asked before"]}
    for thread in threads:
        thread.join(60)
    assert served == ["four", "one"]


def test_cores_are_docker_options_too():
    assert Lease((1, 3)).options == {"cpuset_cpus": "1,3"}
    assert Lease().options == {}


# --- where processes run -------------------------------------------------------------------------------------------


def allowed(pid):
    return re.search(r"^Cpus_allowed_list:\s*(.+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1]


def threads():
    return {allowed(f"self/task/{task.name}") for task in Path("/proc/self/task").iterdir()}


@two_cores
def test_this_process_keeps_to_the_generators_cores_while_a_lease_lasts_and_all_are_counted():
    before = os.sched_getaffinity(0)
    first = min(before)
    release = threading.Event()
    sleeper = threading.Thread(target=release.wait)
    sleeper.start()
    first_lease, second_lease = hardware.confined({first}), hardware.confined({first})
    try:
        first_lease.__enter__()
        second_lease.__enter__()
        first_lease.__exit__(None, None, None)  # not the last one that began
        assert threads() == {str(first)}
        child = subprocess.run(
            [sys.executable, "-c", "import os; print(*os.sched_getaffinity(0))"], capture_output=True, check=True
        )
        assert child.stdout.split() == [str(first).encode()]
        assert hardware.usable_cores() == before
        assert hardware.cores() == len(before)
        second_lease.__exit__(None, None, None)
        assert os.sched_getaffinity(0) == before
        assert len(threads()) == 1
    finally:
        os.sched_setaffinity(0, before)
        release.set()
        sleeper.join()


@pytest.fixture
def run():
    name = f"cores-test-{os.getpid()}-{time.monotonic_ns()}"
    yield name
    kill_tagged(name)


@two_cores
def test_a_server_and_all_that_it_starts_run_on_its_cores_and_its_guard_does_not(runtime, run, tmp_path):
    generator, own, *_ = sorted(os.sched_getaffinity(0))
    cores = Cores(per_server=1, members=(generator, own))
    phases = []
    launch = make_launch(tmp_path / "server.log", "daemon", owner=f"{run}/", cores=cores, phases=phases)
    with LocalDeployer().deploy(launch) as server:
        assert len(server.pids()) == 2
        assert {allowed(pid) for pid in server.pids()} == {str(own)}
        assert allowed(server.process.guard.pid) == str(generator)
        assert threads() == {str(generator)}
    assert phases == [f"on core {own}", "start", "ready"]
