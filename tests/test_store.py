"""The store's rules, on SQLite and on PostgreSQL."""

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from pytest_autotune.database import Database
from pytest_autotune.errors import StoreError
from pytest_autotune.records import Answers, BatchRecord, MeasuredRecord, Note, utc_now, utc_text
from pytest_autotune.samples import ClientHealth, Level
from pytest_autotune.slo import Status
from pytest_autotune.store import Store
from pytest_autotune.tables import STEPS, schema_version
from tests.older_stores import fill_as_version_1
from tests.store_children import STARTED, choose, measured

pytest_plugins = ["tests.store_backends"]


class Clock:
    def __init__(self):
        self.now = STARTED

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(url, clock):
    with Store(url, clock=clock) as store:
        store.migrate()
        begin(store, "run-1")
        yield store


def begin(store, run_id):
    store.begin_run(run_id, started_at=STARTED, environment={"python": "3.11"}, arguments=["suites/"])


def claim(store, slot, *, run_id="run-1", owner="gw0", fresh=False, choose=choose, study="study"):
    return store.claim(run_id, study, slot, owner=owner, fresh=fresh, choose=choose)


def finish(store, trial, status=Status.COMPLIANT):
    store.finish(trial.id, status=status, elapsed_s=1.5)


def refuse(_history):
    raise LookupError("space exhausted")


def test_claimed_trial_comes_back_whole(store, clock):
    granted = claim(store, "trial-000", choose=lambda _: {"tp": 2, "list": [1, {"a": None}], "text": "ü"})
    assert granted.kind == "granted"
    trial = granted.trial
    assert (trial.state, trial.status, trial.attempt, trial.generation) == ("running", None, 1, "run-1")
    said = Answers("fingerprint", ("Paris", "", None))
    deployed = {"argv": ["vllm", "serve"], "effective": {"block": 16}, "gpus": 2, "deploy_s": 31.5}
    store.record_deployment(trial.id, **deployed, server_log=".autotune/x.log", answers=said)
    client = ClientHealth(0.001, 0.002, 0.003, 0.4, "too slow")
    batch = BatchRecord(Level(8), "died", {}, client, {"reset": 3}, 5, 9.5, STARTED, "server died", "out of memory")
    store.record_batch(trial.id, batch, [])
    store.record_batch(trial.id, *measured(Level(1)))
    clock.now += timedelta(minutes=2)
    store.finish(trial.id, status=Status.INFEASIBLE, reason="no memory", cause="out of memory", elapsed_s=40.25)

    (record,) = store.history("study")
    assert record == store.trial(trial.id)
    assert record.configuration == {"tp": 2, "list": [1, {"a": None}], "text": "ü"}
    assert list(record.configuration) == ["tp", "list", "text"]
    assert (record.state, record.status, record.reason) == ("finished", Status.INFEASIBLE, "no memory")
    assert (record.cause, record.elapsed_s, record.deploy_s, record.gpus) == ("out of memory", 40.25, 31.5, 2)
    assert (record.argv, record.effective, record.server_log) == (("vllm", "serve"), {"block": 16}, ".autotune/x.log")
    assert (record.started_at, record.ended_at) == (STARTED, STARTED + timedelta(minutes=2))
    assert record.batches == (batch, measured(Level(1))[0]), "in the order they ran"
    assert record.answers == said
    assert claim(store, "trial-000", choose=refuse) == type(granted)("recorded", record)


def refused(store, slot, configuration, *, launched=True, cause="out of memory", **names):
    trial = claim(store, slot, choose=lambda _: configuration, **names).trial
    if launched:
        store.record_deployment(trial.id, argv=[], effective={}, gpus=1, deploy_s=None, server_log="server.log")
    store.finish(trial.id, status=Status.INFEASIBLE, reason=f"{cause}: {slot}", cause=cause, elapsed_s=1)
    return trial


def started(store, slot, configuration, **names):
    trial = claim(store, slot, choose=lambda _: configuration, **names).trial
    store.record_deployment(trial.id, argv=["serve"], effective={}, gpus=1, deploy_s=2.5, server_log="server.log")
    return trial


