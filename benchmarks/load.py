"""Hold the load generator and its peers against the truth: python -m benchmarks.load [point ...] [--quick].

Points: truth, peers, open, stall, capacity, memory, or all. The server has the first core and the
clients the others. It prints each figure with the limit that is asked for, and asserts nothing:
the figures are the machine's.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import tempfile
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.clients import PEERS_PYTHON, VLLM_PYTHON, Client, Raw, Script, VllmBench, missing_from
from benchmarks.closed_loops import capacity, memory, truth
from benchmarks.closed_loops import peers as compare
from benchmarks.open_loops import open_loop, stall
from benchmarks.processes import ClientError
from benchmarks.tables import Printer
from benchmarks.tools import TOOLS, GenaiBench, GuideLlm, which
from benchmarks.truth import build

POINTS = {
    "truth": truth,
    "peers": compare,
    "open": open_loop,
    "stall": stall,
    "capacity": capacity,
    "memory": memory,
}
TINY_MODEL = Path(__file__).parents[1] / "tests" / "real" / "tiny_model.py"


def main() -> None:
    """Run the points that were asked for, in their order."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description="Load generators against the truth.")
    parser.add_argument("points", nargs="*", metavar="point", default=["all"], help=f"{', '.join(POINTS)}, or all")
    parser.add_argument("--quick", action="store_true", help="short runs, once each: to see that it works")
    parser.add_argument("--repetitions", type=int, help="runs whose median counts (3, or 1 with --quick)")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument(
        "--without", default="", metavar="NAMES", help="leave out peers whose name has one of these, by commas"
    )
    asked = parser.parse_args()
    points = list(POINTS) if "all" in asked.points else asked.points
    if unknown := [point for point in points if point not in POINTS]:
        parser.error(f"no point {unknown[0]!r} (one of {', '.join(POINTS)}, all)")
    out = Printer(markdown=asked.markdown)
    out.note(machine())
    with tempfile.TemporaryDirectory(prefix="benchmark-") as text:
        directory = Path(text)
        left_out = [part for part in asked.without.split(",") if part]
        clients = [
            client for client in peers(directory / "tokenizer") if not any(part in client.name for part in left_out)
        ]
        for client in clients:
            if missing := client.missing():
                out.note(f"without {client.name}: {missing}")
        clients = [client for client in clients if not client.missing()]
        if any(isinstance(client, VllmBench | GenaiBench | GuideLlm) for client in clients):
            write_model(directory / "tokenizer")
        bench = Bench(
            build(directory),
            Raw(build(directory, "rawclient")),
            clients,
            repetitions=asked.repetitions or (1 if asked.quick else 3),
            quick=asked.quick,
        )
        for point in points:
            try:
                POINTS[point](bench, out)
            except ClientError as error:
                out.note(f"{point}: {error}")


def peers(tokenizer: Path) -> list[Client]:
    """Return every peer, installed or not."""
    return [
        VllmBench(tokenizer),
        Script("Locust FastHttpUser", "locust_fast.py", package="locust", open_loop=False),
        Script("aiohttp, naive", "aiohttp_naive.py", package="aiohttp", open_loop=True),
        Script("httpx, naive", "httpx_naive.py", package="httpx", open_loop=False, most_streams=64),
        GenaiBench(tokenizer),
        GuideLlm(tokenizer),
    ]


def machine() -> str:
    """Describe where the figures come from."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    cores = len(os.sched_getaffinity(0))
    load, _, _ = os.getloadavg()
    return f"{cores} cores of {model}, Linux {platform.release()}, Python {platform.python_version()}, load {load:.1f}"


def write_model(directory: Path) -> None:
    """Write the tiny model, whose tokenizer whole tools need, by an interpreter that has `transformers`."""
    environments = (VLLM_PYTHON, PEERS_PYTHON, *(Path(tool).with_name("python") for tool in map(which, TOOLS) if tool))
    python = next(python for python in environments if not missing_from(python, "transformers", ""))
    subprocess.run([str(python), str(TINY_MODEL), str(directory)], check=True, capture_output=True)


if __name__ == "__main__":
    main()
