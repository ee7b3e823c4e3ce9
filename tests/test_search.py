"""Which configuration comes next."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.scope import Scope, SpaceExhausted, axis_of
from pytest_autotune.search import STARTUP, Observation, failure_value, suggest
from pytest_autotune.space import Choice, Constraint, Float, Forbidden, Integer, Space, canonical
from tests.make_spaces import FIXED
from tests.make_spaces import spaces as conditional_spaces

ROOT = Path(__file__).parent.parent
STRATEGIES = ("grid", "random", "tpe", "bayes")
SMALL = Space(
    (
        Choice("tp", (1, 2, 4)),
        Choice("mode", ("auto", None, ["a", {"b": 1}], True)),
        Float("memory", 0.85, 0.95, step=0.05),
    ),
    (Constraint("memory <= limit"),),
)
WIDE = Space(
    (Integer("seqs", 16, 512, log=True), Float("memory", 0.8, 0.95), Integer("tokens", 512, 16384, step=512)),
    (Constraint("tokens >= seqs"),),
)


def done(configuration, value=None, **constraints):
    return Observation(configuration, "done", value, constraints)


def play(space, strategy, number, *, score=lambda _: done, seed=0, fixed=None):
    history = []
    for _ in range(number):
        configuration = suggest(space, history, seed=seed, strategy=strategy, fixed=fixed or {})
        history.append(score(configuration))
    return history


def smooth(configuration):
    """Best in the corner of many sequences; too much memory crashes."""
    if configuration["memory"] > 0.9:
        return done(configuration, crash=failure_value(10, 600, "CUDA out of memory") / 1000)
    return done(configuration, configuration["seqs"] / 512, ttft=math.log(configuration["tokens"] / 8192))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_allowed_configuration_comes_once_and_then_the_space_is_exhausted(strategy):
    fixed = {"limit": 0.9}
    history = play(SMALL, strategy, 24, score=lambda c: done(c, float(c["tp"])), fixed=fixed)
    proposed = [canonical(row.configuration) for row in history]
    assert sorted(proposed) == sorted(canonical(configuration) for configuration in SMALL.grid(fixed))
    with pytest.raises(SpaceExhausted, match="every allowed configuration was tried"):
        suggest(SMALL, history, seed=0, strategy=strategy, fixed=fixed)


SPECULATION = Space(
    (
        Choice("method", ("none", "ngram", "eagle")),
        Choice("tokens", (2, 4, 8), when=Constraint("method != 'none'")),
        Float("share", 0.1, 0.9, when=Constraint("method == 'ngram' and tokens > 2")),
        Integer("seqs", 1, 4),
    ),
    (Constraint("seqs <= limit"),),
    (Forbidden({"method": ("eagle",), "tokens": (4, 8)}),),
)


def scope_of(space, fixed, tried=()):
    return Scope(space, fixed, set(tried), tuple(axis_of(parameter) for parameter in space.parameters))


@settings(max_examples=40, deadline=None)
@given(space=conditional_spaces(), strategy=st.sampled_from(STRATEGIES), seed=st.integers(0, 3))
def test_every_configuration_of_a_space_with_conditions_comes_once(space, strategy, seed):
    history = []
    with pytest.raises(SpaceExhausted):  # noqa: PT012
        while len(history) <= space.size():
            configuration = suggest(space, history, seed=seed, strategy=strategy, fixed=FIXED)
            history.append(done(configuration, float(len(configuration))))
    proposed = [canonical(row.configuration) for row in history]
    assert sorted(proposed) == sorted(canonical(configuration) for configuration in space.grid(FIXED))


@pytest.mark.parametrize("strategy", ["random", "tpe", "bayes"])
def test_proposals_have_just_the_parameters_whose_conditions_hold(strategy):
    fixed = {"limit": 3}
    history = play(SPECULATION, strategy, 30, score=lambda c: done(c, c.get("share", 0.5)), fixed=fixed)
    for row in history:
        assert SPECULATION.allows(row.configuration, fixed)
        method, tokens = row.configuration["method"], row.configuration.get("tokens")
        expected = {"method", "seqs"} | ({"tokens"} if method != "none" else set())
        assert row.configuration.keys() == expected | ({"share"} if method == "ngram" and tokens > 2 else set())
        assert (method, tokens) not in {("eagle", 4), ("eagle", 8)}
    assert {row.configuration["method"] for row in history} >= {"none", "ngram"}


def test_tpe_learns_below_a_condition():
    def score(configuration):
        return done(configuration, configuration.get("share", 0.0))

    rows = play(SPECULATION, "tpe", 40, score=score, fixed={"limit": 4}, seed=3)
    assert max(row.value for row in rows) > 0.8
    assert sum("share" in row.configuration for row in rows[STARTUP:]) > 15


@settings(max_examples=60, deadline=None)
@given(space=conditional_spaces(), data=st.data())
def test_point_of_a_configuration_leads_back_to_it(space, data):
    scope = scope_of(space, FIXED)
    point = [
        data.draw(st.integers(0, len(axis.values) - 1) if hasattr(axis, "values") else st.floats(axis.low, axis.high))
        for axis in scope.axes
    ]
    configuration = scope.decode(point)
    encoded = scope.encode(configuration)
    assert encoded is not None
    assert scope.decode(encoded) == configuration
    for axis, at in zip(scope.axes, encoded, strict=True):
        assert axis.name in configuration or at == axis.middle


@pytest.mark.parametrize(
    "configuration",
    [
        pytest.param({"method": "ngram", "seqs": 1}, id="an active one is missing"),
        pytest.param({"method": "none", "tokens": 2, "seqs": 1}, id="an inactive one is set"),
        pytest.param({"method": "none", "seqs": 1, "x": 1}, id="an unknown one is set"),
        pytest.param({"method": "none", "x": 1}, id="another in place of one"),
        pytest.param({"method": "none", "seqs": 99}, id="a value out of range"),
        pytest.param({"method": "ngram", "tokens": "2", "seqs": 1}, id="a value of another type"),
        pytest.param({}, id="the engine's defaults"),
    ],
)
def test_what_a_space_with_conditions_cannot_express_has_no_point(configuration):
    scope = scope_of(SPECULATION, {"limit": 4})
    assert scope.encode(configuration) is None
    assert scope.encode({"method": "none", "seqs": 1}) is not None


def test_everything_has_nothing_twice():
    space = Space((Choice("a", (1, 2)), Integer("b", 1, 50, when=Constraint("a > 1"))))
    found = scope_of(space, {}, tried=[canonical({"a": 2, "b": 7})]).everything()
    assert found == [{"a": 1}, *({"a": 2, "b": number} for number in range(1, 51) if number != 7)]


def test_grid_goes_in_the_order_of_the_space():
    fixed = {"limit": 1}
    assert [row.configuration for row in play(SMALL, "grid", 36, score=done, fixed=fixed)] == list(SMALL.grid(fixed))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_space_without_parameters_has_one_configuration(strategy):
    assert suggest(Space(()), [], seed=0, strategy=strategy) == {}
    with pytest.raises(SpaceExhausted):
        suggest(Space(()), [done({}, 1.0)], seed=0, strategy=strategy)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_running_configurations_are_not_proposed_again(strategy):
    history = [Observation(configuration, "running") for configuration in SMALL.grid({"limit": 1})]
    last = history.pop()
    assert suggest(SMALL, history, seed=0, strategy=strategy, fixed={"limit": 1}) == last.configuration


SUGGEST = """
import json, sys
from tests.test_search import WIDE, play, smooth
print(json.dumps([dict(row.configuration) for row in play(WIDE, sys.argv[1], 14, score=smooth, seed=7)]))
"""


@pytest.mark.parametrize("strategy", ["random", "tpe"])
def test_equal_history_and_seed_give_equal_answers_in_any_process(strategy):
    own = [dict(row.configuration) for row in play(WIDE, strategy, 14, score=smooth, seed=7)]
    environment = {**os.environ, "PYTHONHASHSEED": "123", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SUGGEST, strategy]
    other = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert json.loads(other) == own
    assert own != [dict(row.configuration) for row in play(WIDE, strategy, 14, score=smooth, seed=8)]


names = st.sampled_from(["a", "b", "c", "d"])
numbers = st.integers(-50, 50)
parameters = st.one_of(
    st.builds(
        lambda n, v: Choice(n, tuple(v)),
        names,
        st.lists(numbers | st.text(max_size=3) | st.booleans(), min_size=1, max_size=4),
    ),
    st.builds(lambda n, low, span: Integer(n, low, low + span), names, numbers, st.integers(0, 30)),
    st.builds(
        lambda n, low, span: Integer(n, low, low + span, log=True), names, st.integers(1, 50), st.integers(0, 3000)
    ),
    st.builds(
        lambda n, low, span, step: Integer(n, low, low + span, step=step),
        names,
        numbers,
        st.integers(0, 30),
        st.integers(1, 7),
    ),
    st.builds(lambda n, low, span: Float(n, low, low + span), names, st.floats(-5, 5), st.floats(0.001, 1e3)),
    st.builds(lambda n, low, span: Float(n, low, low * span, log=True), names, st.floats(1e-3, 5), st.floats(1.1, 1e3)),
)
spaces = st.lists(parameters, min_size=1, max_size=3, unique_by=lambda parameter: parameter.name).map(
    lambda chosen: Space(tuple(chosen), (Constraint("a != 3"), Constraint("b <= c")))
)


def within(parameter, value):
    if isinstance(parameter, Choice):
        return canonical({"": value}) in {canonical({"": known}) for known in parameter.values}
    if isinstance(parameter, Integer) and not isinstance(value, int):
        return False
    on_step = parameter.step is None or (value - parameter.low) % parameter.step == 0
    return parameter.low <= value <= parameter.high and on_step


def comparable(space):
    """Constraints compare numbers with numbers."""
    kinds = {
        p.name: {type(v) in (int, float) for v in p.values} if isinstance(p, Choice) else {True}
        for p in space.parameters
    }
    return all(kinds.get(name, {True}) == {True} for name in "bc")


@settings(max_examples=60, deadline=None)
@given(
    space=spaces.filter(comparable), seed=st.integers(0, 9), strategy=st.sampled_from(["random", "tpe"]), data=st.data()
)
def test_proposals_are_allowed_new_and_within_their_ranges(space, seed, strategy, data):
    history = []
    for _ in range(STARTUP + 4):
        try:
            configuration = suggest(space, history, seed=seed, strategy=strategy)
        except SpaceExhausted:
            break
        assert list(configuration) == [parameter.name for parameter in space.parameters]
        assert all(within(parameter, configuration[parameter.name]) for parameter in space.parameters)
        assert space.allows(configuration, {})
        assert canonical(configuration) not in {canonical(row.configuration) for row in history}
        json.dumps(configuration, allow_nan=False)
        row = data.draw(
            st.builds(
                Observation,
                st.just(configuration),
                st.sampled_from(["done", "done", "done", "running"]),
                st.none() | st.floats(-1e6, 1e6),
                st.dictionaries(st.sampled_from(["crash", "ttft"]), st.floats(-10, 10)),
            )
        )
        history.append(row)


def test_tpe_leaves_the_corner_that_crashes():
    proposals = {"random": [], "tpe": []}
    for strategy, later in proposals.items():
        for seed in range(6):
            later.extend(row.configuration for row in play(WIDE, strategy, 26, score=smooth, seed=seed)[STARTUP:])
    crashes = {strategy: sum(c["memory"] > 0.9 for c in later) for strategy, later in proposals.items()}
    assert crashes["tpe"] < 0.6 * crashes["random"]


def test_tpe_finds_more_than_random_search_within_the_same_trials():
    def best(strategy):
        totals = 0.0
        for seed in range(6):
            rows = play(WIDE, strategy, 26, score=smooth, seed=seed)
            totals += max(row.value for row in rows if row.value is not None and row.constraints["ttft"] <= 0)
        return totals / 6

    assert best("tpe") > best("random")


def test_history_that_the_space_cannot_express_does_no_harm():
    rows = play(WIDE, "tpe", STARTUP + 1, score=smooth, seed=1)
    odd = [
        done({}, 0.5),
        done({"seqs": 16}, 0.5),
        done({"seqs": 9999, "memory": 0.9, "tokens": 512}, 0.5),
        done({"seqs": "16", "memory": True, "tokens": 513}, 0.5),
    ]
    proposed = suggest(WIDE, rows + odd, seed=1, strategy="tpe")
    assert WIDE.allows(proposed, {})
    assert set(proposed) == {"seqs", "memory", "tokens"}


def test_whole_numbers_are_drawn_evenly_up_to_both_ends():
    space = Space((Integer("n", 1, 4), Float("noise", 0, 1)))
    counts = dict.fromkeys((1, 2, 3, 4), 0)
    for row in play(space, "random", 400, score=done):
        counts[row.configuration["n"]] += 1
    assert min(counts.values()) > 60


def test_numbers_read_well_on_a_command_line():
    for row in play(WIDE, "tpe", 14, score=smooth):
        assert len(repr(row.configuration["memory"])) <= len("0.8123")


def test_constraints_that_leave_next_to_nothing_still_find_it():
    space = Space((Integer("a", 1, 200), Integer("b", 1, 200)), (Constraint("a + b == 400"),))
    assert suggest(space, [], seed=0, strategy="random") == {"a": 200, "b": 200}
    endless = Space((Float("a", 0, 1), Float("b", 0, 1)), (Constraint("a > 2"),))
    with pytest.raises(SpaceExhausted, match="random draws found no allowed configuration"):
        suggest(endless, [], seed=0, strategy="random")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_number_that_is_not_finite_is_refused(number):
    with pytest.raises(ValueError, match="not a finite number"):
        done({"tp": 1}, number)
    with pytest.raises(ValueError, match="ttft of"):
        done({"tp": 1}, 1.0, ttft=number)


def test_grid_of_a_continuous_parameter_is_refused():
    with pytest.raises(ValueError, match="give grid: N or step:"):
        suggest(WIDE, [], seed=0, strategy="grid")


@pytest.mark.parametrize(
    ("elapsed", "budget", "text", "value"),
    [
        (0, 600, "", 1000),
        (119.9, 600, "", 1000),
        (120, 600, "", 500),
        (359.9, 600, "", 500),
        (360, 600, "", 200),
        (569, 600, "", 200),
        (570, 600, "", 100),
        (9999, 600, "", 100),
        (5, 0, "", 1000),
        (0, 600, "Deployment failed: CUDA out of memory", 1200),
        (0, 600, "model not found", 1200),
        (0, 600, "torch.OutOfMemoryError: CUDA", 1500),
        (0, 600, "OOM", 1500),
        (0, 600, "connection reset: memory", 1500),
        (600, 600, "Connection refused", 80),
        (600, 600, "timeout", 80),
    ],
)
def test_failure_is_graded_by_how_far_it_got_and_by_what_it_says(elapsed, budget, text, value):
    assert failure_value(elapsed, budget, text) == pytest.approx(value)


def test_search_is_imported_without_optuna():
    code = "import sys, pytest_autotune.search; sys.exit('optuna' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
