"""The guard and its owner's side, with real processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from pytest_autotune.deploy import _guard, guarded, leftovers
from pytest_autotune.deploy.guarded import GuardedProcess
from tests.deployment import SCRIPT, eventually, kill_tagged, tagged


@pytest.fixture
def mark():
    """The owner's run, unique to a test; whatever carries it is killed in the end."""
    name = f"guard-test-{os.getpid()}-{time.monotonic_ns()}"
    yield name
    kill_tagged(name)


@pytest.fixture
def start(mark, tmp_path):
    """Start Python code, or the server script, under a guard."""
    path = tmp_path / "output"

    def started(*arguments, code=None, grace_s=1.0, output=None, env=()):
        argv = [sys.executable, "-S", "-c", code] if code else [sys.executable, "-S", str(SCRIPT), "0", "m", *arguments]
        with Path(output or path).open("ab") as file:
            return GuardedProcess(
                argv,
                env={**os.environ, **dict(env), leftovers.OWNER: leftovers.owner_id(mark)},
                output=file.fileno(),
                grace_s=grace_s,
            )

    started.output = path
    return started


def prepared(start):
    """Wait until the script has its children, daemons and signal handlers."""
    eventually(lambda: b"prepared" in start.output.read_bytes())


@pytest.mark.parametrize(
    ("code", "status"),
    [
        pytest.param("raise SystemExit(0)", 0, id="ends well"),
        pytest.param("raise SystemExit(3)", 3, id="ends badly"),
        pytest.param("import os; os.kill(os.getpid(), 9)", -9, id="is killed"),
        pytest.param("import os; os.abort()", -6, id="aborts"),
    ],
)
def test_the_exit_status_is_told_at_once(start, code, status):
    with start(code=code, grace_s=30) as process:
        assert process.wait(60)
        assert process.returncode == status
    assert process.guard_status == 0
    assert process.remarks == ()


def test_a_command_that_cannot_be_executed_is_told(mark, tmp_path):
    with (
        (tmp_path / "output").open("ab") as file,
        GuardedProcess(["no-such-server"], env=dict(os.environ), output=file.fileno(), grace_s=1) as process,
    ):
        assert process.wait(60)
        assert process.failure == "no-such-server: No such file or directory"


def test_a_look_does_not_block_while_the_server_lives(start):
    with start(code="import time; time.sleep(600)") as process:
        began = time.monotonic()
        assert not process.wait(0)
        assert time.monotonic() - began < 5, "and not 600 s"
        assert process.returncode is None


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param((), id="plain"),
        pytest.param(("ignore-term",), id="ignores SIGTERM"),
        pytest.param(("daemon",), id="daemonised grandchild that ignores SIGTERM"),
        pytest.param(("bare-daemon",), id="daemon without environment"),
        pytest.param(("stopped-child",), id="stopped child"),
        pytest.param(("keep-forking",), id="forks while being killed"),
        pytest.param(("ignore-term", "daemon", "bare-daemon", "stopped-child"), id="all at once"),
    ],
)
def test_leaving_leaves_no_process(start, mark, behaviour):
    with start(*behaviour, grace_s=0.5) as process:
        prepared(start)
        before = [_guard.look_up(pid) for pid in process.pids()]
        assert before
    assert tagged(mark) == []
    now = [_guard.look_up(old.pid) for old in before]
    assert not [new for old, new in zip(before, now, strict=True) if new is not None and new.start == old.start]
    assert process.guard_status == 0


def test_daemons_die_with_a_server_that_ends_by_itself(start, mark):
    with start("exit-with-daemon", grace_s=0.2) as process:
        assert process.wait(60)
        assert process.returncode == 3
        eventually(lambda: tagged(mark) == [])


def test_the_server_gets_its_grace(start, tmp_path):
    said = tmp_path / "said"
    code = (
        "import signal, sys, time, pathlib\n"
        f"def stop(*_): time.sleep(0.3); pathlib.Path({str(said)!r}).write_text('goodbye'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop); print('up', flush=True); time.sleep(600)"
    )
    with start(code=code, grace_s=30) as process:
        eventually(lambda: b"up" in start.output.read_bytes())
        began = time.monotonic()
    assert said.read_text() == "goodbye"
    assert process.returncode == 0
    assert time.monotonic() - began < 15


