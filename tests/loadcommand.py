"""Runs ``python -m pytest_autotune load`` as a user would, in a process of its own.

It measures for real, but takes every measurement: the machine that runs the tests may be too busy to
time a server. The file is what the process runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

QUICK = ("--prompt-tokens", "32", "--output-tokens", "8", "--duration", "1s", "--warmup", "200ms")
ROOT = Path(__file__).resolve().parent.parent


def start(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    return subprocess.Popen(command, env=environment, **pipes)


def load(*arguments, timeout=300, **options):
    """Return exit status, output, and what was said on the side."""
    with start("load", *arguments, **options) as process:
        output, said = process.communicate(timeout=timeout)
    return process.returncode, output, said


def read(path):
    return json.loads(Path(path).read_text())


if __name__ == "__main__":
    from dataclasses import replace

    from pytest_autotune.__main__ import main
    from pytest_autotune.load import http

    class Tolerant(http.HttpLoad):
        def run(self, *arguments, **keywords):
            measurement = super().run(*arguments, **keywords)
            return replace(measurement, client=replace(measurement.client, saturated=None))

    http.HttpLoad = Tolerant
    sys.exit(main())
