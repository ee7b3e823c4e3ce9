"""Where a latency went."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.samples import Sample
from pytest_autotune.selection import judge_record
from pytest_autotune.slo import Limit
from pytest_autotune.slowness import client_figures, spent
from tests.make_records import batch


def server(**figures):
    """Means by ``client_ttft``, ``engine_queue``, ..."""
    return {f"{name.replace('_', '.')}.mean": value for name, value in figures.items()}


@pytest.mark.parametrize(
    ("family", "figures", "parts", "cause"),
    [
        pytest.param(
            "ttft",
            server(client_ttft=2.0, engine_queue=1.5, engine_prefill=0.3),
            (1.5, 0.3, 0.2),
            "queueing",
            id="queueing",
        ),
        pytest.param(
            "ttft",
            server(client_ttft=2.0, engine_queue=0.1, engine_prefill=1.8),
            (0.1, 1.8, 0.1),
            "compute",
            id="compute",
        ),
        pytest.param(
            "ttft",
            server(client_ttft=2.0, engine_queue=0.1, engine_prefill=0.2),
            (0.1, 0.2, 1.7),
            "what is outside the engine",
            id="outside",
        ),
        pytest.param(
            "e2e",
            server(client_e2e=4.0, engine_queue=1.0, engine_prefill=0.1, engine_inference=2.5),
            (1.0, 2.5, 0.5),
            "compute",
            id="all of the computing for e2e",
        ),
        pytest.param(
            "ttft",
            server(client_ttft=2.0, engine_queue=0.5, engine_ttft=1.9),
            (0.5, 1.4, 0.1),
            "compute",
            id="an engine without a time for the prompt",
        ),
        pytest.param(
            "ttft",
            server(client_ttft=2.0, engine_queue=3.0, engine_prefill=1.0),
            (1.5, 0.5, 0.0),
            "queueing",
            id="more than the client saw",
        ),
    ],
)
def test_a_latency_is_divided_into_what_the_engine_says_and_the_rest(family, figures, parts, cause):
    went = spent(family, figures)
    assert (went.queue_s, went.compute_s, went.outside_s) == pytest.approx(parts)
    assert went.cause == cause


@pytest.mark.parametrize(
    ("family", "figures"),
    [
        pytest.param("ttft", {}, id="nothing seen"),
        pytest.param("ttft", server(client_ttft=2.0, engine_prefill=1.0), id="no queue"),
        pytest.param("ttft", server(client_ttft=2.0, engine_queue=1.0), id="no computing"),
        pytest.param("ttft", server(engine_queue=1.0, engine_prefill=1.0), id="no request of the client's"),
        pytest.param("tpot", server(client_ttft=2.0, engine_queue=1.0, engine_prefill=1.0), id="another latency"),
    ],
)
def test_without_enough_said_nothing_is(family, figures):
    assert spent(family, figures) is None


@given(*[st.floats(0, 100) for _ in range(2)], st.floats(0.001, 100))
def test_the_parts_add_up_and_none_is_negative(queue_s, prefill_s, total_s):
    went = spent("ttft", server(client_ttft=total_s, engine_queue=queue_s, engine_prefill=prefill_s))
    assert min(went.queue_s, went.compute_s, went.outside_s) >= 0
    assert went.total_s == pytest.approx(total_s)
    assert went.cause in str(went)


def test_the_clients_means_are_of_requests_that_ended_in_the_window():
    one = Sample(sent_s=1.0, first_s=2.0, end_s=4.0, prompt_tokens=1, output_tokens=9)
    samples = [
        one,
        replace(one, sent_s=-3.0, first_s=-1.0, end_s=0.5),
        replace(one, sent_s=9.0, first_s=9.5, end_s=10.0),
        replace(one, sent_s=-9.0, end_s=-0.1),
        replace(one, error="timeout"),
    ]
    assert client_figures(samples, 10.0) == {"client.ttft.mean": 1.5, "client.e2e.mean": 3.25}
    assert client_figures([], 10.0) == {}


QUEUED = server(client_ttft=2.0, engine_queue=1.5, engine_prefill=0.3, client_e2e=4.0, engine_inference=2.4)
BECAUSE = (
    "; because of queueing: 75 % of a mean ttft of 2.0 s in the engine's queue, 15 % computing the prompt, "
    "10 % outside the engine"
)


@pytest.mark.parametrize(
    ("limits", "because"),
    [
        pytest.param([Limit("ttft.p90", 0.5)], BECAUSE, id="ttft"),
        pytest.param([Limit("ttft.p90", 5.0)], "", id="kept"),
        pytest.param([Limit("ttft.p90", 0.5, hard_fail=False)], "", id="soft"),
        pytest.param([Limit("tpot.mean", 0.01)], "", id="another latency"),
        pytest.param([Limit("e2e.p90", 3.0), Limit("ttft.p90", 0.5)], BECAUSE, id="the worst of two"),
        pytest.param([Limit("tpot.mean", 0.001), Limit("ttft.p90", 0.5)], BECAUSE, id="the worst that is known of"),
    ],
)
def test_a_missed_limit_says_why_where_the_engine_told(limits, because):
    record = replace(batch(8, ttft__p90=2.5, e2e__p90=4.5, tpot__mean=0.05), server=QUEUED)
    verdict = judge_record(record, limits, steepness=0.1)
    untold = judge_record(replace(record, server={}), limits, steepness=0.1)
    assert verdict == replace(untold, reason=f"{untold.reason}{because}")
