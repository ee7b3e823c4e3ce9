import dataclasses
import json
import re
from pathlib import Path

import jsonschema
import pytest

from pytest_autotune.errors import SuiteError
from pytest_autotune.slo import DELIVERED, Limit, Tier
from pytest_autotune.space import Choice, Constraint, Float, Forbidden, Integer, Space
from pytest_autotune.suite import LoadBlock, Objective, Price, SearchBlock, Suite, TimeoutsBlock
from pytest_autotune.suite_file import load_suite
from pytest_autotune.suite_schema import suite_schema
from pytest_autotune.yaml_source import read_yaml
from tests.documents import ROOT

CHAT = """\
name: chat
engine: vllm                      # vllm | sim | command (any OpenAI-compatible server given as an argv template) | endpoint
model: meta-llama/Llama-3.1-8B-Instruct
parameters:
  tensor-parallel-size: [1, 2, 4]
  max-num-seqs: {int: [64, 512], log: true, grid: 4}
  gpu-memory-utilization: {float: [0.85, 0.95], step: 0.05}
  enable-prefix-caching: [true, false]
constraints: ["max-num-batched-tokens >= max-num-seqs"]
fixed: {max-model-len: 4096}
load: {prompt_tokens: 512, output_tokens: 128, concurrency: [1, 4, 16, 64], duration: 30s, warmup: 5s}
slo:
  ttft.p90: 500ms
  tpot.mean: 50ms
  e2e.p99: {max: 10s, hard_fail: true, fail_ratio: 0.2, weight: 2}
  error_rate: 1%
  output_throughput: {min: 100}
objective: maximize output_throughput_per_gpu
search: {strategy: grid}
"""
HEAD = "name: chat\nengine: sim\nmodel: llama\n"


def documented(heading):
    """The YAML of a section of the documentation."""
    section = (ROOT / "docs" / "suites.md").read_text().split(f"### {heading}\n")[1].split("\n#")[0]
    return re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def load(tmp_path):
    def load(text, **options):
        file = tmp_path / "chat.yaml"
        file.write_text(text)
        return load_suite(file, **options)

    return load


def test_whole_suite_is_read(load, tmp_path):
    suite = load(CHAT)
    names = frozenset(
        ("tensor-parallel-size", "max-num-seqs", "gpu-memory-utilization", "enable-prefix-caching", "max-model-len")
    )
    assert suite == Suite(
        name="chat",
        engine="vllm",
        model="meta-llama/Llama-3.1-8B-Instruct",
        space=Space(
            (
                Choice("tensor-parallel-size", (1, 2, 4)),
                Integer("max-num-seqs", 64, 512, log=True, levels=4),
                Float("gpu-memory-utilization", 0.85, 0.95, step=0.05),
                Choice("enable-prefix-caching", (True, False)),
            ),
            (Constraint("max-num-batched-tokens >= max-num-seqs", names),),
        ),
        fixed={"max-model-len": 4096},
        load=LoadBlock(prompt_tokens=512, output_tokens=128, concurrency=(1, 4, 16, 64), duration_s=30.0, warmup_s=5.0),
        slo=(
            Limit("ttft.p90", 0.5),
            Limit("tpot.mean", 0.05),
            Limit("e2e.p99", 10.0, hard_fail=True, fail_ratio=0.2, weight=2.0),
            Limit("error_rate", 0.01),
            Limit("output_throughput", 100.0, floor=True),
        ),
        objective=Objective(direction="maximize", metric="output_throughput_per_gpu"),
        search=SearchBlock(strategy="grid"),
        path=tmp_path / "chat.yaml",
        lines=suite.lines,
    )
    assert len(list(suite.configurations())) == 1 + 3 * 4 * 3 * 2


def test_whole_suite_is_valid_by_the_schema(load):
    jsonschema.validate(read_yaml(load(CHAT).path).value, suite_schema(), cls=jsonschema.Draft202012Validator)


def test_smallest_suite_has_only_the_defaults_and_the_implicit_error_rate(load):
    suite = load(HEAD)
    assert list(suite.configurations()) == [{}]
    assert suite.slo == (Limit("error_rate", 0.01),)
    assert suite.load.concurrency == (1, 4, 16, 64)
    assert suite.steepness == 0.1
    assert str(suite.objective) == "maximize output_throughput"


