"""Processes that share a store, and die: ``python store_children.py MODE URL [SEED]``; prints JSON.

Imports once and forks, so that a hundred processes cost a second.
"""

import itertools
import json
import os
import random
import signal
import sys
import threading
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context

from sqlalchemy import event
from sqlalchemy.engine import Engine

from pytest_autotune.records import BatchRecord
from pytest_autotune.samples import Level, Sample
from pytest_autotune.slo import Status
from pytest_autotune.store import Store

SLOTS = ("trial-000", "trial-001")
LEVELS = (Level(1), Level(4))
STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def choose(history):
    """The smallest number that no trial has."""
    taken = {trial.configuration["n"] for trial in history}
    return {"n": next(n for n in itertools.count() if n not in taken)}


def alive(owner):
    try:
        os.kill(int(owner.rpartition("/")[2]), 0)
    except ProcessLookupError:
        return False
    return True


def measured(level, requests=3):
    samples = [Sample(0.1 * n, 0.1 * n + 0.05, 0.1 * n + 0.2, 8, 3, (0.05, 0.1)) for n in range(requests)]
    batch = BatchRecord(
        level=level,
        status="measured",
        metrics={"ttft.p90": 0.05},
        client=None,
        errors={},
        requests=requests,
        window_s=1.0,
        started_at=STARTED,
    )
    return batch, samples


def search(url, run_id, study, slots=SLOTS, levels=LEVELS, meet=lambda: None):
    """One run of a search, which calls `meet` holding its first slot; returns the slots that it was granted."""
    owner = f"{run_id}/{os.getpid()}"
    granted = []
    with Store(url, alive=alive) as store:
        store.begin_run(run_id, started_at=STARTED, environment={}, arguments=[])
        store.record_suite(run_id, study, suite="chat.yaml", document={})
        for slot in slots:
            claim = store.claim(run_id, study, slot, owner=owner, fresh=False, choose=choose)
            if claim.kind != "granted":
                continue
            granted.append(slot)
            if len(granted) == 1:
                meet()
            trial = claim.trial.id
            store.record_deployment(trial, argv=["server"], effective={}, gpus=0, deploy_s=1.0, server_log="log")
            for level in levels:
                store.set_progress(run_id, owner, f"{slot} {level.name}")
                store.record_batch(trial, *measured(level))
            store.finish(trial, status=Status.COMPLIANT, elapsed_s=2.0)
        store.end_run(run_id, outcome="passed")
    return granted


def fork(work, *arguments):
    """Run `work` in a child; returns its pid and a file with what it printed as JSON."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, os.fdopen(reading)
    code = 1
    try:
        with os.fdopen(writing, "w") as answer:
            json.dump(work(*arguments), answer)
        code = 0
    finally:
        os._exit(code)


def join(child):
    pid, answer = child
    with answer:
        text = answer.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status, text


def die_at(step):
    """Kill this process with SIGKILL right before its `step`-th statement or commit."""
    steps = itertools.count(1)

    def count(*_):
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", count)
    event.listen(Engine, "commit", count)


def killed_search(url, step):
    die_at(step)
    return search(url, f"first-{step}", f"study-{step}")


def every_step(url):
    """For statements of a search: a process that dies there, and one that goes on with it.

    All of them on SQLite; every fifth on PostgreSQL, where a process takes longer to connect.
    """
    tried = []
    for step in itertools.count(1, 1 if url.startswith("sqlite") else 5):
        status, _ = join(fork(killed_search, url, step))
        if status == 0:
            return tried
        tried.append(step)
        again, granted = join(fork(search, url, f"second-{step}", f"study-{step}"))
        assert again == 0, granted
    return None


def killed_migration(url, step):
    die_at(step)
    with Store(url) as store:
        store.migrate()


def every_migration_step(url):
    for step in itertools.count(1):
        own = url.replace("results.db", f"results-{step}.db")
        status, _ = join(fork(killed_migration, own, step))
        if status == 0:
            return step - 1
        for work in ((migrated, own), (search, own, "run", "study")):
            again, answer = join(fork(*work))
            assert again == 0, answer
    return None


def migrated(url):
    with Store(url) as store:
        store.migrate()


def at_random(url, seed):
    """Kill a search from outside at random, later and later moments until one comes through; returns how many died."""
    moments = random.Random(seed)
    for attempt in itertools.count(1):
        child = fork(search, url, f"run-{attempt}", "study", [f"trial-{n:03d}" for n in range(12)])
        killer = threading.Timer(moments.uniform(0, 0.03 * attempt), os.kill, (child[0], signal.SIGKILL))
        killer.start()
        status, _ = join(child)
        killer.cancel()
        killer.join()
        if status == 0:
            return attempt - 1
    return None


def together(url, number, work):
    """Run `work` in so many processes that start at the same moment."""
    gate_read, gate_write = os.pipe()

    def behind_gate(index):
        os.close(gate_write)
        os.read(gate_read, 1)  # ends when the parent closes its side
        return work(url, index)

    children = [fork(behind_gate, index) for index in range(number)]
    os.close(gate_read)
    os.close(gate_write)
    answers = [join(child) for child in children]
    assert all(status == 0 for status, _ in answers)
    return [json.loads(text) for _, text in answers]


def claim_all(url, index, everybody):
    slots = [f"trial-{n:03d}" for n in range(64)]
    return search(url, f"run-{index}", "study", slots, levels=(Level(1),), meet=lambda: everybody.wait(60))


def first_use(url, index):
    with Store(url) as store:
        store.migrate()
        store.begin_run(f"run-{index}", started_at=STARTED, environment={}, arguments=[])


MODES = {
    "every_step": every_step,
    "every_migration_step": every_migration_step,
    "at_random": lambda url: at_random(url, int(sys.argv[3])),
    "claim_all": lambda url: together(url, 8, partial(claim_all, everybody=get_context("fork").Barrier(8))),
    "first_use": lambda url: together(url, 16, first_use),
}

if __name__ == "__main__":
    sys.stdout.write(json.dumps(MODES[sys.argv[1]](sys.argv[2])))
