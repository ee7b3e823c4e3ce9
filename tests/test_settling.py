"""A new server is loaded until it is as fast as it stays: the rule, and from the user's side."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.samples import Level, Sample
from pytest_autotune.settling import LEAST_REQUESTS, ROUND_S, Round, Settling, rounds_of, settled
from pytest_autotune.slo import Status
from tests.conftest import TOLERANT_LOAD

SUITE = """\
name: slow
engine: sim
model: llama-3.1-8b
fixed: {gpu: H100, time-scale: 0.2, max-model-len: 4096, fault: [FAULT]}
load: {prompt_tokens: 64, output_tokens: 8, concurrency: [4], duration: 800ms, warmup: 0sMORE}
slo: {error_rate: 1%}
search: {defaults: true}
timeouts: {stop: 1s}
"""
COMPILES_S = 2.0  # far longer than a request of this load takes, on a busy machine too


def closed_loop(latencies_s, streams):
    """The requests of streams that send one after the other, in step, each of a wave as long as this."""
    now_s, samples = 0.0, []
    for latency_s in latencies_s:
        samples += [Sample(now_s, now_s + latency_s / 2, now_s + latency_s, 8, 8)] * streams
        now_s += latency_s
    return samples


def round_of(e2e_s, *, notch_s=0.0, throughput=None):
    return Round(1.0, 10 / e2e_s if throughput is None else throughput, e2e_s, notch_s)


@given(
    st.lists(st.floats(0.01, 5.0), min_size=1, max_size=60),
    st.integers(1, 20),
)
def test_every_stream_counts_equally_often_in_each_round(latencies_s, streams):
    samples = closed_loop(latencies_s, streams)
    rounds = rounds_of(samples, streams)
    ends = [0.0, *(one.ended_s for one in rounds)]
    for one, began_s in zip(rounds, ends, strict=False):
        inside = [sample for sample in samples if began_s < sample.end_s <= one.ended_s]
        assert len(inside) % streams == 0
        assert len(inside) >= LEAST_REQUESTS
        assert one.ended_s - began_s >= ROUND_S
        assert one.throughput == pytest.approx(len(inside) / (one.ended_s - began_s))


def test_failed_requests_are_in_no_round():
    assert rounds_of([Sample(0.0, None, 2.0, 8, 0, error="http-503")] * 80, 4) == []


@pytest.mark.parametrize(
    ("rounds", "enough"),
    [
        ([], False),
        ([1.0, 1.0], False),
        ([1.0, 1.05, 1.0], True),
        ([9.0, 3.0, 1.0], False),
        ([9.0, 1.0, 1.0], False),
        ([9.0, 3.0, 1.0, 1.0, 1.0], True),
        ([1.0, 1.09, 1.18], False),  # each is like the one before, and all of them go one way
        ([1.0, 1.0, 1.0, 2.0], False),
    ],
)
def test_three_rounds_in_a_row_must_be_alike(rounds, enough):
    assert settled([round_of(e2e_s) for e2e_s in rounds]) is enough


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (round_of(1.0), round_of(1.3, throughput=10.0), False),
        (round_of(1.0, notch_s=0.2), round_of(1.3, notch_s=0.2, throughput=10.0), True),
        (round_of(1.0, throughput=10.0), round_of(1.0, throughput=12.0), False),
    ],
)
def test_medians_may_be_apart_by_chance_and_throughput_may_not(one, other, alike):
    assert one.agrees(other) is other.agrees(one) is alike


def test_a_server_that_becomes_faster_has_settled_when_it_is_no_faster_any_more():
    falling, level = [2.0, 1.0, 0.5, 0.25], [0.1] * 40
    assert not settled(rounds_of(closed_loop(falling, 8), 8))
    assert settled(rounds_of(closed_loop(falling + level, 8), 8))


def test_what_has_not_settled_is_told_with_its_rounds():
    settling = Settling(Level(8))
    assert settling.enough(closed_loop([4.0, 2.0, 1.0], 8), 7.0) == ""
    assert settling.problem(7.0, errors=2) == (
        "the server did not settle at concurrency=8 within 7 s (load.settle): the last of 3 rounds were "
        "2/s with e2e 4.0 s, 4/s with e2e 2.0 s, 8/s with e2e 1.0 s, and 2 requests failed; give it more time, or remove settle"
    )


@pytest.fixture
def trial(project):
    """A function that runs the suite with a fault and what it says of its load; returns its one trial and output."""

    def running(fault, more=""):
        project.suite(SUITE.replace("FAULT", fault).replace("MORE", more))
        result = project.run("suites", "--autotune", "-v")
        with project.store() as store:
            (record,) = store.trials_of_run(store.runs()[0].id)
        return record, result.stdout.str()

    return running


def test_what_is_compiled_under_load_falls_in_no_measured_window(project, trial):
    # A pause of the server is what is measured here, not the machine's that makes other tests measure again.
    (project.path / "tolerant_load.py").write_text(TOLERANT_LOAD.replace("range(3)", "range(1)"))
    at_once, _ = trial(f"compile={COMPILES_S:g}s")
    assert at_once.batches[0].metrics["e2e.p99"] > COMPILES_S
    assert not any("settled" in remark for remark in at_once.batches[0].remarks)
    later, output = trial(f"compile={COMPILES_S:g}s", ", settle: 60s")
    assert later.batches[0].metrics["e2e.p99"] < COMPILES_S / 2
    said = later.batches[0].remarks[0]
    assert re.fullmatch(r"settled at concurrency=4: \d+ rounds in \S+ s, at last \S+/s with e2e .*", said)
    assert said in output


def test_a_server_that_does_not_settle_in_time_fails_its_trial(trial):
    record, output = trial("compile=2s", ", settle: 500ms")
    assert record.status is Status.FAILED
    assert record.batches == ()
    assert "did not settle at concurrency=4 within 0.5 s (load.settle): not even 8 requests were answered" in output


def test_a_server_that_dies_meanwhile_is_classified_like_any(trial):
    record, output = trial("oom-at-concurrency=3", ", settle: 60s")
    assert (record.status, record.batches) == (Status.INFEASIBLE, ())
    assert record.cause == "out of memory"
    assert "not settled at concurrency=4: the server died: " in output
