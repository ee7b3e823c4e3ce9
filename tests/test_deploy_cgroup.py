"""The kernel's count of what it killed for want of memory, in both versions of control groups."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_autotune.deploy.cgroup import counters, read_count

ROOT = Path("/sys/fs/cgroup")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        pytest.param("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n", 2, id="version 2"),
        pytest.param("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", 7, id="version 1"),
        pytest.param("oom_kill_disable 0\nunder_oom 0\n", None, id="before Linux 4.13"),
        pytest.param("oom_kill many\n", None, id="no number"),
        pytest.param("", None, id="empty"),
    ],
)
def test_the_count_is_read(text, count):
    assert read_count(text) == count


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        pytest.param("0::/a/b\n", ["a/b/memory.events", "memory.events"], id="version 2"),
        pytest.param("0::/\n", ["memory.events"], id="version 2 in a container"),
        pytest.param(
            "4:memory:/a\n3:cpu,cpuacct:/b\n0::/\n",
            ["memory/a/memory.oom_control", "memory/memory.oom_control", "memory.events"],
            id="both versions",
        ),
        pytest.param("3:cpu,cpuacct:/b\n", [], id="no memory controller"),
        pytest.param("nonsense", ["memory.events"], id="nonsense"),
    ],
)
def test_the_files_are_those_of_the_group(groups, files):
    assert counters(groups, ROOT) == [ROOT / file for file in files]


@contextlib.contextmanager
def limited_group(limit_bytes):
    """Make a control group with a limit of memory; skip where this process may not."""
    first = (ROOT / "memory").is_dir()
    group = (ROOT / "memory" if first else ROOT) / f"pytest-autotune-{secrets.token_hex(4)}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        try:
            (group / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(limit_bytes))
        except OSError as error:
            pytest.skip(f"a control group has no limit here: {error}")
        yield group
    finally:
        for _ in range(100):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.05)


def test_a_server_that_the_kernel_killed_ran_out_of_memory(tmp_path):
    with limited_group(400 * 2**20) as group:
        command = [sys.executable, Path(__file__).with_name("memory_group.py"), group, tmp_path / "server.log"]
        environment = {"PYTHONPATH": str(Path(__file__).parent.parent)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.stdout.startswith("Infeasible out of memory: host: killed by SIGKILL while the kernel"), done
