"""A server whose engine is dead behind a healthy HTTP front: its trial ends there, and what was measured before stands."""

from __future__ import annotations

import pytest

from pytest_autotune.engines.engine import CauseKind
from pytest_autotune.engines.sim.engine import SimEngine
from pytest_autotune.liveness import silent, why_dead
from pytest_autotune.samples import Sample
from pytest_autotune.suite import Suite, TimeoutsBlock
from tests.simserver import sim_server

ALONE = Suite(name="dying", engine="sim", model="tiny", timeouts=TimeoutsBlock(alive_s=1.0))

# Ten generations last for the check of readiness and the first batch; the second one finds it dead.
SUITE = """\
name: dying
engine: sim
model: llama-3.1-8b
parameters: {max-num-seqs: [8]}
fixed: {time-scale: 0.1, fault: ["dead-engine=10DEAD"]}
load: {prompt_tokens: 32, output_tokens: 4, concurrency: [1, 2, 4], max_requests: 6, duration: 60s, warmup: 0s, request_timeout: 1s}
slo: {ttft.p90: 10s}
search: {defaults: false}
timeouts: {alive: 1s, stop: 1s}
"""


@pytest.mark.parametrize(
    ("dead", "said"),
    [
        pytest.param("", "no complete answer within 1 s (timeouts.alive), while /health answers 200", id="hangs"),
        pytest.param(":500", "answered 500 with *, while /health answers 200", id="fails"),
    ],
)
def test_the_trial_ends_at_the_batch_that_found_it_dead(project, dead, said):
    project.suite(SUITE.replace("DEAD", dead), "dying.yaml")
    result = project.run("suites", "--autotune")
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"*engine dead behind a healthy front: POST *: {said}*"])
    with project.store() as store:
        (trial,) = store.trials_of_run(store.runs()[0].id)
    assert [(batch.level.name, batch.status, batch.cause) for batch in trial.batches] == [
        ("c1", "measured", ""),
        ("c2", "died", "engine dead behind a healthy front"),
    ]


class Listening:
    """What is known of a server that a test started."""

    model_name = "m"

    def __init__(self, server, log=""):
        self.url = f"http://127.0.0.1:{server.port}"
        self._log = log

    def died(self):
        return None

    def log_tail(self, _lines):
        return self._log


def test_a_server_lives_that_generates_or_blames_the_request_or_only_now_and_then_fails():
    with sim_server("--fault", "http-503=0.5") as server:
        assert server.complete(max_tokens=1)  # the next one is refused, and the one after it is not
        assert why_dead(Listening(server), SimEngine(), ALONE) is None
        stranger = Listening(server)
        stranger.model_name = "unknown"  # 404
        assert why_dead(stranger, SimEngine(), ALONE) is None


def test_the_log_tells_what_an_engine_died_of():
    out_of_memory = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    with sim_server("--fault", "dead-engine=0") as server:
        found = why_dead(Listening(server, out_of_memory), SimEngine(), ALONE)
        assert found.kind is CauseKind.OUT_OF_MEMORY
        assert "(since then POST " in found.message


def test_a_server_whose_health_page_hangs_too_is_no_dead_engine_but_mute():
    with sim_server("--fault", "hang-after-accept=0") as server:
        found = why_dead(Listening(server), SimEngine(), ALONE)
        assert found.kind is CauseKind.TIMEOUT
        assert "(timeouts.alive); GET " in found.message


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        pytest.param([], True, id="nothing"),
        pytest.param([(1.0, None), (2.0, "timeout")], True, id="a failure last"),
        pytest.param([(2.0, None), (1.0, "timeout")], False, id="an answer last"),
    ],
)
def test_a_batch_is_silent_whose_last_request_failed(outcomes, expected):
    samples = [Sample(0.0, None, end_s, 1, 0, error=error) for end_s, error in outcomes]
    assert silent(samples) is expected
