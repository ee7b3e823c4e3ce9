import itertools
import math
import subprocess
import sys
from statistics import fmean, pvariance

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.load.arrivals import (
    most_streams,
    planned_rate,
    requests_due,
    schedule,
    sent_by_clock,
    streams_at,
)
from pytest_autotune.load.generator import Arrivals, Stage, Workload
from pytest_autotune.load.lengths import Fixed
from pytest_autotune.samples import Level

CONSTANT = math.inf


def workload(**options):
    return Workload(
        **{
            "prompt_tokens": Fixed(32),
            "output_tokens": Fixed(8),
            "duration_s": 60.0,
            "warmup_s": 0.0,
            "request_timeout_s": 60.0,
            **options,
        }
    )


def times(level, count, **options):
    return list(itertools.islice(schedule(level, workload(**options)), count))


def times_until(level, end_s, **options):
    return list(itertools.takewhile(lambda time: time < end_s, schedule(level, workload(**options))))


def gaps_of(moments):
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


def rate(value, burstiness=1.0):
    return Level(value, "rate"), {"arrivals": Arrivals(burstiness)}


def staged(*stages, of="rate", **options):
    return {"stages": tuple(Stage(*stage) for stage in stages), "stages_of": of, **options}


def gamma_cdf(shape, value):
    """The regularised lower incomplete gamma function, by its series."""
    if value <= 0:
        return 0.0
    term = total = math.exp(shape * math.log(value) - value - math.lgamma(shape + 1))
    number = 0
    while term > 1e-14 * total:
        number += 1
        term *= value / (shape + number)
        total += term
    return min(1.0, total)


def ks_distance(values, cdf):
    values = sorted(values)
    count = len(values)
    return max(max((place + 1) / count - cdf(value), cdf(value) - place / count) for place, value in enumerate(values))


def ks_limit(count):
    return 1.63 / math.sqrt(count)  # at 1 %


def variation(values):
    return math.sqrt(pvariance(values)) / fmean(values)


@pytest.mark.parametrize("burstiness", [0.25, 0.5, 1.0, 2.0, 10.0])
def test_gaps_of_a_rate_are_gamma_distributed_with_the_mean_of_the_rate(burstiness):
    level, options = rate(400.0, burstiness)
    gaps = gaps_of(times(level, 20_000, seed=5, **options))
    assert ks_distance(gaps, lambda gap: gamma_cdf(burstiness, gap * 400 * burstiness)) < ks_limit(len(gaps))
    assert fmean(gaps) == pytest.approx(1 / 400, rel=4 / math.sqrt(burstiness * len(gaps)))
    assert variation(gaps) == pytest.approx(1 / math.sqrt(burstiness), rel=0.05)


def test_gaps_of_poisson_arrivals_are_exponential():
    gaps = gaps_of(times(Level(400.0, "rate"), 20_000, seed=11))
    assert ks_distance(gaps, lambda gap: 1 - math.exp(-400 * gap)) < ks_limit(len(gaps))
    assert variation(gaps) == pytest.approx(1, abs=0.03)


def test_gaps_do_not_depend_on_those_before():
    gaps = gaps_of(times(Level(1.0, "rate"), 20_000, seed=2))
    together = fmean((one - 1) * (other - 1) for one, other in itertools.pairwise(gaps))
    assert abs(together) < 4 / math.sqrt(len(gaps))


@pytest.mark.parametrize(
    ("burstiness", "dispersion"),
    [pytest.param(1.0, 1.0, id="poisson"), pytest.param(0.25, 4.0, id="bursty"), pytest.param(4.0, 0.25, id="regular")],
)
def test_counts_in_intervals_are_as_dispersed_as_the_gaps(burstiness, dispersion):
    level, options = rate(50.0, burstiness)
    counts = [0] * 1000
    for time in times_until(level, 1000.0, seed=3, **options):
        counts[int(time)] += 1
    assert fmean(counts) == pytest.approx(50, rel=0.03)
    # Of a renewal process: variance over mean of counts tends to the squared variation of the gaps.
    assert pvariance(counts) / fmean(counts) == pytest.approx(dispersion, rel=0.2)


@pytest.mark.parametrize("burstiness", [0.1, 1.0, 8.0, CONSTANT])
def test_the_first_interval_holds_what_the_rate_asks_for_as_every_other_does(burstiness):
    level, options = rate(5.0, burstiness)
    counts = [requests_due(level, workload(seed=seed, **options), 0.0, 2.0) for seed in range(2000)]
    spread = math.sqrt(pvariance(counts) / len(counts))
    assert abs(fmean(counts) - 10) <= 4 * spread


