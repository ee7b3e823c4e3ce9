"""`--autotune-compare REF`: baseline and candidate are deployed in turn, and what differs is told with its interval."""

from itertools import pairwise

import pytest

from pytest_autotune.baseline import read_baseline, write_baseline
from pytest_autotune.noise import Noise
from tests.conftest import QUICK_SUITE
from tests.make_baselines import record
from tests.repositories import git

SUITE = QUICK_SUITE.replace("objective:", "gate: {throughput: -25%, pairs: 4}\nobjective:")
RECORD = "suites/quick.best.json"


@pytest.fixture
def recorded(project):
    """A repository whose first commit, tagged v1, has a suite and the best that was found for it."""
    project.suite(SUITE)
    record(project)
    git(project.path, "init", "-q")
    git(project.path, "add", "suites")
    git(project.path, "commit", "-q", "-m", "first")
    git(project.path, "tag", "v1")
    return project


def slots(project):
    with project.store() as store:
        return [trial.slot for trial in store.trials_of_run(store.runs()[0].id)]


@pytest.mark.alone
def test_equal_sides_are_deployed_in_turn_and_no_change_is_shown(recorded):
    result = recorded.run("suites", "--autotune-compare", RECORD)
    assert result.ret == 0, result.stdout.str()
    order = ["baseline-1", "best-1", "best-2", "baseline-2", "baseline-3", "best-3", "best-4", "baseline-4"]
    assert slots(recorded) == order
    result.stdout.fnmatch_lines(["*4 pairs of deployments in turn", "*output throughput*all*25 %*no change"])


def test_a_slower_candidate_is_a_regression_since_the_revision(recorded):
    recorded.suite(SUITE.replace("time-scale: 0.2", "time-scale: 0.6"))
    result = recorded.run("suites", "--autotune-compare", "v1", "--autotune-junit=verdict.xml")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["*changed: server.fixed.time-scale: 0.2 then, 0.6 now*", "*output throughput*all*regression"]
    )
    verdict = recorded.testcases("verdict.xml")["quick.gate.not-worse.output_throughput"].find("failure").text
    assert "more than the 25 % allowed, since commit " in verdict
    assert "To see it again: pytest suites/quick.yaml --autotune-compare v1." in verdict


def test_no_further_pair_is_deployed_once_the_comparison_is_settled(recorded):
    recorded.suite(SUITE.replace("time-scale: 0.2", "time-scale: 0.6").replace("pairs: 4", "pairs: 8"))
    result = recorded.run("suites", "--autotune-compare", "v1", "-rs")
    assert result.ret == 1
    assert len(slots(recorded)) < 16
    result.stdout.fnmatch_lines(["SKIPPED*the comparison is settled after * pairs: regression"])


@pytest.mark.alone
@pytest.mark.parametrize(
    "shortened",
    [
        lambda suite: suite.replace("warmup: 100ms", "warmup: 100ms, skip: dominated"),
        lambda suite: suite.replace("600ms", "1500ms").replace("defaults: false", "defaults: false, screen: 50%"),
    ],
    ids=["skip", "screen"],
)
def test_nothing_that_shortens_a_search_leaves_a_level_of_either_side_out(recorded, shortened):
    recorded.suite(shortened(SUITE.replace("time-scale: 0.2", "time-scale: 0.6")))
    result = recorded.run("suites", "--autotune-compare", "v1")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*4 pairs of deployments in turn", "*output throughput*all*regression"])
    with recorded.store() as store:
        trials = store.trials_of_run(store.runs()[0].id)
    assert [[batch.level.name for batch in trial.batches] for trial in trials] == [["c1", "c8"]] * 8


@pytest.mark.alone
def test_workers_keep_the_sides_of_a_suite_together(recorded):
    result = recorded.run("suites", "--autotune-compare", "v1", "-n2")
    assert result.ret == 0, result.stdout.str()
    with recorded.store() as store:
        trials = store.trials_of_run(store.runs()[0].id)
    assert len({trial.owner for trial in trials}) == 1
    times = [(trial.started_at, trial.ended_at) for trial in trials]
    assert all(end <= start for (_, end), (start, _) in pairwise(times))


@pytest.mark.alone
def test_what_equal_sides_differ_by_is_recorded_and_widens_the_next_tolerance(recorded):
    recorded.suite(SUITE.replace("gate: {throughput: -25%, pairs: 4}", "gate: {inconclusive: warn, pairs: 4}"))
    result = recorded.run("suites", "--autotune-compare", "v1", "--autotune-record")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(["*noise recorded: suites/quick.best.json"])
    path = recorded.path / RECORD
    record = read_baseline(path)
    assert {name: noise.freedom for name, noise in record.noise.items()} == {"output_throughput": 3, "ttft.p90": 3}
    noisy = {"output_throughput": Noise(10.0, 9)}
    write_baseline(path, record.model_copy(update={"noise": noisy}))
    result = recorded.run("suites", "--autotune-compare", RECORD)
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(["*output throughput*all* 4 %*"])


def test_what_unequal_sides_differ_by_is_not_recorded_as_noise(recorded):
    before = (recorded.path / RECORD).read_bytes()
    recorded.suite(SUITE.replace("time-scale: 0.2", "time-scale: 0.6"))
    result = recorded.run("suites", "--autotune-compare", "v1", "--autotune-record")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["*nothing recorded: the two sides differ by more than noise: server.fixed.time-scale*"]
    )
    assert (recorded.path / RECORD).read_bytes() == before


def test_a_part_without_the_candidate_is_not_judged(recorded):
    result = recorded.run("suites", "--autotune-compare", "v1", "-k", "baseline-1", "-rs")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["SKIPPED*nothing of the recorded best was measured; the gate judges all"])


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (
            ["--autotune-compare", "v9"],
            2,
            "*'v9' is neither a file, nor a name or run *, nor a revision, branch or tag of the repository of *",
        ),
        (["--autotune-compare", "other.json"], 2, "*other.json: cannot be read: *"),
        (
            ["--autotune-record"],
            4,
            "*--autotune-record records what a search selects, or the noise of *add --autotune*",
        ),
        (["--autotune", "--autotune-compare", "v1"], 4, "*--autotune-compare compares what is recorded*"),
    ],
)
def test_what_cannot_be_compared_with_is_one_line(recorded, arguments, status, line):
    result = recorded.run("suites", *arguments)
    assert result.ret == status
    (result.stdout if status == 2 else result.stderr).fnmatch_lines([line])
