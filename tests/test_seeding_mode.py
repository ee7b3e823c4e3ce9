"""What an adaptive search begins with, from the user's side."""

import pytest

from pytest_autotune.slo import Status
from tests.test_seeding import suite_of


def tried(project, run=-1):
    """Return the configurations of a run's trials, by the names of their slots."""
    with project.store() as store:
        ran = sorted(store.runs(), key=lambda each: each.id)[run]
        return {trial.slot: dict(trial.configuration) for trial in store.trials_of_run(ran.id)}


SEEDS = "seeds: [{max-num-seqs: 32}, {max-num-seqs: 16, tensor-parallel-size: 2}]"
BEGINNING = [
    {},
    {"max-num-seqs": 32},
    {"tensor-parallel-size": 2, "max-num-seqs": 16},
    {"tensor-parallel-size": 2},
    {"tensor-parallel-size": 4},
]


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "two workers"])
@pytest.mark.parametrize("strategy", ["tpe", "random"])
def test_a_search_begins_with_defaults_then_seeds_then_degrees_of_parallelism(project, strategy, arguments):
    project.suite(suite_of(SEEDS, strategy=strategy))
    result = project.run("suites", "--autotune", *arguments)
    assert result.ret == 0, result.stdout.str()
    found = tried(project)
    assert [found[f"trial-{index:03d}"] for index in range(5)] == BEGINNING
    assert found["trial-005"].keys() == {"tensor-parallel-size", "max-num-seqs"}
    assert len(found) == 6


def test_without_defaults_a_search_begins_with_its_seeds(project):
    project.suite(suite_of(f"defaults: false, {SEEDS}").replace("trials: 6", "trials: 3"))
    assert project.run("suites", "--autotune").ret == 0
    found = list(tried(project).values())
    assert found[:2] == BEGINNING[1:3]
    assert found[2].keys() == {"tensor-parallel-size", "max-num-seqs"}


def test_a_seed_that_is_added_takes_the_next_trial_and_nothing_is_measured_again(project):
    project.suite(suite_of("seeds: [{max-num-seqs: 32}]").replace("trials: 6", "trials: 2"))
    assert project.run("suites", "--autotune").ret == 0
    project.suite(suite_of("seeds: [{max-num-seqs: 9}, {max-num-seqs: 32}]").replace("trials: 6", "trials: 4"))
    assert project.run("suites", "--autotune").ret == 0
    assert tried(project, 0) == {"trial-000": {}, "trial-001": {"max-num-seqs": 32}}
    assert tried(project, 1) == {"trial-002": {"max-num-seqs": 9}, "trial-003": {"tensor-parallel-size": 2}}


OTHER = suite_of("defaults: false, seeds: [{max-num-seqs: 48}]").replace("name: seeds", "name: other")


def measure_other(project, seeds="[{max-num-seqs: 48}]"):
    other = OTHER.replace("[{max-num-seqs: 48}]", seeds).replace("trials: 6", f"trials: {seeds.count('{')}")
    project.suite(other, "other.yaml")
    assert project.run("suites/other.yaml", "--autotune").ret == 0


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_a_search_begins_with_the_best_of_other_searches_and_keeps_to_it(project, arguments):
    measure_other(project)
    short = suite_of("defaults: false").replace("trials: 6", "trials: 2")
    project.suite(short)
    assert project.run("suites/quick.yaml", "--autotune", *arguments).ret == 0
    first = tried(project)
    assert first["trial-000"] == {"max-num-seqs": 48}
    assert first["trial-001"].keys() == {"tensor-parallel-size", "max-num-seqs"}
    measure_other(project, "[{max-num-seqs: 48}, {max-num-seqs: 64}, {max-num-seqs: 63}]")
    project.suite(short.replace("trials: 2", "trials: 3, earlier: 3"))
    assert project.run("suites/quick.yaml", "--autotune", *arguments).ret == 0
    assert tried(project)["trial-002"].keys() == {"tensor-parallel-size", "max-num-seqs"}


@pytest.mark.parametrize(
    ("search", "arguments", "changed"),
    [
        ("defaults: false, earlier: 0", (), ("", "")),
        ("defaults: false", ("--autotune-fresh",), ("", "")),
        ("defaults: false", (), ("strategy: tpe", "strategy: random")),
        ("defaults: false", (), ("llama-3.1-8b", "tiny")),
        ("defaults: false", (), ("max-num-seqs: {int: [2, 64]}", "max-num-seqs: {int: [2, 40]}")),
    ],
    ids=["switched off", "fresh", "random", "another model", "not of this space"],
)
def test_other_searches_do_not_count(project, search, arguments, changed):
    measure_other(project)
    project.suite(suite_of(search).replace("trials: 6", "trials: 1").replace(*changed))
    project.run("suites/quick.yaml", "--autotune", *arguments)
    assert tried(project)["trial-000"].keys() == {"tensor-parallel-size", "max-num-seqs"}