def test_constant_gaps_are_equal_and_do_not_drift():
    moments = times(Level(3.0, "rate"), 100_000, arrivals=Arrivals(CONSTANT))
    assert moments[:3] == pytest.approx([1 / 6, 1 / 2, 5 / 6])
    assert moments[-1] == pytest.approx(99_999.5 / 3, abs=1e-9)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0, CONSTANT])
def test_a_rate_twice_as_high_sends_the_same_pattern_in_half_the_time(burstiness):
    slow, options = rate(10.0, burstiness)
    fast, _ = rate(20.0, burstiness)
    assert times(fast, 1000, **options) == pytest.approx([time / 2 for time in times(slow, 1000, **options)])


def test_equal_seeds_give_equal_times_and_others_give_others():
    level = Level(10.0, "rate")
    assert times(level, 100, seed=1) == times(level, 100, seed=1)
    shared = set(times(level, 100, seed=1)) & set(times(level, 100, seed=2))
    assert not shared


def test_another_process_gets_the_same_times():
    script = (
        "from itertools import islice; from pytest_autotune.load.arrivals import schedule;"
        " from pytest_autotune.load.generator import Arrivals, Workload; from pytest_autotune.load.lengths import Fixed;"
        " from pytest_autotune.samples import Level;"
        " load = Workload(Fixed(1), Fixed(1), 1, 0, 1, seed=4, arrivals=Arrivals(0.5));"
        " print(*islice(schedule(Level(10.0, 'rate'), load), 50))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert [float(time) for time in output.split()] == times(Level(10.0, "rate"), 50, seed=4, arrivals=Arrivals(0.5))


stages = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.5, 1.0, 7.0]), st.sampled_from([0.0, 1.0, 5.0, 40.0]), st.floats(0, 60, width=16)
    ),
    min_size=1,
    max_size=5,
)


@settings(deadline=None)  # hundreds of times each
@given(stages=stages, burstiness=st.sampled_from([0.3, 1.0, 5.0, CONSTANT]), seed=st.integers(0, 2**64))
def test_staged_times_never_run_backwards_and_none_falls_where_the_rate_is_zero(stages, burstiness, seed):
    load = workload(**staged(*stages), arrivals=Arrivals(burstiness), seed=seed)
    moments = list(itertools.islice(schedule(Level(0, "stages"), load), 300))
    assert moments == sorted(moments)
    assert all(time >= 0 for time in moments)
    silent = []
    begin = 0.0
    for duration, start, end in stages:
        if start == end == 0:
            silent.append((begin, begin + duration))
        begin += duration
    # Strictly inside, and by more than rounding.
    assert not [time for time in moments for low, high in silent if low + 1e-9 < time < high - 1e-9]


@settings(deadline=None)  # hundreds of times each
@given(stages=stages, end_s=st.floats(0.1, 30))
def test_constant_staged_arrivals_follow_the_integral_to_within_half_a_request(stages, end_s):
    load = workload(**staged(*stages), arrivals=Arrivals(CONSTANT))
    level = Level(0, "stages")
    asked = planned_rate(level, load, 0.0, end_s) * end_s
    assert abs(requests_due(level, load, 0.0, end_s) - asked) <= 0.5 + 1e-6


def test_a_ramp_is_planned_by_its_area():
    load = workload(**staged((10.0, 0.0, 20.0), (5.0, 20.0, 20.0), (5.0, 20.0, 0.0)))
    level = Level(0, "stages")
    assert planned_rate(level, load, 0.0, 10.0) == pytest.approx(10)
    assert planned_rate(level, load, 0.0, 5.0) == pytest.approx(5)
    assert planned_rate(level, load, 5.0, 15.0) == pytest.approx((75 + 100) / 10)
    assert planned_rate(level, load, 0.0, 20.0) == pytest.approx(250 / 20)
    assert planned_rate(level, load, 20.0, 30.0) == 0


def test_counts_of_a_poisson_ramp_follow_the_integral():
    options = staged((50.0, 0.0, 200.0), (50.0, 200.0, 40.0))
    level = Level(0, "stages")
    counts = [0] * 10
    for time in times_until(level, 100.0, seed=6, **options):
        counts[int(time / 10)] += 1
    asked = [10 * planned_rate(level, workload(**options), 10.0 * part, 10.0 * part + 10) for part in range(10)]
    chi_square = sum((count - mean) ** 2 / mean for count, mean in zip(counts, asked, strict=True))
    assert chi_square < 23.2  # 10 degrees of freedom at 1 %


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gaps_keep_their_burstiness_while_the_rate_changes(burstiness):
    moments = times_until(
        Level(0, "stages"), 100.0, **staged((100.0, 0.0, 300.0)), arrivals=Arrivals(burstiness), seed=8
    )
    gaps = gaps_of([1.5 * time * time for time in moments])  # by the integral of the rate, 3 * time
    assert ks_distance(gaps, lambda gap: gamma_cdf(burstiness, gap * burstiness)) < ks_limit(len(gaps))


