"""What is recorded of the best of a suite, and how it is found, measured again and held against it."""

from dataclasses import replace

import pytest

from pytest_autotune.baseline import baseline_text, beside, recorded_metrics, write_baseline
from pytest_autotune.engines.command import CommandEngine
from pytest_autotune.engines.sim.engine import SimEngine
from pytest_autotune.errors import SuiteError
from pytest_autotune.plan import make_plan
from pytest_autotune.samples import Level
from pytest_autotune.selection import judge_trial
from pytest_autotune.slo import Status
from pytest_autotune.store import Store
from pytest_autotune.suite_file import load_suite
from pytest_autotune.verifying import baseline_of, recorded, verification_of, verified
from tests.make_records import START, batch, trial

SUITE = """\
name: chat
engine: sim
model: llama-3.1-8b
parameters: {max-num-seqs: [2, 64]}
fixed: {gpu: H100}
load: {prompt_tokens: 128, output_tokens: 32, concurrency: [1, 8], duration: 1s}
slo: {ttft.p90: 500ms}
gate: {throughput: -5%, goodput: -5%}
"""


@pytest.fixture
def plan(tmp_path):
    return planned(tmp_path)


def planned(directory, text=SUITE, engine=None):
    path = directory / "chat.yaml"
    path.write_text(text)
    return make_plan(load_suite(path), engine or SimEngine(), nodeid="chat.yaml")


def at(concurrency, **metrics):
    return batch(concurrency, **{"error_rate": 0.0, **metrics})


BATCHES = (
    at(1, ttft__p90=0.1, output_throughput=123.456, in_flight__mean=0.9),
    at(8, ttft__p90=0.4, output_throughput=float("inf"), tpot__mean=0.0123456),
    at(16, ttft__p90=0.6, output_throughput=500.0),
)


def judged(plan, *batches, **fields):
    suite = plan.suite
    return judge_trial(trial(1, *batches, **fields), limits=suite.slo, objective=suite.objective)


def baseline_from(plan, *batches, **fields):
    return baseline_of(plan, judged(plan, *batches), run_id="run-1", at=START, **fields)


def test_a_baseline_has_the_metrics_of_objective_gate_and_limits_and_a_usual_few(plan):
    assert recorded_metrics(plan.suite) == (
        "output_throughput", "goodput", "ttft.p90", "error_rate", "ttft.p50", "ttft.p99", "tpot.mean", "e2e.p99",
    )  # fmt: skip


def test_what_is_recorded_of_a_trial_are_its_compliant_load_levels(plan):
    made = baseline_from(plan, *BATCHES, commit="1a2b")
    assert made.levels == {
        "c1": {"output_throughput": 123.5, "ttft.p90": 0.1, "error_rate": 0.0},
        "c8": {"ttft.p90": 0.4, "error_rate": 0.0, "tpot.mean": 0.01235},
    }
    assert (made.suite, made.engine, made.model) == ("chat", "sim", "llama-3.1-8b")
    assert (made.run, made.recorded_at, made.commit) == ("run-1", "2026-01-02T03:04:05Z", "1a2b")
    assert made.configuration == {"max-num-seqs": 64}
    assert made.server.fixed == {"gpu": "H100"}
    assert made.load == {"prompt_tokens": 128, "output_tokens": 32, "duration_s": 1.0, "warmup_s": 5.0}


def test_of_a_searched_load_the_levels_are_recorded_that_it_stands_for(tmp_path):
    plan = planned(tmp_path, SUITE.replace("concurrency: [1, 8]", "concurrency: {search: [1, 64]}"))
    batches = (
        at(1, ttft__p90=0.1, output_throughput=1.0),
        at(4, ttft__p90=0.2, output_throughput=9.0),
        at(8, ttft__p90=0.4, output_throughput=8.0),
    )
    assert list(baseline_from(plan, *batches).levels) == ["c4", "c8"]


@pytest.mark.parametrize(
    ("load", "recorded"),
    [
        ("prompt_tokens: 128, output_tokens: 32, rate: [2, 4]", {"prompt_tokens": 128, "output_tokens": 32}),
        ("prompt_tokens: 128, output_tokens: 32, burst: [8]", {"prompt_tokens": 128, "output_tokens": 32}),
        ('concurrency: [1], scenario: "D(100,10)"', {"scenario": "D(100,10)"}),
    ],
)
def test_a_load_of_any_shape_is_recorded_without_what_says_nothing(tmp_path, load, recorded):
    text = SUITE.replace("prompt_tokens: 128, output_tokens: 32, concurrency: [1, 8]", load)
    made = baseline_from(planned(tmp_path, text), at(1, ttft__p90=0.1, delivered=1.0)).load
    assert {name: value for name, value in made.items() if name not in ("duration_s", "warmup_s")} == recorded


def test_of_a_searched_load_a_verification_records_all_that_it_measured(tmp_path):
    plan = planned(tmp_path, SUITE.replace("concurrency: [1, 8]", "concurrency: {search: [1, 64]}"))
    measured_now = tuple(at(level, ttft__p90=0.1, output_throughput=float(level)) for level in (4, 8))
    assert list(baseline_from(plan, *measured_now).levels) == ["c8"]
    verifying = verified(plan, baseline_from(plan, *measured_now))
    assert list(baseline_from(verifying, *measured_now).levels) == ["c4", "c8"]