@pytest.mark.parametrize(
    ("written", "limit"),
    [
        pytest.param("ttft.p90: 500ms", Limit("ttft.p90", 0.5), id="latency is a maximum"),
        pytest.param("itl.p99.95: {min: 1ms}", Limit("itl.p99.95", 0.001, floor=True), id="latency with a floor"),
        pytest.param("failed: 0", Limit("failed", 0.0), id="failed requests"),
        pytest.param("requests: 300", Limit("requests", 300.0, floor=True), id="enough requests to judge by"),
        pytest.param("goodput: 3", Limit("goodput", 3.0, floor=True), id="rate is a minimum"),
        pytest.param("goodput: {max: 3}", Limit("goodput", 3.0), id="rate with a ceiling"),
        pytest.param(
            "request_throughput_per_gpu: 3", Limit("request_throughput_per_gpu", 3.0, floor=True), id="per gpu"
        ),
        pytest.param("error_rate: 0", Limit("error_rate", 0.0), id="no error at all"),
        pytest.param("error_rate: {max: 0.5%}", Limit("error_rate", 0.005), id="percentage in a block"),
        pytest.param("e2e.mean: {max: 1s, hard_fail: false}", Limit("e2e.mean", 1.0, hard_fail=False), id="soft"),
        pytest.param("e2e.mean: {max: 1s, fail_ratio: 20%}", Limit("e2e.mean", 1.0, fail_ratio=0.2), id="tolerance"),
    ],
)
def test_limit_is_read(load, written, limit):
    assert load(f"{HEAD}slo: {{{written}}}\n").slo[0] == limit


@pytest.mark.parametrize(
    ("written", "price", "shown"),
    [
        pytest.param("2.50", Price(per_gpu_hour=2.5), "2.5 per GPU and hour", id="number"),
        pytest.param(
            "{per_gpu_hour: 3, currency: EUR}",
            Price(per_gpu_hour=3.0, currency="EUR"),
            "3 EUR per GPU and hour",
            id="with a currency",
        ),
    ],
)
def test_price_is_read(load, written, price, shown):
    suite = load(f"{HEAD}price: {written}\nslo: {{cost_per_million_tokens: 0.5}}\n")
    assert (suite.price, suite.hourly, str(suite.price)) == (price, price.per_gpu_hour, shown)
    assert suite.slo[0] == Limit("cost_per_million_tokens", 0.5)
    assert suite.document()["price"] == {"per_gpu_hour": price.per_gpu_hour, "currency": price.currency}


def test_tiers_are_read_like_the_limits_of_the_suite(load):
    suite = load(
        HEAD + "load: {rate: 5}\nslo: {e2e.p95: 2s, error_rate: 5%}\n"
        "tiers: {chat: {ttft.p97: 500ms, output_throughput: {min: 5, hard_fail: false}}, 2nd.batch: {error_rate: 0}}\n"
    )
    implicit = (Limit("error_rate", 0.01), DELIVERED)
    assert suite.tiers == (
        Tier("chat", (Limit("ttft.p97", 0.5), Limit("output_throughput", 5.0, floor=True, hard_fail=False), *implicit)),
        Tier("2nd.batch", (Limit("error_rate", 0.0), DELIVERED)),
    )
    assert suite.extra_metrics() == ("e2e.p95", "ttft.p97")
    assert [limit["metric"] for limit in suite.document()["tiers"]["2nd.batch"]] == ["error_rate", "delivered"]


def test_what_is_measured_does_not_depend_on_tiers_and_price(load):
    key = load(HEAD).measurement_key()
    assert load(HEAD + "tiers: {chat: {ttft.p97: 500ms}}\nprice: 2.50\n").measurement_key() == key


def test_steepness_stands_beside_the_limits(load):
    suite = load(HEAD + "slo: {ttft.p90: 1s, steepness: 0.5}\n")
    assert suite.steepness == 0.5
    assert [limit.metric for limit in suite.slo] == ["ttft.p90", "error_rate"]


@pytest.mark.parametrize(
    ("written", "parameter"),
    [
        pytest.param("[a, 1, null, [x], {y: 2}]", Choice("p", ("a", 1, None, ["x"], {"y": 2})), id="any JSON values"),
        pytest.param("{choice: [1, 2]}", Choice("p", (1, 2)), id="choice"),
        pytest.param("{int: [1, 8]}", Integer("p", 1, 8), id="short range"),
        pytest.param("{int: [0, 100], step: 10}", Integer("p", 0, 100, step=10), id="steps"),
        pytest.param("{float: [0, 1], grid: 3}", Float("p", 0.0, 1.0, levels=3), id="whole bounds of a float"),
        pytest.param("{float: [1e-3, 1], log: true, grid: 3}", Float("p", 0.001, 1.0, log=True, levels=3), id="log"),
    ],
)
def test_parameter_is_read(load, written, parameter):
    assert load(f"{HEAD}parameters: {{p: {written}}}\n").space.parameters == (parameter,)


