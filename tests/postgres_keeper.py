"""Runs a PostgreSQL server in the background until its standard input closes: ``postgres_keeper.py BINARY DIRECTORY USER``."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def keep(binary, root, identity):
    settings = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={root}", "-c", "fsync=off"]
    with (root / "server.log").open("w") as log:
        command = [binary, "-D", root / "data", *settings]
        with subprocess.Popen(
            command, cwd=root, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **identity
        ) as server:
            sys.stdin.read()  # until the tests close it, or are killed
            server.send_signal(signal.SIGINT)


if __name__ == "__main__":
    if os.fork() == 0:
        os.setsid()
        keep(sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]))
