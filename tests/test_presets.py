"""Presets: how a suite names them, how several become one, what is refused and where, and that those shipped are valid."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.errors import SuiteError
from pytest_autotune.presets.library import KINDS, all_presets, find_preset
from pytest_autotune.presets.merging import MERGES, merge
from pytest_autotune.problems import Problems
from pytest_autotune.space import Choice, Integer, canonical
from pytest_autotune.suite_file import load_suite
from tests.documents import ROOT

HEAD = "name: chat\nengine: {}\nmodel: llama\n"
OWN = {
    "small": "engine: sim\nparameters:\n  max-num-seqs: [16, 32, 64]\n  block-size: [16, 32]\n",
    "large": "parameters:\n  max-num-seqs: [64, 32, 128]\n  max-num-batched-tokens: [2048]\n",
    "other": "parameters: {max-num-seqs: [512]}\n",
    "apart": "parameters: {enforce-eager: [true]}\n",
    "range": "parameters:\n  max_num_seqs: {int: [16, 64], log: true, grid: 3}\n",
    "ours": "source: our terms\nslo:\n  ttft.p99: 400ms\n  tpot.mean: {max: 20ms, hard_fail: false}\n  steepness: 0.2\n",
    "chat": "source: our terms\nslo: {ttft.p99: 123ms}\n",
    "vllm-quick": "parameters: {block-size: [8]}\n",
}


@pytest.fixture
def load(tmp_path):
    """Load a suite beside which are the presets of OWN and those that are given."""

    def load(text, engine="sim", **presets):
        for name, content in {**OWN, **presets}.items():
            (tmp_path / f"{name}.preset.yaml").write_text(content)
        path = tmp_path / "chat.yaml"
        path.write_text(HEAD.format(engine) + text)
        return load_suite(path)

    return load


def values(suite):
    return {parameter.name: list(parameter.values) for parameter in suite.space.parameters}


SEQS, BLOCKS, TOKENS = "max-num-seqs", "block-size", "max-num-batched-tokens"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("preset:small", {SEQS: [16, 32, 64], BLOCKS: [16, 32]}),
        ("{preset: small}", {SEQS: [16, 32, 64], BLOCKS: [16, 32]}),
        ("{preset: 'preset:small'}", {SEQS: [16, 32, 64], BLOCKS: [16, 32]}),
        ("{preset: [small], merge: intersection}", {SEQS: [16, 32, 64], BLOCKS: [16, 32]}),
        ("{preset: [small, large]}", {SEQS: [16, 32, 64, 128], BLOCKS: [16, 32], TOKENS: [2048]}),
        ("{preset: [small, large], merge: union}", {SEQS: [16, 32, 64, 128], BLOCKS: [16, 32], TOKENS: [2048]}),
        ("{preset: [small, large], merge: intersection}", {SEQS: [32, 64]}),
        ("{preset: [large, small], merge: intersection}", {SEQS: [64, 32]}),
        ("{preset: [small, large], merge: last}", {SEQS: [64, 32, 128], BLOCKS: [16, 32], TOKENS: [2048]}),
        ("{preset: small, block-size: [64]}", {SEQS: [16, 32, 64], BLOCKS: [64]}),
        ("{preset: small, max_num_seqs: [1]}", {BLOCKS: [16, 32], "max_num_seqs": [1]}),
        ("{preset: small, enforce-eager: [true]}", {SEQS: [16, 32, 64], BLOCKS: [16, 32], "enforce-eager": [True]}),
        ("{preset: [small, other], merge: intersection, max-num-seqs: [1]}", {SEQS: [1]}),
        ("preset:small\nfixed: {max_num_seqs: 8}", {BLOCKS: [16, 32]}),
        ("preset:vllm-quick", {BLOCKS: [8]}),
        ("preset:sim-quick", {SEQS: [128, 256, 512], TOKENS: [2048, 8192]}),
    ],
)
def test_parameters_of_presets(load, written, expected):
    assert values(load(f"parameters: {written}\n")) == expected


def test_a_range_passes_alone_and_by_last(load):
    whole = (Integer("max_num_seqs", 16, 64, log=True, levels=3),)
    assert load("parameters: preset:range\n").space.parameters == whole
    last = load("parameters: {preset: [other, range], merge: last}\n").space.parameters
    assert last == (Integer("max-num-seqs", 16, 64, log=True, levels=3),)
    assert load("parameters: {preset: [range, apart]}\n").space.parameters == (
        *whole,
        Choice("enforce-eager", (True,)),
    )


def test_settings_may_be_called_preset_and_merge(load):
    text = "parameters: {preset: {choice: [fast, slow]}, merge: [a, b]}\ncommand: [serve, '{port}', '{flags}']\n"
    assert values(load(text, engine="command")) == {"preset": ["fast", "slow"], "merge": ["a", "b"]}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("preset:ours", {"ttft.p99": 0.4, "tpot.mean": 0.02, "error_rate": 0.01}),
        ("{preset: ours}", {"ttft.p99": 0.4, "tpot.mean": 0.02, "error_rate": 0.01}),
        ("{preset: ours, ttft.p99: 1s, e2e.p99: 9s}", {"tpot.mean": 0.02, "ttft.p99": 1, "e2e.p99": 9, "error_rate": 0.01}),
        ("preset:chat", {"ttft.p99": 0.123, "error_rate": 0.01}),
        ("preset:mlperf-llama3.1-8b-interactive", {"ttft.p99": 0.5, "tpot.p99": 0.03, "error_rate": 0.01}),
    ],
)  # fmt: skip
def test_limits_of_presets(load, written, expected):
    assert {limit.metric: limit.bound for limit in load(f"slo: {written}\n").slo} == expected


def test_what_stands_beside_limits_in_a_preset_counts_unless_the_suite_writes_it(load):
    assert load("slo: preset:ours\n").steepness == 0.2
    assert load("slo: {preset: ours, steepness: 0.3}\n").steepness == 0.3


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("preset:chat", {"chat": {"ttft.p99": 0.123}}),
        (
            "[preset:ours, preset:batch]",
            {"ours": {"ttft.p99": 0.4, "tpot.mean": 0.02}, "batch": {"request_throughput": 100}},
        ),
        ("{slow: preset:ours}", {"slow": {"ttft.p99": 0.4, "tpot.mean": 0.02}}),
        (
            "{slow: {preset: ours, ttft.p99: 1s}, own: {e2e.p99: 9s}}",
            {"slow": {"tpot.mean": 0.02, "ttft.p99": 1}, "own": {"e2e.p99": 9}},
        ),
    ],
)
def test_tiers_of_presets(load, written, expected):
    found = {
        tier.name: {limit.metric: limit.bound for limit in tier.limits} for tier in load(f"tiers: {written}\n").tiers
    }
    assert found == {name: {**limits, "error_rate": 0.01} for name, limits in expected.items()}


def test_what_a_preset_amounts_to_is_the_suite_whatever_its_name(load):
    named = load("parameters: {preset: small, max-num-seqs: [8]}\nslo: preset:chat\n")
    written = load("parameters: {block-size: [16, 32], max-num-seqs: [8]}\nslo: {ttft.p99: 123ms}\n")
    assert (named.document(), named.measurement_key()) == (written.document(), written.measurement_key())
    edited = load("parameters: preset:small\n", small="parameters: {block-size: [64]}\n")
    assert edited.document()["parameters"] != load("parameters: preset:small\n").document()["parameters"]


BROKEN = [
    ("parameters: preset:smal\n", "chat.yaml:4: parameters.preset: 'smal' is no preset for parameters (did you mean 'small'?); there are apart, large, llamacpp-quick, other, range, sglang-full, sglang-quick, sim-quick, small, vllm-full, vllm-latency, vllm-memory, vllm-quick, vllm-throughput"),
    ("slo: preset:small\n", "chat.yaml:4: slo.preset: 'small' is no preset for slo; there are batch, chat, code"),
    ("tiers: preset:small\n", "chat.yaml:4: tiers: 'small' is no preset for slo; there are batch, chat, code"),
    ("tiers:\n- preset:chat\n- preset:cat\n", "chat.yaml:6: tiers[1]: 'cat' is no preset for slo (did you mean 'chat'?); there are "),
    ("tiers:\n- preset:chat\n- preset:chat\n", "chat.yaml:6: tiers[1]: 'chat' is named twice; remove one"),
    ("tiers:\n- preset:chat\n- {ttft.p99: 1s}\n", 'chat.yaml:6: tiers[1]: {"ttft.p99": "1s"} is not the name of a preset; write e.g. preset:chat, or a mapping of tiers'),
    ("tiers:\n  a: {preset: small}\n", "chat.yaml:5: tiers.a.preset: 'small' is no preset for slo; there are batch, chat, code"),
    ("tiers: preset:priced\n", "priced.preset.yaml:3: tiers.priced.cost_per_million_tokens: 'cost_per_million_tokens' needs the price of a GPU"),
    ("parameters:\n  preset:\n    - small\n    - larg\n", "chat.yaml:7: parameters.preset[1]: 'larg' is no preset for parameters (did you mean 'large'?)"),
    ("parameters: preset:sglang-quick\n", "chat.yaml:4: parameters.preset: preset 'sglang-quick' is for engine sglang, not for 'sim'"),
    ("parameters: preset:../small\n", "chat.yaml:4: parameters.preset: '../small' cannot name files"),
    ("parameters: {preset: [small, small]}\n", "chat.yaml:4: parameters.preset[1]: 'small' is named twice; remove one"),
    ("parameters: {preset: [small, 'preset:small']}\n", "chat.yaml:4: parameters.preset[1]: 'small' is named twice; remove one"),
    ("parameters: {preset: []}\n", "chat.yaml:4: parameters.preset: an empty list names no preset; remove the key"),
    ("parameters: {preset: [4]}\n", "chat.yaml:4: parameters.preset: 4 is not the name of a preset; see: python -m pytest_autotune presets"),
    ("slo: {preset: [chat, ours]}\n", 'chat.yaml:4: slo.preset: ["chat", "ours"] is not the name of a preset'),
    ("parameters:\n  preset: small\n  merge: intersect\n", "chat.yaml:6: parameters.merge: 'intersect' is not one of union, intersection, last (did you mean 'intersection'?)"),
    ("parameters:\n  merge: last\n  block-size: [16]\n", "chat.yaml:5: parameters.merge: says how presets become one, and no preset is named; remove it"),
    ("parameters: {preset: [small, other], merge: intersection}\n", "chat.yaml:4: parameters.preset: 'max-num-seqs' has no value that small and other have in common; write merge: union or merge: last"),
    ("parameters: {preset: [small, large, apart], merge: intersection}\n", "chat.yaml:4: parameters.preset: small, large and apart have no parameter in common; write merge: union or merge: last"),
    ("parameters: {preset: [small, range]}\n", "chat.yaml:4: parameters.preset: 'max-num-seqs' of range is no plain list of values, and small and range all have it; write merge: last, or the parameter itself"),
    ("parameters: preset:wrong\n", "wrong.preset.yaml:3: parameters.tp[1]: 1 is listed twice"),
    ("parameters: preset:reserved\n", "reserved.preset.yaml:3: parameters.port: 'port' is chosen for each server; remove it"),
    ("parameters: preset:depends\n", "depends.preset.yaml:4: parameters.b.when: unknown name 'c'"),
    ("slo: preset:priced\n", "priced.preset.yaml:3: slo.cost_per_million_tokens: 'cost_per_million_tokens' needs the price of a GPU"),
    ("slo: preset:metric\n", "metric.preset.yaml:3: slo.ttft.p1000: "),
    ("slo: preset:sourceless\n", "sourceless.preset.yaml:1: slo: has no source:; say where these limits come from"),
    ("slo: preset:engined\n", "engined.preset.yaml:2: engine: limits are the same for every engine; remove it"),
    ("parameters: preset:both\n", "both.preset.yaml:1: a preset has either parameters: or slo:"),
    ("parameters: preset:empty\n", "empty.preset.yaml: the file is empty; write at least parameters: or slo:"),
    ("parameters: preset:nothing\n", "nothing.preset.yaml:1: a preset has either parameters: or slo:"),
    ("parameters: preset:key\n", "key.preset.yaml:1: parameter: unknown key (did you mean 'parameters'?)"),
    ("parameters: preset:listed\n", 'listed.preset.yaml:1: ["small"] is not a mapping of keys to values'),
    ("parameters: preset:void\n", "void.preset.yaml:1: parameters: is empty; a preset has something to give"),
    ("parameters: preset:number\n", "number.preset.yaml:1: description: 4 is not text; put it in quotes"),
]  # fmt: skip
WRONG = {
    "wrong": "parameters:\n  # twice\n  tp: [1, 1]\n",
    "reserved": "description: a port\nparameters:\n  port: [1, 2]\n",
    "depends": "parameters:\n  a: [1]\n  b:\n    {choice: [1, 2], when: c == 1}\n",
    "priced": "source: us\nslo:\n  cost_per_million_tokens: 4\n",
    "metric": "source: us\nslo:\n  ttft.p1000: 1s\n",
    "sourceless": "slo: {ttft.p99: 1s}\n",
    "engined": "source: us\nengine: sim\nslo: {ttft.p99: 1s}\n",
    "both": "source: us\nslo: {ttft.p99: 1s}\nparameters: {tp: [1]}\n",
    "empty": "",
    "nothing": "{}\n",
    "key": "parameter: {tp: [1]}\n",
    "listed": "[small]\n",
    "void": "parameters: {}\n",
    "number": "description: 4\nparameters: {tp: [1]}\n",
}


@pytest.mark.parametrize(("written", "message"), BROKEN)
def test_what_is_wrong_is_told_with_its_file_and_line(load, tmp_path, written, message):
    named = written.partition("preset:")[2].strip()
    with pytest.raises(SuiteError) as caught:
        load(written, **({named: WRONG[named]} if named in WRONG else {}))
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(message)


def test_what_is_found_wrong_later_names_the_file_of_the_preset(load, tmp_path):
    suite = load("parameters: {preset: small, enforce-eager: [true]}\n")
    assert (
        str(suite.error("no", "parameters", "block-size"))
        == f"{tmp_path}/small.preset.yaml:4: parameters.block-size: no"
    )
    assert str(suite.error("no", "parameters", "enforce-eager")).startswith(f"{tmp_path}/chat.yaml:4: ")
    last = load("parameters: {preset: [small, large], merge: last}\n")
    assert str(last.error("no", "parameters", "max-num-seqs")).startswith(f"{tmp_path}/large.preset.yaml:2: ")


@pytest.mark.parametrize("preset", all_presets(beside=None), ids=lambda preset: preset.name)
def test_shipped_presets_make_a_suite_of_their_engine(load, preset):
    strategy = "search: {strategy: auto}\n" if preset.kind == "parameters" else ""
    suite = load(f"{preset.kind}: preset:{preset.name}\n{strategy}", preset.engine or "sim")
    assert preset.description
    assert preset.kind == "parameters" or preset.source.startswith("https://")
    assert suite.name == "chat"


def test_presets_of_another_engine_serve_a_command(load):
    text = "parameters: preset:sglang-quick\ncommand: [serve, '{port}', '{flags}']\n"
    assert values(load(text, engine="command")) == dict(find_preset("parameters", "sglang-quick", beside=None).content)


def test_every_way_to_merge_is_documented():
    section = (ROOT / "docs" / "suites.md").read_text().split("### Presets")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)`(?: \(unless written\))? \| those", section, re.MULTILINE) == list(MERGES)


PARAMETERS = st.dictionaries(
    st.sampled_from(["a", "b-c", "d"]),
    st.lists(st.sampled_from([1, 2, 3, True, "1", None]), min_size=1, unique_by=lambda value: canonical({"": value})),
    min_size=1,
)
SEVERAL = st.lists(PARAMETERS, min_size=1, max_size=4).map(lambda each: {f"p{i}": one for i, one in enumerate(each)})


def keys(listed):
    return [canonical({"": value}) for value in listed]


@given(SEVERAL)
def test_a_union_has_everything_once_and_in_order(contents):
    merged = merge(contents, "union")
    assert set(merged) == {name for content in contents.values() for name in content}
    for name, listed in merged.items():
        every = [key for content in contents.values() for key in keys(content.get(name, ()))]
        assert keys(listed) == list(dict.fromkeys(every))


@given(SEVERAL)
def test_an_intersection_is_a_part_of_each_in_order_or_refused(contents):
    common = {
        name: [key for key in keys(listed) if all(key in keys(other.get(name, ())) for other in contents.values())]
        for name, listed in contents["p0"].items()
        if all(name in other for other in contents.values())
    }
    if not common or not all(common.values()):
        with pytest.raises(ValueError, match="in common"):
            merge(contents, "intersection")
    else:
        assert {name: keys(listed) for name, listed in merge(contents, "intersection").items()} == common


@given(SEVERAL)
def test_last_takes_each_parameter_of_the_last_that_has_it(contents):
    updated = {}
    for content in contents.values():
        updated |= content
    assert merge(contents, "last") == updated


@given(PARAMETERS, st.sampled_from(MERGES))
def test_one_preset_stays_as_it_is(content, how):
    assert list(merge({"p": content}, how).items()) == list(content.items())


def test_all_that_cannot_be_merged_is_told():
    with pytest.raises(Problems) as caught:
        merge({"p": {"a": [1], "b": [1]}, "q": {"a": [2], "b": [2]}}, "intersection")
    assert len(caught.value.found) == 2


def test_presets_are_listed_by_kind_and_name_with_ones_own():
    shipped = [(preset.kind, preset.name) for preset in all_presets(beside=None)]
    assert shipped == sorted(shipped)
    assert {kind for kind, _ in shipped} == set(KINDS)