SPECULATIVE = """\
parameters:
  speculative-method: [none, ngram]
  speculative-num-tokens: {choice: [2, 4], when: "speculative-method != 'none'"}
  ngram-max: {int: [1, 2], when: speculative-num-tokens-2 > min-tokens}
  share: {float: [0, 1], grid: 2, when: ngram-max == 2}
fixed: {min-tokens: 1}
forbidden:
  - {speculative-num-tokens: 4, ngram-max: [1]}
  - {share: [0, 0.5, 1], min-tokens: 7}
search: {strategy: STRATEGY, defaults: false}
"""


def test_parameter_has_a_condition(load):
    suite = load(HEAD + SPECULATIVE.replace("STRATEGY", "random"))
    names = frozenset(("speculative-method", "speculative-num-tokens", "ngram-max", "share", "min-tokens"))
    assert suite.space == Space(
        (
            Choice("speculative-method", ("none", "ngram")),
            Choice("speculative-num-tokens", (2, 4), when=Constraint("speculative-method != 'none'", names)),
            Integer("ngram-max", 1, 2, when=Constraint("speculative-num-tokens-2 > min-tokens", names)),
            Float("share", 0.0, 1.0, levels=2, when=Constraint("ngram-max == 2", names)),
        ),
        forbidden=(
            Forbidden({"speculative-num-tokens": (4,), "ngram-max": (1,)}),
            Forbidden({"share": (0, 0.5, 1), "min-tokens": (7,)}),
        ),
    )


def test_grid_leaves_out_what_has_no_condition_that_holds_and_what_is_forbidden(load):
    suite = load(HEAD + SPECULATIVE.replace("STRATEGY", "grid").replace("[0, 0.5, 1]", "[0, 1]"))
    assert [" ".join(map(str, each.values())) for each in suite.configurations()] == [
        "none",
        "ngram 2",
        "ngram 4 2 0.0",
        "ngram 4 2 1.0",
    ]


def test_conditions_and_forbidden_combinations_are_valid_by_the_schema(load):
    file = load(HEAD + SPECULATIVE.replace("STRATEGY", "random")).path
    jsonschema.validate(read_yaml(file).value, suite_schema(), cls=jsonschema.Draft202012Validator)


def test_defaults_come_once_when_no_parameter_exists(load):
    text = HEAD + "parameters: {a: {choice: [1, 2], when: fast}}\nfixed: {fast: false}\n"
    assert list(load(text).configurations()) == [{}]
    assert list(load(text + "search: {defaults: false}\n").configurations()) == [{}]
    assert list(load(text.replace("false", "true")).configurations()) == [{}, {"a": 1}, {"a": 2}]


def test_documented_conditions_and_combinations_are_read(load):
    suite = load(HEAD + "\n".join(documented("Conditional parameters")))
    assert len(list(suite.configurations())) == 1 + 1 + (1 + 2 * 4) + 3
    (forbidden,) = documented("Forbidden combinations")
    parameters = "{kv-cache-dtype: [auto, fp8], attention-backend: [FLASH_ATTN, FLASHINFER]}"
    fixed = "{tensor-parallel-size: 8, enforce-eager: true}"
    with pytest.raises(SuiteError, match="excludes all 4 configurations"):
        load(f"{HEAD}parameters: {parameters}\nfixed: {fixed}\n{forbidden}")
    suite = load(f"{HEAD}parameters: {parameters}\nfixed: {fixed.replace('8', '2')}\n{forbidden}")
    assert len(list(suite.configurations())) == 1 + 3


def test_parameters_may_be_empty(load):
    assert load(HEAD + "parameters: {}\n").space == Space(())


def test_range_without_a_grid_suits_an_adaptive_search(load):
    suite = load(HEAD + "parameters: {p: {float: [0, 1]}, q: {int: [1, 9999]}}\nsearch: {strategy: tpe, trials: 30}\n")
    assert suite.space.parameters == (Float("p", 0.0, 1.0), Integer("q", 1, 9999))


def test_concurrency_may_be_one_number(load):
    assert load(HEAD + "load: {concurrency: 8}\n").load.concurrency == (8,)


