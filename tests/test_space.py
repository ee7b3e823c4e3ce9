import itertools
import json
import math
import pickle
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.space import (
    Choice,
    ConditionError,
    Constraint,
    Float,
    Forbidden,
    Integer,
    Space,
    canonical,
    grid_points,
    grid_size,
    label,
    same,
    takes,
)
from tests.make_spaces import FIXED, spaces

JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=50)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
NAMES = st.from_regex(r"[a-z][a-z0-9_.-]{0,12}", fullmatch=True)


@pytest.mark.parametrize(
    ("parameter", "points"),
    [
        pytest.param(Choice("x", (4, "a", None, [1])), (4, "a", None, [1]), id="choices in their order"),
        pytest.param(Choice("x", (1, True, 1.0, "1", 1)), (1, True, 1.0, "1"), id="only identical choices are one"),
        pytest.param(Integer("x", 1, 4), (1, 2, 3, 4), id="every whole number of a short range"),
        pytest.param(Integer("x", 1, 8, step=3), (1, 4, 7), id="step does not overshoot"),
        pytest.param(Integer("x", 0, 100, levels=5), (0, 25, 50, 75, 100), id="even levels"),
        pytest.param(Integer("x", 64, 512, log=True, levels=4), (64, 128, 256, 512), id="levels by a ratio"),
        pytest.param(Integer("x", 1, 3, levels=10), (1, 2, 3), id="levels that round to the same are one"),
        pytest.param(Integer("x", 5, 5), (5,), id="one value"),
        pytest.param(Integer("x", 5, 5, levels=3), (5,), id="levels of one value"),
        pytest.param(Float("x", 0.85, 0.95, step=0.05), (0.85, 0.9, 0.95), id="clean decimals"),
        pytest.param(Float("x", 0.1, 0.8, step=0.1), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), id="tenths"),
        pytest.param(Float("x", 0.0, 1.0, step=0.4), (0.0, 0.4, 0.8), id="step that misses the end"),
        pytest.param(Float("x", 0.85, 0.95, levels=4), (0.85, 0.88333, 0.91667, 0.95), id="levels are short"),
        pytest.param(Float("x", 0.001, 1.0, log=True, levels=4), (0.001, 0.01, 0.1, 1.0), id="decades"),
    ],
)
def test_parameter_is_enumerated(parameter, points):
    assert grid_points(parameter) == points
    assert [type(point) for point in grid_points(parameter)] == [type(point) for point in points]


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        pytest.param(Float("util", 0.8, 0.9), "'util' has no grid; give grid: N or step:", id="float"),
        pytest.param(
            Integer("seqs", 64, 512), "'seqs' has 449 values, too many for a grid; give grid: N or step:", id="wide"
        ),
    ],
)
def test_range_without_a_grid_cannot_be_enumerated(parameter, message):
    with pytest.raises(ValueError) as caught:
        grid_points(parameter)
    assert str(caught.value) == message


@settings(deadline=None)  # the machine may be busy
@given(st.integers(-(10**6), 10**6), st.integers(0, 10**6), st.integers(2, 40), st.booleans())
def test_whole_levels_ascend_from_low_to_high(low, width, levels, log):
    if log:
        low = abs(low) + 1
    points = grid_points(Integer("x", low, low + width, log=log, levels=levels))
    assert points[0] == low
    assert points[-1] == low + width
    assert list(points) == sorted(set(points))
    assert len(points) <= levels == grid_size(Integer("x", low, low + width, levels=levels))


@settings(deadline=None)  # the machine may be busy
@given(
    st.floats(-1e300, 1e300, allow_subnormal=False),
    st.floats(-1e300, 1e300, allow_subnormal=False),
    st.integers(2, 20),
    st.booleans(),
)
def test_levels_stay_between_low_and_high(one, other, levels, log):
    low, high = sorted((abs(one) or 1.0, abs(other) or 1.0)) if log else sorted((one, other))
    points = grid_points(Float("x", low, high, log=log, levels=levels))
    assert points[0] == low
    assert points[-1] == high
    assert list(points) == sorted(set(points))