@pytest.mark.parametrize(
    ("objective", "choose"),
    [("minimize ttft.mean", min), ("maximize output_throughput", max), ("minimize tpot.p37", min)],
)
def test_other_searches_are_judged_by_the_objective_of_this_suite(project, objective, choose):
    measure_other(project, "[{max-num-seqs: 2}, {max-num-seqs: 64}]")
    suite = suite_of("defaults: false").replace("trials: 6", "trials: 1")
    project.suite(f"{suite}objective: {objective}\n")
    assert project.run("suites/quick.yaml", "--autotune").ret == 0
    with project.store() as store:
        other, own = sorted(store.studies(), key=lambda each: each.run_id)
        metric = objective.split()[1].replace("p37", "mean")  # which is not stored with the other search
        measured = [
            (trial.batches[0].metrics[metric], trial.configuration["max-num-seqs"])
            for trial in store.history(other.study)
        ]
    if metric != "tpot.mean":
        assert tried(project)["trial-000"] == {"max-num-seqs": choose(measured)[1]}
    assert len(tried(project)["trial-000"]) == 1
    assert own.document["hardware"] == other.document["hardware"] != ""
    assert own.document["first"] == {"earlier": [tried(project)["trial-000"]], "prior": []}


@pytest.mark.parametrize(("objective", "counts"), [("maximize output_throughput", True), ("minimize e2e.mean", False)])
def test_a_search_in_which_nothing_keeps_our_limits_counts_by_its_own(project, objective, counts):
    measure_other(project)
    suite = suite_of("defaults: false").replace("trials: 6", "trials: 1").replace("ttft.p90: 30s", "ttft.p90: 1us")
    project.suite(f"{suite}objective: {objective}\n")
    project.run("suites/quick.yaml", "--autotune")
    assert (tried(project)["trial-000"] == {"max-num-seqs": 48}) is counts


def test_what_was_measured_counts_though_no_verdict_on_it_is_sure(project):
    unsure = ("ttft.p90: 30s", "ttft.p99.9: 30s, confidence: 99.9%")  # which takes some 7000 requests
    project.suite(OTHER.replace(*unsure).replace("trials: 6", "trials: 1"), "other.yaml")
    assert project.run("suites/other.yaml", "--autotune").ret != 0
    with project.store() as store:
        (found,) = (trial for study in store.studies() for trial in store.history(study.study))
    assert found.status is Status.INCONCLUSIVE
    project.suite(suite_of("defaults: false").replace(*unsure).replace("trials: 6", "trials: 1"))
    project.run("suites/quick.yaml", "--autotune")
    assert tried(project)["trial-000"] == {"max-num-seqs": 48}


PRIOR = """\
def pytest_autotune_prior(suite, configurations):
    with open("asked.txt", "a") as file:
        print(list(map(dict, configurations)), file=file)
    return {answer}
"""


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_a_plugin_proposes_what_is_measured_early(project, arguments):
    answer = "[{}, {'max-num-seqs': 5}, {'max-num-seqs': 6.0}, {'max-num-seqs': 7}]"
    project.pytester.makeconftest(PRIOR.format(answer=answer))
    suite = project.suite(suite_of("prior: 2"))
    assert project.run("suites", "--autotune", *arguments).ret == 0
    found = tried(project)
    expected = [{}, {"tensor-parallel-size": 2}, {"tensor-parallel-size": 4}, {"max-num-seqs": 5}, {"max-num-seqs": 6}]
    assert [found[f"trial-{index:03d}"] for index in range(5)] == expected
    asked = (project.path / "asked.txt").read_text().splitlines()
    assert set(asked) == {str(expected[:3])}
    # Once the search has begun, its first answer stands.
    project.pytester.makeconftest(PRIOR.format(answer="1 / 0"))
    suite.write_text(suite.read_text().replace("trials: 6", "trials: 7"))
    assert project.run("suites", "--autotune").ret == 0


def test_a_prior_that_differs_between_workers_is_that_of_the_first(project):
    project.pytester.makeconftest(PRIOR.format(answer="[{'max-num-seqs': 10 + hash(str(os.getpid())) % 50}]"))
    conftest = project.path / "conftest.py"
    conftest.write_text(f"import os\n{conftest.read_text()}")
    project.suite(suite_of("defaults: false").replace("trials: 6", "trials: 2"))
    assert project.run("suites", "--autotune", "-n", "2").ret == 0
    partial = [configuration for configuration in tried(project).values() if len(configuration) == 1]
    assert len(partial) == 1


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            "[{'max-num-seq': 5}]",
            "{\"max-num-seq\": 5}: 'max-num-seq': is no parameter of the suite (did you mean 'max-num-seqs'?)",
        ),
        (
            "[{'max-num-seqs': 1}]",
            "{\"max-num-seqs\": 1}: 'max-num-seqs': 1 is never tried; write a value from 2 to 64",
        ),
    ],
)
def test_a_prior_that_cannot_be_tried_is_one_error_that_names_the_hook(project, answer, told):
    project.pytester.makeconftest(PRIOR.format(answer=answer))
    project.suite(suite_of(""))
    result = project.run("suites", "--autotune")
    assert result.ret == 2
    (line,) = [line for line in result.outlines if "pytest_autotune_prior" in line]
    assert line.endswith(f"quick.yaml:11: search.prior: pytest_autotune_prior: {told}")
    assert "Traceback" not in result.stdout.str()


def test_nobody_is_asked_where_nothing_is_to_be_begun(project):
    project.pytester.makeconftest(PRIOR.format(answer="1 / 0"))
    project.suite(suite_of("prior: 0").replace("trials: 6", "trials: 1"))
    assert project.run("suites", "--autotune").ret == 0
    project.suite(suite_of(""))
    assert project.run("suites", "--autotune", "--collect-only", "-q").ret == 0
    assert project.run("suites", "--autotune-rejudge").ret == 0
    assert not (project.path / "asked.txt").exists()