def test_timeouts_are_durations(load):
    suite = load(HEAD + "timeouts: {start: 10m, ready: 90s, batch: 1h, stop: 500ms}\n")
    assert suite.timeouts == TimeoutsBlock(start_s=600.0, ready_s=90.0, batch_s=3600.0, stop_s=0.5)


def test_command_line_is_split_without_a_shell(load):
    suite = load("name: c\nengine: command\ncommand: serve --port {port} --title 'a b' $HOME {flags}\n")
    assert suite.command == ("serve", "--port", "{port}", "--title", "a b", "$HOME", "{flags}")


def test_command_may_name_settings(load):
    suite = load(
        "name: c\nengine: command\nmodel: llama\nparameters: {np: [1, 2]}\nfixed: {ctx-size: 4096}\n"
        "command: [serve, '{model}', '{port}', '-np={np}', '{ctx-size}', 8, '{\"json\": 1}']\n"
    )
    assert suite.command[3:] == ("-np={np}", "{ctx-size}", "8", '{"json": 1}')


@pytest.mark.parametrize(
    "written",
    ["http://127.0.0.1:8000", "http://127.0.0.1:8000/", "http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1/"],
)
def test_endpoint_is_a_base_url(load, written):
    suite = load(f"name: c\nengine: endpoint\nurl: {written}\n")
    assert suite.url == "http://127.0.0.1:8000"
    assert suite.deploy == "endpoint"


@pytest.mark.parametrize(
    "written", ["${SERVER}", "${SERVER:-http://127.0.0.1:8000}", "http://${HOST}:${PORT}", "https://${HOST}"]
)
def test_endpoint_may_come_from_the_environment(load, written):
    assert load(f"name: c\nengine: endpoint\nurl: '{written}'\n").url == written


def test_engine_of_a_plugin_is_accepted(load):
    assert load("name: c\nengine: my_engine2\n").engine == "my_engine2"


def test_objective_of_a_plugin_is_accepted_when_it_is_known(load):
    text = HEAD + "objective: maximize tokens_per_dollar\n"
    with pytest.raises(SuiteError, match="'tokens_per_dollar' is not a metric"):
        load(text)
    assert load(text, metrics=["tokens_per_dollar"]).objective.metric == "tokens_per_dollar"


def test_aliases_and_merge_keys_are_expanded(load):
    suite = load(HEAD + "fixed: &base {a: 1, b: 2}\nparameters: {c: [*base, {<<: *base, b: 3}]}\n")
    assert suite.space.parameters == (Choice("c", ({"a": 1, "b": 2}, {"a": 1, "b": 3})),)


def test_constraints_see_fixed_settings_and_flags_that_the_suite_does_not_set(load):
    text = HEAD + "parameters: {a: [1, 2, 4]}\nfixed: {b: 2}\nconstraints: [a <= b, a > block-size, b-a >= 0]\n"
    suite = load(text, known_flags={"block-size"})
    assert [constraint.names for constraint in suite.space.constraints] == [{"a", "b"}, {"a", "block-size"}, {"a", "b"}]
    assert list(suite.configurations()) == [{}, {"a": 1}, {"a": 2}]


def test_defaults_come_first_unless_they_are_not_wanted(load):
    text = HEAD + "parameters: {a: [1, 2]}\n"
    assert list(load(text).configurations()) == [{}, {"a": 1}, {"a": 2}]
    assert list(load(text + "search: {defaults: false}\n").configurations()) == [{"a": 1}, {"a": 2}]


def test_metrics_with_a_statistic_are_named_once_each(load):
    suite = load(HEAD + "slo: {ttft.p92: 1s, goodput: 1, e2e.mean: 9s}\nobjective: minimize ttft.p92\n")
    assert suite.extra_metrics() == ("e2e.mean", "ttft.p92")


def test_document_is_json_and_hides_secrets(load):
    suite = load(
        "name: c\nengine: command\nparameters: {a: [1]}\nfixed: {api-key: open-sesame, max-num-batched-tokens: 9}\n"
        "env: {HF_TOKEN: open-sesame, OMP_NUM_THREADS: 4}\n"
        "command: [serve, --port, '{port}', --api-key, open-sesame, '--auth-token=open-sesame', '{flags}']\n"
    )
    document = suite.document()
    assert "open-sesame" not in json.dumps(document, allow_nan=False)
    assert document["env"] == {"HF_TOKEN": "***", "OMP_NUM_THREADS": "4"}
    assert document["fixed"] == {"api-key": "***", "max-num-batched-tokens": 9}
    assert document["command"] == ["serve", "--port", "{port}", "--api-key", "***", "--auth-token=***", "{flags}"]
    assert document["parameters"] == [{"kind": "choice", "name": "a", "values": [1]}]
    assert document["forbidden"] == []
    assert "path" not in document
    assert "lines" not in document