@settings(deadline=None)  # the machine may be busy
@given(st.integers(0, 1000), st.integers(1, 200), st.integers(1, 300))
def test_steps_in_hundredths_are_written_in_hundredths(low, step, count):
    parameter = Float("x", low / 100, (low + step * count) / 100, step=step / 100)
    points = grid_points(parameter)
    assert len(points) == grid_size(parameter) == count + 1
    assert all(re.fullmatch(r"\d+\.\d{1,2}", repr(point)) for point in points)


def test_grid_runs_through_the_last_parameter_fastest():
    space = Space((Choice("a", (1, 2)), Choice("b", ("x", "y"))))
    assert list(space.grid({})) == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]


def test_grid_leaves_out_what_constraints_forbid_seeing_fixed_settings_too():
    space = Space((Choice("tp", (1, 2, 4, 8)),), (Constraint("tp * pp <= 8"), Constraint("tp > 1")))
    assert list(space.grid({"pp": 2})) == [{"tp": 2}, {"tp": 4}]


def test_space_without_parameters_has_the_empty_configuration():
    assert list(Space(()).grid({})) == [{}]


def test_grid_is_lazy():
    space = Space(tuple(Integer(f"p{index}", 1, 50) for index in range(10)))
    assert space.size() == 50**10
    assert len(list(itertools.islice(space.grid({}), 3))) == 3


SPECULATION = Space(
    (
        Choice("method", ("none", "ngram", "eagle")),
        Choice("tokens", (2, 4), when=Constraint("method != 'none'")),
        Integer("ngram-max", 1, 2, when=Constraint("method == 'ngram' and tokens > 2")),
        Choice("eager", (True, False)),
    )
)


def test_grid_has_a_parameter_only_where_its_condition_holds_and_nothing_twice():
    found = [" ".join(str(value) for value in configuration.values()) for configuration in SPECULATION.grid({})]
    assert found == [
        "none True",
        "none False",
        "ngram 2 True",
        "ngram 2 False",
        "ngram 4 1 True",
        "ngram 4 1 False",
        "ngram 4 2 True",
        "ngram 4 2 False",
        "eagle 2 True",
        "eagle 2 False",
        "eagle 4 True",
        "eagle 4 False",
    ]
    assert SPECULATION.size() == 3 * 2 * 2 * 2


@pytest.mark.parametrize(
    ("method", "tokens", "names"),
    [
        pytest.param("none", 4, ["method", "eager"], id="what a condition names may be absent itself"),
        pytest.param("ngram", 2, ["method", "tokens", "eager"], id="one of two conditions"),
        pytest.param("ngram", 4, ["method", "tokens", "ngram-max", "eager"], id="all"),
    ],
)
def test_values_stand_for_a_configuration_of_what_exists_under_them(method, tokens, names):
    values = {"eager": True, "ngram-max": 1, "tokens": tokens, "method": method}
    active = SPECULATION.active(values, {})
    assert list(active) == names
    assert active == {name: values[name] for name in names}


def test_condition_may_name_later_parameters_and_fixed_settings():
    space = Space((Choice("a", (1, 2), when=Constraint("b == c")), Choice("b", (3, 4))))
    assert list(space.grid({"c": 4})) == [{"b": 3}, {"a": 1, "b": 4}, {"a": 2, "b": 4}]
    assert list(space.grid({"c": 5})) == [{"b": 3}, {"b": 4}]
    assert list(space.grid({})) == [{"b": 3}, {"b": 4}]  # nobody knows c


def test_constraint_on_what_a_configuration_lacks_holds():
    space = Space(SPECULATION.parameters, (Constraint("tokens > 2"), Constraint("method != 'eagle'")))
    assert [configuration.get("tokens") for configuration in space.grid({})] == [None, None, 4, 4, 4, 4]


