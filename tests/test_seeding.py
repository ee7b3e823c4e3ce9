"""What an adaptive search begins with: which configurations, in which trial, and who may say so."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.engines.engine import Cause, CauseKind, Installed
from pytest_autotune.engines.sim.engine import SimEngine, server_flags
from pytest_autotune.errors import SuiteError
from pytest_autotune.hardware import Gpu
from pytest_autotune.plan import make_plan
from pytest_autotune.seeding import assigned, at_each_degree, distinct, left, proposed, without
from pytest_autotune.space import Choice, Constraint, Float, Forbidden, Integer, Space, Unfit, canonical
from pytest_autotune.suite_file import load_suite

SPACE = Space(
    (
        Choice("tp", (4, 1, 2)),
        Integer("seqs", 1, 256, step=1, levels=3),
        Float("memory", 0.8, 0.95),
        Choice("dtype", ("auto", "fp8")),
        Choice("block", (16, 32), when=Constraint("dtype == 'fp8'", frozenset(("dtype",)))),
    ),
    (Constraint("seqs >= tp * 2"),),
    (Forbidden({"tp": (4,), "dtype": ("fp8",)}),),
)
PARTS = st.fixed_dictionaries(
    {},
    optional={
        "tp": st.sampled_from([1, 2, 4]),
        "seqs": st.integers(1, 256),
        "memory": st.sampled_from([0.8, 0.9]),
        "dtype": st.sampled_from(["auto", "fp8"]),
    },
)
LISTS = st.lists(PARTS, max_size=6).map(distinct)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({}, {}),
        ({"seqs": 7.0, "tp": 2.0}, {"tp": 2, "seqs": 7}),
        ({"memory": 0.9}, {"memory": 0.9}),
        ({"block": 16, "dtype": "fp8"}, {"dtype": "fp8", "block": 16}),
        ({"tp": 4, "seqs": 8}, {"tp": 4, "seqs": 8}),
    ],
)
def test_space_writes_a_part_of_a_configuration_in_its_own_way(written, read):
    fitted = SPACE.fitted(written, {})
    assert fitted == read
    assert json.dumps(fitted) == json.dumps(read)  # 2, not 2.0, and in the order of the parameters


@pytest.mark.parametrize(
    ("configuration", "parameter", "problem"),
    [
        ({"sqs": 1}, "sqs", "is no parameter of the suite (did you mean 'seqs'?)"),
        ({"zzz": 1}, "zzz", "is no parameter of the suite; there are tp, seqs, memory, dtype, block"),
        ({"tp": 3}, "tp", "3 is never tried; write one of [4, 1, 2]"),
        ({"tp": True}, "tp", "true is never tried; write one of [4, 1, 2]"),
        ({"seqs": 257}, "seqs", "257 is never tried; write a value from 1 to 256 in steps of 1"),
        ({"seqs": 1.5}, "seqs", "1.5 is never tried; write a value from 1 to 256 in steps of 1"),
        ({"memory": "much"}, "memory", "'much' is never tried; write a value from 0.8 to 0.95"),
        ({"block": 16}, "block", "does not exist here; it does when dtype == 'fp8'"),
        ({"block": 16, "dtype": "auto"}, "block", "does not exist here; it does when dtype == 'fp8'"),
        ({"tp": 4, "seqs": 7}, None, "excluded by the constraint seqs >= tp * 2; change it, or relax that"),
        (
            {"tp": 4, "dtype": "fp8"},
            None,
            'excluded by the forbidden {"tp": 4, "dtype": "fp8"}; change it, or relax that',
        ),
    ],
)
def test_space_says_what_is_wrong_with_a_configuration_that_it_does_not_have(configuration, parameter, problem):
    with pytest.raises(Unfit, match=f"^{re.escape(problem)}$") as caught:
        SPACE.fitted(configuration, {})
    assert caught.value.parameter == parameter


def degrees(*parameters, default=None, most=8, constraints=(), fixed=None):
    return at_each_degree(
        Space(parameters, constraints),
        fixed or {},
        parallel=("tp", "pp"),
        default=lambda name: default if name == "tp" else None,
        viable=lambda configuration: next(iter(configuration.values())) <= most,
    )


def test_defaults_at_each_degree_come_smallest_first_without_the_engines_own():
    assert degrees(Choice("tp", (4, 1, 2))) == ({"tp": 1}, {"tp": 2}, {"tp": 4})
    assert degrees(Choice("tp", (4, 1, 2)), default=1) == ({"tp": 2}, {"tp": 4})
    assert degrees(Choice("tp", (4, 1, 2, 8)), default=1, most=4) == ({"tp": 2}, {"tp": 4})
    assert degrees(Integer("tp", 1, 3), Choice("pp", (1, 2))) == ({"tp": 1}, {"tp": 2}, {"tp": 3}, {"pp": 1}, {"pp": 2})
    assert degrees(Integer("tp", 1, 8, log=True, levels=4)) == ({"tp": 1}, {"tp": 2}, {"tp": 4}, {"tp": 8})
    only_even = (Constraint("tp % 2 == 0"),)
    assert degrees(Choice("tp", (1, 2, 4)), constraints=only_even) == ({"tp": 2}, {"tp": 4})


@pytest.mark.parametrize(
    "parameter",
    [
        Integer("tp", 1, 17),
        Integer("tp", 1, 1000),
        Float("tp", 1.0, 2.0, step=0.5),
        Choice("tp", ("auto", True, None, -1, 0)),
        Choice("seqs", (1, 2)),
        Choice("tp", (1, 2), when=Constraint("mode == 'x'", frozenset(("mode",)))),
    ],
    ids=["many", "very many", "a share", "no degrees", "another setting", "under a condition"],
)
def test_what_is_no_small_parallelism_gives_none(parameter):
    assert degrees(parameter) == ()


@given(LISTS, st.data())
def test_each_configuration_goes_to_one_trial_in_whatever_order_trials_begin(first, data):
    """The place of a trial decides, not who came first: so workers need not wait for each other."""
    slots = data.draw(st.permutations(range(len(first) + 2)))
    taken = {}
    for slot in slots:
        configuration = assigned(slot, first, taken)
        assert configuration == (first[slot] if slot < len(first) else None)
        taken[slot] = {"other": slot} if configuration is None else configuration


@given(LISTS, st.dictionaries(st.integers(0, 9), PARTS, max_size=6), st.data())
def test_what_is_recorded_stands_and_nothing_is_measured_twice(first, recorded, data):
    taken = dict(recorded)
    wanted = left(first, recorded)
    free = [slot for slot in range(16) if slot not in recorded]
    for slot in data.draw(st.permutations(free)):
        configuration = assigned(slot, first, taken)
        place = free.index(slot)
        assert configuration == (wanted[place] if place < len(wanted) else None)
        if configuration is not None:
            assert canonical(configuration) not in {canonical(each) for each in taken.values()}
        taken[slot] = {"other": slot} if configuration is None else configuration
    assert left(first, taken) == ()


@given(LISTS, LISTS, st.integers(0, 4))
def test_what_is_known_is_left_out_and_the_rest_keeps_its_order(one, other, most):
    found = without(one, other, most=most)
    keys = {canonical(each) for each in other}
    assert list(found) == [each for each in one if canonical(each) not in keys][:most]
    assert distinct(one, found) == one


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"tp": 2}, "{\"tp\": 2} is not a list of configurations; return e.g. [{'max-num-seqs': 64}]"),
        (7, "7 is not a list of configurations; return e.g. [{'max-num-seqs': 64}]"),
        (["tp"], "'tp' is not a configuration; return e.g. [{'max-num-seqs': 64}]"),
        ([{"tp": 2}, {"tp": 3}], "{\"tp\": 3}: 'tp': 3 is never tried; write one of [4, 1, 2]"),
        (
            [{"tp": 4, "seqs": 7}],
            '{"tp": 4, "seqs": 7}: excluded by the constraint seqs >= tp * 2; change it, or relax that',
        ),
    ],
)
def test_a_prior_that_is_none_is_refused(answer, problem):
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}$"):
        proposed(answer, SPACE, {})


SUITE = """\
name: seeds
engine: sim
model: llama-3.1-8b
parameters:
  tensor-parallel-size: [1, 2, 4]
  max-num-seqs: {int: [2, 64]}
