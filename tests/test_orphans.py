"""Whatever kills pytest or a worker, at whatever moment: no process is left, and the same command goes on."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

import psutil
import pytest

from pytest_autotune.deploy.leftovers import parse_owner
from pytest_autotune.deploy.ports import listeners, sockets_of

# A server that takes a while to start, ignores SIGTERM, and leaves daemons that hold on to log and port.
STUBBORN = """\
name: stubborn
engine: sim
model: llama-3.1-8b
parameters: {{max-num-seqs: {sequences}}}
fixed:
  time-scale: 0.1
  fault: ["slow-start=300ms", "ignore-sigterm", "grandchildren=2"]
load: {{prompt_tokens: 32, output_tokens: 8, concurrency: [1, 2], duration: 300ms, warmup: 100ms}}
slo: {{ttft.p90: 5s}}
search: {{defaults: false}}
timeouts: {{stop: 500ms}}
"""
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
PHASES = ("start", "first batch", "second batch", "stop", "second trial")
ITEMS = ("deploy", "c1", "c2")  # of a trial
WHILE = {  # in a phase, which of them pytest may be at
    "start": ("deploy",),
    "first batch": ("deploy", "c1"),
    "second batch": ("c1", "c2"),
    "stop": ("c2",),
    "second trial": ("deploy", "c1"),
}
TAG = "ORPHAN_TEST"


@dataclass(frozen=True)
class Attempt:
    """A row of the table of trials."""

    id: int
    slot: str
    state: str
    deployed: bool
    batches: int
    run: str
    study: str
    generation: str
    owner: str

    @property
    def phase(self) -> str:
        """Where it stands, or stood when it was ended."""
        return ("first batch", "second batch", "stop")[self.batches] if self.deployed else "start"


class Scene:
    """One suite in one directory, and the pytest processes that are run and killed there."""

    def __init__(self, project, tag, *, trials):
        self.path = project.path
        self.tag = tag
        self.database = self.path / ".autotune" / "results.db"
        self.ports: set[int] = set()
        self.halted: list[psutil.Process] = []
        self.said = ""  # what was killed so far, for messages
        self.trials = trials
        sequences = [16 + i for i in range(trials)]
        project.suite(STUBBORN.format(sequences=sequences), "stubborn.yaml")

    @contextmanager
    def started(self, *options, output="output.txt"):
        """A pytest process in a session of its own; whatever it leaves is killed at the end, but not forgiven."""
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tolerant_load", "-v"]
        command += ["suites", "--autotune", *options]
        with (self.path / output).open("w") as file:
            process = subprocess.Popen(
                command,
                cwd=self.path,
                env=os.environ | {TAG: self.tag},
                stdout=file,
                stderr=file,
                start_new_session=True,
                # A job of a non-interactive shell inherits an ignored SIGINT; a terminal's does not.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - this test starts no threads
            )
        try:
            yield process
        finally:
            for left in [process, *self.processes()]:
                left.kill()
            process.wait()

    def finish(self, *options):
        """Run to the end; return the exit status."""
        with self.started(*options) as process:
            status = process.wait(timeout=300)
            self.assert_nothing_left()
        return status

    def processes(self):
        """Everything alive that this scene has started."""
        return [process for process in psutil.process_iter() if _environment(process).get(TAG) == self.tag]

    def servers(self):
        """Living servers, by process, with their ports."""
        found = {p: re.search(r"engines\.sim .*--port (\d+)", _command(p)) for p in self.processes()}
        return {process: int(match[1]) for process, match in found.items() if match}

    def attempts(self):
        """Every attempt at a trial, in order."""
        if not self.database.exists():
            return []
        sql = (
            "select id, slot, state, deploy_s is not null, (select count(*) from batches where trial_id = trials.id),"
            " run_id, study, generation, owner from trials order by id"
        )
        try:
            return [Attempt(*row) for row in self.query(sql)]
        except sqlite3.OperationalError:  # its tables are not created yet
            return []

    def query(self, sql):
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=5)) as connection:
            return connection.execute(sql).fetchall()

    def await_phase(self, phase, process, *, beyond):
        """Return the attempt that has come to the phase, of those after the first `beyond` ones.

        The process that runs it and its children, among them the server's guard, stand still until `strike`: however
        late this one is, it hits that phase.
        """

        def here():
            attempts = self.attempts()
            if phase == "second trial" and not any(attempt.state == "finished" for attempt in attempts):
                return None
            wanted = "first batch" if phase == "second trial" else phase
            found = (a for a in attempts[beyond:] if a.state == "running" and a.phase == wanted)
            attempt = next(found, None)
            if attempt is not None and phase == "stop" and not self.has_reported(f"{attempt.slot}::c2"):
                return None
            return attempt

        def reached():
            assert process.poll() is None, self.explain(f"pytest ended before {phase!r}")
            attempt = here()
            if attempt is None or (phase == "start" and not self.servers()):
                return None
            # At once in the other phases: to look for the servers takes longer than a batch on a busy machine.
            owner = psutil.Process(parse_owner(attempt.owner).pid)
            self.halt(owner)
            for child in owner.children():
                self.halt(child)
            if here() != attempt or not (servers := self.servers()):
                self.resume()  # it has got further meanwhile: another one will come to the phase
                return None
            self.ports |= set(servers.values())
            return attempt

        return wait_for(reached, what=repr(phase), explain=self.explain)

    def strike(self, process, signum):
        """Send the signal to a process, and let those that stand still go on."""
        process.send_signal(signum)
        self.resume()

    def halt(self, process):
        """Stop a process, and return when it stands still, or is gone."""
        with suppress(psutil.NoSuchProcess):
            process.suspend()
            self.halted.append(process)
            while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                time.sleep(0.001)

    def resume(self):
        """Let every process that stands still go on."""
        while self.halted:
            with suppress(psutil.NoSuchProcess):
                self.halted.pop().resume()

    def has_reported(self, item):
        """Whether pytest has said what came of the item; its trial's server is stopped next, when it was the last."""
        return any(item in line and "COMPLIANT" in line for line in self.output().splitlines())

    def output(self, name="output.txt"):
        return (self.path / name).read_text()

    def assert_nothing_left(self):
        """Soon no process is left, and nobody listens on the ports they had."""
        wait_for(lambda: not self.processes(), seconds=30, what="the end of every process", explain=self.explain)
        # A process that ends gives up its environment a moment before its sockets.
        wait_for(lambda: not self.listening(), seconds=5, what="the end of every listener", explain=self.explain)

    def listening(self):
        """What listens on the ports of this scene's servers; not what other tests have started there meanwhile."""
        busy = {port: found for port in self.ports if (found := listeners(port))}
        if not busy:
            return {}
        environments = {process.pid: _environment(process) for process in psutil.process_iter()}
        foreign = sockets_of(pid for pid, found in environments.items() if found and found.get(TAG) != self.tag)
        return {port: inodes for port, found in busy.items() if (inodes := found.keys() - foreign)}

    def assert_consistent(self):
        """The store is whole, and nothing in it counts twice."""
        if not self.attempts():
            return
        assert self.query("pragma integrity_check") == [("ok",)]
        doubled = self.query("select trial_id, level from batches group by 1, 2 having count(*) > 1")
        assert not doubled, self.explain(f"batches recorded twice: {doubled}")
        finished = Counter((a.study, a.generation, a.slot) for a in self.attempts() if a.state == "finished")
        assert set(finished.values()) <= {1}, self.explain(f"finished more than once: {finished}")
        unencoded = self.query("select id from batches where id not in (select batch_id from samples)")
        assert not unencoded, self.explain(f"batches without their samples: {unencoded}")

    def assert_complete(self):
        """Each trial is finished once, with both batches, in the one generation that there is."""
        self.assert_consistent()
        finished = [attempt for attempt in self.attempts() if attempt.state == "finished"]
        assert len({attempt.slot for attempt in finished}) == len(finished) == self.trials, self.explain("not complete")
        assert {attempt.batches for attempt in finished} == {2}, self.explain("finished without its batches")
        assert len({(attempt.study, attempt.generation) for attempt in finished}) == 1
        assert not [a for a in self.attempts() if a.state == "running"], self.explain("still running")

    def outcomes(self):
        """The counts of the last line of the last run."""
        line = self.output().rstrip().rpartition("\n")[2]
        return {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", line)}

    def explain(self, problem):
        """What there is to see, for whoever must find out why."""
        processes = [f"{p.pid} (of {p.ppid()}) {_command(p)[:150]}" for p in self.processes() if p.is_running()]
        return "\n".join(
            [
                problem,
                f"killed so far: {self.said or 'nothing'}",
                f"listening: {self.listening()}",
                "processes:",
                *processes,
                "attempts:",
                *map(str, self.attempts()),
                "output of the last run:",
                self.output()[-4000:],
            ]
        )


def alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _environment(process):
    try:
        return {} if process.status() == psutil.STATUS_ZOMBIE else process.environ()
    except (psutil.Error, OSError):
        return {}


def _command(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_for(condition, *, what, explain, seconds=120):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, explain(f"{what} did not come within {seconds} s")
        time.sleep(0.02)
    return result


@pytest.fixture
def scene(project, request):
    return Scene(project, f"{os.getpid()}-{request.node.name}", trials=request.node.callspec.params.get("trials", 3))


@pytest.mark.slow
@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_pytest_killed_in_every_phase_leaves_nothing_and_goes_on(scene, signum):
    attempt = None
    for phase in PHASES:
        with scene.started("--junitxml=report.xml") as process:
            attempt = scene.await_phase(phase, process, beyond=len(scene.attempts()))
            scene.strike(process, signum)
            status = process.wait(timeout=60)
            scene.said += f" {phase} (attempt {attempt.id})"
            scene.assert_nothing_left()
        scene.assert_consistent()
        (ended,) = [a for a in scene.attempts() if a.id == attempt.id]
        assert_hit(scene, phase, attempt, ended)
        assert_reported(scene, signum, status, ended)
    assert scene.finish() == 0, scene.explain("the last run")
    assert scene.outcomes() == {"passed": 1, "deployed": 3, "compliant": 6}
    scene.assert_complete()


@pytest.mark.slow
@pytest.mark.parametrize("trials", [7])
@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_a_worker_killed_in_every_phase_loses_its_trial_and_the_run_goes_on(scene, signum, trials):
    with scene.started("-n1", "--max-worker-restart=5", "--junitxml=report.xml") as process:
        begun = 0
        for phase in PHASES:
            attempt = scene.await_phase(phase, process, beyond=begun)
            begun = len(scene.attempts())
            worker = psutil.Process(parse_owner(attempt.owner).pid)
            below = worker.children(recursive=True)
            scene.strike(worker, signum)
            scene.said += f" {phase} (attempt {attempt.id})"
            # An interrupted worker has nothing to do any more, and is told to end with the run.
            ending = below if signum is signal.SIGINT else [worker, *below]
            wait_for(
                lambda: not any(map(alive, ending)),  # noqa: B023 - called at once
                seconds=30,
                what=f"the end of the worker and its server in {phase!r}",
                explain=scene.explain,
            )
            scene.assert_consistent()
            (ended,) = [a for a in scene.attempts() if a.id == attempt.id]
            assert_hit(scene, phase, attempt, ended)
        status = process.wait(timeout=120)
        scene.assert_nothing_left()
    assert status == 1, scene.explain(f"status {status}")
    # One trial is to spare for a phase that was missed. Of each that was lost one item failed, and those that follow it are
    # reported as lost, too: the store may be a moment ahead of the items. The gate is not judged on what is left.
    crashed = re.findall(r"^FAILED \S+::(\w+) - worker", scene.output(), re.MULTILINE)
    assert len(crashed) == 5, scene.explain(str(crashed))
    for phase, item in zip(PHASES, crashed, strict=True):
        assert item in WHILE[phase], scene.explain(f"{item} in {phase}")
    outcomes = scene.outcomes()
    following = sum(len(ITEMS) - 1 - ITEMS.index(item) for item in crashed)
    assert (outcomes["failed"], outcomes["skipped"]) == (5, following + 1), scene.explain(str(outcomes))
    assert scene.output().count("crashed while running") >= 5
    lost = [attempt for attempt in scene.attempts() if attempt.state != "finished"]
    assert {attempt.state for attempt in lost} == {"interrupted"}, scene.explain("not given up")
    assert scene.finish() == 0, scene.explain("the next run")
    scene.assert_complete()


def assert_hit(scene, phase, seen, ended):
    """The attempt had not got any further when it was killed."""
    assert ended.phase == seen.phase, scene.explain(f"meant {phase}, hit {ended.phase}")


def assert_reported(scene, signum, status, ended, *, states=("running",)):
    """SIGKILL leaves a running attempt for the next run; what can be caught ends in order."""
    (run,) = list(scene.query("select outcome, ended_at from runs where id = '" + ended.run + "'"))
    report = scene.path / "report.xml"
    if signum is signal.SIGKILL:
        assert (status, run) == (-9, (None, None)), scene.explain(f"status {status}, run {run}")
        assert ended.state in states, scene.explain(f"attempt is {ended.state}")
        return
    assert (status, run[0]) == (2, "interrupted"), scene.explain(f"status {status}, run {run}")
    assert ended.state == ("finished" if ended.phase == "stop" else "interrupted"), scene.explain("attempt not settled")
    assert ET.parse(report).getroot().find("testsuite") is not None
    report.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("trials", [2])
@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
def test_the_controller_killed_takes_its_workers_along(scene, signum, trials):
    with scene.started("-n2", "--junitxml=report.xml") as process:
        attempt = scene.await_phase("first batch", process, beyond=0)
        scene.strike(process, signum)
        scene.said += " first batch"
        status = process.wait(timeout=60)
        scene.assert_nothing_left()
    scene.assert_consistent()
    (ended,) = [a for a in scene.attempts() if a.id == attempt.id]
    # A worker whose controller is gone may have the time to end in order.
    assert_reported(scene, signum, status, ended, states=("running", "interrupted"))
    assert scene.finish() == 0, scene.explain("the next run")
    scene.assert_complete()


@pytest.mark.slow
@pytest.mark.parametrize("trials", [3])
@pytest.mark.parametrize("seed", [0, 1])
def test_runs_killed_at_any_moment_come_to_the_same_end_as_one_run(scene, seed, trials):
    """SIGKILL after a random time, again and again, until a run gets to its end before."""
    moments = random.Random(seed)
    status, finished = None, {}
    for number in range(40):
        with scene.started() as process:
            try:  # longer and longer: a busy machine takes more than five seconds for a trial
                status = process.wait(timeout=moments.uniform(0.3, 5 + number / 2))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            scene.said += f" ({len(scene.attempts())} attempts)"
            scene.assert_nothing_left()
        scene.assert_consistent()
        kept = {a.id: a for a in scene.attempts() if a.state == "finished"}
        assert finished.items() <= kept.items(), scene.explain(f"finished trials changed: {finished}")
        finished = kept
        if status is not None:
            break
    assert status == 0, scene.explain(f"status {status}")
    assert scene.outcomes() == {"passed": 1, "deployed": 3, "compliant": 6}
    scene.assert_complete()
    # A slot is tried again only when its last attempt came to nothing: what is finished is the last one.
    for slot in {attempt.slot for attempt in scene.attempts()}:
        states = [attempt.state for attempt in scene.attempts() if attempt.slot == slot]
        assert (states[-1], states.count("finished")) == ("finished", 1), scene.explain(f"{slot}: {states}")


@pytest.mark.slow
@pytest.mark.parametrize("trials", [4])
def test_two_runs_at_once_measure_each_trial_once(scene, trials):
    with scene.started() as first:
        wait_for(scene.attempts, what="a claim of the first run", explain=scene.explain)
        with scene.started(output="second.txt") as second:
            assert (first.wait(timeout=300), second.wait(timeout=300)) == (0, 0), scene.explain("both end green")
        scene.assert_nothing_left()
    scene.assert_complete()
    attempts = scene.attempts()
    assert len(attempts) == 4, scene.explain("measured more than once")
    assert len({attempt.run for attempt in attempts}) == 2, scene.explain("one run did all")
    busy = sum(scene.output(name).count("SKIPPED (being") for name in ("output.txt", "second.txt"))
    assert busy, scene.explain("they never met")
    assert busy % 3 == 0, scene.explain(f"{busy} items of busy trials")  # a trial has three, which go together
    assert scene.finish() == 0
    assert scene.output().count("[recorded]") == 12
    assert len(scene.attempts()) == 4