@pytest.mark.parametrize(
    ("conditions", "circle"),
    [
        pytest.param({"a": "a > 1"}, "'a'", id="itself"),
        pytest.param({"a": "b > 1", "b": "a > 1"}, "'[ab]', '[ab]'", id="two"),
        pytest.param({"a": "b > 1", "b": "c > 1", "c": "x > b"}, "'[bc]', '[bc]'", id="two of three"),
    ],
)
def test_conditions_that_depend_on_each_other_are_no_space(conditions, circle):
    with pytest.raises(ValueError, match=f"^the conditions of {circle} depend on each other$"):
        Space(tuple(Choice(name, (1, 2), when=Constraint(text)) for name, text in conditions.items()))


def test_condition_that_cannot_be_evaluated_names_its_parameter():
    with pytest.raises(ConditionError, match="constraint 'a > 1': 'x' is not a number") as caught:
        list(Space((Choice("a", ("x",)), Choice("b", (1,), when=Constraint("a > 1")))).grid({}))
    assert caught.value.parameter == "b"


def test_space_narrows_to_parameters_and_what_their_conditions_depend_on():
    assert [one.name for one in SPECULATION.narrowed(["ngram-max"]).parameters] == ["method", "tokens", "ngram-max"]
    assert [one.name for one in SPECULATION.narrowed(["eager"]).parameters] == ["eager"]
    assert SPECULATION.conditional == {"tokens", "ngram-max"}


@pytest.mark.parametrize(
    ("forbidden", "values", "holds"),
    [
        pytest.param({"kv": ("fp8",), "tp": (1,)}, {"kv": "fp8", "tp": 1}, False, id="all of it"),
        pytest.param({"kv": ("fp8",), "tp": (1,)}, {"kv": "fp8", "tp": 2}, True, id="a part of it"),
        pytest.param({"kv": ("fp8",), "tp": (1,)}, {"kv": "fp8"}, True, id="a setting that is absent"),
        pytest.param({"tp": (4, 8)}, {"tp": 8, "kv": "auto"}, False, id="one of several values"),
        pytest.param({"x": (1,)}, {"x": True}, True, id="true is not 1"),
        pytest.param({"x": (True,)}, {"x": 1}, True, id="1 is not true"),
        pytest.param({"x": (1,)}, {"x": 1.0}, False, id="1.0 is 1"),
        pytest.param({"x": ("1",)}, {"x": 1}, True, id="text is no number"),
        pytest.param({"x": (None,)}, {}, True, id="null is not absent"),
        pytest.param({"x": (None,)}, {"x": None}, False, id="null"),
        pytest.param({"x": ([1, 2],)}, {"x": [1, 2]}, False, id="a list"),
        pytest.param({"x": ([1, 2],)}, {"x": [True, 2]}, True, id="true is not 1 in a list"),
        pytest.param({"x": ({"a": 1, "b": 2},)}, {"x": {"b": 2, "a": 1}}, False, id="an object in another order"),
    ],
)
def test_combination_is_forbidden_when_all_of_it_is_there(forbidden, values, holds):
    assert Forbidden(forbidden).holds(values) is holds
    assert Space((), forbidden=(Forbidden(forbidden),)).allows(values, {}) is holds
    assert Space((), forbidden=(Forbidden(forbidden),)).allows({}, values) is holds  # fixed settings count


