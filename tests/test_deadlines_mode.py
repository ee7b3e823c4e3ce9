"""A deployment that hangs, in whichever phase, ends with that phase's budget, and nothing of it reaches the next one."""

import re
import time
from pathlib import Path

import psutil
import pytest

# Servers that do not want to end: they ignore SIGTERM, and leave a daemon that holds on to log and port.
STUBBORN = '"ignore-sigterm", "grandchildren=1", "spam-log=50"'
SUITE = f"""\
name: hanging
engine: sim
model: llama-3.1-8b
parameters:
  fault:
    - ["slow-start=120s", {STUBBORN}]
    - ["hang-after-accept=1", {STUBBORN}]
    - ["hang-after-headers=0.99", {STUBBORN}]
    - [{STUBBORN}]
fixed: {{time-scale: 0.1}}
load: {{prompt_tokens: 32, output_tokens: 8, concurrency: 1, duration: 500ms, warmup: 100ms, request_timeout: 60s}}
slo: {{ttft.p90: 10s}}
search: {{defaults: false}}
timeouts: {{start: 5s, ready: 3s, batch: 4s, alive: 2s, stop: 1s}}
"""
START, READY, BATCH, ALIVE, STOP = 5.0, 3.0, 4.0, 2.0, 1.0  # of that suite, in seconds
LATE = 2.0  # what a phase may take beyond its budget


@pytest.mark.alone
@pytest.mark.slow
def test_each_phase_ends_with_its_budget_and_the_next_trial_sees_nothing_of_it(project):
    project.suite(SUITE, "hanging.yaml")
    result = project.run("suites", "--autotune", "-v", "-p", "no:cacheprovider")
    assert result.ret == 1
    with project.store() as store:
        trials = store.trials_of_run(store.runs()[0].id)
    never, mute, slow, whole = trials

    assert (never.status, never.cause, never.deploy_s) == ("failed", "timeout", None)
    assert "no health within 5 s (timeouts.start)" in never.reason
    assert START <= never.elapsed_s <= START + STOP + LATE

    assert (mute.status, mute.cause, mute.deploy_s) == ("failed", "timeout", None)
    assert "within 3 s (timeouts.ready)" in mute.reason
    assert READY <= mute.elapsed_s <= START + READY + STOP + LATE

    (batch,) = slow.batches
    assert (batch.status, batch.cause) == ("died", "engine dead behind a healthy front")
    assert "no complete answer within 2 s (timeouts.alive), while /health answers 200" in batch.reason
    assert BATCH <= slow.elapsed_s - slow.deploy_s <= BATCH + ALIVE + STOP + LATE

    # It is stopped as slowly as the others, which takes nothing from what was measured before.
    (batch,) = whole.batches
    assert (whole.status, batch.status) == ("compliant", "measured")
    assert whole.elapsed_s >= whole.deploy_s + 0.6 + STOP

    logs = [Path(trial.server_log) for trial in trials]
    texts = [log.read_text() for log in logs]
    names = [re.findall(r"hanging-[0-9a-f]{8}", text) for text in texts]
    assert [len(set(found)) for found in names] == [1, 1, 1, 1]
    assert len({found[0] for found in names}) == 4
    assert [text.count("[spam] line 0 ") for text in texts] == [1, 1, 1, 1]
    daemons = [int(pid) for text in texts for pid in re.findall(r"grandchild pid=(\d+)", text)]
    assert len(daemons) == 4
    assert [pid for pid in daemons if psutil.pid_exists(pid)] == []
    time.sleep(0.5)  # a daemon that lived on would have written 25 lines
    assert [log.read_text() for log in logs] == texts
