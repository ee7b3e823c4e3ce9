"""`gate:` of a suite file: by how much a metric may get worse, and what follows from what is open."""

import jsonschema
import pytest

from pytest_autotune.errors import SuiteError
from pytest_autotune.suite_file import load_suite
from pytest_autotune.suite_gate import Terms
from pytest_autotune.suite_schema import suite_schema
from pytest_autotune.yaml_source import read_yaml

HEAD = "name: chat\nengine: sim\nmodel: llama\n"


@pytest.fixture
def gate(tmp_path):
    def gate(text: str) -> Terms:
        path = tmp_path / "chat.yaml"
        path.write_text(f"{HEAD}{text}")
        return load_suite(path).gate

    return gate


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", Terms()),
        ("gate: {}", Terms()),
        ("gate: {throughput: -5%, ttft.p99: +10%}", Terms({"output_throughput": 0.05, "ttft.p99": 0.1})),
        ("gate: {output_throughput: 5%, tpot.mean: 10%}", Terms({"output_throughput": 0.05, "tpot.mean": 0.1})),
        ("gate: {throughput: ' - 2.5 % '}", Terms({"output_throughput": 0.025})),
        ("gate: {throughput: -0.05, e2e.p97: 0.1}", Terms({"output_throughput": 0.05, "e2e.p97": 0.1})),
        ("gate: {ttft.p99: +200%}", Terms({"ttft.p99": 2.0})),
        ("gate: {delivered: -1%, error_rate: +1%}", Terms({"delivered": 0.01, "error_rate": 0.01})),
        ("gate: {inconclusive: warn, pairs: 6}", Terms(inconclusive="warn", pairs=6)),
        ("gate: {inconclusive: fail, pairs: 4, goodput: 5%}", Terms({"goodput": 0.05}, inconclusive="fail", pairs=4)),
    ],
)
def test_tolerances_are_above_0_whichever_direction_is_worse(gate, text, terms):
    assert gate(text) == terms


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("gate:", "gate: has no value; remove the key or give it one", id="nothing"),
        pytest.param("gate: strict", "gate: 'strict' is not a mapping of keys to values", id="text"),
        pytest.param(
            "gate: {ttft.p101: +5%}",
            "gate.ttft.p101: 'ttft.p101' is not a metric",
            id="unknown metric",
        ),
        pytest.param(
            "gate: {ttft: +5%}",
            "gate.ttft: 'ttft' is a distribution; add a statistic: ttft.p90, ttft.p99 or ttft.mean",
            id="no statistic",
        ),
        pytest.param(
            "gate: {requests: -5%}",
            "gate.requests: 'requests' is neither better nor worse when it changes; choose a latency, a rate or a cost",
            id="no direction",
        ),
        pytest.param(
            "gate: {throughput: +5%}",
            "gate.throughput: '+5%': output_throughput gets worse when it falls; write -5%",
            id="wrong sign of a rate",
        ),
        pytest.param(
            "gate: {ttft.p99: -5%}",
            "gate.ttft.p99: '-5%': ttft.p99 gets worse when it rises; write +5%",
            id="wrong sign of a latency",
        ),
        pytest.param(
            "gate: {inconclusiv: warn}",
            "gate.inconclusiv: 'inconclusiv' is neither a metric nor an option of the gate (did you mean 'inconclusive'?)",
            id="misspelt option",
        ),
        pytest.param(
            "gate: {throughputs: -5%}",
            "gate.throughputs: 'throughputs' is neither a metric nor an option of the gate (did you mean 'throughput'?)",
            id="misspelt short name",
        ),
        pytest.param(
            "gate: {ttft.p99: 0%}",
            "gate.ttft.p99: '0%' is no tolerance above 0%; write e.g. +5%",
            id="0 %",
        ),
        pytest.param(
            "gate: {throughput: -100%}",
            "gate.throughput: '-100%' is no tolerance above 0% and below 100%; write e.g. -5%",
            id="all of it",
        ),
        pytest.param(
            "gate: {throughput: -150%}",
            "gate.throughput: '150%' is more than 100%; write a percentage, e.g. 1%",
            id="more than all of it",
        ),
        pytest.param(
            "gate: {throughput: -5}",
            "gate.throughput: 5 is not a share below 1 (did you mean '5%'?); write a percentage, e.g. 1%",
            id="no % of a rate",
        ),
        pytest.param(
            "gate: {ttft.p99: +10}",
            "gate.ttft.p99: 10 is not a share below 1 (did you mean '10%'?); write a percentage, e.g. 1%",
            id="no % of a latency",
        ),
        pytest.param(
            "gate: {ttft.p99: '+10'}",
            "gate.ttft.p99: '10' is not a percentage (did you mean '10%'?); write a percentage, e.g. 1%",
            id="no % in quotes",
        ),
        pytest.param(
            "gate: {ttft.p99: +-5%}", "gate.ttft.p99: '-5%' is negative; write a percentage, e.g. 1%", id="two signs"
        ),
        pytest.param(
            "gate: {ttft.p99: true}",
            "gate.ttft.p99: true is not a percentage; write a percentage, e.g. 1%",
            id="no number",
        ),
        pytest.param(
            "gate: {throughput: -5%, output_throughput: -3%}",
            "gate.output_throughput: is another name of output_throughput, which has a tolerance already; remove one of",
            id="both names of a metric",
        ),
        pytest.param(
            "gate: {inconclusive: warm}",
            "gate.inconclusive: 'warm' is not one of fail, warn (did you mean 'warn'?)",
            id="neither fails nor warns",
        ),
        pytest.param(
            "gate: {pairs: 3}",
            "gate.pairs: 3 is too small; write a whole number of at least 4",
            id="too few pairs",
        ),
        pytest.param(
            "gate:\n  pairs: many",
            "gate.pairs: 'many' is not a whole number; write a whole number of at least 4",
            id="pairs in words",
        ),
    ],
)
def test_a_mistake_gives_one_line_that_names_file_place_value_and_remedy(gate, tmp_path, text, problem):
    with pytest.raises(SuiteError) as refused:
        gate(text)
    told = str(refused.value)
    line = 4 + text.count("\n")
    assert told.startswith(f"{tmp_path / 'chat.yaml'}:{line}: {problem}")
    assert "\n" not in told


def test_all_mistakes_are_counted(gate):
    with pytest.raises(SuiteError, match=r"gate\.ttft\.p99: .* \(and 2 more problems\)$"):
        gate("gate: {ttft.p99: -5%, pairs: 1, inconclusive: no}")


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("gate: {throughput: -5%, ttft.p99: '+10 %', inconclusive: warn, pairs: 4}", True),
        ("gate: {ttft.p99: much}", False),
        ("gate: {throughput: 5}", False),
        ("gate: {inconclusive: maybe}", False),
        ("gate: {pairs: 3}", False),
    ],
)
def test_the_schema_takes_what_is_valid(tmp_path, text, valid):
    path = tmp_path / "chat.yaml"
    path.write_text(f"{HEAD}{text}")
    schema = jsonschema.Draft202012Validator(suite_schema())
    assert schema.is_valid(read_yaml(path).value) is valid


def test_the_gate_is_in_the_document_and_changes_no_measurement(tmp_path):
    path = tmp_path / "chat.yaml"
    path.write_text(HEAD)
    without = load_suite(path)
    path.write_text(f"{HEAD}gate: {{ttft.p99: +10%, inconclusive: warn}}")
    suite = load_suite(path)
    assert suite.document()["gate"] == {"tolerances": {"ttft.p99": 0.1}, "inconclusive": "warn", "pairs": 10}
    assert suite.measurement_key() == without.measurement_key()