def test_starts_of_all_runs_that_ran_out_of_memory_come_with_their_suites(store, clock):
    begin(store, "run-2")
    store.record_suite("run-1", "study", suite="a.yaml", document={"model": "m", "engine_version": "1"})
    store.record_suite("run-2", "other", suite="b.yaml", document={"model": "n"})
    refused(store, "t-0", {"n": 0})
    refused(store, "t-1", {"n": 1}, run_id="run-2", study="other")
    clock.now += timedelta(minutes=1)
    started(store, "t-2", {"n": 2})
    starts = store.starts()
    assert [(start.run_id, start.configuration, start.ready, start.document) for start in starts] == [
        ("run-1", {"n": 0}, False, {"model": "m", "engine_version": "1"}),
        ("run-2", {"n": 1}, False, {"model": "n"}),
        ("run-1", {"n": 2}, True, {"model": "m", "engine_version": "1"}),
    ]
    assert (starts[0].started_at, starts[0].reason) == (STARTED, "out of memory: t-0")


def test_only_launches_that_ran_out_of_memory_before_they_were_ready_are_such_starts(store):
    refused(store, "derived", {"n": 0}, launched=False)
    refused(store, "other cause", {"n": 1}, cause="bad argument")
    released = claim(store, "unfinished", choose=lambda _: {"n": 2}).trial
    store.record_deployment(released.id, argv=[], effective={}, gpus=1, deploy_s=None, server_log="server.log")
    store.release(released.id, reason="interrupted")
    under_load = started(store, "under load", {"n": 3})
    batch = BatchRecord(Level(8), "died", {}, None, {}, 5, 9.5, STARTED, "server died", "out of memory")
    store.record_batch(under_load.id, batch, [])
    store.finish(under_load.id, status=Status.INFEASIBLE, cause="out of memory", elapsed_s=1)
    assert store.starts() == ()
    refused(store, "real", {"n": 4})
    assert [(start.configuration["n"], start.ready) for start in store.starts()] == [(3, True), (4, False)]
    assert [trial.slot for trial in store.history("study") if not trial.launched] == ["derived"]


def test_choose_sees_every_trial_of_the_generation_running_ones_too(store):
    finish(store, claim(store, "trial-000").trial)
    claim(store, "trial-001")
    seen = []
    claim(store, "trial-002", choose=lambda history: seen.extend(history) or {"n": 9})
    assert [(trial.slot, trial.state) for trial in seen] == [("trial-000", "finished"), ("trial-001", "running")]


def test_error_of_choose_leaves_no_trace(store):
    with pytest.raises(LookupError, match="space exhausted"):
        claim(store, "trial-000", choose=refuse)
    assert store.history("study") == ()
    assert claim(store, "trial-000").kind == "granted"


def test_slot_of_a_living_owner_is_busy_until_its_heartbeats_stop(store, clock):
    first = claim(store, "trial-000", owner="gw0").trial
    clock.now += timedelta(seconds=59)
    assert claim(store, "trial-000", owner="gw1").kind == "busy"
    assert store.heartbeat(first.id)
    clock.now += timedelta(seconds=60)
    assert claim(store, "trial-000", owner="gw1").kind == "busy"
    clock.now += timedelta(seconds=1)
    second = claim(store, "trial-000", owner="gw1", choose=refuse)
    assert (second.kind, second.trial.attempt, second.trial.configuration) == ("granted", 2, first.configuration)
    assert not store.heartbeat(first.id)
    with pytest.raises(StoreError, match=r"trial \d+ is interrupted \(gw0 is gone\), not running"):
        store.record_batch(first.id, *measured(Level(1)))
    with pytest.raises(StoreError, match="not running"):
        finish(store, first)


@pytest.mark.parametrize(
    ("answer", "kind"), [(True, "busy"), (False, "granted"), (None, "busy")], ids=["alive", "dead", "unknown"]
)
def test_alive_decides_and_heartbeats_do_where_it_does_not_know(url, clock, answer, kind):
    asked = []
    with Store(url, clock=clock, alive=lambda owner: asked.append(owner) or answer) as store:
        store.migrate()
        begin(store, "run-1")
        claim(store, "trial-000", owner="gw0")
        assert claim(store, "trial-000", owner="gw1").kind == kind
        assert asked == ["gw0"]


