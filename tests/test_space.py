import itertools
import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.space import Choice, Constraint, Float, Integer, Space, canonical, grid_points, grid_size, label

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


@settings(deadline=None)  # the machine may be busy
@given(st.dictionaries(st.one_of(NAMES, st.text(max_size=20)), JSON, max_size=12))
def test_label_is_safe_in_node_ids_and_file_names(configuration):
    text = label(configuration)
    assert re.fullmatch(r"[A-Za-z0-9_.:+-]+", text)
    assert "::" not in text
    assert len(text) <= 160