@pytest.mark.parametrize(
    ("parameter", "grid", "adaptive", "never"),
    [
        pytest.param(Choice("x", (1, "a", [2])), [1, "a", [2], 1.0], [], [True, "1", 2, None], id="choice"),
        pytest.param(Integer("x", 1, 8), [1, 8, 2.0], [], [0, 9, 1.5, True, "1", None, [1]], id="whole numbers"),
        pytest.param(Integer("x", 2, 8, step=3), [2, 5, 8], [], [3, 4], id="steps"),
        pytest.param(Integer("x", 64, 512, log=True, levels=4), [64, 128, 512], [65], [63, 64.5], id="levels"),
        pytest.param(Float("x", 0.85, 0.95, step=0.05), [0.85, 0.9, 0.95], [], [0.86, 1.0], id="decimals"),
        pytest.param(Float("x", 0.0, 1.0, levels=3), [0, 0.5, 1], [0.3], [2, math.inf, math.nan], id="float"),
        pytest.param(Float("x", -1e300, 1e300, step=1e-300), [0, 1e300], [], [1e301], id="steps beyond counting"),
    ],
)
def test_parameter_takes_what_a_search_may_give_it(parameter, grid, adaptive, never):
    assert all(takes(parameter, value, grid=True) and takes(parameter, value, grid=False) for value in grid)
    assert all(takes(parameter, value, grid=False) and not takes(parameter, value, grid=True) for value in adaptive)
    assert not any(takes(parameter, value, grid=True) or takes(parameter, value, grid=False) for value in never)


@settings(deadline=None)  # the machine may be busy
@given(JSON, JSON)
def test_same_values_are_the_same_json(one, other):
    assert same(one, one)
    assert same(one, other) is same(other, one)
    if canonical({"": one}) == canonical({"": other}):
        assert same(one, other)


@settings(deadline=None)  # the machine may be busy
@given(spaces())
def test_grid_configurations_are_allowed_distinct_and_have_just_what_exists(space):
    found = list(space.grid(FIXED))
    names = [parameter.name for parameter in space.parameters]
    assert len(found) <= space.size()
    assert len({canonical(configuration) for configuration in found}) == len(found)
    for configuration in found:
        assert space.allows(configuration, FIXED)
        assert [name for name in names if name in configuration] == list(configuration)
        for parameter in space.parameters:
            known = {**FIXED, **configuration}
            exists = parameter.when is None or (parameter.when.names <= known.keys() and parameter.when.holds(known))
            assert (parameter.name in configuration) is exists
    # Each point of the whole grid stands for one of them, unless that is not allowed.
    every = itertools.product(*(grid_points(parameter) for parameter in space.parameters))
    whole = [space.active(dict(zip(names, values, strict=True)), FIXED) for values in every]
    allowed = {canonical(configuration): configuration for configuration in whole if space.allows(configuration, FIXED)}
    assert found == list(allowed.values())


def test_what_a_space_does_not_use_is_not_written():
    # The identity of a study is made of this.
    space = Space(
        (
            Choice("a", (1, "x")),
            Integer("b", 1, 8, log=True, levels=4),
            Float("c", 0.5, 1.0, step=0.25),
        ),
        (Constraint("a > 1"),),
    )
    assert repr(space) == (
        "Space(parameters=(Choice(name='a', values=(1, 'x')), "
        "Integer(name='b', low=1, high=8, log=True, step=None, levels=4), "
        "Float(name='c', low=0.5, high=1.0, log=False, step=0.25, levels=None)), "
        "constraints=(Constraint(text='a > 1', known=frozenset(), names=frozenset({'a'})),))"
    )
    assert repr(Space(())) == "Space(parameters=(), constraints=())"


def test_what_a_space_uses_is_written():
    when = Constraint("b > 1")
    written = "Constraint(text='b > 1', known=frozenset(), names=frozenset({'b'}))"
    assert repr(Choice("a", (1,), when)) == f"Choice(name='a', values=(1,), when={written})"
    assert repr(Integer("a", 1, 2, when=when)).endswith(f"levels=None, when={written})")
    assert repr(Float("a", 1, 2, when=when)).endswith(f"levels=None, when={written})")
    space = Space((), (), (Forbidden({"a": (1,)}),))
    assert repr(space) == "Space(parameters=(), constraints=(), forbidden=(Forbidden(values={'a': (1,)}),))"


def test_space_survives_pickling():
    space = Space(SPECULATION.parameters, (Constraint("tokens > 2"),), (Forbidden({"eager": (True,)}),))
    copy = pickle.loads(pickle.dumps(space))
    assert copy == space
    assert list(copy.grid({})) == list(space.grid({}))