def test_owner_that_claims_its_own_running_slot_measures_it_anew(store):
    first = claim(store, "trial-000", owner="gw0").trial
    second = claim(store, "trial-000", owner="gw0", choose=refuse).trial
    assert (second.attempt, second.configuration) == (2, first.configuration)


def test_interrupted_attempt_keeps_its_batches_and_is_counted_once(store):
    first = claim(store, "trial-000").trial
    store.record_batch(first.id, *measured(Level(1)))
    store.release(first.id, reason="c4 was not selected")
    begin(store, "run-2")
    second = claim(store, "trial-000", run_id="run-2", owner="gw9", choose=refuse).trial
    store.record_batch(second.id, *measured(Level(1)))
    finish(store, second)
    assert [trial.id for trial in store.history("study")] == [second.id]
    (old,) = store.trials_of_run("run-1")
    assert (old.state, old.reason, len(old.batches)) == ("interrupted", "c4 was not selected", 1)
    assert len(store.samples(first.id, Level(1))) == 3


def test_generation_goes_on_over_runs_until_a_fresh_one_begins(store):
    first = claim(store, "trial-000").trial
    finish(store, first)
    for run in ("run-2", "run-3"):
        begin(store, run)
    assert claim(store, "trial-000", run_id="run-2").kind == "recorded"
    fresh = claim(store, "trial-000", run_id="run-3", fresh=True)
    assert (fresh.kind, fresh.trial.generation, fresh.trial.attempt) == ("granted", "run-3", 1)
    finish(store, fresh.trial)
    assert claim(store, "trial-000", run_id="run-3", fresh=True).kind == "recorded", "another worker of the fresh run"
    assert claim(store, "trial-001", run_id="run-3", fresh=True).trial.generation == "run-3"
    begin(store, "run-4")
    assert claim(store, "trial-000", run_id="run-4").trial.id == fresh.trial.id
    assert [trial.slot for trial in store.history("study")] == ["trial-000", "trial-001"]


def test_studies_do_not_see_each_other(store):
    finish(store, claim(store, "trial-000", study="a").trial)
    assert claim(store, "trial-000", study="b").kind == "granted"
    assert len(store.history("a")) == len(store.history("b")) == 1
    assert store.history("c") == ()


def test_batch_is_recorded_once(store):
    trial = claim(store, "trial-000").trial
    store.record_batch(trial.id, *measured(Level(4)))
    with pytest.raises(StoreError, match=f"batch c4 of trial {trial.id} is already recorded"):
        store.record_batch(trial.id, *measured(Level(4), requests=50))
    assert len(store.samples(trial.id, Level(4))) == 3


def test_trial_is_finished_once(store):
    trial = claim(store, "trial-000").trial
    finish(store, trial)
    for close in (lambda: finish(store, trial, Status.FAILED), lambda: store.release(trial.id, reason="late")):
        with pytest.raises(StoreError, match="is finished, not running"):
            close()
    assert store.trial(trial.id).status is Status.COMPLIANT


def test_finished_trial_that_is_not_worth_keeping_is_measured_anew(store):
    first = claim(store, "trial-000").trial
    finish(store, first, Status.FAILED)

    def again(retry):
        return store.claim("run-1", "study", "trial-000", owner="gw1", fresh=False, choose=refuse, retry=retry)

    assert again(lambda trial: trial.status is Status.INFEASIBLE).kind == "recorded"
    second = again(lambda trial: trial.status is Status.FAILED)
    assert (second.kind, second.trial.attempt, second.trial.configuration) == ("granted", 2, first.configuration)
    assert [trial.id for trial in store.history("study")] == [second.trial.id]
    assert [trial.state for trial in store.trials_of_run("run-1")] == ["interrupted", "running"]


