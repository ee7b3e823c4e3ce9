"""Every extension hook, used by one small plugin as a user would write it."""

import json

PLUGIN = '''\
"""An engine, a deployer, a load generator, an objective and observers, all of the user's own."""
import contextlib
import json
import sys
from pathlib import Path

import pytest

from pytest_autotune.deploy.local import LocalDeployer
from pytest_autotune.engines.sim.engine import SimEngine
from pytest_autotune.load.http import HttpLoad

LOG = Path(__file__).with_name("calls.jsonl")

def note(**facts):
    with LOG.open("a") as file:
        file.write(json.dumps(facts) + "\\n")

class Mine(SimEngine):
    name = "mine"

class Noting(LocalDeployer):
    @contextlib.contextmanager
    def deploy(self, launch):
        with super().deploy(launch) as server:
            note(hook="deployer", configuration=dict(launch.configuration))
            yield server

class Gentle(HttpLoad):
    def run(self, target, level, workload, **keywords):
        note(hook="load_generator", level=level.concurrency)
        return super().run(target, level, workload, **keywords)

def pytest_autotune_engine(name):
    return Mine() if name == "mine" else None

def pytest_autotune_deployer(name):
    return Noting() if name == "local" else None

def pytest_autotune_load_generator(suite):
    return Gentle()

def pytest_autotune_objective(suite, batches):
    note(hook="objective", batches=len(batches))
    return -min(batch.record.metrics["ttft.mean"] for batch in batches)

def pytest_autotune_suite_loaded(config, suite):
    note(hook="suite_loaded", suite=suite.name)

def pytest_autotune_trial_finished(config, suite, trial):
    note(hook="trial_finished", slot=trial.slot, status=trial.status)

def pytest_autotune_selected(config, suite, best):
    note(hook="selected", best=dict(best.trial.configuration))
'''


def test_a_plugin_can_replace_engine_deployer_load_and_objective_and_hears_of_results(project):
    project.pytester.makeconftest(PLUGIN)
    suite = project.suite()
    suite.write_text(suite.read_text().replace("engine: sim", "engine: mine"))
    result = project.run("suites", "--autotune")
    assert result.ret == 0, result.stdout.str()
    calls = [json.loads(line) for line in (project.path / "calls.jsonl").read_text().splitlines()]
    by_hook = {hook: [call for call in calls if call["hook"] == hook] for hook in {call["hook"] for call in calls}}
    assert [call["suite"] for call in by_hook["suite_loaded"]] == ["quick"]
    assert [call["configuration"] for call in by_hook["deployer"]] == [{"max-num-seqs": 2}, {"max-num-seqs": 64}]
    assert [call["level"] for call in by_hook["load_generator"]] == [1, 8, 1, 8]
    assert [call["status"] for call in by_hook["trial_finished"]] == ["compliant", "compliant"]
    assert len(by_hook["selected"]) == 1
    assert by_hook["objective"]


def test_a_suite_can_be_refused_by_a_hook(project):
    project.pytester.makeconftest(
        "from pytest_autotune.errors import SuiteError\n"
        "def pytest_autotune_suite_loaded(config, suite):\n"
        "    raise SuiteError('this team tunes on Mondays only', path=suite.path)\n"
    )
    project.suite()
    result = project.run("suites", "--autotune")
    assert result.ret == 2
    result.stdout.fnmatch_lines(["*quick.yaml: this team tunes on Mondays only"])
    assert "nodes.py" not in result.stdout.str()
