"""Load shapes other than a concurrency through the whole plugin: items, markers, store, verdicts, exports."""

import json
import math
from dataclasses import replace

import pytest

from pytest_autotune.choosing import observe
from pytest_autotune.load.http import more_workers
from pytest_autotune.reporting.sending import client_shares, sending_lines, warning_lines
from pytest_autotune.samples import ClientHealth, Level
from pytest_autotune.slo import Limit, Status
from pytest_autotune.steadiness import Drift, Steadiness
from pytest_autotune.suite import Suite
from pytest_autotune.suite_file import load_suite
from tests.make_records import batch, trial

HEAD = """\
name: shapes
engine: sim
model: llama-3.1-8b
fixed: {gpu: H100, time-scale: 0.1, max-model-len: 4096}
slo: {ttft.p90: 2s}
timeouts: {stop: 1s}
"""
RATES = (
    HEAD
    + "load: {prompt_tokens: {uniform: [20, 60]}, output_tokens: 8, rate: [20, 30.5], duration: 1s, warmup: 200ms}\n"
)


def best_of(project):
    (best,) = (project.path / ".autotune").glob("*/*/best.json")
    return json.loads(best.read_text())


def test_rates_are_load_levels_of_their_own(project):
    project.suite(RATES)
    result = project.run("suites", "--autotune", "-v", "-v", "--junitxml=report.xml", "--autotune-junit=verdict.xml")
    assert result.ret == 0, result.stdout.str()
    assert result.parseoutcomes()["compliant"] == 2
    result.stdout.fnmatch_lines(
        ["*::r20 COMPLIANT*", "*::r30.5 COMPLIANT*", "*delivered*>= 98 %*", "*best output*from rate*"]
    )
    result.stdout.fnmatch_lines(["*load? rate=30.5/s: * delivered, * worker* of a core, read * late (p99)*"])
    best = best_of(project)["best"]
    assert (best["level"], best["rate"], best["concurrency"], best["capacity"]) == ("r30.5", 30.5, None, 30.5)
    first, second = best["batches"]
    assert (first["rate"], second["rate"]) == (20, 30.5)
    assert second["delivered"] == second["metrics"]["delivered"] >= 0.98
    low, high = second["intervals"]["output_throughput"]
    assert low <= second["metrics"]["output_throughput"] <= high
    assert second["client"]["workers"] >= 1
    assert second["client_share"].keys() == {"ttft", "tpot", "itl", "e2e"}
    assert second["remarks"][0].startswith("steady state: ")
    assert best_of(project)["measured"]["load"]["rate"] == [20, 30.5]
    case = next(case for name, case in project.testcases().items() if name.endswith("r30.5"))
    properties = {prop.get("name"): prop.get("value") for prop in case.iter("property")}
    assert properties["rate"] == "30.5"
    assert {"shapes.r20", "shapes.r30.5"} <= project.testcases("verdict.xml").keys()
    with project.store() as store:
        (run,) = store.runs()
        (recorded,) = store.trials_of_run(run.id)
        assert [batch.level for batch in recorded.batches] == [Level(20, "rate"), Level(30.5, "rate")]
        assert all(sample.due_s is not None for sample in store.samples(recorded.id, Level(20, "rate")))


@pytest.mark.parametrize(
    ("selection", "item"),
    [(["-k", "r20"], "r20"), (["-m", "config(rate=20)"], "r20"), (["-m", 'config(rate="30.5")'], "r30.5")],
    ids=["keyword", "whole rate", "rate with a fraction"],
)
def test_rates_are_selected_by_name_and_marker(project, selection, item):
    project.suite(RATES)
    result = project.run("suites", "--autotune", "--collect-only", "-q", *selection)
    collected = [line.rpartition("::")[2] for line in result.outlines if "::" in line]
    assert [name for name in collected if name not in ("gate", "deploy")] == [item]