def test_failed_checks_of_a_batch_add_up(store):
    trial = claim(store, "trial-000").trial
    store.record_batch(trial.id, *measured(Level(4)))
    for name in ("test_a", "test_b"):
        store.record_check(trial.id, Level(4), name=name, problem="too slow")
    (batch,) = store.trial(trial.id).batches
    assert batch.failed_checks == ("test_a: too slow", "test_b: too slow")
    with pytest.raises(StoreError):
        store.record_check(trial.id, Level(8), name="test_a", problem="too slow")


def test_trials_of_a_dead_worker_are_given_back(store):
    finish(store, claim(store, "trial-000", owner="gw0").trial)
    lost = claim(store, "trial-001", owner="gw0").trial
    kept = claim(store, "trial-002", owner="gw1").trial
    assert store.mark_lost("run-1", "gw0", reason="worker gw0 died") == (lost.id,)
    assert [trial.state for trial in store.history("study")] == ["finished", "interrupted", "running"]
    assert store.mark_lost("run-1", "gw0", reason="again") == ()
    assert claim(store, "trial-001", owner="gw1", choose=refuse).kind == "granted"
    assert store.heartbeat(kept.id)


def test_runs_suites_and_progress_come_back(store, clock):
    store.begin_run("run-2", started_at=STARTED + timedelta(seconds=1), environment={"a": [1]}, arguments=["-k", "c4"])
    for suite in ("suites/b.yaml", "suites/a.yaml", "suites/a.yaml"):
        store.record_suite("run-2", "study", suite=suite, document={"name": suite})
    store.set_progress("run-2", "gw1", "trial-001 c1")
    clock.now += timedelta(seconds=3)
    store.set_progress("run-2", "gw0", "trial-000 deploy")
    store.set_progress("run-2", "gw1", "trial-001 c4")
    store.end_run("run-2", outcome="failed")
    newest, oldest = store.runs()
    assert (newest.id, newest.outcome, newest.ended_at) == ("run-2", "failed", clock.now)
    assert (newest.environment, newest.arguments) == ({"a": [1]}, ("-k", "c4"))
    assert (oldest.id, oldest.outcome, oldest.ended_at) == ("run-1", None, None)
    assert [(suite.suite, suite.document) for suite in store.suites_of_run("run-2")] == [
        ("suites/a.yaml", {"name": "suites/a.yaml"}),
        ("suites/b.yaml", {"name": "suites/b.yaml"}),
    ]
    assert store.progress("run-2") == [
        Note("gw0", "trial-000 deploy", clock.now),
        Note("gw1", "trial-001 c4", clock.now),
    ]
    assert store.progress("run-1") == []


@pytest.mark.parametrize(
    "act",
    [
        lambda store: begin(store, "run-1"),
        lambda store: store.end_run("run-9", outcome="passed"),
        lambda store: claim(store, "trial-000", run_id="run-9"),
        lambda store: store.set_progress("run-9", "gw0", "text"),
        lambda store: store.trial(99),
        lambda store: store.finish(99, status=Status.FAILED, elapsed_s=0.0),
        lambda store: store.samples(99, Level(1)),
    ],
    ids=["run twice", "end unknown run", "claim unknown run", "progress of unknown run", "trial", "finish", "samples"],
)
def test_what_does_not_fit_is_one_line(store, act):
    with pytest.raises(StoreError) as caught:
        act(store)
    assert "\n" not in str(caught.value)
    assert store.history("study") == ()


def test_number_that_is_none_is_refused(store):
    trial = claim(store, "trial-000").trial
    batch, samples = measured(Level(1))
    broken = BatchRecord(batch.level, "measured", {"x": float("nan")}, None, {}, 1, 1.0, STARTED)
    with pytest.raises(StoreError, match="not JSON compliant"):
        store.record_batch(trial.id, broken, samples)
    assert store.trial(trial.id).batches == ()


