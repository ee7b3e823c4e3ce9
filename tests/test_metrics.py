"""Names of metrics: how they are read, and that each is written with a unit."""

from __future__ import annotations

import pytest

from pytest_autotune.formatting import quantity, unit
from pytest_autotune.metrics import (
    COSTS,
    COUNTS,
    IN_FLIGHT,
    IN_FLIGHT_STATISTICS,
    PER_GPU,
    RATES,
    SHARES,
    STATISTICS,
    TIMES,
    parse_metric,
    worse_when,
)
from pytest_autotune.notation import read_limits
from pytest_autotune.samples import Sample
from pytest_autotune.slo import Limit
from pytest_autotune.statistics import summarise


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ttft.p90", ("ttft", "p90")),
        ("itl.p99.9", ("itl", "p99.9")),
        ("tpot.p97", ("tpot", "p97")),
        ("e2e.p0", ("e2e", "p0")),
        ("e2e.p100", ("e2e", "p100")),
        ("e2e.std", ("e2e", "std")),
        ("error_rate", ("error_rate", None)),
        ("goodput_per_gpu", ("goodput_per_gpu", None)),
        ("ttft_sent.p99", ("ttft_sent", "p99")),
        ("e2e_sent.mean", ("e2e_sent", "mean")),
        ("client.p99", ("client", "p99")),
        ("in_flight.mean", ("in_flight", "mean")),
        ("in_flight.max", ("in_flight", "max")),
        ("delivered", ("delivered", None)),
        ("cost_per_million_tokens", ("cost_per_million_tokens", None)),
    ],
)
def test_metric_names_split_into_family_and_statistic(name, expected):
    assert parse_metric(name) == expected


@pytest.mark.parametrize(
    ("names", "direction"),
    [
        (("ttft.p99", "itl.std", "client.p50", "error_rate", *COSTS), "larger"),
        ((*RATES, *(rate + PER_GPU for rate in RATES), "delivered"), "smaller"),
        ((*COUNTS, "in_flight.mean", "in_flight.max"), None),
    ],
)
def test_metrics_get_worse_in_one_direction_or_in_none(names, direction):
    assert {worse_when(name) for name in names} == {direction}


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("tftt.p90", "ttft.p90"),
        ("ttft", "ttft."),
        ("ttft.p101", "ttft."),
        ("ttft.p99.0", "ttft.p99"),
        ("ttft.p099", "ttft.p99"),
        ("ttft.", "ttft."),
        ("ttft.avg", "ttft."),
        ("throughput", "throughput"),
        ("output_throughput.p90", "output_throughput"),
        ("output_throughput_per_gpus", "output_throughput_per_gpu"),
        ("error_rates", "error_rate"),
        ("ttft.p90\n", "ttft.p90"),
        ("in_flight.p90", "in_flight."),
        ("in_flight", "in_flight."),
        ("delivery", "delivered"),
        ("cost_per_million_output_token", "cost_per_million_output_tokens"),
    ],
)
def test_wrong_metric_names_are_told_the_nearest(name, nearest):
    with pytest.raises(ValueError, match="is not a metric") as caught:
        parse_metric(name)
    assert f"did you mean '{nearest}" in str(caught.value) or nearest in str(caught.value).split("did you mean")[1]
    assert "goodput" in str(caught.value)


def test_a_name_like_no_metric_is_told_what_is_allowed():
    with pytest.raises(ValueError, match=r"^'zzz' is not a metric \(allowed: ttft, tpot, itl, e2e with one of"):
        parse_metric("zzz")


def test_every_metric_of_a_batch_has_a_name_that_is_read():
    batch = [Sample(n + 0.1, n + 0.2, n + 0.9, 8, 3, (0.3, 0.4), due_s=float(n), client_s=1e-4) for n in range(5)]
    summary = summarise(batch, 10.0, gpus=1, request_limits={}, delivered=1.0)
    assert {parse_metric(name)[0].removesuffix(PER_GPU) for name in summary} == {
        *TIMES,
        *RATES,
        *SHARES,
        *COUNTS,
        IN_FLIGHT,
    }
    assert {name for name in summary if name.startswith("ttft.")} == {f"ttft.{statistic}" for statistic in STATISTICS}


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("ttft_sent.p90", 0.394, "394 ms"),
        ("client.p99", 0.00012, "0.12 ms"),
        ("delivered", 0.981, "98.1 %"),
        ("in_flight.mean", 15.5, "15.5"),
    ],
)
def test_further_metrics_are_written_with_their_units(metric, value, text):
    assert quantity(metric, value) == text


def test_further_metrics_can_be_limits():
    written = {"delivered": "98%", "in_flight.max": 64, "client.p99": "1ms", "ttft_sent.p90": {"max": "500ms"}}
    assert read_limits(written).limits == (
        Limit("delivered", 0.98, floor=True),
        Limit("in_flight.max", 64.0),
        Limit("client.p99", 0.001),
        Limit("ttft_sent.p90", 0.5),
    )


def test_only_counts_have_no_unit():
    bare = {name for name in (*TIMES, *RATES, *COSTS, *SHARES, *COUNTS, IN_FLIGHT) if not unit(name)}
    assert bare == {*COUNTS, IN_FLIGHT}
    assert IN_FLIGHT_STATISTICS == ("mean", "max")
