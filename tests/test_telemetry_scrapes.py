"""What two Prometheus pages say of the time between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.engines import metric_names
from pytest_autotune.engines.metric_names import MetricNames
from pytest_autotune.telemetry.exposition import read_page
from pytest_autotune.telemetry.scrapes import Scrape, engine_figures, quantile

INF = float("inf")
NAMES = MetricNames(
    running="run",
    waiting="wait",
    kv_use="kv",
    finished="done_total",
    prefix_queries="asked_total",
    prefix_hits="hit_total",
    drafted="drafted_total",
    accepted="accepted_total",
    queue="queue",
)


def scrape(at_s, page):
    return Scrape(at_s, read_page(page.replace("; ", "\n"), NAMES.lines()))


def seen(*scrapes, opened_s=10.0, closed_s=20.0):
    return engine_figures(scrapes, NAMES, opened_s=opened_s, closed_s=closed_s)


@pytest.mark.parametrize(
    ("buckets", "q", "expected"),
    [
        pytest.param({1.0: 10, INF: 10}, 0.5, 0.5, id="within the first bucket from 0"),
        pytest.param({1.0: 10, 2.0: 20, INF: 20}, 0.75, 1.5, id="within a later one"),
        pytest.param({1.0: 10, 2.0: 20, INF: 20}, 0.5, 1.0, id="at a bound"),
        pytest.param({1.0: 0, 2.0: 4, INF: 4}, 0.5, 1.5, id="an empty first bucket"),
        pytest.param({1.0: 1, 2.0: 1, 4.0: 3, INF: 3}, 0.5, 2.5, id="an empty one between"),
        pytest.param({1.0: 1, INF: 10}, 0.9, 1.0, id="beyond the last bound: that bound"),
        pytest.param({-1.0: 2, 1.0: 4, INF: 4}, 0.25, -1.0, id="a first bucket below 0 has no lower bound"),
        pytest.param({1.0: 0, INF: 0}, 0.5, None, id="no value"),
        pytest.param({INF: 5}, 0.5, None, id="no finite bucket"),
        pytest.param({}, 0.5, None, id="no bucket"),
    ],
)
def test_quantiles_are_interpolated_as_prometheus_does(buckets, q, expected):
    assert quantile(buckets, q) == expected


@given(st.dictionaries(st.floats(0.001, 1e3), st.integers(0, 50), min_size=1), st.integers(0, 50), st.data())
def test_quantiles_rise_and_stay_within_the_buckets(counts, beyond, data):
    total, buckets = 0, {}
    for bound, number in sorted(counts.items()):
        total += number
        buckets[bound] = total
    buckets[INF] = total + beyond
    low, high = sorted(data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    if total + beyond == 0:
        assert quantile(buckets, low) is None
        return
    assert 0 <= quantile(buckets, low) <= quantile(buckets, high) * (1 + 1e-9) <= max(counts) * (1 + 1e-6)


def test_counters_are_differences_over_the_window_alone():
    figures = seen(
        scrape(5.0, "done_total 100"),
        scrape(10.1, "done_total 130"),
        scrape(15.0, "done_total 150"),
        scrape(20.2, "done_total 171"),
        scrape(25.0, "done_total 200"),
    )
    assert figures["finished"] == 41
    assert (figures["from_s"], figures["to_s"]) == (pytest.approx(0.1), pytest.approx(10.2))


@pytest.mark.parametrize(
    ("before", "after", "finished"),
    [
        pytest.param("done_total 5", "done_total 3", None, id="started anew"),
        pytest.param('done_total{e="0"} 5; done_total{e="1"} 9', 'done_total{e="0"} 3', None, id="one is gone"),
        pytest.param('done_total{e="0"} 5', 'done_total{e="0"} 3; done_total{e="1"} 20', None, id="one of two anew"),
        pytest.param('done_total{e="0"} 5', 'done_total{e="0"} 7; done_total{e="1"} 4', 6, id="a new line from 0"),
        pytest.param("run 1", "run 1", None, id="not told"),
        pytest.param("done_total 5", "done_total 5", 0, id="nothing happened"),
    ],
)
def test_counters_of_several_engines_are_added_unless_one_went_back(before, after, finished):
    assert seen(scrape(10.0, before), scrape(20.0, after)).get("finished") == finished


@pytest.mark.parametrize(
    "times",
    [
        pytest.param((10.0,), id="one page: no baseline"),
        pytest.param((5.0, 20.0), id="none near the begin"),
        pytest.param((10.0, 17.0), id="none near the end"),
        pytest.param((30.0, 40.0), id="none within"),
    ],
)
def test_there_are_no_differences_without_pages_at_the_edges(times):
    figures = seen(*(scrape(at_s, f"run 2; done_total {at_s}") for at_s in times))
    assert "finished" not in figures
    assert figures["running.mean"] == 2


def test_no_page_says_nothing():
    assert seen() == {}


def test_gauges_are_averaged_over_the_window_and_engines_are_added_or_the_fullest_counts():
    figures = seen(
        scrape(9.0, "run 100; kv 1"),
        scrape(10.0, 'run{e="0"} 1; run{e="1"} 2; kv{e="0"} 0.5; kv{e="1"} 0.1; wait 4'),
        scrape(15.0, 'run{e="0"} 4; run{e="1"} 5; kv{e="0"} 0.2; kv{e="1"} 0.7'),
        scrape(20.0, 'run{e="0"} 0; run{e="1"} 0; kv{e="0"} 0; kv{e="1"} 0'),
    )
    assert (figures["running.mean"], figures["running.max"]) == (4, 9)
    assert (figures["kv_use.mean"], figures["kv_use.max"]) == (pytest.approx(0.4), 0.7)
    assert (figures["waiting.mean"], figures["waiting.max"]) == (4, 4), "of the pages that have it"


def test_histograms_are_those_of_the_window_over_all_engines():
    figures = seen(
        scrape(
            10.0, 'queue_bucket{e="0",le="1"} 100; queue_bucket{e="0",le="+Inf"} 100; queue_sum 50; queue_count 100'
        ),
        scrape(
            20.0,
            'queue_bucket{e="0",le="1"} 102; queue_bucket{e="0",le="+Inf"} 104; queue_sum 58; queue_count 108; '
            'queue_bucket{e="1",le="1.0"} 4; queue_bucket{e="1",le="+Inf"} 4',
        ),
    )
    assert (figures["queue.count"], figures["queue.mean"]) == (8, 1.0)
    assert figures["queue.p50"] == pytest.approx(4 / 6)
    assert figures["queue.p99"] == 1.0


def test_shares_are_of_what_the_window_asked_for():
    before = scrape(10.0, "asked_total 1000; hit_total 1000; drafted_total 0; accepted_total 0")
    after = scrape(20.0, "asked_total 1200; hit_total 1050; drafted_total 0; accepted_total 0")
    figures = seen(before, after)
    assert figures["prefix_hit_rate"] == 0.25
    assert "draft_acceptance" not in figures, "nothing was drafted"


@pytest.mark.parametrize(
    "names", [metric_names.VLLM, metric_names.SGLANG, metric_names.LLAMACPP, metric_names.TGI, metric_names.TRTLLM]
)
def test_an_engine_tells_what_runs_and_waits_under_distinct_names(names):
    assert names.running
    assert names.waiting
    told = [getattr(names, kind) for kind in (*metric_names.GAUGES, *metric_names.COUNTERS, *metric_names.HISTOGRAMS)]
    assert len([name for name in told if name]) == len({*told} - {""})
    assert "" not in names.lines()
    assert all(f"{name}_bucket" in names.lines() for kind in metric_names.HISTOGRAMS if (name := getattr(names, kind)))