def test_undecodable_text_of_a_server_is_kept(store):
    trial = claim(store, "trial-000").trial
    argv = ["serve", "--name", "caf\udce9"]
    store.record_deployment(trial.id, argv=argv, effective={"a": "\0"}, gpus=0, deploy_s=None, server_log="l\udcff")
    store.finish(trial.id, status=Status.FAILED, reason="log said \0 and \udcff", elapsed_s=0.0)
    record = store.trial(trial.id)
    assert record.reason == "log said \\0 and \\udcff"
    assert (record.argv, record.effective, record.deploy_s) == (tuple(argv), {"a": "\0"}, None)


def test_first_document_of_a_suite_in_a_run_counts_for_all_its_processes(store):
    first = store.record_suite("run-1", "study", suite="a.yaml", document={"n": 1, "HF_TOKEN": "S3CRET"})
    assert first == {"n": 1, "HF_TOKEN": "***"}
    assert store.record_suite("run-1", "study", suite="a.yaml", document={"n": 2}) == first


def test_studies_are_told_once_as_they_were_noted_last_and_as_they_began(store):
    assert (store.studies(), store.beginning("study")) == ((), None)
    store.record_suite("run-1", "study", suite="a.yaml", document={"n": 1})
    assert store.beginning("study") is None  # nothing was claimed
    finish(store, claim(store, "trial-000").trial)
    store.begin_run("run-2", started_at=STARTED, environment={}, arguments=())
    store.record_suite("run-2", "study", suite="a.yaml", document={"n": 2})
    store.record_suite("run-2", "other", suite="b.yaml", document={"n": 3})
    assert sorted((each.study, each.run_id, each.document["n"]) for each in store.studies()) == [
        ("other", "run-2", 3),
        ("study", "run-2", 2),
    ]
    assert store.beginning("study") == {"n": 1}
    finish(store, claim(store, "trial-000", run_id="run-2", fresh=True).trial)
    assert store.beginning("study") == {"n": 2}


@pytest.mark.parametrize("name", ["chat", "100%_a", 'say "hi"', "häß\\lich"])
def test_runs_that_covered_a_suite_are_found_by_its_name_oldest_first(store, clock, name):
    others = ["Chat", "100% a", "chat2"]
    for number, earlier in enumerate([timedelta(0), timedelta(days=1)]):
        store.begin_run(f"run-{number + 2}", started_at=STARTED - earlier, environment={}, arguments=[])
        for called in (name, *others):
            document = {"name": called, "verifies": {"name": name}}
            store.record_suite(f"run-{number + 2}", "study", suite=f"{called}.yaml", document=document)
    found = store.covered(name)
    assert [(run.id, covered.run_id, covered.document["name"]) for run, covered in found] == [
        ("run-3", "run-3", name),
        ("run-2", "run-2", name),
    ]
    assert store.covered("nothing") == ()


def test_only_what_finished_trials_of_the_studies_have_measured_is_told(store):
    for study in ("one", "two", "three"):
        for slot in ("done", "undone"):
            trial = claim(store, slot, study=study).trial
            store.record_batch(trial.id, *measured(Level(1)))
            store.record_batch(trial.id, replace(measured(Level(2))[0], status="failed", metrics={}), ())
            if slot == "done":
                finish(store, trial)
    found = store.measured({"one", "three"})
    assert found == tuple(
        MeasuredRecord("run-1", study, "done", Level(1), {"ttft.p90": 0.05}) for study in ("one", "three")
    )
    assert store.measured(()) == ()


def test_no_secret_reaches_the_store(store, url):
    trial = claim(store, "trial-000").trial
    environment = {"env": {"HF_TOKEN": "S3CRET", "A": "http://u:S3CRET@host/"}}
    store.begin_run("run-2", started_at=STARTED, environment=environment, arguments=["--store=pg://u:S3CRET@h/d"])
    store.record_suite("run-2", "study", suite="a.yaml", document={"env": {"OPENAI_API_KEY": "S3CRET"}})
    argv = ["serve", "--api-key", "S3CRET", "--port", "8000"]
    store.record_deployment(trial.id, argv=argv, effective={"api_key": "S3CRET"}, gpus=0, deploy_s=1.0, server_log="")
    store.set_progress("run-2", "w", "sends api-key=S3CRET")
    died = BatchRecord(Level(1), "died", {}, None, {}, 0, 0.0, STARTED, "refused http://u:S3CRET@host")
    store.record_batch(trial.id, died, ())
    store.record_check(trial.id, Level(1), name="mine", problem="password=S3CRET")
    store.finish(trial.id, status=Status.FAILED, reason="Authorization: Bearer S3CRET", elapsed_s=0.0)
    run = next(run for run in store.runs() if run.id == "run-2")
    assert store.trial(trial.id).argv == ("serve", "--api-key", "***", "--port", "8000")
    everything = [run, store.suites_of_run("run-2"), store.trial(trial.id), store.progress("run-2")]
    assert "S3CRET" not in repr(everything)
    assert repr(everything).count("***") == 10


