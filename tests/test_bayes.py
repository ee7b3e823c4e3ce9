"""Bayesian optimisation: what the model expects, and what is proposed because of it."""

import math
import random
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.bayes import STARTUP, most_telling, propose
from pytest_autotune.scope import Scope, SpaceExhausted, axis_of
from pytest_autotune.search import Observation, expected_gain, failure_value, suggest
from pytest_autotune.space import Choice, Constraint, Float, Integer, Space, canonical
from pytest_autotune.surrogate import Metric, Surrogate

SPACE = Space(
    (
        Choice("tp", (1, 2, 4, 8)),
        Choice("seqs", (16, 32, 64, 128, 256, 512)),
        Choice("tokens", (512, 1024, 2048, 4096, 8192)),
        Choice("kv", ("auto", "fp8")),
        Choice("eager", (False, True)),
        Integer("idle", 1, 50),
    ),
    (Constraint("tokens >= seqs"),),
)


def scope_of(space, history=(), defaults=None):
    tried = {canonical(row.configuration) for row in history}
    return Scope(space, {}, tried, tuple(axis_of(parameter) for parameter in space.parameters), defaults or {})


def server(configuration):
    """Throughput per GPU of a made-up server: effects add in its logarithm; fp8 with many sequences crashes."""
    if configuration["kv"] == "fp8" and configuration["seqs"] >= 256:
        return Observation(configuration, "done", None, {"tpot": 1.0, "crash": failure_value(10, 600, "CUDA memory")})
    gain = -0.2 * math.log2(configuration["tp"]) + 0.3 * math.log2(configuration["seqs"])
    gain += 0.2 * (configuration["kv"] == "fp8") - 0.5 * configuration["eager"]
    tpot = 0.3 * math.log2(configuration["seqs"]) - 0.5 * math.log2(configuration["tp"]) - 1.3
    return Observation(configuration, "done", math.exp(gain) if tpot <= 0 else None, {"tpot": tpot, "crash": 0.0})


def play(number, seed, strategy="bayes"):
    history = []
    for index in range(number):
        history.append(server(suggest(SPACE, history, seed=100 * seed + index, strategy=strategy)))
    return history


OPTIMUM = max(row.value or 0.0 for row in map(server, Space(SPACE.parameters[:-1], SPACE.constraints).grid({})))


def test_twenty_trials_of_thousands_come_near_the_optimum_and_nearer_than_chance():
    def bests(strategy):
        return [max((row.value or 0.0 for row in play(20, seed, strategy)), default=0.0) for seed in range(6)]

    found, drawn = bests("bayes"), bests("random")
    assert min(found) >= 0.8 * OPTIMUM
    assert fmean(found) > 1.1 * fmean(drawn)


def test_crashes_and_misses_are_avoided():
    rows = [row for seed in range(4) for row in play(20, seed)]
    random_rows = [row for seed in range(4) for row in play(20, seed, "random")]

    def failures(those):
        return sum(row.value is None for row in those)

    assert failures(rows) < 0.6 * failures(random_rows)


def test_equal_arguments_are_equal_proposals_and_a_seed_changes_them():
    history = play(8, 1)
    first, again = (suggest(SPACE, history, seed=5, strategy="bayes") for _ in range(2))
    assert first == again
    assert len({canonical(suggest(SPACE, history, seed=seed, strategy="bayes")) for seed in range(4)}) > 1


def test_parallel_trials_are_kept_apart():
    history = play(10, 2)
    running = []
    for _ in range(4):
        one = suggest(SPACE, [*history, *running], seed=7, strategy="bayes")
        running.append(Observation(one, "running"))
    without_idle = {
        canonical({name: at for name, at in row.configuration.items() if name != "idle"}) for row in running
    }
    assert len(without_idle) >= 3


def test_nothing_is_modelled_before_enough_was_measured():
    history = play(STARTUP - 1, 0)
    assert propose(scope_of(SPACE, history), history, random.Random(0)) is None
    history = play(STARTUP, 0)
    assert propose(scope_of(SPACE, history), history, random.Random(0)) is not None


def test_what_leaves_a_setting_to_the_engine_teaches_at_the_engines_default():
    defaults = {"tp": 1, "seqs": 256, "tokens": 2048, "kv": "auto", "eager": False, "idle": 1}
    scope = scope_of(SPACE, defaults=defaults)
    assert scope.locate({}) == scope.encode(defaults)
    assert scope.locate({"tp": 4}) == scope.encode({**defaults, "tp": 4})
    assert scope_of(SPACE).locate({}) is None
    between = scope_of(SPACE, defaults={**defaults, "seqs": 96}).locate({})
    assert between[1] == pytest.approx(2.5)
    assert scope_of(SPACE, defaults={**defaults, "seqs": 4096}).locate({})[1] == 5
    assert scope_of(SPACE, defaults={**defaults, "kv": "int4"}).locate({}) is None


