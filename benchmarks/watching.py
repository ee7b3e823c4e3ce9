"""What it costs to look at a server while it is loaded: CPU of one look, by part, on this machine.

    python -m benchmarks.watching [--page FILE]

A look happens once a second, in the process of pytest, and not in those that send the load. The page is the embedded
engine's; `--page` reads one of another engine's from a file instead.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pytest_autotune.control import Control
from pytest_autotune.engines.metric_names import VLLM
from pytest_autotune.telemetry.exposition import read_page
from pytest_autotune.telemetry.machine import Machine
from tests.simserver import FAST, sim_server

if TYPE_CHECKING:
    from collections.abc import Callable

LOOKS = 200


def main() -> None:
    """Print milliseconds of CPU for a page, for reading it, and for reading the machine."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--page", type=Path, help="a Prometheus page in a file")
    options = parser.parse_args()
    with sim_server(*FAST) as server:
        control = Control(f"http://127.0.0.1:{server.port}")
        page = options.page.read_text() if options.page else control.metrics()
        machine = Machine(lambda: [server.process.pid])
        parts: dict[str, Callable[[], object]] = {
            "fetching the page": control.metrics,
            f"reading {len(page) / 1024:.0f} KiB of it": lambda: read_page(page, VLLM.lines()),
            f"reading the machine ({len(psutil.pids())} processes)": machine.read,
        }
        for name, part in parts.items():
            print(f"{name}: {cpu_ms(part):.2f} ms of CPU")


def cpu_ms(part: Callable[[], object]) -> float:
    """Return the CPU time of one call, the mean of many."""
    part()
    before_s = time.process_time()
    for _ in range(LOOKS):
        part()
    return (time.process_time() - before_s) / LOOKS * 1000


if __name__ == "__main__":
    main()
