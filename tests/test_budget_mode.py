"""`search: {time, gpu_time, patience}` from the user's side."""

import json

SUITE = """\
name: quick
engine: sim
model: llama-3.1-8b
parameters: {max-num-seqs: [64, 48, 32, 24]}
fixed: {gpu: H100, time-scale: 0.2, max-model-len: 4096}
load: {prompt_tokens: 64, output_tokens: 16, concurrency: 1, duration: 400ms, warmup: 0s}
search: {defaults: false, BUDGET}
timeouts: {stop: 1s}
"""


def test_a_search_without_patience_left_ends_is_judged_and_says_what_it_saved(project):
    # Without graphs a step takes a third longer: the second trial is clearly worse. Equal ones would do each better
    # than the last by chance, of four once in 24 times.
    suite = SUITE.replace("BUDGET", "patience: 1")
    project.suite(suite.replace("[64, 48, 32, 24]", "[64, 48, 32, 24, 16], enforce-eager: [false, true]"))
    result = project.run("suites", "--autotune", "-v", "-rs")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "*::gate PASSED*",
            "*the search has ended: * in a row brought nothing better*",
            "*saved * of 10 deployments and about * GPU time, against the full grid with fixed durations*",
            "*SKIPPED*the search has ended: * in a row brought nothing better*",
        ]
    )
    (best,) = (project.path / ".autotune").glob("*/*/best.json")
    measured = json.loads(best.read_text())["measured"]
    assert measured["ended"].endswith("in a row brought nothing better")
    assert measured["spent"]["deployments"] < measured["full_grid"]["deployments"] == 10


def test_a_larger_budget_continues_the_search(project):
    suite = project.suite(SUITE.replace("BUDGET", "strategy: random, trials: 3, gpu_time: 100ms"))
    first = project.run("suites", "--autotune", "-rs")
    assert first.parseoutcomes()["deployed"] == 1
    first.stdout.fnmatch_lines(["*the search has ended: its GPU time is spent: * of 100 ms*"])
    suite.write_text(suite.read_text().replace(", gpu_time: 100ms", ""))
    second = project.run("suites", "--autotune", "-v")
    assert second.parseoutcomes()["deployed"] == 3
    second.stdout.fnmatch_lines(
        ["*trial-000::deploy DEPLOYED *recorded*", "*: 3 trials *, 1 recorded before, 2 servers *"]
    )
