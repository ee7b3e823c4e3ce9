"""Fixtures: the URL of an empty store, once on SQLite and once on a real PostgreSQL server."""

import itertools
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

_databases = itertools.count(1)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'results.db'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path / 'results.db'}"


@pytest.fixture
def postgres_url(postgres_server):
    import psycopg

    name = f"store_{next(_databases)}"
    with psycopg.connect(f"host={postgres_server} user=postgres dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql://postgres@/{name}?host={postgres_server}"


@pytest.fixture(scope="session")
def postgres_server():
    """A server of our own on a Unix socket; yields the socket's directory."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (the postgres extra)")
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    found = shutil.which("postgres") or (str(binaries[-1]) if binaries else None)
    if found is None:
        pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    with tempfile.TemporaryDirectory(prefix="autotune-pg-") as directory:
        yield from _serve(found, Path(directory))


def _serve(found, root):
    """Yield `root`, in which the server's socket is."""
    user = _unprivileged_user()
    if user is not None:
        os.chown(root, user.pw_uid, user.pw_gid)
    identity = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG")}
    cluster = [
        Path(found).parent / "initdb",
        "-D",
        root / "data",
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
        "--no-sync",
    ]
    done = subprocess.run(cluster, cwd=root, env=clean, capture_output=True, text=True, check=False, **identity)
    assert done.returncode == 0, done.stderr
    keeper = [sys.executable, Path(__file__).with_name("postgres_keeper.py"), found, root, json.dumps(identity)]
    # Away from the tests' own process tree, which they watch for leftovers.
    with subprocess.Popen(keeper, stdin=subprocess.PIPE, env=clean) as starting:
        starting.wait(timeout=60)
        _wait_for(root / ".s.PGSQL.5432", root / "server.log")
        yield root
    deadline = time.monotonic() + 120
    while (root / "data" / "postmaster.pid").exists():
        assert time.monotonic() < deadline, (root / "server.log").read_text()
        time.sleep(0.02)


def _unprivileged_user():
    """The server refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")


def _wait_for(socket, log):
    import psycopg

    deadline = time.monotonic() + 120
    while True:
        try:
            psycopg.connect(f"host={socket.parent} user=postgres dbname=postgres").close()
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, log.read_text() if log.exists() else "it never started"
            time.sleep(0.05)
        else:
            return
