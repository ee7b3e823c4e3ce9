"""What the server said while it was loaded, from the user's side."""

from __future__ import annotations

import json

import pytest

from tests.documents import ROOT, table

METRICS = (ROOT / "docs" / "metrics.md").read_text()
# Requests come twelve at a time: where two are computed at once the others wait, and where long prompts are
# computed one after the other nobody waits for a place.
QUEUEING = """\
name: queueing
engine: sim
model: llama-3.1-8b
parameters: {max-num-seqs: [2, 64]}
fixed: {gpu: H100, max-model-len: 4096}
load: {prompt_tokens: 128, output_tokens: 24, concurrency: [12], duration: 1500ms, warmup: 500ms}
slo: {ttft.p50: 300ms}
search: {defaults: false}
timeouts: {stop: 1s}
"""
COMPUTE = """\
name: compute
engine: sim
model: llama-3.1-8b
fixed: {gpu: H100, max-model-len: 4096, max-num-seqs: 64}
load: {prompt_tokens: 3000, output_tokens: 8, concurrency: [2], duration: 1500ms, warmup: 500ms}
slo: {ttft.p50: 20ms}
timeouts: {stop: 1s}
"""
MARGIN_S = 0.25  # between what the server counts and when the client has it, on a busy machine


@pytest.fixture
def ran(project):
    project.suite(QUEUEING, "queueing.yaml")
    project.suite(COMPUTE, "compute.yaml")
    result = project.run(
        "suites", "--autotune", "-v", "--autotune-junit=verdict.xml", "--autotune-export=markdown=summary.md"
    )
    return project, result


@pytest.mark.slow
def test_queueing_and_compute_are_told_apart_and_what_is_counted_is_true(ran):
    project, result = ran
    result.stdout.fnmatch_lines(
        [
            "*c12 VIOLATES max-num-seqs=2 (ttft.p50: *; because of queueing: * % of a mean ttft of * in the engine's queue,*"
        ]
    )
    result.stdout.fnmatch_lines(
        ["*c2 VIOLATES * (ttft.p50: *; because of compute: *, * % computing the prompt, * % outside the engine)*"]
    )
    result.stdout.fnmatch_lines(["*[[]load] concurrency=12: server: 2.0 running, *.* waiting, KV cache up to *"])

    (batch,) = json.loads(next(project.path.rglob("best.json")).read_text())["best"]["batches"]
    assert 2 < batch["server"]["engine.running.max"] <= 12
    documented = table(METRICS, "What the server says").keys()
    assert {name if name in documented else name.rpartition(".")[0] for name in batch["server"]} <= documented
    verdict = project.testcases("verdict.xml")["queueing.c12"]
    assert "\nserver: " in verdict.findtext("system-out")

    assert "The best at concurrency=12: " in (project.path / "summary.md").read_text()

    with project.store() as store:
        (run,) = store.runs()
        trials = store.trials_of_run(run.id)
        assert len(trials) == 3
        for trial in trials:
            (record,) = trial.batches
            said = record.server
            ends = [sample.end_s for sample in store.samples(trial.id, record.level)]
            low, high = said["engine.from_s"], said["engine.to_s"]
            assert abs(low) < 1.5
            assert abs(high - record.window_s) < 1.5
            surely = sum(low + MARGIN_S < end < high - MARGIN_S for end in ends)
            possibly = sum(low - MARGIN_S < end < high + MARGIN_S for end in ends)
            assert 0 < surely <= said["engine.finished"] <= possibly + after_the_window(record, high)
            assert said["engine.queue.count"] == said["engine.finished"]
            assert said["engine.failed_scrapes"] == 0
            assert said["server.cpu.mean"] > 0


def after_the_window(record, until_s):
    """Return how many requests may end behind the window that are in no figure, as they were sent behind it."""
    rate = record.metrics["request_throughput"]
    return rate * max(until_s + MARGIN_S - record.window_s, 0.0) + record.level.value