def test_document_has_conditions_and_forbidden_combinations(load):
    document = json.loads(json.dumps(load(HEAD + SPECULATIVE.replace("STRATEGY", "tpe")).document(), allow_nan=False))
    assert document["parameters"][1:3] == [
        {
            "kind": "choice",
            "name": "speculative-num-tokens",
            "values": [2, 4],
            "when": "speculative-method != 'none'",
        },
        {
            "kind": "integer",
            "name": "ngram-max",
            "low": 1,
            "high": 2,
            "log": False,
            "step": None,
            "levels": None,
            "when": "speculative-num-tokens-2 > min-tokens",
        },
    ]
    assert document["forbidden"] == [
        {"speculative-num-tokens": [4], "ngram-max": [1]},
        {"share": [0, 0.5, 1], "min-tokens": [7]},
    ]


BASE = Suite(
    name="chat",
    engine="sim",
    model="llama",
    space=Space((Choice("a", (1, 2)),)),
    fixed={"x": 1, "y": 2},
    env={"HF_TOKEN": "secret"},
)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"engine": "vllm"}, id="engine"),
        pytest.param({"model": "other"}, id="model"),
        pytest.param({"deploy": "endpoint"}, id="deploy"),
        pytest.param({"fixed": {"x": 1}}, id="fixed"),
        pytest.param({"env": {"HF_TOKEN": "other"}}, id="a secret in env"),
        pytest.param({"engine_python": "/usr/bin/python3"}, id="engine_python"),
        pytest.param({"command": ("serve",)}, id="command"),
        pytest.param({"url": "http://localhost"}, id="url"),
        pytest.param({"model_name": "served"}, id="model_name"),
        pytest.param({"gpus": 2}, id="gpus"),
        pytest.param({"load": LoadBlock(duration_s=31.0)}, id="load"),
    ],
)
def test_measurement_key_changes_with_what_is_measured(change):
    assert BASE.model_copy(update=change).measurement_key() != BASE.measurement_key()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"name": "other"}, id="name"),
        pytest.param({"description": "other"}, id="description"),
        pytest.param({"slo": (Limit("ttft.p90", 1.0),)}, id="slo"),
        pytest.param({"steepness": 0.5}, id="steepness"),
        pytest.param({"objective": Objective(metric="goodput")}, id="objective"),
        pytest.param({"search": SearchBlock(strategy="tpe")}, id="search"),
        pytest.param({"space": Space(())}, id="space"),
        pytest.param({"path": Path("other.yaml")}, id="path"),
        pytest.param({"fixed": {"y": 2, "x": 1}}, id="order of settings"),
    ],
)
def test_measurement_key_stays_when_only_the_judgement_changes(change):
    assert BASE.model_copy(update=change).measurement_key() == BASE.measurement_key()


def test_measurement_key_does_not_depend_on_the_notation(load):
    assert (
        load(HEAD + "load: {duration: 1m}\n").measurement_key()
        == load(HEAD + "load: {duration: 60s}\n").measurement_key()
    )


def test_error_names_the_line_of_a_place_or_of_what_encloses_it(load, tmp_path):
    suite = load(CHAT)
    file = tmp_path / "chat.yaml"
    assert (
        str(suite.error("unknown flag", "parameters", "max-num-seqs"))
        == f"{file}:6: parameters.max-num-seqs: unknown flag"
    )
    assert str(suite.error("no", "slo", "e2e.p99", "max", "x")) == f"{file}:15: slo.e2e.p99.max.x: no"
    assert str(suite.error("cannot run here")) == f"{file}:1: cannot run here"
    assert str(BASE.error("wrong", "fixed", "x")) == "fixed.x: wrong"


def test_suite_and_blocks_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        BASE.name = "other"
    with pytest.raises(ValueError, match="frozen"):
        BASE.load.seed = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        BASE.space.parameters = ()


def test_unknown_arguments_of_a_block_are_refused_in_python_too():
    with pytest.raises(ValueError, match="Extra inputs"):
        LoadBlock(durations=3)
