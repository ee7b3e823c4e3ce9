"""Every extension hook, used by one small plugin as a user would write it: the example of docs/hooks.md."""

import inspect
import json
from itertools import groupby

from pytest_autotune import hooks
from tests.documents import ROOT, blocks

(PLUGIN,) = blocks(ROOT / "docs" / "hooks.md", "python")


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
    levels = [call["level"] for call in by_hook["load_generator"]]
    assert [level for level, _ in groupby(levels)] == [1, 8, 1, 8]  # one may be measured twice on a busy machine
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
    assert "Traceback" not in result.stdout.str()


def test_results_that_cannot_be_concluded_fail_the_gate_and_keep_what_was_measured(project):
    project.pytester.makeconftest(
        "def pytest_autotune_selected(config, suite, best):\n    raise OSError(28, 'No space left on device')\n"
    )
    project.suite()
    result = project.run("suites", "--autotune")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["conclusion: The results could not be concluded: *No space left on device*"])
    assert "Traceback" not in result.stdout.str()
    with project.store() as store:
        (run,) = store.runs()
        assert {trial.state for trial in store.trials_of_run(run.id)} == {"finished"}


def test_every_hook_is_in_the_table_of_the_documentation_with_its_arguments():
    documented = (ROOT / "docs" / "hooks.md").read_text()
    for name, hook in inspect.getmembers(hooks, inspect.isfunction):
        arguments = ", ".join(inspect.signature(hook).parameters)
        assert f"| `{name}({arguments})` |" in documented
        assert f"def {name}({arguments}):" in PLUGIN


def test_an_engine_that_lacks_a_part_of_the_contract_is_refused_with_its_name(project):
    project.pytester.makeconftest(
        "from pytest_autotune.engines.sim.engine import SimEngine\n\n"
        "class Old:\n"
        "    def __init__(self):\n"
        "        self._engine = SimEngine()\n\n"
        "    def __getattr__(self, name):\n"
        "        if name in ('served', 'layout'):\n"
        "            raise AttributeError(name)\n"
        "        return getattr(self._engine, name)\n\n"
        "def pytest_autotune_engine(name):\n"
        "    return Old() if name == 'old' else None\n"
    )
    suite = project.suite()
    suite.write_text(suite.read_text().replace("engine: sim", "engine: old"))
    result = project.run("suites", "--autotune")
    assert result.ret != 0
    told = "engine: 'old' of a plugin lacks served, layout; see pytest_autotune.engines.engine.Engine"
    result.stdout.fnmatch_lines([f"*quick.yaml:2: {told}*"])
