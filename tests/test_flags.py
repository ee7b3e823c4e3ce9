"""Settings become argv elements that an argument parser reads back unchanged."""

from __future__ import annotations

import argparse
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.engines.engine import Flag
from pytest_autotune.engines.flags import flag_name, merged, to_argv

FLAGS = {
    flag.name: flag
    for flag in (
        Flag("max-num-seqs", default=256),
        Flag("enable-prefix-caching", default=True, boolean=True, negatable=True),
        Flag("trust-remote-code", default=False, boolean=True),
        Flag("middleware", many=True),
        Flag("compilation-config"),
        Flag("override"),
    )
}


@pytest.mark.parametrize(
    ("settings", "argv"),
    [
        pytest.param({}, (), id="nothing"),
        pytest.param({"max-num-seqs": 64}, ("--max-num-seqs", "64"), id="number"),
        pytest.param({"max_num_seqs": 64}, ("--max-num-seqs", "64"), id="underscores"),
        pytest.param({"--max-num-seqs": 64}, ("--max-num-seqs", "64"), id="given-with-dashes"),
        pytest.param({"max-num-seqs": 64, "max_num_seqs": 128}, ("--max-num-seqs", "128"), id="same-flag-twice"),
        pytest.param({"gpu-memory-utilization": 0.9}, ("--gpu-memory-utilization", "0.9"), id="float"),
        pytest.param({"max-num-seqs": None}, (), id="none-is-the-default"),
        pytest.param({"enable-prefix-caching": True}, ("--enable-prefix-caching",), id="switch-on"),
        pytest.param({"enable_prefix_caching": False}, ("--no-enable-prefix-caching",), id="switch-off"),
        pytest.param({"trust-remote-code": False}, (), id="switch-off-without-negation"),
        pytest.param({"trust-remote-code": True}, ("--trust-remote-code",), id="switch-on-without-negation"),
        pytest.param({"middleware": ["a", "b c"]}, ("--middleware", "a", "b c"), id="many-values"),
        pytest.param({"middleware": []}, (), id="no-values"),
        pytest.param({"middleware": "a"}, ("--middleware", "a"), id="one-of-many"),
        pytest.param({"override": [1, "x"]}, ("--override", '[1,"x"]'), id="list-as-json"),
        pytest.param({"override": {"a": [1, True]}}, ("--override", '{"a":[1,true]}'), id="mapping-as-json"),
        pytest.param(
            {"compilation_config.cudagraph_mode": "FULL"},
            ("--compilation-config.cudagraph_mode", "FULL"),
            id="key-in-json",
        ),
        pytest.param(
            {"compilation_config.fast": True, "compilation_config.slow": False},
            ("--compilation-config.fast", "true", "--compilation-config.slow", "false"),
            id="switch-in-json",
        ),
        pytest.param({"override": "--x y; rm"}, ("--override=--x y; rm",), id="leading-dash"),
        pytest.param({"override": -1}, ("--override=-1",), id="negative-number"),
        pytest.param({"override": ""}, ("--override", ""), id="empty-string"),
        pytest.param({"override": "grüße $HOME"}, ("--override", "grüße $HOME"), id="verbatim"),
        pytest.param({"b": 1, "a": 2}, ("--b", "1", "--a", "2"), id="order-is-kept"),
    ],
)
def test_settings_become_one_argv_element_per_value(settings, argv):
    assert to_argv(settings, FLAGS) == argv


@pytest.mark.parametrize(
    ("settings", "argv"),
    [
        pytest.param({"anything": True}, ("--anything",), id="true"),
        pytest.param({"anything": False}, (), id="false"),
        pytest.param({"anything": [1, 2]}, ("--anything", "[1,2]"), id="list"),
    ],
)
def test_an_engine_that_does_not_tell_its_flags_gets_plain_ones(settings, argv):
    assert to_argv(settings, None) == argv


def test_later_layers_win_whatever_their_spelling():
    assert merged({"max_num_seqs": 1, "a": 2}, {"max-num-seqs": 3}) == {"max-num-seqs": 3, "a": 2}


def test_flags_may_be_keyed_with_underscores():
    flags = {"enable_prefix_caching": Flag("enable-prefix-caching", boolean=True, negatable=True)}
    assert to_argv({"enable-prefix-caching": False}, flags) == ("--no-enable-prefix-caching",)


json_values = st.recursive(
    st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


@given(
    st.dictionaries(st.text(), json_values)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
def test_an_argument_parser_reads_every_value_back(value):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--override")
    parsed = parser.parse_args(to_argv({"override": value}, FLAGS)).override
    assert (parsed if isinstance(value, str) else json.loads(parsed)) == value


@given(st.text(alphabet="ab-_", min_size=1))
def test_a_flag_has_one_spelling(name):
    assert flag_name(flag_name(name)) == flag_name(name)
    assert "_" not in flag_name(name)
