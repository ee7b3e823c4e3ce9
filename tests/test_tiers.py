"""The best for each tier, from measurements that were made for other limits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.confirmation import slot_name
from pytest_autotune.recorded import under
from pytest_autotune.samples import Level, Sample
from pytest_autotune.selection import NOISE, judge_trial, select
from pytest_autotune.slo import Limit, Ruling, Tier
from pytest_autotune.suite import Objective, Suite
from pytest_autotune.tiers import TierOutcome
from tests.make_records import Aim, batch, died, trial


def at(level, throughput, ttft, **metrics):
    return batch(level, output_throughput=throughput, ttft__p99=ttft, **metrics)


SMALL = trial(1, at(1, 40.0, 0.05), at(8, 200.0, 0.3), at(16, 220.0, 0.9), configuration={"seqs": 8})
LARGE = trial(2, at(1, 38.0, 0.15), at(8, 260.0, 0.6), at(16, 400.0, 0.8), configuration={"seqs": 64})
DYING = trial(3, at(1, 39.0, 0.2), died(8), configuration={"seqs": 256})
TRIALS = (SMALL, LARGE, DYING)


def outcome(*limits, trials=TRIALS, **fields):
    judged = (judge_trial(record, limits=limits, objective=Aim()) for record in trials)
    return TierOutcome(Tier("chat", limits), select(judged, confirmed_first=False), **fields)


def ttft(bound):
    return Limit("ttft.p99", bound)


@pytest.mark.parametrize(
    ("limits", "seqs", "level", "score", "binding"),
    [
        pytest.param(
            (ttft(0.1),), 8, 1, 40.0, "at concurrency 8: ttft.p99: 300 ms > 100 ms (+200 %)", id="only one at low load"
        ),
        pytest.param(
            (ttft(0.5),), 8, 8, 200.0, "at concurrency 16: ttft.p99: 900 ms > 500 ms (+80 %)", id="the quicker one"
        ),
        pytest.param(
            (ttft(0.7),), 64, 8, 260.0, "at concurrency 16: ttft.p99: 800 ms > 700 ms (+14 %)", id="the larger one"
        ),
        pytest.param((ttft(2.0),), 64, 16, 400.0, "nothing: a higher load was not measured", id="everything complies"),
        pytest.param(
            (Limit("output_throughput", 39.5, floor=True),), 64, 16, 400.0, "nothing: a higher load was not measured",
            id="a floor",
        ),
        pytest.param((), 64, 16, 400.0, "nothing: a higher load was not measured", id="no limit"),
    ],
)  # fmt: skip
def test_each_tier_has_a_best_of_its_own(limits, seqs, level, score, binding):
    found = outcome(*limits)
    assert (found.best.trial.configuration, found.best.level, found.best.score) == ({"seqs": seqs}, Level(level), score)
    assert (found.binding, found.nearest) == (binding, None)


@pytest.mark.parametrize(
    ("limits", "trials", "seqs", "binding"),
    [
        pytest.param((ttft(0.04),), TRIALS, 8, "at concurrency 1: ttft.p99: 50 ms > 40 ms (+25 %)", id="closest"),
        pytest.param((ttft(0.5),), (replace(SMALL, state="interrupted"),), None, "no trial was finished", id="nothing"),
        pytest.param(
            (), (trial(1, batch(1, e2e__p90=1.0), configuration={}),), None, "no compliant batch has output_throughput",
            id="no score",
        ),
        pytest.param(
            (ttft(0.5),), (trial(1, died(4), configuration={"seqs": 1}),), 1,
            "concurrency=4: out of memory: CUDA out of memory", id="nothing measured",
        ),
    ],
)  # fmt: skip
def test_a_tier_that_nothing_complies_with_says_what_came_closest(limits, trials, seqs, binding):
    found = outcome(*limits, trials=trials)
    assert found.best is None
    assert found.binding == binding
    if seqs is not None:
        assert found.nearest.trial.configuration == {"seqs": seqs}


def test_a_tier_that_cannot_be_told_comes_before_one_that_is_violated():
    close = replace(at(1, 10.0, 0.5), rulings={"ttft.p99": Ruling("open", 0.6, 0.99, 50)})
    undecided = trial(4, close, configuration={"seqs": 2})
    found = outcome(ttft(0.5), trials=(trial(5, at(1, 10.0, 0.6)), undecided))
    assert found.nearest.trial.configuration == {"seqs": 2}
    assert found.binding.startswith("concurrency=1: ttft.p99: 500 ms against 500 ms is not resolved after 50 requests")


def test_loads_that_were_chosen_for_other_limits_may_be_too_few():
    told = ", loads are chosen for slo"
    assert outcome(ttft(2.0), loads_for_slo=True).binding == f"nothing: a higher load was not measured{told}"
    assert outcome(ttft(0.04), loads_for_slo=True).binding.endswith(f"; a lower load was not measured{told}")
    assert told not in outcome(ttft(0.5), loads_for_slo=True).binding


def test_what_was_measured_again_for_other_limits_does_not_win_by_that():
    again = trial(6, at(1, 41.0, 0.05), at(8, 190.0, 0.3), configuration={"seqs": 8}, slot=slot_name(0, 0))
    found = outcome(ttft(2.0), trials=(*TRIALS, again))
    assert found.best.trial.configuration == {"seqs": 64}
    assert found.binding == "nothing: a higher load was not measured; not measured again"
    confirmed = outcome(ttft(0.5), trials=(*TRIALS, again))
    assert (confirmed.best.score, len(confirmed.best.repeats)) == (190.0, 1)
    assert "not measured again" not in confirmed.binding


measurements = st.lists(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 20)), min_size=1, max_size=4), min_size=1, max_size=6
)


def trials_of(measured):
    return [
        trial(
            number,
            *(at(2**place, float(more), less / 10) for place, (more, less) in enumerate(batches)),
            configuration={"seqs": number},
        )
        for number, batches in enumerate(measured, start=1)
    ]


@given(measurements, st.integers(0, 21))
def test_a_tier_with_the_limits_of_slo_selects_what_slo_selects(measured, bound):
    limits, trials = (ttft(bound / 10), Limit("error_rate", 1.0)), trials_of(measured)
    own = select(judge_trial(record, limits=limits, objective=Aim()) for record in trials)
    tier = outcome(*limits, trials=trials)
    assert (tier.best, tier.selection.ranking) == (own.best, own.ranking)


@given(measurements, st.integers(0, 21), st.integers(0, 21))
def test_a_tier_with_looser_limits_never_has_a_worse_best(measured, one, other):
    tight, loose = sorted((one, other))
    trials = trials_of(measured)
    strict, free = outcome(ttft(tight / 10), trials=trials), outcome(ttft(loose / 10), trials=trials)
    if strict.best is not None:
        assert free.best.score >= strict.best.score * (1 - NOISE)
        assert max(judged.score for judged in free.selection.tied) >= strict.best.score


@dataclass
class Requests:
    """A store of ten requests a second with their first tokens after 0.1 s, 0.2 s and so on, again and again."""

    number: int = 100
    reads: int = 0

    def samples(self, _trial, _level):
        self.reads += 1
        return [Sample(n / 10, n / 10 + (n % 10 + 1) / 10, n / 10 + 2.0, 8, 4) for n in range(self.number)]


def suite(**fields):
    return Suite(name="chat", engine="sim", model="llama", **{"slo": (ttft(0.5),), **fields})


def test_requests_are_read_only_where_something_depends_on_them():
    store = Requests()
    assert under(Tier("chat", (ttft(0.2),)), SMALL, suite(), store) is SMALL
    assert store.reads == 0


@pytest.mark.parametrize(
    ("fields", "limits"),
    [
        pytest.param({"objective": Objective(metric="goodput")}, (), id="objective"),
        pytest.param({"tradeoffs": (Objective(metric="goodput_per_gpu"),)}, (), id="further objective"),
        pytest.param({}, (Limit("goodput", 1.0, floor=True),), id="limit"),
    ],
)
def test_goodput_of_a_tier_counts_its_own_limits(fields, limits):
    measured = replace(at(8, 200.0, 0.3, goodput=5.0, goodput_per_gpu=2.5), window_s=12.0)
    seen = under(
        Tier("quick", (ttft(0.25), *limits)), trial(1, measured, died(16), gpus=2), suite(**fields), Requests()
    )
    assert seen.batches[0].metrics["goodput"] == pytest.approx(20 / 12)
    assert seen.batches[0].metrics["goodput_per_gpu"] == pytest.approx(10 / 12)
    assert seen.batches[0].metrics["output_throughput"] == 200.0
    assert seen.batches[1] == died(16)


def test_limits_of_a_tier_are_tested_with_the_confidence_of_the_suite():
    decided = Ruling("missed", 0.99, 0.5, 40)
    measured = replace(at(8, 200.0, 0.3), rulings={"ttft.p50": decided, "ttft.p40": decided}, window_s=120.0)
    limits = (Limit("ttft.p50", 1.2), Limit("ttft.p40", 0.05), Limit("ttft.p99", 0.3))
    of = suite(slo=(Limit("ttft.p50", 0.5), Limit("ttft.p40", 0.05)), confidence=0.95)
    seen = under(Tier("loose", limits), trial(1, measured), of, Requests(1000)).batches[0].rulings
    assert seen["ttft.p50"].decision == "holds"  # the bound is another one: tested anew
    assert seen["ttft.p40"] is decided  # the same limit: what was decided stands
    assert seen["ttft.p99"].decision == "missed"
