"""Which configurations are known not to start: what rules out what, and what is no proof."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pytest_autotune.choosing import how_it_ended
from pytest_autotune.engines.engine import Cause, CauseKind, Flag
from pytest_autotune.engines.sim.arguments import Settings
from pytest_autotune.engines.sim.engine import SimEngine, server_flags
from pytest_autotune.engines.sim.hardware import GPUS, DeviceMemoryError, find_shape, plan_memory
from pytest_autotune.feasibility import Feasibility, asks_no_less, conditions, known_out_of_memory, settings_of
from pytest_autotune.records import StartRecord
from pytest_autotune.slo import Status
from pytest_autotune.space import Choice, Space
from pytest_autotune.suite import SearchBlock, Suite
from tests.make_records import batch, trial

KNOBS = {"seqs": "more", "len": "more", "offload": "less"}
FLAGS = {
    "seqs": Flag("seqs", default=256),
    "tp": Flag("tp", default=1),
    "len": Flag("len"),
    "eager": Flag("eager", default=False, boolean=True),
    "mode": Flag("mode", default="auto"),
}


def no_less(asked, known, flags=FLAGS):
    return asks_no_less(settings_of({}, asked), settings_of({}, known), knobs=KNOBS, flags=flags)


@pytest.mark.parametrize(
    ("asked", "known", "ruled_out"),
    [
        pytest.param({"seqs": 64}, {"seqs": 64}, True, id="equal"),
        pytest.param({"seqs": 65}, {"seqs": 64}, True, id="more"),
        pytest.param({"seqs": 63}, {"seqs": 64}, False, id="less"),
        pytest.param({"seqs": 65, "len": 9}, {"seqs": 64, "len": 8}, True, id="more-of-both"),
        pytest.param({"seqs": 65, "len": 7}, {"seqs": 64, "len": 8}, False, id="more-and-less"),
        pytest.param({"offload": 3}, {"offload": 4}, True, id="smaller-needs-more"),
        pytest.param({"offload": 5}, {"offload": 4}, False, id="larger-needs-less"),
        pytest.param({"seqs": 64, "tp": 2}, {"seqs": 64, "tp": 1}, False, id="no-direction"),
        pytest.param({"seqs": 64, "tp": 2}, {"seqs": 64, "tp": 2}, True, id="no-direction-equal"),
        pytest.param({"max_seqs": 1, "len": 9}, {"max-seqs": 1, "len": 8}, True, id="spelling"),
        pytest.param({}, {}, True, id="both-defaults"),
        pytest.param({"len": 8}, {}, False, id="known-has-an-unknown-default"),
        pytest.param({}, {"len": 8}, False, id="asked-has-an-unknown-default"),
        pytest.param({"seqs": 300}, {}, True, id="above-the-default"),
        pytest.param({"seqs": 200}, {}, False, id="below-the-default"),
        pytest.param({}, {"seqs": 200}, True, id="the-default-is-above"),
        pytest.param({"tp": 1}, {}, True, id="equal-to-the-default"),
        pytest.param({"seqs": None}, {"seqs": 200}, True, id="none-is-the-default"),
        pytest.param({"eager": False}, {}, False, id="a-default-that-is-no-number"),
        pytest.param({"mode": "auto"}, {}, False, id="a-default-that-is-text"),
        pytest.param({"len": 8}, {"len": -1}, False, id="special-number"),
        pytest.param({"len": -1}, {"len": -1}, True, id="special-number-equal"),
        pytest.param({"len": "9k"}, {"len": "8k"}, False, id="text"),
        pytest.param({"len": True}, {"len": 1}, False, id="switch"),
        pytest.param({"list": [1, {"a": 2}]}, {"list": [1, {"a": 2}]}, True, id="any-value"),
    ],
)
def test_a_start_rules_out_what_asks_for_no_less(asked, known, ruled_out):
    assert no_less(asked, known) is ruled_out


def test_without_a_table_of_flags_nothing_is_assumed_of_defaults():
    assert no_less({"seqs": 300}, {}, flags=None) is False
    assert no_less({"seqs": 300}, {"seqs": 200}, flags=None) is True


VALUES = st.one_of(st.none(), st.integers(-2, 3), st.sampled_from([0.5, 2.5, True, "auto", [1]]))
CONFIGURATIONS = st.dictionaries(st.sampled_from([*KNOBS, "tp", "mode"]), VALUES)


@given(CONFIGURATIONS)
def test_dominance_is_reflexive_where_every_value_is_known(configuration):
    assert no_less(configuration, configuration)


# What is said of one configuration and differently, or not at all (MISSING), of the next: those are often in an order.
MISSING = object()
CHANGES = st.dictionaries(st.sampled_from([*KNOBS, "tp", "mode"]), VALUES | st.just(MISSING), max_size=2)


def changed(configuration, changes):
    return {name: value for name, value in (configuration | changes).items() if value is not MISSING}


@given(CONFIGURATIONS, CHANGES, CHANGES)
@example({"seqs": 300}, {"seqs": MISSING}, {"seqs": 200})
def test_dominance_is_transitive(first, changes, further):
    second = changed(first, changes)
    third = changed(second, further)
    assume(no_less(first, second) and no_less(second, third))
    assert no_less(first, third)


CHAINS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 2)), min_size=3, max_size=3)


@given(CHAINS)
def test_dominance_is_the_order_of_all_knobs_at_once(points):
    told = [{"seqs": seqs, "len": length, "tp": tp} for seqs, length, tp in points]
    for one, other in pairwise(told):
        wanted = one["seqs"] >= other["seqs"] and one["len"] >= other["len"] and one["tp"] == other["tp"]
        assert no_less(one, other) is wanted


@given(CONFIGURATIONS, CONFIGURATIONS, st.sampled_from(sorted(KNOBS)), st.integers(2, 4))
def test_what_asks_for_less_by_any_knob_is_never_ruled_out(asked, known, knob, value):
    less = value + 1 if KNOBS[knob] == "less" else value - 1
    assert not no_less({**asked, knob: less}, {**known, knob: value})


SIM_SETTINGS = st.fixed_dictionaries(
    {
        "tensor-parallel-size": st.sampled_from([1, 2]),
        "gpu-memory-utilization": st.sampled_from([0.2, 0.23, 0.99, 1.0]),
    },
    optional={
        "max-num-seqs": st.integers(1, 512),
        "max-num-batched-tokens": st.integers(64, 100_000),
        "max-model-len": st.integers(16, 131_072),
    },
)


def sim_starts(settings):
    given = Settings(**{name.replace("-", "_"): value for name, value in settings.items()})
    given = replace(given, max_model_len=given.max_model_len or 131_072)
    try:
        plan_memory(given, GPUS["H100"], find_shape("llama-3.1-8b"))
    except DeviceMemoryError:
        return False
    return True


@given(SIM_SETTINGS, SIM_SETTINGS, st.booleans())
def test_what_the_simulator_rules_out_would_run_out_of_memory_there(known, asked, related):
    if related:
        asked = {**known, **{name: asked.get(name, 1) for name in SimEngine.memory_knobs if name in known}}
    dominated = asks_no_less(asked, known, knobs=SimEngine.memory_knobs, flags=server_flags())
    assert not (dominated and not sim_starts(known) and sim_starts(asked))


# --- what is proof -------------------------------------------------------------------------------------------------


@pytest.fixture
def suite(tmp_path):
    return Suite(name="chat", engine="sim", model="tiny", fixed={"gpu": "L4"}, path=tmp_path / "chat.yaml")


def stored(suite, version="1"):
    return suite.document() | conditions(suite, version=version)


def start(suite, *, seqs, ready=False, document=None, reason="out of memory: CUDA out of memory", run="run-1"):
    return StartRecord(
        run_id=run,
        document=stored(suite) if document is None else document,
        configuration={"max-num-seqs": seqs},
        started_at=datetime(2026, 1, 2, 3, tzinfo=UTC),
        ready=ready,
        reason="" if ready else reason,
    )


def known(suite, *starts):
    found = known_out_of_memory(starts, stored(suite), knobs=SimEngine.memory_knobs, flags=server_flags())
    return [str(each) for each in found]


def test_a_start_is_named_by_what_differed_and_where_it_is_recorded(suite):
    assert known(suite, start(suite, seqs=64)) == ["max-num-seqs:64 did on 2026-01-02 in run run-1"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"engine": "vllm"}, id="engine"),
        pytest.param({"engine_version": "2"}, id="version"),
        pytest.param({"hardware": "1x NVIDIA L4"}, id="hardware"),
        pytest.param({"served_model": "other"}, id="model"),
        pytest.param({"server_env": {"A": "1"}}, id="env"),
        pytest.param({"engine_python": "/other/python"}, id="interpreter"),
        pytest.param({"deploy": "cluster"}, id="deploy"),
        pytest.param({"command": ["serve"]}, id="command"),
        pytest.param({"gpus": 2}, id="gpus"),
    ],
)
def test_a_start_under_other_conditions_is_no_proof(suite, change):
    assert known(suite, start(suite, seqs=64, document=stored(suite) | change)) == []


def test_a_suite_of_before_the_conditions_were_stored_is_no_proof(suite):
    assert known(suite, start(suite, seqs=64, document=suite.document())) == []
    assert known(suite, start(suite, seqs=64, document={})) == []


def test_the_suites_names_limits_load_and_search_do_not_matter(suite):
    other = suite.model_copy(update={"name": "other", "search": SearchBlock(trials=3), "confidence": 0.9})
    assert len(known(suite, start(other, seqs=64))) == 1


@pytest.mark.parametrize(
    "reason",
    [
        "out of memory: ValueError: Free memory on device cuda:0 (3.1/79.1 GiB) on startup is less than desired GPU memory utilization",
        "out of memory: Out of memory: Killed process 7 (python)",
        "out of memory: OSError: [Errno 12] Cannot allocate memory",
    ],
)
def test_memory_that_others_held_is_no_proof(suite, reason):
    assert known(suite, start(suite, seqs=64, reason=reason)) == []


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(("seqs", "proof"), [(63, True), (64, False), (65, False)])
def test_a_start_is_no_proof_when_one_that_asked_for_no_less_became_ready(suite, order, seqs, proof):
    starts = [start(suite, seqs=64), start(suite, seqs=seqs, ready=True)]
    assert bool(known(suite, *starts[::order])) is proof


def test_conditions_hold_no_secret_and_what_variables_stand_for(suite, monkeypatch):
    monkeypatch.setenv("SIZE", "8b")
    given = suite.model_copy(update={"model": "m-${SIZE}", "env": {"HF_TOKEN": "S3CRET-value", "A": "${SIZE}"}})
    found = conditions(given, version="1")
    assert (found["served_model"], found["server_env"]) == ("m-8b", {"HF_TOKEN": "***", "A": "8b"})
    assert found["hardware"]


@pytest.mark.parametrize(
    ("change", "version"),
    [({}, ""), ({"deploy": "cluster"}, "1"), ({"model": "${NOT_SET}"}, "1")],
    ids=["no-version", "another-machine", "variable"],
)
def test_unknown_conditions_are_none(suite, monkeypatch, change, version):
    monkeypatch.delenv("NOT_SET", raising=False)
    assert conditions(suite.model_copy(update=change), version=version) == {}


# --- what comes of it ----------------------------------------------------------------------------------------------


class Strict(SimEngine):
    def refuses(self, _suite, configuration):
        odd = configuration.get("max-num-seqs", 0) % 2
        return Cause(CauseKind.BAD_ARGUMENT, "an odd number") if odd else None


def feasibility(suite, *starts, engine=None):
    found = known_out_of_memory(starts, stored(suite), knobs=SimEngine.memory_knobs, flags=server_flags())
    return Feasibility(suite, engine or SimEngine(), suite.fixed, server_flags(), found)


def test_a_refusal_says_that_nothing_was_launched_and_why(suite):
    what = feasibility(suite, start(suite, seqs=64))
    refusal = what.refusal({"max_num_seqs": 128})
    assert str(refusal) == ("not launched: known to run out of memory: max-num-seqs:64 did on 2026-01-02 in run run-1")
    assert refusal.cause.kind is CauseKind.OUT_OF_MEMORY
    assert what.refusal({"max-num-seqs": 32}) is None
    assert what.refusal({}) is not None, "the default is 256"


def test_what_the_engine_refuses_comes_first(suite):
    refusal = feasibility(suite, start(suite, seqs=64), engine=Strict()).refusal({"max-num-seqs": 65})
    assert (str(refusal), refusal.cause.kind) == ("not launched: bad argument: an odd number", CauseKind.BAD_ARGUMENT)


def test_a_barred_configuration_is_not_allowed_and_the_space_stays_the_same(suite):
    space = Space((Choice("max-num-seqs", (32, 64, 128)),))
    barred = replace(space, bars=feasibility(suite, start(suite, seqs=64)).bars)
    assert list(barred.grid({})) == [{"max-num-seqs": 32}]
    assert (barred, repr(barred), hash(barred)) == (space, repr(space), hash(space))


def test_what_was_not_launched_does_not_try_the_patience_of_a_search():
    suite = Suite(name="chat", engine="sim", search=SearchBlock(patience=1))
    good = trial(1, batch(1, output_throughput=10.0, error_rate=0.0))
    bad = trial(2, status=Status.INFEASIBLE, cause="out of memory", reason="out of memory: no")
    assert how_it_ended(suite, (good, bad), {})
    assert not how_it_ended(suite, (good, replace(bad, server_log="")), {})
