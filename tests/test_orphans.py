"""Whatever kills pytest or a worker, at whatever moment: no process is left, and the same command goes on."""

import os
import signal
import sqlite3
import subprocess
import sys
import time

import psutil
import pytest

STUBBORN = """\
name: stubborn
engine: sim
model: llama-3.1-8b
parameters: {max-num-seqs: [16, 64]}
fixed:
  time-scale: 0.1
  fault: ["slow-start=600ms", "ignore-sigterm", "grandchildren=2"]
load: {prompt_tokens: 32, output_tokens: 8, concurrency: [1, 2], duration: 700ms, warmup: 200ms}
slo: {ttft.p90: 1s}
search: {defaults: false}
timeouts: {stop: 1s}
"""

# When a phase has begun, as seen from outside in the processes and the store.
PHASES = {
    "start": "select 0",  # and a server process is there
    "first batch": "select deploy_s is not null from trials",
    "second batch": "select count(*) from batches",
    "stop": "select count(*) = 2 from batches",
    "second trial": "select count(*) = 2 from trials",
}
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


def servers(tag: str) -> list[psutil.Process]:
    """Processes of this test that are neither pytest nor its workers."""
    return [p for p in psutil.process_iter() if _has_tag(p, tag) and "pytest_autotune.engines.sim" in _command(p)]


def tagged(tag: str) -> list[psutil.Process]:
    return [p for p in psutil.process_iter() if _has_tag(p, tag)]


def _has_tag(process, tag):
    try:
        return process.environ().get("ORPHAN_TEST") == tag and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


def _command(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_for(condition, *, seconds, what):
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)
    return result


def query(path, sql):
    if not path.exists():
        return False
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
    try:
        rows = connection.execute(sql).fetchall()
    except sqlite3.OperationalError:  # not created yet
        return False
    finally:
        connection.close()
    return any(row[0] for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("signum", SIGNALS, ids=lambda signum: signum.name)
@pytest.mark.parametrize("victim", ["pytest", "worker"])
def test_nothing_is_left_and_the_run_goes_on(project, victim, signum, phase, request):
    project.suite(STUBBORN, "stubborn.yaml")
    tag = f"{os.getpid()}-{request.node.name}"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "suites", "--autotune"]
    command += ["-n1"] if victim == "worker" else []
    database = project.path / ".autotune" / "results.db"
    with (project.path / "output.txt").open("w") as output:
        # A job of a non-interactive shell inherits an ignored SIGINT; a terminal's does not.
        process = subprocess.Popen(
            command,
            cwd=project.path,
            env=os.environ | {"ORPHAN_TEST": tag},
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - no threads here
        )
    try:
        wait_for(lambda: servers(tag) if phase == "start" else query(database, PHASES[phase]), seconds=60, what=phase)
        target = process.pid if victim == "pytest" else worker_of(process.pid)
        os.kill(target, signum)
        process.wait(timeout=60)
        wait_for(lambda: not tagged(tag), seconds=10, what="the end of every process")
    finally:
        for leftover in tagged(tag):
            leftover.kill()
        process.kill()
        process.wait()
    assert_consistent(database)
    again = project.run("suites", "--autotune")
    assert again.ret == 0, again.stdout.str()
    assert again.parseoutcomes()["compliant"] == 4
    assert_consistent(database)
    assert finished_once(database)


def worker_of(pid):
    """The xdist worker among the children of the controller."""
    (worker,) = [
        child for child in psutil.Process(pid).children() if "execnet" in _command(child) or "-c" in child.cmdline()
    ]
    return worker.pid


def assert_consistent(database):
    if not database.exists():
        return
    connection = sqlite3.connect(database)
    try:
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        doubled = "select trial_id, level from batches group by 1, 2 having count(*) > 1"
        assert connection.execute(doubled).fetchall() == []
    finally:
        connection.close()


def finished_once(database):
    connection = sqlite3.connect(database)
    try:
        rows = connection.execute(
            "select slot, count(*) from trials where state = 'finished' group by study, generation, slot"
        ).fetchall()
    finally:
        connection.close()
    return sorted(rows) == [("max-num-seqs:16", 1), ("max-num-seqs:64", 1)]
