"""`search: {confirm: 1}` from the user's side."""

import json

SUITE = """\
name: quick
engine: sim
model: llama-3.1-8b
parameters: {tensor-parallel-size: [4, 2]}
fixed: {gpu: H100, time-scale: 0.2, max-model-len: 4096}
load: {prompt_tokens: {uniform: [16, 400]}, output_tokens: 16, concurrency: 4, duration: 400ms, warmup: 0s}
search: {confirm: 1, repeats: 1}
timeouts: {stop: 1s}
"""


def first_lengths(store, trial):
    samples = sorted(store.samples(trial.id, trial.batches[0].level), key=lambda sample: sample.sent_s)
    return sorted(sample.prompt_tokens for sample in samples[:4])


def test_the_best_and_the_defaults_are_deployed_again_and_one_row_stands_for_each_configuration(project):
    project.suite(SUITE)
    result = project.run("suites", "--autotune", "-v")
    assert result.ret == 0
    assert result.parseoutcomes()["deployed"] == 5
    result.stdout.fnmatch_lines(
        [
            "*::confirm-1-1::deploy DEPLOYED *",
            "*::confirm-1-2::deploy DEPLOYED *",
            "*: 3 trials (3 compliant), 5 servers started*",
            "*measured again: 2 configurations, in changing order and with other prompts; of each the worst counts*",
            "*drift: the engine's defaults had * first and * last (*), of 2 measurements*",
            "*compliant, worst of 2*",
        ]
    )
    (best,) = (project.path / ".autotune").glob("*/*/best.json")
    (repeat,) = json.loads(best.read_text())["best"]["repeats"]
    assert repeat["status"] == "compliant"
    with project.store() as store:
        (run,) = store.runs()
        trials = {trial.slot: trial for trial in store.trials_of_run(run.id)}
        prompts = {slot: first_lengths(store, trial) for slot, trial in trials.items()}
    assert trials["confirm-1-1"].configuration != trials["confirm-1-2"].configuration
    assert {} in (trials["confirm-1-1"].configuration, trials["confirm-1-2"].configuration)
    first = prompts["defaults"]
    assert prompts["tensor-parallel-size:2"] == prompts["tensor-parallel-size:4"] == first
    assert prompts["confirm-1-1"] != first


def test_nothing_is_confirmed_when_nothing_complies(project):
    suite = project.suite(SUITE + "slo: {ttft.p90: 1us}\n")
    result = project.run(str(suite), "--autotune", "-rs")
    assert result.ret == 1
    assert result.parseoutcomes()["deployed"] == 3
    result.stdout.fnmatch_lines(["*SKIPPED*nothing to confirm: the search has 0 configurations to measure again*"])
