"""The benchmark of the gate: what it keeps of gates, and what it says of all that were kept."""

import json
import subprocess
import sys

from tests.documents import ROOT


def line(candidate, said, *throughputs, engine="sim"):
    pairs = [[{"c8": {"output_throughput": 100.0}}, {"c8": {"output_throughput": now}}] for now in throughputs]
    return json.dumps({"engine": engine, "candidate": candidate, "said": said, "took_s": 60.0, "pairs": pairs})


def test_gates_of_earlier_runs_are_shown_together(tmp_path):
    kept = tmp_path / "gates.jsonl"
    lines = [
        line("equal", "no change", 100.0, 101.0, 99.0),
        line("equal", "open", 90.0, 100.0),
        line("worse", "regression", 90.0, 91.0, 90.0, 91.0),
        line("equal", "regression", 1.0, 1.0, engine="vllm"),
    ]
    kept.write_text("".join(f"{each}\n" for each in lines))
    command = [sys.executable, "-m", "benchmarks.gate", "--gates", "0", "--results", kept, "--markdown"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "| equal | 2 | 0 | 50.0% (9.5% to 90.5%) | 50.0% (9.5% to 90.5%) | 0 | 2.5 | 60 | 1 of 2 |" in shown
    assert "| worse | 1 | 100.0% (20.7% to 100.0%) | 0 | 0 | 0 | 4.0 | 60 | 1 of 1 |" in shown
    assert "| output_throughput | 4.4% | 3 | 7.5% |" in shown  # of differences in logarithms, within each gate
