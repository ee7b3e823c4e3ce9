"""A parameter that exists under a condition, from the suite's file to the server's command line."""

import json

import pytest

SUITE = """\
name: conditions
engine: sim
model: llama-3.1-8b
parameters:
  kv-cache-dtype: [auto, fp8]
  block-size: {choice: [16, 32], when: kv-cache-dtype == 'fp8'}
  max-num-seqs: [8, 64]
forbidden:
  - {max-num-seqs: 8, block-size: 32}
  - {max-num-seqs: 8, kv-cache-dtype: auto}
fixed: {gpu: H100, time-scale: 0.2, max-model-len: 4096}
load: {prompt_tokens: 64, output_tokens: 8, concurrency: [2], duration: 300ms, warmup: 0s}
slo: {ttft.p90: 5s}
search: {strategy: STRATEGY, trials: 9, defaults: false}
timeouts: {stop: 1s}
"""


@pytest.mark.parametrize("strategy", ["grid", "random"])
def test_server_is_not_told_a_parameter_whose_condition_does_not_hold(project, strategy):
    project.suite(SUITE.replace("STRATEGY", strategy))
    result = project.run("suites", "--autotune", "-v")
    assert result.ret == 0, result.stdout.str()
    with project.store() as store:
        (run,) = store.runs()
        trials = store.trials_of_run(run.id)
    tried = {json.dumps(trial.configuration): trial.argv for trial in trials}
    assert sorted(tried) == [
        '{"kv-cache-dtype": "auto", "max-num-seqs": 64}',
        '{"kv-cache-dtype": "fp8", "block-size": 16, "max-num-seqs": 64}',
        '{"kv-cache-dtype": "fp8", "block-size": 16, "max-num-seqs": 8}',
        '{"kv-cache-dtype": "fp8", "block-size": 32, "max-num-seqs": 64}',
    ]
    for configuration, argv in tried.items():
        assert ("--block-size" in argv) is ("block-size" in configuration)
    (best,) = (project.path / ".autotune").glob("*/conditions/best.json")
    document = json.loads(best.read_text())
    assert document["best"]["configuration"] in [json.loads(configuration) for configuration in tried]
    if strategy == "grid":
        result.stdout.fnmatch_lines(
            [
                "*::kv-cache-dtype:auto-max-num-seqs:64::c2 COMPLIANT*",
                "*::kv-cache-dtype:fp8-block-size:16-max-num-seqs:8::c2 COMPLIANT*",
            ]
        )


def test_trials_of_different_parameters_have_different_names(project):
    project.suite(
        """\
name: names
engine: command
command: [sh, "{port}", "{flags}"]
parameters:
  a: [x-c, x]
  b: {choice: [1], when: a == 'x-c'}
  c-b: {choice: [1], when: a == 'x'}
load: {concurrency: [1]}
search: {defaults: false}
"""
    )
    result = project.run("suites", "--autotune", "--collect-only", "-q", "-k", "deploy")
    trials = [line.split("::")[1] for line in result.outlines if "::" in line]
    assert trials == ["a:x-c-b:1", "a:x-c-b:1+2f64362931243473"]
