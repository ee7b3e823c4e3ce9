"""What the benchmark of searches relies on: a replayed world that is the landscape, and exact accounts of it."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.replay.landscape import e2e_s, read
from benchmarks.replay.simulated import TRAFFICS
from benchmarks.replay.world import beyond
from benchmarks.search import SHARES, STRATEGIES, WINDOW, Case, run
from benchmarks.search_simulated import first_success
from pytest_autotune.constraints import Constraint
from pytest_autotune.space import Choice, Space

FILE = Path(__file__).parent / "data" / "landscape.csv"


@pytest.fixture(scope="module")
def landscape():
    (found,) = read(FILE)
    return found


@pytest.fixture(scope="module")
def outcomes(landscape):
    return run(FILE, [landscape], [0.5], 1)


def test_the_space_has_the_configurations_of_the_landscape_and_no_other(landscape):
    parameters = tuple(Choice(name, values) for name, values in landscape.varying.items())
    space = Space(parameters, tuple(Constraint(text) for text in landscape.conditions))
    grid = [dict(one) for one in space.grid({})]
    expected = [landscape.configuration(one) for one in landscape.settings]
    assert sorted(map(str, grid)) == sorted(str(dict(one)) for one in expected)
    assert space.size() > len(grid) == 6


def test_points_are_interpolated_and_never_extrapolated(landscape):
    setting = next(one for one in landscape.settings if one.gpus == 8)
    assert setting.at(4) == (0.035, 0.006)
    assert setting.at(8).tpot_s == pytest.approx((0.006 * 0.010) ** 0.5)
    assert setting.at(2) is None
    assert setting.at(17) is None


@pytest.mark.parametrize("share", SHARES)
def test_no_point_lies_on_the_limit(landscape, share):
    limit_s = landscape.tpot_limit_s(share)
    tpots = [point.tpot_s for one in landscape.settings for point in one.points.values()]
    assert all(abs(tpot / limit_s - 1) > 0.02 for tpot in tpots)
    assert sum(tpot > limit_s for tpot in tpots) == pytest.approx(share * len(tpots), abs=1)


def test_the_grid_deploys_everything_once_and_its_load_time_is_exact(landscape, outcomes):
    found = outcomes[Case(landscape, 0.5, "grid", 0)]
    tail = sorted(e2e_s(point, 64) for one in landscape.settings for point in one.points.values())[5:7]
    assert found.found
    assert not found.wrong
    assert found.all_deployments == 6
    # Windows of so many typical answers and a warm-up of one, rounded to milliseconds, at two levels.
    assert found.all_load_s == pytest.approx(6 * 2 * (WINDOW + 1) * sum(tail) / 2, abs=0.02)


def test_no_strategy_deploys_a_configuration_twice(outcomes):
    assert {case.strategy for case in outcomes} == set(STRATEGIES)
    assert [one.twice for one in outcomes.values()] == [0] * len(STRATEGIES)
    assert all(one.deployments <= 6 and one.all_deployments <= 6 for one in outcomes.values())


def test_ours_loads_no_more_than_a_list_of_two_levels(landscape, outcomes):
    ours, random = (outcomes[Case(landscape, 0.5, name, 0)] for name in ("ours", "random"))
    assert ours.all_load_s <= random.all_load_s * 1.001


def test_what_was_not_measured_wins_nothing(landscape):
    setting = next(one for one in landscape.settings if one.gpus == 8)
    low, high = min(setting.points), max(setting.points)
    assert beyond(setting, low - 1) == setting.points[low]
    full, more = setting.points[high], beyond(setting, 3 * high)
    assert more.tpot_s > full.tpot_s
    assert 3 * high / e2e_s(more, 64) == pytest.approx(high / e2e_s(full, 64))  # the same throughput


def test_a_simulated_landscape_crashes_where_the_engines_own_plan_does():
    traffic = TRAFFICS[0]
    assert 0.2 <= traffic.crash_share <= 0.4
    assert 8_000 <= len(traffic.truth) <= 20_000
    assert len(traffic.space.parameters) == 8
    bars = traffic.barred(())
    crashing = {key for key, worth in traffic.truth.items() if worth is None}
    barred = {key for key in traffic.truth if bars(json.loads(key))}
    assert barred < crashing


def test_what_a_simulated_trial_tells_is_what_the_plugin_would():
    chance = np.random.default_rng(0)
    told = [TRAFFICS[3].observe(one, chance) for one in itertools.islice(TRAFFICS[3].space.grid({}), 0, 4000, 37)]
    assert all(row.constraints.keys() == {"ttft.mean", "tpot.mean", "crash"} for row in told)
    for row in told:
        crashed = row.constraints["crash"] > 0
        assert row.value is None or not crashed
        assert crashed == (TRAFFICS[3].worth(row.configuration) is None)


def test_the_first_success_in_a_failing_space_is_found_by_its_slope():
    assert first_success("bayes", 0) is not None
    assert first_success("tpe-infinite", 0) is None
