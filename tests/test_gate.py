from __future__ import annotations

import pytest

from pytest_autotune.gate import Gate, Rule, judge_gate
from pytest_autotune.selection import judge_trial, select
from pytest_autotune.slo import Limit, Status
from tests.make_records import Aim, batch, died, trial


def gate(*trials, metric="output_throughput") -> Gate:
    limits = [Limit("ttft.p90", 0.5)]
    return judge_gate(select(judge_trial(t, limits=limits, objective=Aim(metric=metric)) for t in trials))


COMPLIANT = trial(
    1, batch(8, ttft__p90=0.4, output_throughput=231.7), batch(16, ttft__p90=0.7, output_throughput=300.0)
)
NEAR = trial(2, batch(1, ttft__p90=0.612), configuration={"tp": 2, "max-num-seqs": 64})
REFUSED = trial(3, status=Status.INFEASIBLE, reason="out of memory: 3 GiB short")


def test_the_gate_holds_when_a_configuration_complies():
    result = gate(COMPLIANT, NEAR, REFUSED)
    assert result.holds
    assert result.reason == ""
    assert result.rules == (
        Rule(
            "compliant-configuration",
            True,
            "max-num-seqs=64: output throughput 231.70 tok/s from concurrency 8 (1 of 2 batches compliant).",
        ),
    )


@pytest.mark.parametrize(
    ("trials", "metric", "explanation"),
    [
        pytest.param(
            [NEAR, REFUSED],
            "output_throughput",
            "No configuration meets the SLO: the binding limit is ttft.p90: 612 ms > 500 ms (+22 %) at concurrency 1 "
            "in max-num-seqs=64 tp=2. Relax that limit, add a lower load level, or widen the parameters.",
            id="all violate or are refused",
        ),
        pytest.param(
            [REFUSED, trial(4, died(1, reason="signal 11", cause="crash"))],
            "output_throughput",
            "No configuration could be measured: of 2 trials, 1 failed, 1 infeasible; max-num-seqs=64: out of memory: "
            "3 GiB short. Read the end of the server logs, and leave out settings that this machine cannot start.",
            id="none measured",
        ),
        pytest.param(
            [COMPLIANT],
            "goodput",
            "1 configuration met the SLO, but no compliant batch has the objective goodput. "
            "Choose an objective that the engine and the load can measure.",
            id="no score",
        ),
        pytest.param(
            [trial(1, batch(8, ttft__p90=0.4, output_throughput=231.7), state="interrupted")],
            "output_throughput",
            "No trial was finished. Run the same command again: it continues where this run stopped.",
            id="interrupted",
        ),
    ],
)
def test_the_gate_says_why_nothing_complies_and_what_to_do(trials, metric, explanation):
    result = gate(*trials, metric=metric)
    assert not result.holds
    assert result.reason == f"compliant-configuration: {explanation}"


def test_the_gate_holds_only_when_every_rule_does():
    rules = (Rule("compliant-configuration", True, "fine"), Rule("not-slower", False, "slower"))
    assert not Gate(rules).holds
    assert Gate(rules).reason == "not-slower: slower"