def test_the_last_stage_holds_on_at_its_end():
    options = staged((10.0, 10.0, 40.0), seed=9)
    level = Level(0, "stages")
    assert planned_rate(level, workload(**options), 10.0, 500.0) == 40
    assert requests_due(level, workload(**options), 10.0, 510.0) == pytest.approx(20_000, rel=0.03)


def test_a_load_that_fades_out_ends():
    moments = list(schedule(Level(0, "stages"), workload(**staged((10.0, 20.0, 0.0)), arrivals=Arrivals(CONSTANT))))
    assert len(moments) == 100
    assert moments[-1] < 10


def test_a_stage_without_length_is_a_jump():
    jump = staged((1.0, 10.0, 10.0), (0.0, 10.0, 100.0), (1.0, 100.0, 100.0), arrivals=Arrivals(CONSTANT))
    assert requests_due(Level(0, "stages"), workload(**jump), 0.0, 1.0) == 10
    assert requests_due(Level(0, "stages"), workload(**jump), 1.0, 2.0) == 100


def test_a_burst_is_sent_at_once_when_the_window_opens():
    assert list(schedule(Level(4, "burst"), workload(warmup_s=2.5))) == [2.5] * 4


@pytest.mark.parametrize(
    ("speed", "expected"),
    [pytest.param(1.0, [0, 1, 1, 5], id="as recorded"), pytest.param(2.0, [0, 0.5, 0.5, 2.5], id="twice as fast")],
)
def test_a_replay_sends_the_trace_at_its_speed_and_ends(speed, expected):
    assert list(schedule(Level(speed, "replay"), workload(times_s=(0.0, 1.0, 1.0, 5.0)))) == expected


@pytest.mark.parametrize(
    ("level", "options", "interval", "count"),
    [
        pytest.param(Level(4, "burst"), {"warmup_s": 1.0}, (1.0, 5.0), 4, id="burst"),
        pytest.param(Level(4, "burst"), {"warmup_s": 1.0}, (0.0, 1.0), 0, id="before a burst"),
        pytest.param(Level(2, "replay"), {"times_s": (0.0, 1.0, 1.0, 5.0)}, (0.5, 2.5), 2, id="replay"),
        pytest.param(Level(2, "replay"), {"times_s": (0.0, 1.0, 1.0, 5.0)}, (0.5, 2.6), 3, id="replay to its end"),
        pytest.param(Level(7, "rate"), {"arrivals": Arrivals(CONSTANT)}, (3.0, 5.0), 14, id="constant rate"),
    ],
)
def test_what_is_due_in_an_interval(level, options, interval, count):
    assert requests_due(level, workload(**options), *interval) == count
    assert planned_rate(level, workload(**options), *interval) == count / (interval[1] - interval[0])


def test_workers_that_take_every_nth_share_the_schedule():
    level = Level(50.0, "rate")
    parts = [list(itertools.islice(schedule(level, workload(seed=3)), worker, 300, 3)) for worker in range(3)]
    assert sorted(itertools.chain(*parts)) == times(level, 300, seed=3)


@pytest.mark.parametrize(
    ("time_s", "streams"),
    [
        (-1.0, 0),
        (0.0, 0),
        (2.4, 2),
        (2.6, 3),
        (9.9, 10),
        (10.0, 10),
        (14.9, 10),
        (15.0, 50),
        (20.0, 30),
        (24.9, 10),
        (1e6, 10),
    ],
)
def test_streams_of_staged_concurrency(time_s, streams):
    load = workload(**staged((10.0, 0.0, 10.0), (5.0, 10.0, 10.0), (10.0, 50.0, 10.0), of="concurrency"))
    assert streams_at(load, time_s) == streams
    assert most_streams(load) == 50


@pytest.mark.parametrize(
    ("level", "of", "by_clock"),
    [
        (Level(8), "rate", False),
        (Level(8, "rate"), "rate", True),
        (Level(8, "burst"), "rate", True),
        (Level(1, "replay"), "rate", True),
        (Level(0, "stages"), "rate", True),
        (Level(0, "stages"), "concurrency", False),
    ],
    ids=str,
)
def test_a_load_without_times_of_its_own_has_no_schedule(level, of, by_clock):
    load = workload(**staged((1.0, 2.0, 3.0), of=of))
    assert sent_by_clock(level, load) is by_clock
    if not by_clock:
        with pytest.raises(ValueError, match=f"^{level} is a closed loop"):
            schedule(level, load)


def test_a_worker_imports_nothing_but_the_standard_library_for_times_and_lengths():
    script = (
        "import sys; before = set(sys.modules);"
        " import pytest_autotune.load.arrivals, pytest_autotune.load.lengths, pytest_autotune.load.generator;"
        " print(*{name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["pytest_autotune"]
