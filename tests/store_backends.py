"""Fixtures: the URL of an empty store, once on SQLite and once on a real PostgreSQL server."""

import ctypes
import itertools
import os
import pwd
import shutil
import signal
import subprocess
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
    initdb = Path(found).parent / "initdb"
    root = Path(tempfile.mkdtemp(prefix="autotune-pg-"))
    user = _unprivileged_user()
    if user is not None:
        os.chown(root, user.pw_uid, user.pw_gid)
    identity = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    quiet = {"cwd": root, "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    cluster = [initdb, "-D", root / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run(cluster, check=True, stderr=subprocess.PIPE, **quiet, **identity)
    settings = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={root}", "-c", "fsync=off"]
    libc = ctypes.CDLL(None)
    with (root / "server.log").open("w") as log:
        server = subprocess.Popen(
            [found, "-D", root / "data", *settings],
            stderr=log,
            preexec_fn=lambda: libc.prctl(1, signal.SIGQUIT),  # noqa: PLW1509 - PR_SET_PDEATHSIG: dies with the tests
            **quiet,
            **identity,
        )
    try:
        _wait_for(root / ".s.PGSQL.5432", server, root / "server.log")
        yield root
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=20)
        shutil.rmtree(root)


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


def _wait_for(socket, server, log):
    import psycopg

    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(f"host={socket.parent} user=postgres dbname=postgres").close()
        except psycopg.OperationalError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        else:
            return