@pytest.mark.parametrize(
    ("load", "level"),
    [
        ("{burst: 12, prompt_tokens: 16, output_tokens: 4}", "burst12"),
        (
            "{stages: [{rate: 10, for: 500ms}, {rate: [10, 40], for: 500ms}], prompt_tokens: 16, output_tokens: 4}",
            "stages",
        ),
        ("{replay: {file: trace.jsonl, speed: 2}}", "replay-2x"),
    ],
    ids=["burst", "stages", "replay"],
)
def test_every_shape_is_measured(project, load, level):
    lines = [{"time_s": 0.05 * number, "prompt_tokens": 16, "output_tokens": 4} for number in range(30)]
    (project.path / "suites" / "trace.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    project.suite(f"{HEAD}load: {load}\n")
    result = project.run("suites", "--autotune", "-v")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines([f"*::{level} COMPLIANT*"])
    (measured,) = best_of(project)["best"]["batches"]
    assert (measured["level"], measured["concurrency"]) == (level, None)
    assert measured["requests"] == {"burst12": 12, "replay-2x": 30}.get(level, measured["requests"]) > 0


SHORT_LOAD = """\
from dataclasses import replace

from tolerant_load import Tolerant

class Short(Tolerant):
    def run(self, target, level, workload, **keywords):
        measurement = super().run(target, level, workload, **keywords)
        return replace(measurement, delivered=0.9) if level.value > 25 else measurement

def pytest_autotune_load_generator(suite):
    return Short()
"""


def test_a_rate_that_was_not_delivered_is_a_finding_that_says_asked_and_reached(project):
    project.pytester.makeconftest(SHORT_LOAD)
    project.suite(RATES)
    result = project.run("suites", "--autotune", "-v")
    assert result.ret == 0, result.stdout.str()
    result.stdout.fnmatch_lines(
        ["*r30.5 VIOLATES*delivered: 90 % < 98 %*asked for 30.5 requests/s, 27.4 reached the server*"]
    )
    assert best_of(project)["best"]["capacity"] == 20


WORKERS_SEEN = """\
from dataclasses import replace
from pathlib import Path

from tolerant_load import Tolerant

class Busy(Tolerant):
    def run(self, target, level, workload, **keywords):
        with Path("seen").open("a") as seen:
            seen.write(f"{workload.workers} {workload.seed}\\n")
        measurement = super().run(target, level, replace(workload, workers=1), **keywords)
        return replace(measurement, client=replace(measurement.client, saturated="client saturated", workers=1))

def pytest_autotune_load_generator(suite):
    return Busy()
"""


@pytest.mark.parametrize(
    ("workers", "second"),
    [("auto", str(more_workers(1))), ("1", "1")],
    ids=["workers may be added", "workers are fixed"],
)
def test_a_saturated_client_gets_more_workers_for_its_second_try_unless_their_number_is_fixed(project, workers, second):
    project.pytester.makeconftest(WORKERS_SEEN)
    load = f"{{rate: 20, workers: {workers}, prompt_tokens: 16, output_tokens: 4, duration: 300ms, warmup: 0s}}"
    project.suite(f"{HEAD}load: {load}\n")
    assert project.run("suites", "--autotune").ret == 1
    (first, first_seed), (again, again_seed) = [
        line.split() for line in (project.path / "seen").read_text().splitlines()
    ]
    assert (first, again) == ("None" if workers == "auto" else "1", second)
    assert first_seed != again_seed, "the second try must not find its prompts in a prefix cache"


def test_workers_are_doubled_as_far_as_there_are_cores(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(6))
    assert [more_workers(used) for used in (1, 2, 3, 4, 6, 8)] == [2, 4, 6, 6, 6, 8]


@pytest.mark.parametrize(
    ("load", "problem"),
    [
        (
            "{replay: missing.jsonl}",
            "quick.yaml:7: load.replay.file: there is no file *missing.jsonl; a relative path*",
        ),
        ("{dataset: broken.jsonl}", "*broken.jsonl:1: *"),
    ],
    ids=["missing", "broken"],
)
def test_a_file_that_cannot_be_read_stops_the_run_before_anything_is_deployed(project, load, problem):
    (project.path / "suites" / "broken.jsonl").write_text("not json\n")
    project.suite(f"{HEAD}load: {load}\n")
    result = project.run("suites", "--autotune")
    assert result.ret == 2
    result.stdout.fnmatch_lines([f"*{problem}"])
    assert "Traceback" not in result.stdout.str()


def test_a_key_that_is_not_set_skips_the_suite_and_one_that_is_set_is_told_nowhere(project, monkeypatch):
    monkeypatch.delenv("OUR_API_KEY", raising=False)
    project.suite(RATES.replace("rate: [20, 30.5]", "rate: 20, api_key: '${OUR_API_KEY}'"))
    result = project.run("suites", "--autotune", "-rs")
    result.stdout.fnmatch_lines(["*set OUR_API_KEY (load.api_key: ${OUR_API_KEY})*"])
    assert result.parseoutcomes() == {"skipped": 1}
    monkeypatch.setenv("OUR_API_KEY", "sesame-open-4711")
    assert project.run("suites", "--autotune", "-v", "--junitxml=report.xml").ret == 0
    for path in project.path.rglob("*"):
        if path.is_file():
            assert b"sesame-open" not in path.read_bytes(), path


def test_an_over_saturated_trial_is_no_crash_to_the_search():
    suite = Suite(name="s", engine="sim", slo=(Limit("e2e.p90", 5.0),))
    fast = batch(1, e2e__p90=1.0, output_throughput=9.0)
    kept = observe(trial(1, fast), suite)
    behind = observe(trial(1, replace(fast, oversaturated="ttft grew")), suite)
    assert kept.constraints == {"e2e.p90": pytest.approx(math.log(0.2)), "crash": 0.0}
    assert (behind.value, behind.constraints) == (None, {"e2e.p90": 1.0, "crash": 0.0})


@pytest.mark.parametrize(
    ("load", "value"),
    [("{search: [1, 64]}", 6.0), ("[1, 8, 64], skip: dominated", 6.0), ("{search: [8, 64]}", None), ("[1, 8]", None)],
)
def test_what_was_given_up_is_told_with_what_it_would_bring_where_it_complies(tmp_path, load, value):
    path = tmp_path / "chat.yaml"
    path.write_text(f"{HEAD.replace('ttft.p90: 2s', 'e2e.p90: 5s')}load: {{concurrency: {load}}}\n")
    told = observe(trial(1, batch(8, e2e__p90=7.5, output_throughput=9.0)), load_suite(path))
    margin = math.log(1.5) if value is None else 0.0
    assert told.value == value
    assert told.constraints["e2e.p90"] == pytest.approx(margin)


@pytest.mark.parametrize(
    ("limit", "actual", "margin"),
    [
        (Limit("e2e.p90", 5.0), 10.0, math.log(2)),
        (Limit("e2e.p90", 5.0), 5.0, 0.0),
        (Limit("output_throughput", 100.0, floor=True), 50.0, math.log(2)),
        (Limit("output_throughput", 100.0, floor=True), 200.0, -math.log(2)),
        (Limit("error_rate", 0.0), 0.25, 0.25),
        (Limit("error_rate", 0.01), 0.0, -1.0),
        (Limit("output_throughput", 100.0, floor=True), 0.0, 1.0),
        (Limit("e2e.p90", 1e-300), 1e300, 30.0),
    ],
)
def test_how_far_a_limit_was_missed_is_a_logarithm_whatever_its_unit(limit, actual, margin):
    suite = Suite(name="s", engine="sim", slo=(limit,))
    metrics = {"output_throughput": 9.0, limit.metric.replace(".", "__"): actual}
    told = observe(trial(1, batch(1, **metrics)), suite)
    assert told.constraints[limit.metric] == pytest.approx(margin)


def test_what_was_screened_out_is_worse_than_what_complies_and_better_than_what_does_not():
    suite = Suite(name="s", engine="sim", slo=(Limit("e2e.p90", 5.0),))
    dropped = observe(trial(1, status=Status.SCREENED_OUT, reason="less [trial 7, c4]"), suite)
    missed = observe(trial(2, batch(1, e2e__p90=5.5, output_throughput=9.0)), suite)
    assert (dropped.value, missed.value) == (None, None)
    assert dropped.constraints["crash"] == 0.0
    assert 0.0 < dropped.constraints["e2e.p90"] < missed.constraints["e2e.p90"]


HEALTH = ClientHealth(0.002, 0.004, 0.001, 0.25, workers=2)


def test_the_clients_own_share_is_told_of_each_latency():
    record = batch(
        8, client=HEALTH, ttft__p99=0.2, ttft__mean=0.1, e2e__p99=2.0, e2e__mean=0.9, itl__p99=0.02, tpot__p99=0.02
    )
    assert client_shares(record) == pytest.approx({"ttft": 0.01, "tpot": 0.0025, "itl": 0.1, "e2e": 0.001})
    assert client_shares(batch(8, client=HEALTH, e2e__p99=2.0)) == {"e2e": 0.001}
    assert client_shares(batch(8, status="failed")) == {}


def test_only_a_load_that_was_not_steady_is_worth_a_warning():
    found = Steadiness((Drift("ttft", 0.45, 0.31, 0.59, 0.2),))
    drifting = replace(batch(8), remarks=(f"steady state: {found}",))
    assert warning_lines(drifting) == [
        "[load] concurrency=8: steady state: drifting: ttft changed by +45 % (+31 % to +59 %)"
    ]
    for fine in (Steadiness(()), Steadiness((), "3 successful requests are too few")):
        assert warning_lines(replace(batch(8), remarks=(f"steady state: {fine}",))) == []


def test_the_log_lines_of_a_batch_say_how_its_load_was_sent():
    record = replace(
        batch(8, client=HEALTH, ttft__p99=0.2),
        level=Level(10, "rate"),
        delivered=0.995,
        stopped="100 requests failed",
        intervals={"ttft.p99": (0.15, None), "tpot.p99": (0.1, 0.2)},
        remarks=("steady state: steady",),
    )
    sent = (
        "[load] rate=10/s: 99.5 % delivered, 2 workers at 25% of a core, read 2 ms late (p99), "
        "at most so much of it the client's own: ttft 1 %, ended early: 100 requests failed"
    )
    assert sending_lines(record) == [
        sent,
        "[load] rate=10/s: 95 % confidence: ttft.p99 at least 150 ms",
        "[load] rate=10/s: steady state: steady",
    ]
    assert sending_lines(batch(8, status="failed")) == []
