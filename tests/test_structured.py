"""Structured values of a suite file: one spelling, and what is none of ours stays as it was."""

import pytest

from pytest_autotune.structured import DIALECTS, dialect_named
from pytest_autotune.suite_file import load_suite

VLLM = "name: any\nengine: vllm\nmodel: org/model\n"
COMMAND = "name: any\nengine: command\ncommand: [serve, '{port}', '{flags}']\n"


def load(tmp_path, text):
    path = tmp_path / "any.yaml"
    path.write_text(text)
    return load_suite(path)


@pytest.mark.parametrize("engine", ["vllm", "sim", "sglang", "llamacpp", "trtllm", "tgi", "command\ndialect: tgi"])
def test_all_places_of_a_suite_have_one_spelling(tmp_path, engine):
    suite = load(
        tmp_path,
        f"""\
name: any
engine: {engine}
model: org/model
{"command: [serve, '{port}', '{flags}']" if "command" in engine else ""}
parameters:
  parallelism: [{{tp: 2}}, {{dp: 2, tp: 4}}, null]
  quantization: {{choice: [half, {{kv_cache: fp8_e4m3, weights: bfloat16}}, dynamic-fp8], when: parallelism != 'tp2'}}
forbidden:
  - {{parallelism: [{{tp: 2}}, dp2-tp4], quantization: float16}}
search: {{strategy: bayes, seeds: [{{parallelism: dp2-tp4}}, {{parallelism: {{pp: 1, tp: 2}}}}]}}
""",
    )
    parallelism, quantization = suite.space.parameters
    assert parallelism.values == ("tp2", "tp4-dp2", None)
    assert quantization.values == ("fp16", "bf16-kv-fp8", "fp8")
    (forbidden,) = suite.space.forbidden
    assert forbidden.values == {"parallelism": ("tp2", "tp4-dp2"), "quantization": ("fp16",)}
    assert suite.search.seeds == ({"parallelism": "tp4-dp2"}, {"parallelism": "tp2"})


def test_fixed_settings_have_the_spelling_too(tmp_path):
    assert load(tmp_path, VLLM + "fixed: {parallelism: {tp: 2}, quantization: bf16-stable}\n").fixed == {
        "parallelism": "tp2",
        "quantization": "bf16-kv-bf16",
    }


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (VLLM + "parameters: {quantization: [awq, gptq, null]}\n", ("awq", "gptq", None)),
        (VLLM + "parameters: {quantization: [fp8, fp8_per_block]}\n", ("fp8", "fp8_per_block")),
        (COMMAND + "parameters: {quantization: [bfloat16, default]}\n", ("bfloat16", "default")),
        (COMMAND + "parameters: {parallelism: [1, 2]}\n", (1, 2)),
        (
            COMMAND.replace("'{flags}'", "'{parallelism}'") + "parameters: {parallelism: [tp2, {tp: 2}]}\n",
            ("tp2", {"tp": 2}),
        ),
        ("name: any\nengine: mine\nparameters: {parallelism: [{tp: 2}, tp2]}\n", ({"tp": 2}, "tp2")),
        ("name: any\nengine: mine\ndialect: vllm\nparameters: {parallelism: [{tp: 2}]}\n", ("tp2",)),
    ],
    ids=["methods", "precision and method", "command", "numbers", "placeholder", "plugin", "plugin with a dialect"],
)
def test_values_that_are_a_flags_own_stay_as_they_were(tmp_path, text, values):
    (parameter,) = load(tmp_path, text).space.parameters
    assert parameter.values == values


def test_every_dialect_is_that_of_its_engine():
    assert [dialect_named(name) for name in DIALECTS] == list(DIALECTS)
    assert dialect_named("sim") == "vllm"
    assert dialect_named("command") is None
    assert dialect_named("command", "tgi") == "tgi"


def test_a_dialect_changes_what_is_measured(tmp_path):
    plain = load(tmp_path, COMMAND)
    keys = {plain.measurement_key()} | {
        load(tmp_path, f"{COMMAND}dialect: {name}\n").measurement_key() for name in DIALECTS
    }
    assert len(keys) == 6
