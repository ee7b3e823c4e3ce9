"""How well parallel trials fill the GPUs that they share.

python -m benchmarks.packing

Trials that need 1, 2 and 4 GPUs run on four workers and eight pretended GPUs. The ideal is no schedule but a bound
that none can beat: no idle GPUs, or no idle workers, or the longest trial alone. What a trial takes is how long
it held its GPUs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.tables import Printer

GPUS, WORKERS, TRIALS, LIMIT = 8, 4, 24, 0.85
ORDERS = {  # of the parameters, of which the last one changes fastest
    "mixed": "{max-num-seqs: SEQS, tensor-parallel-size: [1, 2, 4]}",
    "small first": "{tensor-parallel-size: [1, 2, 4], max-num-seqs: SEQS}",
    "large first": "{tensor-parallel-size: [4, 2, 1], max-num-seqs: SEQS}",
}
SUITE = """\
name: packing
engine: sim
model: llama-3.1-8b
gpus: {{pretend: {gpus}}}
parameters: {parameters}
fixed: {{gpu: H100, time-scale: 0.2, max-model-len: 4096}}
load: {{prompt_tokens: 64, output_tokens: 16, concurrency: 2, duration: 2s, warmup: 100ms}}
slo: {{ttft.p90: 30s}}
search: {{defaults: false}}
timeouts: {{stop: 2s}}
"""
LINE = re.compile(r"(\S+)Z INFO \S+: packing (\S+ on|gives back) pretended GPUs? ([\d, ]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Held:
    """What one trial held."""

    gpus: int
    begun_s: float
    ended_s: float

    @property
    def duration_s(self) -> float:
        """For how long."""
        return self.ended_s - self.begun_s


def main() -> None:
    """Print how near each order of the trials comes to the ideal."""
    printer = Printer(markdown="--markdown" in sys.argv)
    printer.title("packing", f"{TRIALS} trials, {WORKERS} workers, {GPUS} pretended GPUs")
    rows = []
    shares = []
    for order, parameters in ORDERS.items():
        held = measured(parameters)
        took_s = max(each.ended_s for each in held) - min(each.begun_s for each in held)
        shares.append(ideal_s(held) / took_s)
        gpu_s = sum(each.gpus * each.duration_s for each in held)
        rows.append((order, f"{gpu_s:.1f}", f"{ideal_s(held):.1f}", f"{took_s:.1f}", f"{shares[-1]:.0%}"))
    printer.table(("order", "GPU s", "ideal s", "took s", "of the ideal"), rows)
    printer.verdict("the worst order", min(shares), LIMIT, "of the ideal", at_least=True)


def ideal_s(held: list[Held]) -> float:
    """Return the time in which no schedule could have been shorter."""
    by_gpus = sum(each.gpus * each.duration_s for each in held) / GPUS
    by_workers = sum(each.duration_s for each in held) / WORKERS
    return max(by_gpus, by_workers, *(each.duration_s for each in held))


def measured(parameters: str) -> list[Held]:
    """Run a suite in a directory of its own, and read from its logs what its trials held."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "suites").mkdir()
        seqs = str([16 * (1 + number) for number in range(TRIALS // 3)])
        text = SUITE.format(gpus=GPUS, parameters=parameters.replace("SEQS", seqs))
        (directory / "suites" / "packing.yaml").write_text(text)
        argv = (sys.executable, "-m", "pytest", "-q", "suites", "--autotune", "-n", str(WORKERS))
        env = {**os.environ, "TMPDIR": name}  # so that nobody else's leases are in the way
        subprocess.run([*argv, "-p", "no:cacheprovider"], cwd=directory, env=env, check=True, stdout=subprocess.DEVNULL)
        logs = (directory / ".autotune").glob("*/run-*.log")
        return [held for log in logs for held in held_by(log.read_text())]


def held_by(log: str) -> list[Held]:
    """Return what the trials of one worker held, one after the other."""
    events = [(datetime.fromisoformat(at).timestamp(), len(gpus.split(","))) for at, _, gpus in LINE.findall(log)]
    return [
        Held(count, begun_s, ended_s) for (begun_s, count), (ended_s, _) in zip(events[::2], events[1::2], strict=True)
    ]


if __name__ == "__main__":
    main()