def test_ten_thousand_configurations_are_listed_and_labelled_in_a_moment():
    space = Space(
        (
            Choice("tensor-parallel-size", (1, 2, 4, 8, 16)),
            Integer("max-num-seqs", 64, 4096, log=True, levels=20),
            Float("gpu-memory-utilization", 0.5, 0.99, levels=50),
            Choice("enable-prefix-caching", (True, False)),
        ),
        (Constraint("max-num-seqs >= tensor-parallel-size or enable-prefix-caching"),),
    )
    started = time.process_time()
    labels = {label(configuration) for configuration in space.grid({})}
    assert len(labels) == 10_000
    assert time.process_time() - started < 5  # takes 0.1 s on an idle machine


def test_canonical_does_not_depend_on_the_order():
    assert canonical({"b": 1, "a": [True, None]}) == canonical({"a": [True, None], "b": 1}) == '{"a":[true,null],"b":1}'


@pytest.mark.parametrize(
    "value", [pytest.param(float("nan"), id="nan"), pytest.param(float("inf"), id="inf"), pytest.param({1}, id="set")]
)
def test_what_is_not_json_has_no_identity(value):
    with pytest.raises(ValueError):
        canonical({"x": value})


@settings(deadline=None)  # the machine may be busy
@given(st.dictionaries(NAMES, JSON, max_size=4))
def test_canonical_is_json_of_the_same_content(configuration):
    assert json.loads(canonical(configuration)) == configuration


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        pytest.param({}, "defaults", id="empty"),
        pytest.param(
            {"tensor-parallel-size": 4, "max-num-seqs": 256}, "tensor-parallel-size:4-max-num-seqs:256", id="numbers"
        ),
        pytest.param({"chunked": True, "spec": None, "util": 0.9}, "chunked:true-spec:null-util:0.9", id="literals"),
        pytest.param({"kv": "fp8_e5m2", "m": "flash-attn"}, "kv:fp8_e5m2-m:flash-attn", id="plain text"),
        pytest.param({"x": 1e20, "y": -5}, "x:1e20-y:-5", id="exponent and sign"),
        pytest.param({"x": "4"}, "x:4+2bf175f9", id="text that looks like a number"),
        pytest.param({"x": "a/b c"}, "x:a.b.c+900ceff5", id="text with other characters"),
        pytest.param({"sizes": [1, 2]}, "sizes:1.2+49a64717", id="list"),
    ],
)
def test_label_is_readable(configuration, expected):
    assert label(configuration) == expected


@settings(deadline=None)  # the machine may be busy
@given(st.lists(NAMES, unique=True, min_size=1, max_size=4), st.data())
def test_configurations_of_one_space_never_share_a_label(names, data):
    values = st.one_of(
        JSON,
        st.text(alphabet="ab:-.1+", max_size=6),
        st.sampled_from([1, 1.0, True, "1", "true", "1.0", "", None, "null"]),
    )
    one = {name: data.draw(values) for name in names}
    other = {name: data.draw(values) for name in names}
    assert (label(one) == label(other)) == (canonical(one) == canonical(other))
    assert label(one) != label({})


def test_label_that_is_taken_by_other_names_ends_in_a_hash():
    one, other = {"a": "x-c", "b": 1}, {"a": "x", "c-b": 1}
    assert label(one) == label(other) == "a:x-c-b:1"
    assert re.fullmatch(r"a:x-c-b:1\+[0-9a-f]{16}", label(other, {label(one)}))


@settings(deadline=None)  # the machine may be busy
@given(st.dictionaries(st.one_of(NAMES, st.text(max_size=20)), JSON, max_size=12))
def test_label_is_safe_in_node_ids_and_file_names(configuration):
    text = label(configuration)
    assert re.fullmatch(r"[A-Za-z0-9_.:+-]+", text)
    assert "::" not in text
    assert len(text) <= 160