def test_moments_are_utc_and_print_with_z(store):
    east = timezone(timedelta(hours=5, minutes=30))
    moment = datetime(2026, 3, 1, 1, 2, 3, 40, tzinfo=east)
    store.begin_run("run-2", started_at=moment, environment={}, arguments=[])
    (stored,) = (run.started_at for run in store.runs() if run.id == "run-2")
    assert stored == moment
    assert stored.tzinfo is UTC
    assert utc_text(stored) == "2026-02-28T19:32:03.000040Z"
    assert utc_text(stored, timespec="seconds") == "2026-02-28T19:32:03Z"
    with pytest.raises(ValueError, match="no time zone"):
        utc_text(datetime(2026, 3, 1))  # noqa: DTZ001 - the point
    assert utc_now().tzinfo is UTC


def add_column(connection):
    connection.execute(text("ALTER TABLE runs ADD COLUMN note TEXT"))
    connection.execute(text(f"UPDATE runs SET note = 'from version {len(STEPS)}'"))


def break_down(connection):
    add_column(connection)
    connection.execute(text("SELECT no_such_thing FROM runs"))


def migrate(url, *more):
    database = Database(url)
    try:
        database.migrate((*STEPS, *more))
        with database.read() as connection:
            return schema_version(connection), connection.execute(text("SELECT note FROM runs")).scalars().all()
    finally:
        database.close()


def test_older_store_is_upgraded_once_with_what_it_holds(store, url):
    finish(store, claim(store, "trial-000").trial)
    for _ in range(2):
        assert migrate(url, add_column) == (len(STEPS) + 1, [f"from version {len(STEPS)}"])
    assert len(store.history("study")) == 1


def test_upgrade_that_fails_changes_nothing(store, url):
    with pytest.raises(StoreError, match="no_such_thing"):
        migrate(url, break_down)
    assert migrate(url, add_column) == (len(STEPS) + 1, [f"from version {len(STEPS)}"]), "its column was not there yet"


def test_store_of_a_later_release_is_refused(store, url):
    migrate(url, add_column)
    for use in (lambda later: later.migrate(), lambda later: later.runs()):
        with (
            Store(url) as later,
            pytest.raises(
                StoreError, match=f"schema version {len(STEPS) + 1}, this pytest-autotune reads up to {len(STEPS)}"
            ),
        ):
            use(later)


def test_store_of_the_first_version_is_read_and_written_on(url, clock):
    fill_as_version_1(url)
    with Store(url, clock=clock) as store:
        store.migrate()
        (trial,) = store.history("study")
        batches = [measured(Level(1))[0], measured(Level(8))[0]]
        assert list(trial.batches) == batches
        assert [len(store.samples(trial.id, batch.level)) for batch in batches] == [3, 3]
        begin(store, "run-2")
        again = claim(store, "trial-001", run_id="run-2", choose=lambda _: {"tp": 4}).trial
        store.record_batch(again.id, *measured(Level(2.5, "rate")))
        assert store.trial(again.id).batches == (measured(Level(2.5, "rate"))[0],)


