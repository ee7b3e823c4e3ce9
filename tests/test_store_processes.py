"""Many processes on one store, some of which are killed with SIGKILL: real processes, real databases."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, func, select

from pytest_autotune.store import Store
from pytest_autotune.tables import METADATA, STEPS, batches, samples, trials
from tests.store_children import LEVELS, SLOTS

pytest_plugins = ["tests.store_backends"]

TESTS = Path(__file__).parent


def run_children(mode, url, *arguments):
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
    command = [sys.executable, str(TESTS / "store_children.py"), mode, url, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def query(url, statement):
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.connect() as connection:
            return connection.execute(statement).all()
    finally:
        engine.dispose()


def assert_sound(url):
    """Every slot finished once, every batch has its samples, no level twice within an attempt."""
    finished = select(func.count()).where(trials.c.state == "finished").group_by(trials.c.study, trials.c.slot)
    assert {count for (count,) in query(url, finished)} == {1}
    assert query(url, select(trials.c.id).where(trials.c.state == "running")) == []
    without = select(batches.c.id).outerjoin(samples).where(samples.c.batch_id.is_(None))
    assert query(url, without) == []
    if url.startswith("sqlite"):
        engine = create_engine(url)
        with engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        engine.dispose()


@pytest.mark.slow
def test_search_killed_at_any_statement_is_continued_without_loss_or_double_count(url):
    with Store(url) as store:
        store.migrate()
        steps = run_children("every_step", url)
        assert steps[-1] > 50
        assert_sound(url)
        for step in steps:
            history = store.history(f"study-{step}")
            assert [(trial.slot, trial.configuration) for trial in history] == [
                (slot, {"n": number}) for number, slot in enumerate(SLOTS)
            ]
            for trial in history:
                assert trial.state == "finished"
                assert [batch.level for batch in trial.batches] == list(LEVELS)
                assert [len(store.samples(trial.id, level)) for level in LEVELS] == [3, 3]
            attempts = [trial for run in (f"first-{step}", f"second-{step}") for trial in store.trials_of_run(run)]
            assert len(attempts) - len(history) in (0, 1), "a kill loses at most the trial that was running"


@pytest.mark.parametrize("seed", [1, 2])
def test_search_killed_at_random_moments_finishes_every_slot_once(url, seed):
    with Store(url) as store:
        store.migrate()
        killed = run_children("at_random", url, str(seed))
        assert_sound(url)
        history = store.history("study")
        assert [trial.configuration["n"] for trial in history] == list(range(12))
        assert all(len(trial.batches) == len(LEVELS) for trial in history)
        interrupted = [t for run in store.runs() for t in store.trials_of_run(run.id) if t.state == "interrupted"]
        assert len(interrupted) <= killed


def test_first_use_killed_at_any_statement_leaves_a_store_that_can_be_made(sqlite_url):
    assert run_children("every_migration_step", sqlite_url) > 5


def test_eight_processes_share_sixty_four_slots_without_a_collision(url):
    with Store(url) as store:
        store.migrate()
        granted = run_children("claim_all", url)
        assert sorted(slot for own in granted for slot in own) == [f"trial-{n:03d}" for n in range(64)]
        assert all(granted), "a process got nothing: not everything was shared"
        history = store.history("study")
        assert sorted(trial.configuration["n"] for trial in history) == list(range(64))
        assert_sound(url)


def test_sixteen_processes_may_use_a_new_store_first(url):
    run_children("first_use", url)
    with Store(url) as store:
        assert {run.id for run in store.runs()} == {f"run-{index}" for index in range(16)}
    assert query(url, select(METADATA.tables["autotune_schema"].c.version)) == [(len(STEPS),)]
