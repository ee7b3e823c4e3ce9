"""What tokens cost, from the price of a GPU and what was measured."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_autotune.capacity import brings_more_with_load, dominated, per_gpu
from pytest_autotune.formatting import amount, quantity, title, unit
from pytest_autotune.metrics import COSTS
from pytest_autotune.pricing import priced, with_costs
from pytest_autotune.samples import Level
from pytest_autotune.selection import judge_batches, judge_trial
from pytest_autotune.slo import Limit, Status
from tests.make_records import Aim, batch, trial

OUTPUT, ALL = COSTS


@pytest.mark.parametrize(
    ("price", "gpus", "tokens", "cost"),
    [
        pytest.param(3.6, 1, 1000.0, 1.0, id="1000 tokens per second for 0.001 per second"),
        pytest.param(3.6, 4, 1000.0, 4.0, id="every GPU of a server is paid for"),
        pytest.param(3.6, 0, 1000.0, 1.0, id="a server without known GPUs is one machine"),
        pytest.param(7.2, 1, 1000.0, 2.0, id="twice the price"),
        pytest.param(3.6, 1, 0.0, None, id="no tokens have no cost"),
        pytest.param(1e308, 4, 1e-300, None, id="what is not finite is no number"),
        pytest.param(None, 1, 1000.0, None, id="no price"),
    ],
)
def test_a_cost_is_the_price_of_the_gpus_by_the_tokens(price, gpus, tokens, cost):
    metrics = with_costs(batch(8, output_throughput=tokens, total_throughput=4 * tokens), price, gpus=gpus).metrics
    assert (metrics.get(OUTPUT), metrics.get(ALL)) == (
        (None, None) if cost is None else (pytest.approx(cost), pytest.approx(cost / 4))
    )


def test_a_batch_without_a_rate_has_no_cost_by_it():
    assert with_costs(batch(8, total_throughput=10.0), 1.0, gpus=1).metrics.keys() == {"total_throughput", ALL}


def test_most_tokens_are_the_least_cost():
    measured = replace(batch(8, output_throughput=1000.0), intervals={"output_throughput": (500.0, None)})
    assert with_costs(measured, 3.6, gpus=1).intervals[OUTPUT] == (None, pytest.approx(2.0))
    measured = replace(measured, intervals={"output_throughput": [0.0, 2000.0]})
    assert with_costs(measured, 3.6, gpus=1).intervals[OUTPUT] == (pytest.approx(0.5), None)


def test_a_new_price_replaces_recorded_costs_and_no_price_removes_them():
    record = trial(1, batch(8, output_throughput=1000.0), gpus=2)
    dear = priced(record, 7.2)
    assert priced(dear, 3.6) == priced(record, 3.6)
    assert priced(dear, None) == record
    assert priced(record, None) is record
    assert priced(dear, 7.2) is dear


@given(st.floats(0.01, 100.0), st.lists(st.tuples(st.floats(0.1, 1e6), st.integers(0, 16)), min_size=2, max_size=8))
def test_the_least_cost_is_the_most_tokens_per_gpu(price, servers):
    by_cost = [with_costs(batch(8, output_throughput=rate), price, gpus=gpus).metrics[OUTPUT] for rate, gpus in servers]
    by_rate = [rate / max(gpus, 1) for rate, gpus in servers]
    assert by_rate[by_cost.index(min(by_cost))] == pytest.approx(max(by_rate))


def test_costs_are_limits_and_objectives_like_any_other_metric():
    record = priced(trial(1, batch(1, output_throughput=100.0), batch(8, output_throughput=1000.0)), 3.6)
    judged = judge_trial(record, limits=(Limit(OUTPUT, 5.0),), objective=Aim("minimize", OUTPUT))
    assert [one.verdict.status for one in judged.batches] == [Status.VIOLATING, Status.COMPLIANT]
    assert (judged.score, judged.rank_value) == (pytest.approx(1.0), pytest.approx(-1.0))
    assert judged.reason == ""
    assert judged.batches[0].verdict.reason == f"{OUTPUT}: 10 per Mtok > 5 per Mtok (+100 %)"


def test_a_larger_load_costs_less_for_each_token():
    aim = Aim("minimize", OUTPUT)
    assert brings_more_with_load(aim)
    assert per_gpu(aim)
    assert per_gpu(Aim(metric="goodput_per_gpu"))
    assert not per_gpu(Aim())
    record = priced(trial(1, batch(8, output_throughput=1000.0)), 3.6)
    judged = judge_batches(record.batches, (), aim, steepness=0.1)
    assert dominated(Level(4), judged, aim) == "concurrency=8 complies, and less load costs more"


@pytest.mark.parametrize(
    ("value", "text"), [(0.12241, "0.1224"), (12.0, "12"), (1234.5, "1234"), (0.000012345, "0.00001234")]
)
def test_a_cost_is_written_with_what_it_is_for(value, text):
    assert quantity(OUTPUT, value) == f"{text} {unit(OUTPUT)}" == f"{text} per Mtok"
    assert amount(OUTPUT, value) == text
    assert title(OUTPUT) == "cost per million output tokens"
