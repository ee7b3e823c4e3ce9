"""What readers of a report see of a server that was loaded."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pytest_autotune.reporting.export import best_document
from pytest_autotune.reporting.junit import junit_text
from pytest_autotune.reporting.markdown import markdown_text
from pytest_autotune.reporting.sending import sending_lines, warning_lines
from pytest_autotune.reporting.serving import serving_words
from pytest_autotune.reporting.terminal import summary_lines
from tests.make_records import batch, trial
from tests.make_reports import BEST, good, report

PREEMPTED = "near out of memory: the KV cache was full, 3 requests had to be computed again"
ENGINE = {
    "engine.running.mean": 7.94,
    "engine.waiting.mean": 3.1,
    "engine.kv_use.max": 0.412,
    "engine.preemptions": 0.0,
    "engine.prefix_hit_rate": 0.0,
    "engine.queue.mean": 0.21,
    "engine.prefill.mean": 0.05,
}
WORDS = "7.9 running, 3.1 waiting, KV cache up to 41 %, no preemption, queued 210 ms (mean), prefill 50 ms (mean)"
MORE = {
    "engine.preemptions": 1.0,
    "engine.prefix_hit_rate": 0.333,
    "engine.draft_acceptance": 0.7,
    "gpu.0.utilisation.mean": 0.9,
    "gpu.1.utilisation.mean": 0.7,
    "gpu.energy": 5000.0,
    "gpu.energy_per_output_token": 0.8125,
    "server.cpu.mean": 1.4321,
    "host.cores": 16,
}


@pytest.mark.parametrize(
    ("server", "words"),
    [
        pytest.param({}, "", id="nothing seen"),
        pytest.param({"engine.scrapes": 0, "engine.failed_scrapes": 3}, "", id="no page"),
        pytest.param(ENGINE, WORDS, id="the engine"),
        pytest.param(
            MORE,
            "1 preemption, 33 % of prompts from the prefix cache, 70 % of drafts accepted, GPUs 80 % busy, "
            "0.812 J per output token, 1.4 of 16 cores used by the server",
            id="its machine",
        ),
        pytest.param({"engine.kv_use.max": 0.999}, "KV cache up to 100 %", id="full"),
    ],
)
def test_what_was_seen_is_told_in_a_line(server, words):
    record = replace(batch(8), server=server)
    assert serving_words(record) == words
    lines = [line for line in sending_lines(record) if ": server: " in line]
    assert lines == ([f"[load] concurrency=8: server: {words}"] if words else [])


def test_what_makes_a_batch_doubtful_is_told_without_being_asked_for():
    record = replace(batch(8), remarks=("steady state: level", PREEMPTED))
    assert warning_lines(record) == [f"[load] concurrency=8: {PREEMPTED}"]


def test_every_report_of_the_best_has_what_its_server_did():
    record = replace(good(8, 231.7), server=ENGINE, remarks=(PREEMPTED,))
    told = report(trial(2, record, argv=BEST.argv, configuration=BEST.configuration))
    assert f"  [load] concurrency=8: {PREEMPTED}" in summary_lines(told)
    assert f"  [load] concurrency=8: server: {WORDS}" in summary_lines(told, verbose=True)
    assert f"\nThe best at concurrency=8: {WORDS}.\n" in markdown_text([told])
    assert f"\nserver: {WORDS}</system-out>" in junit_text([told])
    (exported,) = best_document(told, told.selection.best)["best"]["batches"]
    assert json.loads(json.dumps(exported["server"])) == ENGINE


def test_a_best_of_which_nothing_was_seen_is_reported_as_before():
    assert "The best at" not in markdown_text([report(BEST)])
    assert "server:" not in "".join(summary_lines(report(BEST), verbose=True))
