"""A paired comparison: which trials it has, which of them count, and when it ends."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.baseline import Served
from pytest_autotune.budget import SearchEnded
from pytest_autotune.comparison import Looks, Pair, Tolerance, automatic
from pytest_autotune.engines.sim.engine import SimEngine
from pytest_autotune.noise import Noise
from pytest_autotune.pairing import (
    Place,
    as_served,
    compared,
    comparison_of,
    counted,
    is_baseline,
    looks_of,
    pairs_of,
    place_of,
    tolerances_of,
)
from pytest_autotune.plan import make_plan
from pytest_autotune.samples import Level
from pytest_autotune.slo import Limit
from pytest_autotune.suite import Objective
from pytest_autotune.suite_file import load_suite
from pytest_autotune.suite_gate import Terms
from tests.make_baselines import baseline
from tests.make_records import batch, died, trial
from tests.make_reports import suite

SUITE = """\
name: chat
engine: sim
model: llama-3.1-8b
parameters: {max-num-seqs: [2, 64]}
fixed: {gpu: H100}
load: {prompt_tokens: 128, output_tokens: 32, concurrency: [1, 8], duration: 1s}
gate: {throughput: -5%, pairs: 6}
"""


@pytest.mark.parametrize(
    ("slot", "place"),
    [
        ("baseline-1", Place("baseline", 1)),
        ("best-12", Place("best", 12)),
        ("best", None),
        ("trial-001", None),
        ("best-1-2", None),
        ("best-", None),
        ("max-num-seqs:64", None),
    ],
)
def test_the_name_of_a_trial_tells_its_place(slot, place):
    assert place_of(slot) == place
    assert is_baseline(slot) is (slot == "baseline-1")


def side(slot, throughput=100.0, **fields):
    batches = fields.pop("batches", (batch(8, output_throughput=throughput),))
    return trial(1, *batches, slot=slot, **fields)


def pair(number, ratio=1.0):
    return side(f"baseline-{number}"), side(f"best-{number}", 100.0 * ratio)


FAILED = batch(16, status="failed", reason="the load generator was too slow")


@pytest.mark.parametrize(
    "candidate",
    [
        pytest.param([], id="no candidate"),
        pytest.param([side("best-2", state="interrupted")], id="interrupted"),
        pytest.param([side("best-2", batches=())], id="did not come up"),
        pytest.param([side("best-2", batches=(batch(8, output_throughput=1.0), FAILED))], id="not measured"),
        pytest.param([side("trial-002")], id="of a search"),
    ],
)
def test_a_pair_of_which_a_side_was_not_measured_does_not_count(candidate):
    first, third = pair(1), pair(3)
    history = [*third, side("baseline-2"), *candidate, *first]
    assert counted(history) == [first, third]


def test_a_pair_in_which_a_server_died_counts_and_is_not_compared_where_it_did():
    history = (side("baseline-1"), side("best-1", batches=(batch(8, output_throughput=90.0), died(16))))
    assert counted(history) == [history]
    assert pairs_of(history) == [Pair({"c8": {"output_throughput": 100.0}}, {"c8": {"output_throughput": 90.0}})]


@given(st.lists(st.integers(1, 10), unique=True, max_size=10), st.randoms())
def test_pairs_are_in_their_order_whatever_the_order_of_trials(numbers, chance):
    history = [one for number in numbers for one in pair(number, 1 + number / 100)]
    chance.shuffle(history)
    assert [place_of(candidate.slot).pair for _, candidate in counted(history)] == sorted(numbers)


@pytest.mark.parametrize(
    ("fields", "tolerances"),
    [
        pytest.param(
            {"gate": Terms({"error_rate": 0.01}), "slo": (Limit("ttft.p90", 0.5),)},
            {"error_rate": Tolerance(0.01)},
            id="those of the gate and no others",
        ),
        pytest.param(
            {
                "slo": (Limit("ttft.p90", 0.5), Limit("e2e.max", 9.0), Limit("error_rate", 0.01)),
                "objective": Objective(metric="output_throughput_per_gpu"),
            },
            {
                "output_throughput_per_gpu": Tolerance(0.02, automatic=True),
                "ttft.p90": Tolerance(0.05, automatic=True),
            },
            id="objective and limited latencies",
        ),
        pytest.param(
            {"slo": (Limit("tpot.mean", 0.5),), "objective": Objective(direction="minimize", metric="tpot.mean")},
            {
                "tpot.mean": Tolerance(0.05, automatic=True),
                "output_throughput": Tolerance(0.02, automatic=True),
            },
            id="throughput beside a latency",
        ),
        pytest.param(
            {"slo": (), "objective": Objective(metric="in_flight.mean")},
            {"output_throughput": Tolerance(0.02, automatic=True)},
            id="no direction",
        ),
    ],
)
def test_what_is_compared_is_what_the_gate_says_or_else_what_the_suite_is_about(fields, tolerances):
    assert tolerances_of(suite(**fields), {}) == tolerances


@pytest.mark.parametrize(
    ("gate", "tolerance"),
    [
        (Terms(), automatic("output_throughput", Noise(0.02, 9))),
        (Terms({"output_throughput": 0.01}), Tolerance(0.01)),
    ],
    ids=["automatic", "of the suite"],
)
def test_only_automatic_tolerances_leave_room_for_the_noise_of_equal_sides(gate, tolerance):
    noise = {"output_throughput": Noise(0.02, 9)}
    assert tolerances_of(suite(gate=gate, slo=()), noise) == {"output_throughput": tolerance}
    assert automatic("output_throughput").worse < automatic("output_throughput", noise["output_throughput"]).worse


def test_the_comparison_is_of_the_suites_tolerances_and_pairs():
    of = suite(gate=Terms({"output_throughput": 0.02}, pairs=4))
    history = [one for number in range(1, 5) for one in pair(number, 0.9 + number / 1000)]
    comparison = comparison_of(of, {}, history)
    assert looks_of(of) == Looks(budget=4)
    assert comparison.outcome == "regression"
    (effect,) = comparison.effects
    assert (effect.metric, effect.pairs, effect.tolerance) == ("output_throughput", 4, Tolerance(0.02))


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "chat.yaml"
    path.write_text(SUITE)
    return planned(load_suite(path))


def planned(of):
    return make_plan(of, SimEngine(), nodeid="chat.yaml")


OWN = baseline({"c8": {}, "c1": {}}, engine="sim", model="llama-3.1-8b", configuration={"max-num-seqs": 64})
OTHER = baseline(
    {"c4": {}},
    engine="sim",
    model="llama-3.1-8b",
    configuration={"max-num-seqs": 2},
    server=Served(fixed={"gpu": "A100-80G"}),
)


def test_both_sides_take_turns_and_each_begins_as_often(plan):
    slots = compared(plan, OWN, OTHER, planned).slots
    assert [slot.name for slot in slots] == [
        "baseline-1", "best-1", "best-2", "baseline-2", "baseline-3", "best-3",
        "best-4", "baseline-4", "baseline-5", "best-5", "best-6", "baseline-6",
    ]  # fmt: skip
    assert [slot.index for slot in slots] == list(range(12))
    assert {slot.name.partition("-")[0]: slot.parameters for slot in slots} == {
        "baseline": {"max-num-seqs": 2},
        "best": {"max-num-seqs": 64},
    }


def test_both_sides_are_one_study_at_the_levels_of_the_candidate(plan):
    both = compared(plan, OWN, OTHER, planned)
    assert both.study == both.opponent.study
    assert both.study not in (plan.study, planned(both.opponent.suite).study)
    assert both.levels == both.opponent.levels == (Level(8), Level(1))
    assert both.baseline == both.opponent.baseline == OTHER
    assert both.suite.fixed == {"gpu": "H100"}
    assert both.opponent.suite.fixed == {"gpu": "A100-80G"}
    assert both.opponent.suite.load == both.suite.load
    assert compared(plan, OWN, OTHER, planned).study == both.study
    assert compared(plan, OWN, OWN, planned).study != both.study


def chosen(plan, slot_name, history):
    slot = next(slot for slot in compared(plan, OWN, OTHER, planned).slots if slot.name == slot_name)
    return slot.choose(tuple(history), lambda _: False, ())


def pairs(*ratios):
    return [one for number, ratio in enumerate(ratios, 1) for one in pair(number, ratio)]


LESS = (0.80, 0.81, 0.80, 0.79)


@pytest.mark.parametrize(
    ("slot", "history", "configuration"),
    [
        pytest.param("baseline-1", [], {"max-num-seqs": 2}, id="the first"),
        pytest.param("best-1", [side("baseline-1")], {"max-num-seqs": 64}, id="the second"),
        pytest.param("baseline-4", pairs(*LESS[:3]), {"max-num-seqs": 2}, id="before the first look"),
        pytest.param(
            "baseline-5", [*pairs(*LESS), side("best-5")], {"max-num-seqs": 2}, id="a pair that was begun is ended"
        ),
        pytest.param("baseline-5", pairs(1.0, 0.9, 1.1, 1.0), {"max-num-seqs": 2}, id="open after a look"),
        pytest.param("baseline-6", pairs(*LESS, 0.8), {"max-num-seqs": 2}, id="between looks"),
    ],
)
def test_pairs_go_on_while_they_are_not_told_apart(plan, slot, history, configuration):
    assert chosen(plan, slot, history) == configuration


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        pytest.param(pairs(*LESS), "the comparison is settled after 4 pairs: regression", id="worse"),
        pytest.param(pairs(1.0, 1.0, 1.0, 1.0), "the comparison is settled after 4 pairs: no change", id="the same"),
        pytest.param(pairs(*(2 - ratio for ratio in LESS)), "settled after 4 pairs: improvement", id="better"),
        pytest.param([*pairs(*LESS), side("trial-009")], "settled after 4 pairs", id="beside a search"),
    ],
)
def test_the_comparison_ends_at_the_first_look_that_settles_it(plan, history, reason):
    with pytest.raises(SearchEnded, match=reason):
        chosen(plan, "baseline-5", history)


def test_the_suite_is_served_as_the_baseline_was_under_its_own_load_and_gate(tmp_path):
    own = suite(
        fixed={"max-model-len": 4096},
        env={"HF_TOKEN": "new-secret", "MODE": "new"},
        gate=Terms({"goodput": 0.1}),
        gpus=1,
        path=tmp_path / "chat.yaml",
    )
    then = baseline(
        engine="command",
        model="llama",
        server=Served(env={"HF_TOKEN": "***", "MODE": "old", "GONE": "***"}, command=("serve", "{port}"), gpus=2),
    )
    served = as_served(own, then)
    assert (served.engine, served.model, served.command, served.gpus) == ("command", "llama", ("serve", "{port}"), 2)
    assert served.fixed == {}
    assert served.env == {"HF_TOKEN": "new-secret", "MODE": "old", "GONE": "***"}
    for name in ("load", "slo", "gate", "path", "objective"):
        assert getattr(served, name) == getattr(own, name)


@pytest.mark.parametrize(
    ("own", "then"),
    [
        ({"fixed": {"api-key": "sk-new", "tp": 2}}, Served(fixed={"api-key": "***", "tp": 2})),
        (
            {"fixed": {"override": {"token": "hidden", "n": 1}}},
            Served(fixed={"override": {"token": "***", "n": 1}}),
        ),
        ({"command": ("serve", "--api-key", "sk-new")}, Served(command=("serve", "--api-key", "***"))),
        ({"url": "http://me:pass@host:80"}, Served(url="http://me:***@host:80")),
    ],
    ids=["setting", "nested setting", "command line", "URL"],
)
def test_what_is_masked_in_a_baseline_is_served_as_the_suite_has_it(own, then):
    served = as_served(suite(**own), baseline(server=then))
    assert {name: getattr(served, name) for name in own} == own


def test_history_of_another_try_replaces_nothing_that_counts():
    first = pair(1)
    assert counted([*first, replace(first[1], state="interrupted", attempt=2)]) == [first]
