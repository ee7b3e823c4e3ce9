"""What is expected of a layout: times that follow from sizes, memory that bounds, and what it is worth to a suite."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.replay.models import MODELS
from pytest_autotune.capacity import LoadSearch
from pytest_autotune.engines.roofline import (
    Demand,
    Layout,
    Served,
    expected,
    gpu_named,
    loads,
    speaks_of,
    worth,
)
from pytest_autotune.engines.sim.arguments import Settings
from pytest_autotune.engines.sim.hardware import GPUS, SEQUENCE_OVERHEAD_S, SHAPES, STEP_OVERHEAD_S, StepCost
from pytest_autotune.engines.transformer import FOUR_BITS, Transformer
from pytest_autotune.samples import Level
from pytest_autotune.slo import Limit
from pytest_autotune.suite import Objective

H100, H200, A100 = GPUS["H100"], GPUS["H200"], GPUS["A100-80G"]
LLAMA_8B = Transformer(layers=32, hidden=4096, heads=32, kv_heads=8, head=128, intermediate=14336, vocabulary=128256)
LLAMA_70B, SPARSE, LATENT = (
    MODELS[name] for name in ("meta-llama/Llama-3.1-70B", "Qwen/Qwen3-235B-A22B-FP8", "deepseek-ai/DeepSeek-R1")
)  # fmt: skip


def of(model, layout=None, gpu=H100, *, prompt=1024, output=512, streams=1):
    layout = layout or Layout()
    return expected(model, gpu, layout, prompt_tokens=prompt, output_tokens=output, concurrency=streams)


def tensor(tp, **others):
    return Layout(gpus=tp, tp=tp, expert_tp=tp, **others)


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen2.5-7b", "llama-3.1-70b"])
@pytest.mark.parametrize("streams", [1, 32, 256])
def test_a_step_of_a_dense_model_is_that_of_the_embedded_engine(name, tp, streams):
    shape = SHAPES[name]
    sizes = {field.name: getattr(shape, field.name) for field in dataclasses.fields(shape)}
    model = Transformer(**{key: value for key, value in sizes.items() if key not in ("name", "context")})
    large = dataclasses.replace(H100, memory=10**15)
    cost = StepCost(Settings(tensor_parallel_size=tp), large, shape)
    step_s = cost.seconds(tokens=streams, samples=streams, pairs=streams * 1000, kv_tokens=streams * 1000)
    # Without a prompt to speak of, a step is all that there is; the mean length of a sequence is half its output's.
    found = of(model, tensor(tp), large, prompt=1e-9, output=2000, streams=streams)
    assert found.tpot == pytest.approx(step_s, rel=1e-9)


def test_the_figures_are_near_published_measurements():
    """Llama 3.1 8B on one H100, 1024 prompt and 512 output tokens: mean TPOT by concurrency (InferenceX, TensorRT-LLM)."""
    for streams, published_ms in ((8, 7.42), (32, 9.88), (64, 13.1)):
        assert of(LLAMA_8B, streams=streams).tpot * 1000 == pytest.approx(published_ms, rel=0.2)


def test_tensor_parallelism_divides_the_weights_and_pipelines_only_their_memory():
    free = dataclasses.replace(H100, link_latency_s=0.0)
    one, two = (of(LLAMA_8B, tensor(tp), free).tpot - STEP_OVERHEAD_S - SEQUENCE_OVERHEAD_S for tp in (1, 2))
    assert two == pytest.approx(one / 2, rel=0.01)
    staged = of(LLAMA_8B, Layout(gpus=2, pp=2), free).tpot - STEP_OVERHEAD_S - SEQUENCE_OVERHEAD_S
    assert staged == pytest.approx(one)
    assert of(LLAMA_70B) is None
    assert of(LLAMA_70B, Layout(gpus=2, pp=2)) is not None


def test_a_pipeline_works_on_as_many_batches_as_it_has_stages():
    one, two = of(LLAMA_8B, streams=128), of(LLAMA_8B, Layout(gpus=2, pp=2), streams=128)
    assert one.output_throughput < two.output_throughput < 2 * one.output_throughput


def test_copies_divide_the_sequences():
    one, two = of(LLAMA_8B, streams=64), of(LLAMA_8B, Layout(gpus=2, dp=2), streams=128)
    assert two.tpot == pytest.approx(one.tpot)
    assert two.output_throughput == pytest.approx(2 * one.output_throughput)


def test_large_batches_touch_all_experts_and_small_ones_few():
    streaming = dataclasses.replace(H200, tflops=1e9, link_latency_s=0.0)
    every = dataclasses.replace(SPARSE, experts=dataclasses.replace(SPARSE.experts, active=SPARSE.experts.number))

    def step_s(model, streams):
        return of(model, tensor(8), streaming, prompt=1, output=10, streams=streams).tpot

    assert step_s(SPARSE, 1) < 0.3 * step_s(every, 1)
    assert step_s(SPARSE, 512) == pytest.approx(step_s(every, 512), rel=1e-3)


def test_smaller_weights_and_caches_are_read_sooner_and_leave_room():
    plain, fp8 = of(LLAMA_8B), of(LLAMA_8B, Layout(weight_bytes=1.0))
    assert fp8.tpot < 0.7 * plain.tpot
    assert fp8.ttft < plain.ttft
    assert of(LLAMA_70B, tensor(2, weight_bytes=1.0)) is not None
    assert of(LLAMA_70B, Layout(weight_bytes=FOUR_BITS)) is not None
    half = of(LLAMA_8B, Layout(kv_bytes=1.0), prompt=8000, streams=256)
    assert half.output_throughput > 1.2 * of(LLAMA_8B, prompt=8000, streams=256).output_throughput
    stored = dataclasses.replace(LLAMA_8B, weight_bytes=FOUR_BITS)
    assert of(stored, Layout(weight_bytes=1.0)) == of(stored)


def test_fp8_has_twice_the_peak_where_the_gpu_has_fp8():
    def prefill(gpu, size):
        return of(LLAMA_8B, Layout(weight_bytes=size), gpu, prompt=16000, output=1).ttft

    assert prefill(H100, 1.0) < 0.7 * prefill(H100, None)
    assert prefill(A100, 1.0) > 0.9 * prefill(A100, None)


def test_memory_and_the_setting_bound_what_runs_and_the_rest_waits():
    few = of(LLAMA_8B, Layout(max_sequences=16), streams=64)
    alone = of(LLAMA_8B, Layout(max_sequences=16), streams=16)
    assert few.tpot == alone.tpot
    assert few.output_throughput == pytest.approx(alone.output_throughput)
    assert few.e2e == pytest.approx(4 * alone.e2e)
    assert few.ttft > 3 * alone.e2e
    crowded = of(LLAMA_8B, prompt=8000, output=1000, streams=1000)
    assert crowded.ttft > 10
    assert (
        of(LLAMA_8B, Layout(memory_share=0.5), prompt=8000, streams=256).ttft
        > of(LLAMA_8B, prompt=8000, streams=256).ttft
    )
    assert of(LLAMA_8B, prompt=10**6) is None
    assert of(LLAMA_8B, Layout(memory_share=0.15)) is None


def test_latent_attention_keeps_the_same_on_every_gpu_and_copies_of_it_make_room():
    shared = of(LATENT, tensor(8), H200, prompt=8000, streams=1024)
    copied = of(LATENT, Layout(gpus=8, dp=8, expert_ep=8), H200, prompt=8000, streams=1024)
    assert copied.output_throughput > shared.output_throughput


gpus = st.sampled_from(list(GPUS.values()))
models = st.sampled_from([LLAMA_8B, *MODELS.values()])
layouts = st.builds(
    lambda tp, pp, dp, split, size, kept, most: Layout(
        gpus=tp * pp * dp, tp=tp, pp=pp, dp=dp, **{split: tp * dp}, weight_bytes=size, kv_bytes=kept, max_sequences=most
    ),
    *(st.sampled_from([1, 2, 4, 8]) for _ in range(3)),
    st.sampled_from(["expert_tp", "expert_ep"]),
    st.sampled_from([None, 1.0, FOUR_BITS]),
    st.sampled_from([1.0, 2.0]),
    st.none() | st.integers(1, 2048),
)  # fmt: skip
lengths = st.integers(1, 20_000)


@given(models, gpus, layouts, lengths, lengths, st.floats(1, 4096), st.floats(1, 10))
def test_more_bandwidth_is_never_slower_and_figures_fit_together(model, gpu, layout, prompt, output, streams, factor):
    before = of(model, layout, gpu, prompt=prompt, output=output, streams=streams)
    faster = dataclasses.replace(gpu, bandwidth=factor * gpu.bandwidth)
    after = of(model, layout, faster, prompt=prompt, output=output, streams=streams)
    if before is None:
        assert after is None
        return
    assert 0 < after.tpot <= before.tpot * (1 + 1e-9)
    assert 0 < after.ttft <= before.ttft * (1 + 1e-9)
    assert after.output_throughput >= before.output_throughput * (1 - 1e-9)
    assert before.e2e >= before.ttft
    assert before.request_throughput * before.e2e == pytest.approx(streams)  # Little's law
    assert before.total_throughput == pytest.approx(before.request_throughput * (prompt + output))


@given(models, gpus, layouts, lengths, lengths, st.floats(1, 4096))
def test_what_fits_also_fits_into_more_memory(model, gpu, layout, prompt, output, streams):
    before = of(model, layout, gpu, prompt=prompt, output=output, streams=streams)
    larger = dataclasses.replace(gpu, memory=2 * gpu.memory)
    after = of(model, layout, larger, prompt=prompt, output=output, streams=streams)
    assert before is None or after is not None


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100-80G"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA A100 80GB PCIe", None),
        ("NVIDIA A100-SXM4-40GB", None),
        ("NVIDIA L40", None),
        ("NVIDIA B200", None),
    ],
)
def test_gpus_are_known_by_the_names_of_the_driver_or_not_at_all(driver, name):
    assert gpu_named(driver) == (None if name is None else GPUS[name])


def test_loads_of_a_search_are_within_its_bounds():
    assert [level.value for level in loads(LoadSearch(1, 8))] == [1, 2, 3, 4, 5, 6, 7, 8]
    rates = [level.value for level in loads(LoadSearch(0.5, 50, "rate"))]
    assert rates[0] == 0.5
    assert 40 < rates[-1] <= 50
    assert [level.value for level in loads(LoadSearch(3, 3))] == [3]


def value(objective="maximize output_throughput_per_gpu", *limits, levels=(1, 8, 64), layout=None, model=LLAMA_8B):
    direction, metric = objective.split()
    shaped = tuple(level if isinstance(level, Level) else Level(level) for level in levels)
    return worth(
        Served(model, H100),
        layout or Layout(),
        Demand(1024, 512, shaped),
        limits=limits,
        objective=Objective(direction=direction, metric=metric),
    )


def test_worth_is_that_of_the_best_load_that_keeps_the_limits():
    at = {streams: of(LLAMA_8B, streams=streams) for streams in (1, 8, 64)}
    assert value() == at[64].output_throughput
    between = (at[8].tpot + at[64].tpot) / 2
    assert value("maximize output_throughput", Limit("tpot.p99", between)) == at[8].output_throughput
    assert value("maximize output_throughput", Limit("itl.mean", at[1].tpot / 2)) == 0
    assert value("maximize output_throughput", Limit("e2e.p90", at[1].e2e)) == at[1].output_throughput
    assert value("maximize output_throughput", Limit("ttft.p90", 0.0)) == 0
    assert value("maximize total_throughput", Limit("output_throughput", 1e9, floor=True)) == 0
    assert value("maximize goodput", Limit("request_throughput", 0.1, floor=True)) == at[64].request_throughput


def test_limits_that_do_not_decide_or_of_which_nothing_is_known_change_nothing():
    soft = Limit("tpot.p90", 0.0, hard_fail=False)
    others = (Limit("error_rate", 0.0), Limit("tpot.std", 0.0), Limit("ttft_sent.p90", 0.0))
    assert value("maximize output_throughput", soft, *others) == value("maximize output_throughput")
    tpot = of(LLAMA_8B, streams=64).tpot
    near = (Limit("tpot.p90", tpot / 1.05, fail_ratio=0.1), Limit("input_throughput", 1.0, floor=True))
    assert value("maximize output_throughput", *near) == value("maximize output_throughput")


@given(st.floats(1e-4, 10), st.floats(1, 10), st.sampled_from(["ttft.p90", "tpot.mean", "e2e.p99"]))
def test_a_looser_limit_is_never_worth_less(bound, factor, metric):
    objective = "maximize output_throughput"
    assert 0 <= value(objective, Limit(metric, bound)) <= value(objective, Limit(metric, factor * bound))


@pytest.mark.parametrize(
    ("objective", "figure"),
    [
        ("minimize ttft.p90", lambda at: 1 / at[1].ttft),
        ("minimize e2e.mean", lambda at: 1 / at[1].e2e),
        ("minimize itl.p50", lambda at: 1 / at[1].tpot),
        ("minimize cost_per_million_output_tokens", lambda at: at[64].output_throughput / 2),
        ("minimize cost_per_million_tokens", lambda at: at[64].total_throughput / 2),
        ("maximize request_throughput_per_gpu", lambda at: at[64].request_throughput / 2),
        ("maximize goodput_per_gpu", lambda at: at[64].request_throughput / 2),
    ],
)
def test_every_objective_counts_so_that_more_is_better(objective, figure):
    at = {streams: of(LLAMA_8B, tensor(2), streams=streams) for streams in (1, 8, 64)}
    assert value(objective, layout=tensor(2)) == pytest.approx(figure(at))


@pytest.mark.parametrize(
    "objective",
    ["minimize error_rate", "maximize ttft.p90", "minimize output_throughput", "minimize tpot.std", "minimize client.p90",
     "maximize cost_per_million_tokens"],
)  # fmt: skip
def test_nothing_is_said_of_other_objectives(objective):
    direction, metric = objective.split()
    assert not speaks_of(Objective(direction=direction, metric=metric))
    assert value(objective) is None


def test_a_rate_is_carried_by_as_many_streams_as_it_takes_or_not_at_all():
    most = of(LLAMA_8B, streams=10**6).request_throughput
    assert value("maximize request_throughput", levels=(Level(0.9 * most, "rate"),)) == pytest.approx(0.9 * most)
    assert value("maximize request_throughput", levels=(Level(1.1 * most, "rate"),)) == 0
    little = Level(0.01, "rate")
    assert value("minimize ttft.p90", levels=(little,)) == pytest.approx(1 / of(LLAMA_8B).ttft)
    busy = Level(of(LLAMA_8B, streams=64).request_throughput, "rate")
    assert 1 / value("minimize tpot.p90", levels=(busy,)) == pytest.approx(of(LLAMA_8B, streams=64).tpot, rel=0.01)
    assert value("maximize goodput", levels=(little,), model=LLAMA_70B) == 0
    assert value(levels=(Level(50, "burst"),)) is None