def test_a_failing_region_is_left_by_its_slope():
    space = Space(tuple(Choice(f"knob-{index}", tuple(range(8))) for index in range(4)))

    def fails(configuration):
        away = sum(configuration.values()) / 28
        if sum(configuration.values()) <= 2:
            return Observation(configuration, "done", 1.0, {"crash": 0.0})
        return Observation(configuration, "done", None, {"crash": failure_value(1.0 - away, 1.0, "exit status 1")})

    for seed in range(3):
        history = []
        while not history or history[-1].value is None:
            history.append(fails(suggest(space, history, seed=100 * seed + len(history), strategy="bayes")))
            assert len(history) < 60


def test_expected_gain_falls_as_the_best_is_found():
    early, late = play(8, 3), play(30, 3)
    assert expected_gain(SPACE, play(3, 3), seed=0) is None
    assert expected_gain(SPACE, early, seed=0) > expected_gain(SPACE, late, seed=0) >= 0.0


def test_gain_of_scores_that_are_not_positive_is_finite():
    history = [Observation(row.configuration, "done", -1.0 / (row.value or 1.0), row.constraints) for row in play(9, 1)]
    gain = expected_gain(SPACE, history, seed=0)
    assert gain is not None
    assert math.isfinite(gain)


def test_a_space_that_is_exhausted_says_so():
    space = Space((Choice("a", (1, 2, 3)),))
    history = [Observation({"a": value}, "done", float(value), {}) for value in (1, 2, 3)]
    with pytest.raises(SpaceExhausted):
        suggest(space, history, seed=0, strategy="bayes")


@settings(max_examples=30, deadline=None)
@given(
    values=st.lists(st.one_of(st.none(), st.floats(1e-9, 1e9)), min_size=6, max_size=12),
    margins=st.lists(st.floats(-30, 30), min_size=12, max_size=12),
    crashes=st.lists(st.sampled_from([0.0, 0.0, 80.0, 1500.0]), min_size=12, max_size=12),
    low=st.integers(1, 3),
)
def test_any_history_has_a_proposal(values, margins, crashes, low):
    space = Space((Integer("a", low, 400, log=True), Float("b", 0.0, 1.0), Choice("c", ("x", "y"))))
    chance = random.Random(low)
    history = [
        Observation(
            {"a": low + index, "b": round(chance.random(), 3), "c": chance.choice("xy")},
            "done",
            None if crash else value,
            {"slo": margin, "crash": crash},
        )
        for index, (value, margin, crash) in enumerate(zip(values, margins, crashes, strict=False))
    ]
    chosen = suggest(space, history, seed=0, strategy="bayes")
    assert space.allows(chosen, {})
    assert canonical(chosen) not in {canonical(row.configuration) for row in history}


def test_the_best_and_the_last_are_learnt_from_in_their_order():
    rows = [Observation({"a": index}, "done", float(-index) if index % 2 else None, {}) for index in range(40)]
    told = most_telling(rows, best=3, last=5)
    assert [row.configuration["a"] for row in told] == [1, 3, 5, 35, 36, 37, 38, 39]
    assert most_telling(rows[:8], best=3, last=5) == rows[:8]


METRIC = Metric((True, True, False))


def points(number, seed=0):
    rng = np.random.default_rng(seed)
    return np.column_stack((rng.random((number, 2)), rng.integers(0, 3, number)))


def test_a_model_passes_near_what_it_has_seen_and_is_unsure_elsewhere():
    seen = points(12)
    values = 3 * seen[:, 0] - (seen[:, 2] == 1)
    model = Surrogate(METRIC, seen, values, np.random.default_rng(0))
    means, deviations, weights = model.predict(seen)
    assert weights.sum() == pytest.approx(1.0)
    assert np.abs(weights @ means - values).max() < 0.2
    far = np.array([[9.0, 9.0, 7.0]])
    assert (weights @ model.predict(far).deviations)[0] > (weights @ deviations).max()


def test_a_model_predicts_what_adds_up_from_twenty_values():
    def truth(at):
        return 2 * np.abs(at[:, 0] - 0.4) + np.sin(2 * at[:, 1]) + 0.7 * (at[:, 2] == 2)

    seen, unseen = points(20, 1), points(200, 2)
    noise = np.random.default_rng(3).normal(0, 0.02, 20)
    model = Surrogate(METRIC, seen, truth(seen) + noise, np.random.default_rng(0))
    expected = model.predict(unseen).expected
    assert np.corrcoef(expected, truth(unseen))[0, 1] > 0.95


def test_what_is_believed_is_not_learnt_from_again():
    seen, pending = points(10), points(1, 5)
    model = Surrogate(METRIC, seen, seen[:, 0], np.random.default_rng(0))
    before = model.predict(pending)
    model.believe(pending)
    after = model.predict(pending)
    assert after.expected[0] == pytest.approx(before.expected[0], abs=0.05)
    assert (after.weights @ after.deviations)[0] < (before.weights @ before.deviations)[0]


def test_equal_values_are_no_division_by_zero():
    model = Surrogate(METRIC, points(5), np.full(5, 7.0), np.random.default_rng(0))
    prediction = model.predict(points(3, 9))
    assert np.isfinite(prediction.deviations).all()
    assert prediction.expected == pytest.approx(7.0)
