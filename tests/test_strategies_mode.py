"""Strategies from the user's side: what `auto` chooses, how `bayes` ends, what `gp` needs."""

import json

import pytest

from pytest_autotune.choosing import defaults_of
from pytest_autotune.engines.sim.engine import SimEngine
from pytest_autotune.suite_file import load_suite

SUITE = """\
name: wide
engine: sim
model: llama-3.1-8b
parameters:
  max-num-seqs: {int: [1, 64], log: true, grid: 4}
  enforce-eager: [false, true]
fixed: {gpu: H100, time-scale: 0.1, max-model-len: 4096}
load: {prompt_tokens: 64, output_tokens: 16, concurrency: [8], duration: 300ms, warmup: 50ms}
slo: {e2e.p90: 10s}
objective: maximize output_throughput
search: SEARCH
timeouts: {stop: 1s}
"""


@pytest.mark.parametrize(
    ("search", "parameters", "strategy"),
    [
        ("{strategy: auto}", "", "grid"),
        ("{strategy: auto, trials: 9}", "", "grid"),
        ("{strategy: auto, trials: 8}", "", "bayes"),
        ("{strategy: auto, trials: 8, defaults: false}", "", "grid"),
        ("{strategy: auto, seeds: [{enforce-eager: true}]}", "", "bayes"),
        ("{strategy: auto}", "  gpu-memory-utilization: {float: [0.5, 0.9]}\n", "bayes"),
        ("{strategy: auto}", "  gpu-memory-utilization: {float: [0.5, 0.9], step: 0.1}\n", "bayes"),
        ("{strategy: auto}", "  seed: {int: [0, 99999]}\n", "bayes"),
        ("{strategy: tpe}", "", "tpe"),
        ("{}", "", "grid"),
    ],
)
def test_auto_is_a_grid_that_fits_into_the_trials(tmp_path, search, parameters, strategy):
    path = tmp_path / "wide.yaml"
    text = SUITE.replace("SEARCH", search).replace("fixed:", f"{parameters}fixed:")
    path.write_text(text)
    assert load_suite(path).strategy == strategy


def test_auto_with_a_grid_names_its_trials_by_configuration(project):
    project.suite(SUITE.replace("SEARCH", "{strategy: auto, trials: 9}"))
    result = project.run("suites", "--autotune", "--collect-only", "-q")
    assert "max-num-seqs:64-enforce-eager:true::c8" in result.stdout.str()
    project.suite(SUITE.replace("SEARCH", "{strategy: auto, trials: 4}"))
    result = project.run("suites", "--autotune", "--collect-only", "-q")
    assert "trial-003::c8" in result.stdout.str()
    assert "trial-004" not in result.stdout.str()


@pytest.mark.slow
def test_bayes_ends_when_little_is_to_be_gained_and_says_so(project):
    project.suite(SUITE.replace("SEARCH", "{strategy: bayes, trials: 20, improvement: 30%, patience: 19}"))
    result = project.run("suites", "--autotune", "-rs")
    assert result.ret == 0
    assert "the next trial is expected to improve the best by" in result.stdout.str()
    (best,) = project.path.rglob("best.json")
    measured = json.loads(best.read_text())["measured"]
    assert "less than 30" in measured["ended"]
    assert 3 <= measured["spent"]["deployments"] < 20


def test_gp_without_torch_is_one_skip_line_with_the_remedy(project):
    project.suite(SUITE.replace("SEARCH", "{strategy: gp, trials: 3}"))
    project.pytester.makeconftest(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name in ('torch', 'scipy') else find(name, *rest)\n"
    )
    result = project.run("suites", "--autotune", "-rs")
    line = "*search.strategy: gp needs torch and scipy: pip install 'pytest-autotune[[]gp]', or write strategy: bayes*"
    result.stdout.fnmatch_lines([line])
    assert result.parseoutcomes() == {"skipped": 1}


@pytest.mark.parametrize(
    ("search", "problem"),
    [
        ("{strategy: tpe, improvement: 1%}", "tpe expects nothing of what it tries; remove it, or write"),
        ("{improvement: 1%}", "grid expects nothing of what it tries"),
        ("{strategy: bayes, improvement: 0%}", "'0%' is not between 0% and 100%; write e.g. 1%"),
        ("{strategy: bayes, improvement: 150%}", "'150%' is more than 100%"),
    ],
)
def test_an_improvement_that_cannot_be_is_refused(project, search, problem):
    project.suite(SUITE.replace("SEARCH", search))
    result = project.run("suites", "--autotune")
    result.stdout.fnmatch_lines([f"*quick.yaml:11: search.improvement: *{problem}*"])


def test_an_improvement_in_several_objectives_is_refused(project):
    several = SUITE.replace("maximize output_throughput", "[maximize output_throughput, minimize e2e.p90]")
    project.suite(several.replace("SEARCH", "{strategy: bayes, improvement: 1%}"))
    result = project.run("suites", "--autotune")
    result.stdout.fnmatch_lines(["*quick.yaml:11: search.improvement: only what the first objective gains can be *"])


def test_the_engines_defaults_are_found_whatever_the_spelling(tmp_path):
    path = tmp_path / "wide.yaml"
    path.write_text(SUITE.replace("SEARCH", "{strategy: bayes}").replace("max-num-seqs", "max_num_seqs"))
    suite = load_suite(path)
    installed = SimEngine().inspect(suite)
    assert defaults_of(suite, installed) == {"max_num_seqs": 256, "enforce-eager": False}


@pytest.mark.slow
def test_bayes_learns_from_the_engines_defaults_by_their_values(project):
    project.suite(SUITE.replace("SEARCH", "{strategy: bayes, trials: 7}"))
    assert project.run("suites", "--autotune").ret == 0
    with project.store() as store:
        (run,) = store.runs()
        configurations = [dict(trial.configuration) for trial in store.trials_of_run(run.id)]
    assert configurations[0] == {}
    assert len({json.dumps(one, sort_keys=True) for one in configurations}) == 7


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["bayes", "tpe"])
def test_a_search_with_several_objectives_measures_each_configuration_once(project, strategy):
    search = f"{{strategy: {strategy}, trials: 12}}"
    objectives = "objective: [maximize output_throughput, minimize e2e.p90]"
    project.suite(SUITE.replace("SEARCH", search).replace("objective: maximize output_throughput", objectives))
    assert project.run("suites", "--autotune").ret == 0
    with project.store() as store:
        (run,) = store.runs()
        trials = store.trials_of_run(run.id)
    assert len({json.dumps(dict(trial.configuration), sort_keys=True) for trial in trials}) == 12
    (best,) = project.path.rglob("best.json")
    assert json.loads(best.read_text())["pareto_front"]