def test_no_secret_is_recorded(tmp_path):
    plan = planned(
        tmp_path,
        SUITE.replace(
            "fixed: {gpu: H100}",
            "env: {HF_TOKEN: hunter2-secret}\nfixed: {hf-token: hunter2-secret}\n"
            "command: [serve, --api-key, hunter2-secret, --port, '{port}', '{flags}']",
        ).replace("engine: sim", "engine: command"),
        CommandEngine(),
    )
    made = baseline_from(plan, *BATCHES)
    assert "hunter2" not in baseline_text(made)
    assert made.server.command == ("serve", "--api-key", "***", "--port", "{port}", "{flags}")
    assert made.server.env == {"HF_TOKEN": "***"}
    assert made.server.fixed == {"hf-token": "***"}


def test_the_recorded_best_is_verified_in_one_trial_of_a_study_of_its_own(plan):
    made = baseline_from(plan, *BATCHES)
    own = verified(plan, made)
    (slot,) = own.slots
    assert (slot.name, slot.parameters) == ("best", {"max-num-seqs": 64})
    assert slot.choose((), lambda _: False, ()) == {"max-num-seqs": 64}
    assert own.levels == (Level(1), Level(8))
    assert own.baseline == made
    assert own.study != plan.study
    assert own.study == verified(plan, made).study


def test_a_configuration_that_stands_in_fixed_too_is_refused(plan):
    made = baseline_from(plan, *BATCHES).model_copy(update={"configuration": {"gpu": "H100"}})
    with pytest.raises(SuiteError) as refused:
        verified(plan, made)
    assert str(refused.value) == (
        f"{beside(plan.suite.path)}: configuration: 'gpu' stands in fixed of chat.yaml, too; remove it from one of them"
    )


def test_the_file_beside_the_suite_is_what_is_recorded(plan):
    assert recorded(plan, None) is None
    made = baseline_from(plan, *BATCHES)
    write_baseline(beside(plan.suite.path), made)
    assert recorded(plan, None) == made


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("suite", "code", "suite: recorded for code, but chat.yaml has chat"),
        ("engine", "vllm", "engine: recorded for vllm, but chat.yaml has sim"),
    ],
)
def test_the_record_of_another_suite_or_engine_is_refused(plan, name, value, problem):
    path = beside(plan.suite.path)
    write_baseline(path, baseline_from(plan, *BATCHES).model_copy(update={name: value}))
    with pytest.raises(SuiteError) as refused:
        recorded(plan, None)
    assert str(refused.value) == f"{path}: {problem}; record it anew with --autotune --autotune-record"


def test_without_a_file_it_is_what_the_stores_last_search_selects(plan, tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'results.db'}")
    store.migrate()
    store.begin_run("run-1", started_at=START, environment={}, arguments=())
    assert recorded(plan, store) is None
    slot = plan.slots[-1]
    claim = store.claim(
        "run-1", plan.study, slot.name, owner="run-1/1", fresh=False, choose=lambda _: {"max-num-seqs": 64}
    )
    for one in (at(1, ttft__p90=0.1, output_throughput=9.0), at(8, ttft__p90=0.4, output_throughput=8.0)):
        store.record_batch(claim.trial.id, one, ())
    store.finish(claim.trial.id, status=Status.COMPLIANT, reason="", elapsed_s=1.0)
    found = recorded(plan, store)
    assert (found.run, found.configuration, list(found.levels)) == ("run-1", {"max-num-seqs": 64}, ["c1", "c8"])


def measured(plan, made, *batches, **fields):
    return verification_of(plan, made, judged(plan, *batches, **fields))


def test_what_is_measured_now_is_held_against_the_baseline(plan):
    made = baseline_from(plan, at(8, ttft__p90=0.4, output_throughput=100.0))
    now = measured(plan, made, at(8, ttft__p90=0.3, output_throughput=90.0))
    assert [(held.metric, held.tolerance, held.change) for held in now.held] == [
        ("output_throughput", 0.05, pytest.approx(-0.1)),
        ("ttft.p90", None, pytest.approx(-0.25)),
        ("error_rate", None, 0.0),
    ]
    assert (now.refused, now.changed, now.lacking) == ((), (), ("goodput",))


def test_what_may_not_be_compared_is_refused_and_what_is_compared_is_told(plan):
    made = baseline_from(plan, *BATCHES)
    other = made.model_copy(update={"hardware": "2 x L4", "engine_version": "0.1"})
    now = measured(plan, other, *BATCHES, configuration={"max-num-seqs": 2})
    assert now.held == now.lacking == ()
    assert now.refused == (f"hardware: 2 x L4 then, {made.hardware} now",)
    assert now.changed == (
        f"engine_version: 0.1 then, {made.engine_version} now",
        "configuration.max-num-seqs: 64 then, 2 now",
    )


def test_a_server_that_did_not_start_lacks_no_metric(plan):
    made = baseline_from(plan, *BATCHES)
    now = measured(plan, made, status=Status.INFEASIBLE, reason="out of memory")
    assert (now.held, now.refused, now.lacking) == ((), (), ())


def test_other_load_levels_are_no_difference(plan):
    made = baseline_from(plan, *BATCHES)
    load = plan.suite.load.model_copy(update={"concurrency": (1, 2, 4), "workers": 3})
    now = measured(replace(plan, suite=plan.suite.model_copy(update={"load": load})), made, *BATCHES)
    assert now.refused == ()
