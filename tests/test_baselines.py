"""The baselines of a store, on SQLite and on PostgreSQL: by run, suite and promoted name."""

import pytest
from sqlalchemy import create_engine, inspect, text

from pytest_autotune.baseline import Served
from pytest_autotune.errors import StoreError, SuiteError
from pytest_autotune.store import Store
from pytest_autotune.tables import STEPS, baseline_names, baselines
from tests.make_baselines import baseline
from tests.older_stores import fill_as_version_1

pytest_plugins = ["tests.store_backends"]


@pytest.fixture
def store(url):
    with Store(url) as store:
        store.migrate()
        yield store


def recorded(store, run, suite="chat", day=1, **fields):
    made = baseline(run=run, suite=suite, recorded_at=f"2026-01-{day:02d}T02:03:04Z", **fields)
    store.baselines.record(made)
    return made


def known(store):
    return [(one.run_id, one.suite, *one.names) for one in store.baselines.find()]


def test_what_is_recorded_comes_back_whole_newest_first(store):
    older = recorded(store, "run-2", day=1, commit="1a2b")
    newer = recorded(store, "run-1", day=2, levels={"r2.5": {"ttft.p90": 0.4, "requests": 3.0}})
    found = store.baselines.find()
    assert [one.baseline for one in found] == [newer, older]
    assert (found[1].commit, found[1].recorded_at.isoformat()) == ("1a2b", "2026-01-01T02:03:04+00:00")


def test_baselines_are_found_by_run_and_suite(store):
    for run, suite in (("run-1", "chat"), ("run-1", "code"), ("run-2", "chat")):
        recorded(store, run, suite)
    found = store.baselines.find
    assert [one.suite for one in found(run_id="run-1")] == ["chat", "code"]
    assert [one.run_id for one in found(suite="chat")] == ["run-2", "run-1"]
    assert [one.run_id for one in found(run_id="run-2", suite="code")] == []


def test_the_last_that_a_run_records_of_a_suite_counts(store):
    recorded(store, "run-1", engine_version="1")
    recorded(store, "run-1", engine_version="2")
    (found,) = store.baselines.find()
    assert found.baseline.engine_version == "2"


def test_a_file_is_adopted_once_and_never_replaces_what_a_run_has_recorded(store):
    made = baseline(run="elsewhere")
    for _ in range(2):
        store.baselines.adopt(made)
    assert known(store) == [("elsewhere", "chat")]
    with pytest.raises(StoreError, match=r"^run elsewhere has another baseline of chat in this store: promote that by"):
        store.baselines.adopt(made.model_copy(update={"engine_version": "2"}))
    assert store.baselines.find()[0].baseline == made


@pytest.mark.parametrize("moment", ["yesterday", "2026-01-01T02:03:04", ""])
def test_a_moment_that_is_none_is_refused(store, moment):
    with pytest.raises(StoreError, match=f"^recorded_at: '{moment}' is no moment in UTC"):
        store.baselines.adopt(baseline(recorded_at=moment))
    assert known(store) == []


def test_a_name_stands_for_one_baseline_of_each_suite(store):
    for run, suite in (("run-1", "chat"), ("run-1", "code"), ("run-2", "chat")):
        recorded(store, run, suite)
    find, promote = store.baselines.find, store.baselines.promote
    assert promote("release", find(run_id="run-1")) == {}
    assert promote("nightly", find(run_id="run-1", suite="chat")) == {}
    assert promote("release", find(run_id="run-2")) == {"chat": "run-1"}
    assert known(store) == [
        ("run-2", "chat", "release"),
        ("run-1", "chat", "nightly"),
        ("run-1", "code", "release"),
    ]


def test_a_name_is_forgotten_for_one_suite_or_all(store):
    for suite in ("chat", "code", "docs"):
        recorded(store, "run-1", suite)
    store.baselines.promote("release", store.baselines.find())
    assert store.baselines.forget("release", suite="code") == ("code",)
    assert store.baselines.forget("release") == ("chat", "docs")
    assert store.baselines.forget("release") == ()
    assert len(known(store)) == 3


def test_what_has_a_name_by_now_is_not_removed_and_what_is_gone_not_promoted(store):
    recorded(store, "run-1")
    recorded(store, "run-2", day=2)
    chosen = store.baselines.find()
    store.baselines.promote("release", chosen[:1])
    assert [one.run_id for one in store.baselines.remove(chosen)] == ["run-1"]
    assert store.baselines.remove(chosen) == ()
    assert known(store) == [("run-2", "chat", "release")]
    with pytest.raises(StoreError, match=r"^the baseline of chat by run run-1 is not in this store any more"):
        store.baselines.promote("release", chosen)
    assert known(store) == [("run-2", "chat", "release")], "of several none is promoted"


def test_no_secret_is_kept_but_the_configuration_is_as_it_is_deployed(store):
    served = Served(env={"HF_TOKEN": "hunter2-secret"}, url="http://me:hunter2-secret@host/")
    recorded(store, "run-1", server=served, configuration={"speculative-token": "hunter2"})
    (found,) = store.baselines.find()
    assert "hunter2-secret" not in str(found.document)
    assert found.baseline.configuration == {"speculative-token": "hunter2"}


def test_a_document_that_cannot_be_read_is_named(store, url):
    recorded(store, "run-1")
    with store._database.write() as connection:
        connection.execute(text("UPDATE baselines SET document = '{\"schema\": 2}'"))
    with pytest.raises(SuiteError, match=r"^chat of run run-1: schema: 2: "):
        assert store.baselines.find()[0].baseline


def test_an_older_store_gets_the_tables_that_a_new_one_has(url):
    fill_as_version_1(url)
    with Store(url) as store:
        store.migrate()
        made = recorded(store, "run-1")
        store.baselines.promote("release", store.baselines.find())
        assert [(one.baseline, one.names) for one in store.baselines.find()] == [(made, ("release",))]
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    upgraded, kind = inspect(engine), engine.dialect.type_compiler_instance.process
    for table in (baselines, baseline_names):
        there = [(each["name"], kind(each["type"]), each["nullable"]) for each in upgraded.get_columns(table.name)]
        assert there == [(each.name, kind(each.type), each.nullable) for each in table.columns]
        assert upgraded.get_pk_constraint(table.name)["constrained_columns"] == list(table.primary_key.columns.keys())
    engine.dispose()


def test_an_older_store_beside_a_table_of_another_program_stays_as_it_is(sqlite_url):
    fill_as_version_1(sqlite_url)
    engine = create_engine(sqlite_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE baselines (id INTEGER)"))
    with Store(sqlite_url) as store, pytest.raises(StoreError, match=r"holds tables of another program \(baselines\)"):
        store.migrate()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version FROM autotune_schema")).scalar_one() == 1 < len(STEPS)
    engine.dispose()
