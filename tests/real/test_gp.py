"""Strategy `gp` with a real torch, which the environment of the real vLLM has."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("PYTEST_AUTOTUNE_VLLM_PYTHON", "")

pytestmark = [
    pytest.mark.xdist_group("real"),
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="set PYTEST_AUTOTUNE_VLLM_PYTHON to a Python that has torch and optuna"),
]

PLAY = """
import json, sys
from pytest_autotune.constraints import Constraint
from pytest_autotune.search import Observation, suggest
from pytest_autotune.space import Choice, Integer, Space

space = Space(
    (Choice("tp", (1, 2, 4, 8)), Integer("seqs", 16, 512, log=True), Choice("kv", ("auto", "fp8"))),
    (Constraint("seqs >= 8 * tp"),),
)

def server(one):
    crash = 1500.0 if one["kv"] == "fp8" and one["seqs"] > 300 else 0.0
    miss = 1.0 if crash else one["seqs"] / 64 / one["tp"] - 2
    value = None if crash or miss > 0 else one["seqs"] / one["tp"] ** 0.5
    return Observation(one, "done", value, {"tpot": miss, "crash": crash})

def play(strategy, seed, number):
    rows = []
    for _ in range(number):
        rows.append(server(suggest(space, rows, seed=seed, strategy=strategy)))
    return rows

rows = play("gp", 3, 24)
again = suggest(space, rows[:15], seed=3, strategy="gp")
running = Observation(rows[15].configuration, "running")
beside = suggest(space, [*rows[:15], running], seed=3, strategy="gp")
print(json.dumps({
    "configurations": [row.configuration for row in rows],
    "allowed": all(space.allows(row.configuration, {}) for row in rows),
    "again": again,
    "beside": beside,
    "crashes": [row.constraints["crash"] > 0 for row in rows],
    "values": [row.value for row in rows],
}))
"""


def test_optunas_gaussian_process_learns_from_misses_and_crashes():
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [PYTHON, "-W", "ignore", "-c", PLAY]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    configurations = [json.dumps(one, sort_keys=True) for one in told["configurations"]]
    assert told["allowed"]
    assert len(set(configurations)) == 24
    assert json.dumps(told["again"], sort_keys=True) == configurations[15]
    assert json.dumps(told["beside"], sort_keys=True) not in configurations[:16]
    assert sum(told["crashes"][10:]) <= 4
    learnt, drawn = told["values"][10:], told["values"][:10]
    assert max(value or 0.0 for value in learnt) > max(value or 0.0 for value in drawn)