@pytest.mark.parametrize(
    "level", [Level(8), Level(2.5, "rate"), Level(50, "burst"), Level(1, "stages"), Level(1.5, "replay")], ids=str
)
def test_level_of_any_shape_comes_back_with_what_is_known_of_its_batch(store, level):
    trial = claim(store, "trial-000").trial
    batch, samples = measured(level)
    batch = replace(
        batch,
        delivered=0.91,
        oversaturated="the queue grew by 12 requests/s",
        stopped="100 requests failed",
        intervals={"ttft.p99": (0.04, None), "ttft.mean": (0.03, 0.05)},
        remarks=("ttft rises by 40 % from the first half to the second",),
        server={"engine.queue.mean": 0.25, "gpu.0.memory.max": 85899345920},
        client=ClientHealth(
            0.001, 0.002, 0.003, 0.4, lag_p50_s=0.0005, send_max_s=0.1, gc_s=0.01, bytes_sent=7, workers=2
        ),
    )
    store.record_batch(trial.id, batch, samples)
    assert store.trial(trial.id).batches == (batch,)
    assert len(store.samples(trial.id, level)) == len(samples)


def test_store_is_migrated_before_it_is_used(url):
    with Store(url) as store:
        if url.startswith("postgresql"):
            with pytest.raises(StoreError, match=r"migrate\(\) comes first"):
                store.runs()
        store.migrate()
        store.migrate()
        assert store.runs() == ()


def test_tables_of_another_program_are_left_alone(url):
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE trials (number INTEGER)"))
    engine.dispose()
    with Store(url) as store, pytest.raises(StoreError, match=r"holds tables of another program \(trials\)"):
        store.migrate()


def sqlite_with(path, content):
    path.write_bytes(content)
    return f"sqlite:///{path}"


def read_only(path):
    with Store(f"sqlite:///{path}") as store:
        store.migrate()
    return f"sqlite:///file:{path}?mode=ro&uri=true"


UNUSABLE = {
    "not a database": (
        lambda p: sqlite_with(p, b"name: chat\n" * 500),
        "is not an SQLite database: move that file away",
    ),
    "directory": (lambda p: f"sqlite:///{p.parent}", "is a directory: name a file in it"),
    "file as directory": (lambda p: (p.touch(), f"sqlite:///{p}/results.db")[1], "cannot be created"),
    "read-only": (read_only, "is read-only: make the file and its directory writable"),
    "no url": ("results.db", "'results.db' is not a database URL: write sqlite:///"),
    "memory": ("sqlite://", "lives in memory"),
    "unknown dialect": ("oracle9://u:S3CRET@h/d", "no database 'oracle9' here: write sqlite"),
    "unknown driver": ("postgresql+nothing://u:S3CRET@h/d", r"no driver 'postgresql\+nothing'"),
    "missing driver": ("postgresql+pg8000://u:S3CRET@h/d", r"needs the driver pg8000: pip install"),
    "no server": (
        "postgresql://u:S3CRET@127.0.0.1:1/d",
        "check that it is reachable" if find_spec("psycopg") else "needs the driver psycopg: pip install",
    ),
    "bad port": ("postgresql://u:S3CRET@h:port/d", "is not a database URL"),
}


@pytest.mark.parametrize(("make", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_store_that_cannot_be_used_is_one_line_with_a_remedy(tmp_path, make, message):
    url = make if isinstance(make, str) else make(tmp_path / "results.db")

    def use():
        with Store(url) as store:
            store.migrate()
            begin(store, "run-1")

    with pytest.raises(StoreError, match=message) as caught:
        use()
    assert "\n" not in str(caught.value)
    assert "S3CRET" not in str(caught.value)


def test_locked_store_is_named_as_such(sqlite_url, monkeypatch):
    monkeypatch.setattr("pytest_autotune.database.WAIT_S", 0.1)
    with Store(sqlite_url) as store:
        store.migrate()
        other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="has been locked by another process"):
            begin(store, "run-1")
        other.execute("ROLLBACK")
        other.close()
        begin(store, "run-1")


def test_sqlite_store_makes_its_directory_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "new" / ".autotune" / "results.db"
    with Store(f"sqlite:///{path}") as store:
        store.migrate()
        begin(store, "run-1")
    assert [found.name for found in Path(path.parent).iterdir()] == ["results.db"]
