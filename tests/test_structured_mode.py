"""Structured values from the suite's file to the server's command line, the store and the exports."""

import json

from pytest_autotune.engines.sim.arguments import non_default, parse

SUITE = """\
name: structured
engine: sim
model: llama-3.1-8b
parameters:
  parallelism: [tp1, {tp: 2}]
  quantization: [kv-cache-fp8, default]
fixed: {gpu: H100, time-scale: 0.2, context_length: 4096, eager: true, max_sequences: 16}
load: {prompt_tokens: 64, output_tokens: 8, concurrency: [2], duration: 200ms, warmup: 0s}
slo: {ttft.p90: 5s}
search: {strategy: grid, defaults: false}
timeouts: {stop: 1s}
"""
SETTINGS = {
    ("tp1", "kv-fp8"): {"kv-cache-dtype": "fp8"},
    ("tp1", None): {},
    ("tp2", "kv-fp8"): {"tensor-parallel-size": 2, "kv-cache-dtype": "fp8"},
    ("tp2", None): {"tensor-parallel-size": 2},
}


def test_every_value_is_a_server_of_its_own(project):
    """B1, B14, B15 and B17 of the earlier autotuner: equal servers, raw keys, flags without meaning, one GPU for all."""
    project.suite(SUITE)
    result = project.run("suites", "--autotune", "-v")
    assert result.ret == 0, result.stdout.str()
    with project.store() as store:
        (run,) = store.runs()
        trials = store.trials_of_run(run.id)
    tried = {(each.configuration["parallelism"], each.configuration["quantization"]): each for each in trials}
    assert tried.keys() == SETTINGS.keys()
    assert len(trials) == 4
    for values, trial in tried.items():
        common = {"max-model-len": 4096, "enforce-eager": True, "max-num-seqs": 16, "time-scale": 0.2}
        assert trial.effective == {**common, **SETTINGS[values]}
        assert non_default(parse(trial.argv[3:])).items() >= trial.effective.items()
        assert trial.gpus == (2 if values[0] == "tp2" else 1)
    # Without what each deployment has of its own.
    assert len({trial.argv[trial.argv.index("--served-model-name") + 2 :] for trial in trials}) == 4
    (best,) = (project.path / ".autotune").glob("*/structured/best.json")
    document = json.loads(best.read_text())
    assert (
        document["best"]["configuration"]["parallelism"],
        document["best"]["configuration"]["quantization"],
    ) in tried
    script = best.with_name("best.sh").read_text()
    assert "--max-num-seqs \\\n  16" in script
    assert "max_sequences" not in script


def test_a_command_speaks_the_dialect_that_it_says(project):
    text = SUITE.replace("[tp1, {tp: 2}]", "[tp2]").replace("engine: sim", "engine: command")
    text += (
        "dialect: vllm\ngpus: 0\ncommand: ['{python}', -m, pytest_autotune.engines.sim, --model, llama-3.1-8b, --host, "
    )
    text += "'{host}', --port, '{port}', --served-model-name, '{model_name}', '{flags}']\n"
    project.suite(text)
    result = project.run("suites", "--autotune", "-v")
    assert result.ret == 0, result.stdout.str()
    with project.store() as store:
        (run,) = store.runs()
        trials = store.trials_of_run(run.id)
    assert [each.configuration["quantization"] for each in trials] == ["kv-fp8", None]
    result.stdout.fnmatch_lines(["*::parallelism:tp2-quantization:kv-fp8::c2 COMPLIANT*"])
    for trial in trials:
        settings = non_default(parse(trial.argv[3:]))
        assert (settings["tensor-parallel-size"], settings["enforce-eager"], settings["max-num-seqs"]) == (2, True, 16)
        assert ("kv-cache-dtype" in settings) is (trial.configuration["quantization"] is not None)
