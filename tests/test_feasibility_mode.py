"""What is known not to start is not launched, in any suite of the same model; from the user's side."""

import sqlite3

SUITE = """\
name: {name}
engine: sim
model: llama-3.1-8b
parameters:
  max-model-len: {lengths}
fixed: {{gpu: H100, time-scale: 0.01, gpu-memory-utilization: 0.23}}
load: {{prompt_tokens: 16, output_tokens: 4, concurrency: [1], duration: 300ms, warmup: 0s}}
search: {search}
timeouts: {{stop: 1s}}
"""
# of 0.23 of an H100, weights leave room for about 21,000 tokens


def add(project, name, lengths, search="{defaults: false}"):
    return project.suite(SUITE.format(name=name, lengths=lengths, search=search), f"{name}.yaml")


def trials(project, name):
    """The trials of the newest run of a suite."""
    with project.store() as store:
        for run in store.runs():
            if any(covered.document["name"] == name for covered in store.suites_of_run(run.id)):
                return store.trials_of_run(run.id)
    return ()


def logs(project, name):
    return sorted(path.parent.name for path in (project.path / ".autotune").glob(f"*/{name}/*/server.log"))


def test_what_ran_out_of_memory_in_one_suite_is_not_launched_in_another(project):
    add(project, "first", [32768])
    result = project.run("suites/first.yaml", "--autotune", "-v")
    result.stdout.fnmatch_lines(["*::deploy INFEASIBLE *(out of memory: *"])
    (proof,) = trials(project, "first")

    add(project, "second", [4096, 65536])
    result = project.run("suites/second.yaml", "--autotune", "-v", "-rs")
    assert result.ret == 0
    reason = f"known to run out of memory: max-model-len:32768 did on {proof.started_at:%Y-%m-%d} in run {proof.run_id}"
    result.stdout.fnmatch_lines(
        [
            "*::max-model-len:4096::deploy DEPLOYED*",
            f"*::max-model-len:65536::deploy INFEASIBLE max-model-len=65536 (not launched: {reason})*",
            f"SKIPPED*not deployed: {reason}",
        ]
    )
    _, known = trials(project, "second")
    assert (known.argv, known.server_log, known.launched, known.deploy_s, known.gpus) == ((), "", False, None, 1)
    assert (known.status, known.cause, known.reason) == ("infeasible", "out of memory", f"not launched: {reason}")
    assert logs(project, "second") == ["max-model-len_4096"]
    with project.store() as store:
        assert [start.configuration for start in store.starts() if not start.ready] == [{"max-model-len": 32768}]

    again = project.run("suites/second.yaml", "--autotune", "-v")
    again.stdout.fnmatch_lines([f"*::deploy INFEASIBLE *(not launched: {reason}) [[]recorded[]]*"])

    fresh = project.run("suites/second.yaml", "--autotune", "--autotune-fresh", "-v")
    fresh.stdout.fnmatch_lines(["*::max-model-len:65536::deploy INFEASIBLE *(out of memory: *"])
    assert logs(project, "second") == ["max-model-len_4096", "max-model-len_4096", "max-model-len_65536"]


def test_what_was_not_launched_is_when_its_proof_is_gone(project):
    add(project, "first", [32768])
    add(project, "second", [65536])
    project.run("suites/first.yaml", "--autotune")
    project.run("suites/second.yaml", "--autotune")
    assert logs(project, "second") == []
    with sqlite3.connect(project.path / ".autotune" / "results.db") as store:
        store.execute("UPDATE trials SET cause = 'crash' WHERE slot = 'max-model-len:32768'")
    store.close()
    result = project.run("suites/second.yaml", "--autotune", "-v")
    result.stdout.fnmatch_lines(["*::max-model-len:65536::deploy INFEASIBLE *(out of memory: *"])
    assert logs(project, "second") == ["max-model-len_65536"]


def test_other_settings_are_launched(project):
    add(project, "first", [32768])
    project.run("suites/first.yaml", "--autotune")
    suite = add(project, "second", [65536])
    suite.write_text(suite.read_text().replace("0.23", "0.24"))
    project.run("suites/second.yaml", "--autotune")
    assert logs(project, "second") == ["max-model-len_65536"]


def test_a_search_does_not_propose_what_is_known_not_to_start(project):
    add(project, "first", [32768])
    project.run("suites/first.yaml", "--autotune")
    add(project, "second", [4096, 40000, 50000, 65536], "{strategy: random, trials: 3, defaults: false}")
    result = project.run("suites/second.yaml", "--autotune", "-v")
    assert result.ret == 0
    assert [trial.configuration for trial in trials(project, "second")] == [{"max-model-len": 4096}]
    result.stdout.fnmatch_lines(["*::trial-000::deploy DEPLOYED*", "*::trial-001::deploy SKIPPED*"])
    assert result.parseoutcomes().get("infeasible", 0) == 0


REFUSING = """\
from pytest_autotune.engines.engine import Cause, CauseKind
from pytest_autotune.engines.sim.engine import SimEngine

class Careful(SimEngine):
    name = "careful"

    def refuses(self, suite, configuration):
        if configuration.get("max-model-len", 0) == 4096:
            return Cause(CauseKind.BAD_ARGUMENT, "4096 is not allowed here")
        return None if configuration else Cause(CauseKind.OUT_OF_MEMORY, "the default is too long")

def pytest_autotune_engine(name):
    return Careful() if name == "careful" else None
"""


def test_what_an_engine_refuses_is_reported_and_not_launched_the_defaults_too(project):
    project.pytester.makeconftest(REFUSING)
    suite = add(project, "strict", [4096, 8192], "{defaults: true}")
    suite.write_text(suite.read_text().replace("engine: sim", "engine: careful"))
    for _ in range(2):  # recorded the second time: the reasons stand
        result = project.run("suites/strict.yaml", "--autotune", "-v")
        assert result.ret == 0
        result.stdout.fnmatch_lines(
            [
                "*::defaults::deploy INFEASIBLE * (not launched: out of memory: the default is too long)*",
                "*::max-model-len:4096::deploy INFEASIBLE * (not launched: bad argument: 4096 is not allowed here)*",
                "*::max-model-len:8192::deploy DEPLOYED*",
                "*: 3 trials (1 compliant, 2 infeasible)*",
            ]
        )
    assert logs(project, "strict") == ["max-model-len_8192"]