constraints: [max-num-seqs >= tensor-parallel-size]
fixed: {gpu: H100, time-scale: 0.05, max-model-len: 4096}
load: {prompt_tokens: 64, output_tokens: 8, concurrency: [2], duration: 200ms, warmup: 0s}
slo: {ttft.p90: 30s}
search: {strategy: tpe, trials: 6, SEARCH}
timeouts: {stop: 1s}
"""


def suite_of(search, strategy="tpe"):
    return SUITE.replace("SEARCH", search).replace("strategy: tpe", f"strategy: {strategy}")


@pytest.mark.parametrize(
    ("search", "problem"),
    [
        ("seeds: 8", "search.seeds: 8 is not a list of configurations; write e.g. [{max-num-seqs: 128}]"),
        ("seeds: {a: 1}", 'search.seeds: {"a": 1} is not a list; write [{"a": 1}]'),
        ("seeds: []", "search.seeds: an empty list says nothing; remove the key"),
        ("seeds: [8]", "search.seeds[0]: 8 is not a configuration; write e.g. {max-num-seqs: 128}"),
        (
            "seeds: [{}]",
            "search.seeds[0]: an empty configuration is the engine's defaults; remove it, or write defaults: true",
        ),
        (
            "seeds: [{--max-num-seqs: 8}]",
            "search.seeds[0].--max-num-seqs: '--max-num-seqs' has leading dashes; write 'max-num-seqs'",
        ),
        (
            "seeds: [{max-num-seq: 8}]",
            "search.seeds[0].max-num-seq: is no parameter of the suite (did you mean 'max-num-seqs'?)",
        ),
        (
            "seeds: [{max-num-seqs: 8}, {max-num-seqs: 128}]",
            "search.seeds[1].max-num-seqs: 128 is never tried; write a value from 2 to 64",
        ),
        (
            "seeds: [{max-num-seqs: 2, tensor-parallel-size: 4}]",
            "search.seeds[0]: excluded by the constraint max-num-seqs >= tensor-parallel-size; change it, or relax that",
        ),
        (
            "seeds: [{max-num-seqs: 8}, {max-num-seqs: 8.0}]",
            "search.seeds[1]: is seeds[0] again; remove one of the two",
        ),
        ("earlier: -1", "search.earlier: -1 is too small; write a whole number of at least 0"),
        ("prior: some", "search.prior: 'some' is not a whole number; write a whole number of at least 0"),
    ],
)
def test_a_seed_that_cannot_be_tried_is_one_line(tmp_path, search, problem):
    path = tmp_path / "seeds.yaml"
    path.write_text(suite_of(search))
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    assert str(caught.value) == f"{path}:11: {problem}"


@pytest.mark.parametrize("key", ["seeds: [{max-num-seqs: 8}]", "earlier: 1", "prior: 3"])
def test_a_grid_begins_with_nothing(tmp_path, key):
    path = tmp_path / "seeds.yaml"
    path.write_text(suite_of(key, strategy="grid").replace("{int: [2, 64]}", "[8, 64]"))
    with pytest.raises(SuiteError) as caught:
        load_suite(path)
    name = key.partition(":")[0]
    told = "a grid tries everything in its order; remove it or write strategy: bayes"
    assert str(caught.value) == f"{path}:11: search.{name}: {told}"


def test_what_a_search_begins_with_does_not_make_it_another(tmp_path):
    path = tmp_path / "seeds.yaml"
    identities = []
    for search in ("", "seeds: [{max-num-seqs: 8}]", "earlier: 3, prior: 0"):
        path.write_text(suite_of(search))
        identities.append(load_suite(path).search.identity())
    assert identities[0] == identities[1] == identities[2]


class Engine(SimEngine):
    def __init__(self, installed):
        self.installed = installed

    def inspect(self, _suite):
        return self.installed


FLAGS = server_flags()  # which have 1 as the default of tensor-parallel-size


@pytest.mark.parametrize(
    ("installed", "gpus", "tried"),
    [
        (Installed("1", FLAGS), 2, [2]),
        (Installed("1"), 2, [1, 2]),
        (Installed("1", FLAGS), 0, [2, 4]),
        (Installed("1", FLAGS, simulated=True), 2, [2, 4]),
    ],
    ids=["two GPUs", "unknown default", "unknown GPUs", "simulated GPUs"],
)
def test_degrees_of_parallelism_are_those_that_the_machine_has_gpus_for(tmp_path, monkeypatch, installed, gpus, tried):
    monkeypatch.setattr("pytest_autotune.hardware._all_gpus", lambda: tuple(gpu(index) for index in range(gpus)))
    path = tmp_path / "seeds.yaml"
    path.write_text(suite_of("seeds: [{tensor-parallel-size: 2.0}, {max-num-seqs: 8}]"))
    plan = make_plan(load_suite(path), Engine(installed), nodeid="seeds.yaml")
    given = [{}, {"tensor-parallel-size": 2}, {"max-num-seqs": 8}]
    assert plan.first == (*given, *({"tensor-parallel-size": degree} for degree in tried if degree != 2))
    path.write_text(suite_of("", strategy="grid").replace("{int: [2, 64]}", "[2, 64]"))
    assert make_plan(load_suite(path), Engine(installed), nodeid="seeds.yaml").first == ()


def test_degrees_that_the_engine_refuses_are_left_out(tmp_path):
    class Refusing(Engine):
        def refuses(self, _suite, configuration):
            return Cause(CauseKind.BAD_ARGUMENT, "no") if configuration["tensor-parallel-size"] == 4 else None

    path = tmp_path / "seeds.yaml"
    path.write_text(suite_of(""))
    plan = make_plan(load_suite(path), Refusing(Installed("1", FLAGS, simulated=True)), nodeid="seeds.yaml")
    assert plan.first == ({}, {"tensor-parallel-size": 2})


def gpu(index):
    return Gpu(index, f"GPU-{index}", "NVIDIA H100", 80 * 2**30, "1")


def test_another_driver_is_another_study(tmp_path, monkeypatch):
    path = tmp_path / "seeds.yaml"
    path.write_text(suite_of(""))

    def study(*drivers):
        monkeypatch.setattr("pytest_autotune.plan.drivers", lambda: drivers)
        return make_plan(load_suite(path), Engine(Installed("1", FLAGS)), nodeid="seeds.yaml").study

    assert study("570.1") == study("570.1")
    assert len({study(), study("570.1"), study("580.2")}) == 3