def test_a_stopped_server_is_woken_to_end_in_order(start):
    with start(code="import time; time.sleep(600)", grace_s=30) as process:
        eventually(lambda: process.wait(0.05) or process.pid)
        os.kill(process.pid, signal.SIGSTOP)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1])
def test_the_guard_is_immune_to(start, number):
    with start(code="import time; time.sleep(600)") as process:
        eventually(lambda: process.wait(0.05) or process.pid)
        os.kill(process.guard.pid, number)
        assert not process.wait(0.2)
    assert process.guard_status == 0


def test_the_server_starts_with_default_signals_and_no_foreign_descriptors(start):
    code = (
        "import os\n"
        "print([line.split()[1] for line in open('/proc/self/status') if line.startswith(('SigIgn', 'SigBlk'))])\n"
        "print(sorted(int(fd) for fd in os.listdir('/proc/self/fd')), os.getsid(0) == os.getpid())"
    )
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a job that a shell started in the background
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        with start(code=code) as process:
            assert process.wait(60)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        signal.signal(signal.SIGINT, old)
    masks, rest = start.output.read_text().splitlines()
    python_ignores = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    assert masks == f"['{0:016x}', '{python_ignores:016x}']"
    assert rest == "[0, 1, 2, 3] True"  # 3 is the listing's own


def test_a_full_log_does_not_hinder_the_guard(start, mark):
    code = "import os, time\ntry: os.write(1, b'x')\nexcept OSError as e: time.sleep(600 if e.errno == 28 else 0)"
    with start(code=code, output="/dev/full") as process:
        assert not process.wait(0.5)
    assert process.guard_status == 0
    assert tagged(mark) == []


def test_orphans_that_end_do_not_pile_up_as_zombies(start):
    code = (
        "import os, time\n"
        "for _ in range(20):\n"
        "    if os.fork() == 0:\n"
        "        os.fork()\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
        "print('done', flush=True); time.sleep(600)"
    )
    with start(code=code) as process:
        eventually(lambda: b"done" in start.output.read_bytes())
        guard = process.guard.pid
        eventually(lambda: sum(found.parent == guard for found in _guard.processes().values()) == 1)


def test_a_stuck_guard_is_woken_or_killed(start, mark, monkeypatch):
    monkeypatch.setattr(guarded, "_MARGIN_S", 0.5)
    with start("daemon", grace_s=0.1) as process:
        prepared(start)
        os.kill(process.guard.pid, signal.SIGSTOP)
    assert tagged(mark) == []


def test_a_killed_guard_takes_the_server_along_and_leaves_no_daemons(start, mark):
    with start("daemon", "ignore-term", grace_s=0.1) as process:
        prepared(start)
        os.kill(process.guard.pid, signal.SIGKILL)
        assert process.wait(60)
        assert process.returncode is None
        assert process.guard_status == -signal.SIGKILL
    assert tagged(mark) == []
    assert "was killed or got stuck" in process.remarks[0]
    assert "left behind by the dead run" in process.remarks[1]


def test_an_interrupt_while_leaving_shortens_the_grace(start, mark):
    def interrupt(*_):
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        process = start("ignore-term", "daemon", grace_s=60)
        with pytest.raises(KeyboardInterrupt), process:  # noqa: PT012
            prepared(start)
            began = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, 0.5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert time.monotonic() - began < 30
    assert process.guard_status == 0  # it did the work, and was not killed itself
    assert tagged(mark) == []


def test_a_signal_reaches_only_the_very_process(start):
    with start(code="import time; time.sleep(600)") as process:
        eventually(lambda: process.wait(0.05) or process.pid)
        alive = _guard.look_up(process.pid)
        assert not _guard.send(alive._replace(start=alive.start - 1), signal.SIGKILL)
        assert not process.wait(0.2)
        assert _guard.send(alive, signal.SIGKILL)
        assert process.wait(60)


def test_a_process_name_with_brackets_is_read(tmp_path):
    name = tmp_path / "a) R 1 (b"
    name.symlink_to("/bin/sleep")
    pid = os.spawnv(os.P_NOWAIT, str(name), [str(name), "600"])
    try:
        eventually(lambda: _guard.look_up(pid).name == "a) R 1 (b")
        assert _guard.look_up(pid).parent == os.getpid()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
