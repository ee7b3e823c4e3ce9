"""The file of a recorded best: what it holds, how it is read back, and how two are told apart."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.baseline import (
    Answered,
    Baseline,
    Served,
    baseline_text,
    beside,
    changes,
    differences,
    parse_baseline,
    read_baseline,
    record_anew,
    rounded,
    with_noise,
    write_baseline,
)
from pytest_autotune.errors import SuiteError
from pytest_autotune.noise import Noise
from pytest_autotune.samples import Level
from tests.make_baselines import baseline

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
SETTINGS = st.dictionaries(TEXT, VALUES, max_size=3)
LEVELS = st.one_of(
    st.builds(Level, st.integers(1, 10**6), st.sampled_from(["concurrency", "burst"])),
    st.builds(Level, st.floats(1e-6, 1e9), st.sampled_from(["rate", "replay"])),
    st.just(Level(1, "stages")),
)
SERVED = st.builds(
    Served,
    deploy=TEXT,
    fixed=SETTINGS,
    env=st.dictionaries(TEXT, TEXT, max_size=2),
    engine_python=st.none() | TEXT,
    command=st.lists(TEXT, max_size=3).map(tuple),
    url=st.none() | TEXT,
    model_name=st.none() | TEXT,
    gpus=st.none() | st.integers(0, 8),
)
BASELINES = st.builds(
    Baseline,
    suite=TEXT,
    engine=TEXT,
    engine_version=TEXT,
    model=st.none() | TEXT,
    hardware=TEXT,
    configuration=SETTINGS,
    server=SERVED,
    load=SETTINGS,
    levels=st.dictionaries(
        LEVELS.map(lambda level: level.name), st.dictionaries(TEXT, NUMBERS), min_size=1, max_size=3
    ),
    run=TEXT,
    recorded_at=TEXT,
    commit=TEXT,
    accuracy=st.none()
    | st.builds(
        Answered,
        questions=TEXT,
        kept=st.integers(0, 99),
        asked=st.integers(0, 99),
        reference=st.none() | st.lists(st.none() | TEXT, max_size=3).map(tuple),
    ),
    noise=st.dictionaries(TEXT, st.builds(Noise, st.floats(0, 1e6), st.integers(1, 100)), max_size=2),
)


@given(BASELINES)
def test_a_text_is_read_back_to_the_same_baseline_and_written_as_the_same_text(written):
    text = baseline_text(written)
    read = parse_baseline(text, "chat.best.json")
    assert read == written
    assert baseline_text(read) == text


@given(LEVELS)
def test_the_name_of_every_level_is_read_back(level):
    read = Level.named(level.name)
    assert (read.name, read.shape) == (level.name, level.shape)
    assert read.value == pytest.approx(level.value, rel=1e-11)


@pytest.mark.parametrize(
    "name",
    ["", "8", "c", "x8", "c8 ", "c-8", "c08", "c8.0", "c8.5", "c0", "r0", "burst1.5", "c1e999", "c٨", "stages2", "replay-2", "cc8"],
)  # fmt: skip
def test_what_is_no_name_of_a_level_is_refused(name):
    with pytest.raises(
        ValueError, match=r"is not the name of a load level, as c8, r2.5, burst64, stages and replay-2x"
    ):
        Level.named(name)


def test_each_number_has_a_line_of_its_own_and_defaults_of_the_server_have_none():
    text = baseline_text(baseline(server=Served(fixed={"tp": 2}, gpus=2)))
    assert text == (
        "{\n"
        '  "schema": 1,\n'
        '  "suite": "chat",\n'
        '  "engine": "vllm",\n'
        '  "engine_version": "0.11.0",\n'
        '  "model": "meta/Llama 3",\n'
        '  "hardware": "2 x NVIDIA H100",\n'
        '  "configuration": {\n'
        '    "max-num-seqs": 64\n'
        "  },\n"
        '  "server": {\n'
        '    "fixed": {\n'
        '      "tp": 2\n'
        "    },\n"
        '    "gpus": 2\n'
        "  },\n"
        '  "load": {\n'
        '    "prompt_tokens": 512\n'
        "  },\n"
        '  "levels": {\n'
        '    "c8": {\n'
        '      "output_throughput": 200.0,\n'
        '      "ttft.p90": 0.4\n'
        "    }\n"
        "  },\n"
        '  "run": "20260101-020304",\n'
        '  "recorded_at": "2026-01-01T02:03:04Z",\n'
        '  "commit": ""\n'
        "}\n"
    )


def test_the_file_stands_beside_the_suite_and_is_read_back(tmp_path):
    path = beside(tmp_path / "suites" / "chat.yaml")
    assert path == tmp_path / "suites" / "chat.best.json"
    write_baseline(path, baseline())
    assert read_baseline(path) == baseline()


@pytest.mark.parametrize(
    ("commit", "words"),
    [("1a2b3c4d5e6f7a8b", "commit 1a2b3c4d5e of 2026-01-01"), ("", "run 20260101-020304 of 2026-01-01")],
)
def test_where_it_comes_from_is_its_commit_or_else_its_run(commit, words):
    assert baseline(commit=commit).origin == words


def test_load_levels_are_in_the_order_in_which_they_were_measured():
    metrics = {"c16": {"ttft.p90": 0.5}, "c8": {"ttft.p90": 0.4}, "r2.5": {}}
    assert baseline(metrics).measured == {
        Level(16): {"ttft.p90": 0.5},
        Level(8): {"ttft.p90": 0.4},
        Level(2.5, "rate"): {},
    }
    assert list(baseline(metrics).measured) == [Level(16), Level(8), Level(2.5, "rate")]


def test_numbers_are_kept_to_four_digits_and_what_is_not_finite_is_left_out():
    metrics = {"a": 1234.567, "b": 0.000123456, "c": 0.0, "d": float("inf"), "e": float("nan"), "f": 98765.4}
    assert rounded(metrics) == {"a": 1235.0, "b": 0.0001235, "c": 0.0, "f": 98770.0}


REMEDY = "; record it anew with: pytest <suite> --autotune --autotune-record"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        pytest.param('"suite"', "suite", "Invalid JSON: key must be a string at line 3 column 3", id="no JSON"),
        pytest.param('  "commit": ""\n}\n', "", "Invalid JSON: EOF while parsing", id="half a file"),
        pytest.param('"suite": "chat"', '"suite": 3', "suite: 3: Input should be a valid string", id="a number"),
        pytest.param('"schema": 1', '"schema": 2', "schema: 2: Input should be 1", id="another version"),
        pytest.param('"run": "', '"runs": "', "run: Field required", id="a key is missing"),
        pytest.param(
            '"suite": "chat"',
            '"suite": "chat",\n"pairs": 3',
            "pairs: 3: Extra inputs are not permitted",
            id="an unknown key",
        ),
        pytest.param(
            '"server": {}',
            '"server": {"gpus": "two"}',
            "server.gpus: 'two': Input should be a valid integer",
            id="an unknown value within",
        ),
        pytest.param(
            '"c8"', '"x8"', "levels.x8: 'x8' is not the name of a load level, as c8, r2.5,", id="an unknown level"
        ),
        pytest.param('"c8"', '"c8.0"', "levels.c8.0: 'c8.0' is not the name of a load level", id="a level misspelt"),
        pytest.param("0.4", '"fast"', "levels.c8.ttft.p90: 'fast': Input should be a valid number", id="no number"),
        pytest.param("0.4", "NaN", "levels.c8.ttft.p90: NaN: Input should be a finite number", id="not a number"),
        pytest.param("0.4", "1e999", "levels.c8.ttft.p90: Infinity: Input should be a finite number", id="too large"),
    ],
)
def test_a_broken_file_is_refused_in_one_line_that_names_file_place_value_and_remedy(tmp_path, old, new, problem):
    text = baseline_text(baseline())
    assert text.count(old) == 1
    path = tmp_path / "chat.best.json"
    path.write_text(text.replace(old, new))
    with pytest.raises(SuiteError) as refused:
        read_baseline(path)
    told = str(refused.value)
    assert told.startswith(f"{path}: {problem}")
    assert told.endswith(REMEDY)
    assert "\n" not in told


@pytest.mark.parametrize("text", ["[]", "null", "3", "{}"])
def test_json_of_another_kind_is_refused(text):
    with pytest.raises(SuiteError, match=r"^main: .*; record it anew with"):
        parse_baseline(text, "main")


def test_a_baseline_without_a_level_is_refused():
    empty = json.loads(baseline_text(baseline())) | {"levels": {}}
    with pytest.raises(SuiteError, match=r"levels: .*at least 1 item"):
        parse_baseline(json.dumps(empty), "chat.best.json")


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["missing", "no UTF-8"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = Path(tmp_path, "chat.best.json")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SuiteError) as refused:
        read_baseline(path)
    assert str(refused.value).startswith(f"{path}: cannot be read: ")


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({}, []),
        ({"suite": "code", "engine": "sim"}, ["suite: chat then, code now", "engine: vllm then, sim now"]),
        ({"model": None, "hardware": "2 x L4"}, ["model: meta/Llama 3 then, None now", "hardware: 2 x NVIDIA H100 then, 2 x L4 now"]),
        ({"load": {"prompt_tokens": 256, "stop": {"after": 3}}}, ["load.prompt_tokens: 512 then, 256 now", 'load.stop: not set then, {"after": 3} now']),
        ({"load": {}}, ["load.prompt_tokens: 512 then, not set now"]),
        ({"engine_version": "0.12.0", "configuration": {}, "run": "other", "commit": "1a"}, []),
    ],
)  # fmt: skip
def test_what_forbids_a_comparison_is_told_with_both_values(now, told):
    assert list(differences(baseline(), baseline(**now))) == told


def test_what_differs_deep_in_the_load_is_told_alone():
    then = baseline(load={"lengths": {"prompt": {"mean": 512, "std": 10}, "seed": 0}})
    now = baseline(load={"lengths": {"prompt": {"mean": 256, "std": 10}, "seed": 0}})
    assert list(differences(then, now)) == ["load.lengths.prompt.mean: 512 then, 256 now"]


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({"suite": "code", "load": {}}, []),
        ({"engine_version": "0.12.0"}, ["engine_version: 0.11.0 then, 0.12.0 now"]),
        ({"server": Served(env={"A": "é"}, gpus=2)}, ['server.env: not set then, {"A": "é"} now', "server.gpus: not set then, 2 now"]),
        ({"configuration": {"tp": 2}}, ["configuration.max-num-seqs: 64 then, not set now", "configuration.tp: not set then, 2 now"]),
    ],
)  # fmt: skip
def test_what_a_comparison_is_about_is_told_with_both_values(now, told):
    assert list(changes(baseline(), baseline(**now))) == told


@given(BASELINES)
def test_a_baseline_differs_in_nothing_from_itself(one):
    assert [*differences(one, one), *changes(one, one)] == []


def test_noise_of_more_comparisons_is_pooled_by_how_much_each_rests_on():
    first = with_noise(baseline(), {"ttft.p90": Noise(0.03, 3)})
    second = with_noise(first, {"ttft.p90": Noise(0.06, 9), "tpot.mean": Noise(0.0123456, 9)})
    assert first.noise == {"ttft.p90": Noise(0.03, 3)}
    assert second.noise == {"ttft.p90": Noise(0.05408, 12), "tpot.mean": Noise(0.01235, 9)}
    assert '"noise": {\n    "ttft.p90": {\n      "deviation": 0.05408,\n      "freedom": 12\n    },' in baseline_text(
        second
    )


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"configuration": {"max-num-seqs": 8}}, True),
        ({"hardware": "1 x NVIDIA H100"}, False),
        ({"load": {"prompt_tokens": 1024}}, False),
    ],
)
def test_what_is_recorded_anew_keeps_the_noise_of_the_same_load_on_the_same_hardware(tmp_path, fields, kept):
    path, noise = tmp_path / "chat.best.json", {"ttft.p90": Noise(0.03, 3)}
    write_baseline(path, baseline(noise=noise))
    record_anew(path, baseline(**fields))
    assert read_baseline(path) == baseline(**fields, noise=noise if kept else {})


@pytest.mark.parametrize("before", [None, "{broken"])
def test_a_record_without_a_readable_one_before_it_has_no_noise(tmp_path, before):
    path = tmp_path / "chat.best.json"
    if before is not None:
        path.write_text(before)
    record_anew(path, baseline())
    assert read_baseline(path) == baseline()
