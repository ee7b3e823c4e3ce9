"""The model of continuous batching: its books balance, and its settings have true trade-offs."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_autotune.engines.sim.arguments import Settings, resolve
from pytest_autotune.engines.sim.hardware import (
    GIB,
    GPUS,
    SHAPES,
    DeviceMemoryError,
    InvalidSettingsError,
    StepCost,
    UnknownModelError,
    find_shape,
    plan_memory,
)
from pytest_autotune.engines.sim.kvcache import KvCache, Pages
from pytest_autotune.engines.sim.scheduler import Scheduler, Sequence
from pytest_autotune.engines.sim.simulate import simulate


def check_books(cache, holders):
    counts = Counter()
    for pages in holders:
        assert len(set(pages.blocks)) == len(pages.blocks)
        counts.update(pages.blocks)
    assert counts == cache._holders
    assert set(cache._released) == set(range(cache._used)) - set(counts)
    assert cache.free == cache.capacity - len(counts)
    assert len(counts) <= cache.capacity
    assert {digest: block for block, digest in cache._hash_of.items()} == cache._block_of


def small_scheduler(*, blocks, seqs=4, budget=16, block_size=8, chunked=True, prefix_caching=True):
    scheduler = Scheduler(
        resolve(
            Settings(
                model="tiny",
                max_model_len=blocks * block_size,
                max_num_seqs=seqs,
                max_num_batched_tokens=max(budget, seqs) if chunked else max(budget, blocks * block_size),
                block_size=block_size,
                enable_chunked_prefill=chunked,
            )
        )
    )
    scheduler.cache = KvCache(blocks, block_size, prefix_caching=prefix_caching)
    return scheduler


requests = st.lists(
    st.tuples(
        st.integers(1, 40),  # prompt tokens
        st.integers(1, 24),  # output tokens
        st.integers(0, 3),  # prompts with the same number share their beginning
        st.integers(0, 12),  # step at which it arrives
        st.none() | st.integers(0, 12),  # steps until the client goes away
    ),
    min_size=1,
    max_size=14,
)


@settings(deadline=None, max_examples=150)
@given(
    asked=requests,
    blocks=st.integers(8, 20),
    seqs=st.integers(1, 6),
    budget=st.integers(1, 64),
    chunked=st.booleans(),
    caching=st.booleans(),
)
def test_every_request_finishes_within_memory_and_budget(asked, blocks, seqs, budget, chunked, caching):
    scheduler = small_scheduler(blocks=blocks, seqs=seqs, budget=budget, chunked=chunked, prefix_caching=caching)
    made = {}
    live = []
    pending = sorted(enumerate(asked), key=lambda entry: entry[1][3])
    for number in range(4000):
        while pending and pending[0][1][3] <= number:
            index, (prompt, output, family, _, patience) = pending.pop(0)
            sequence = Sequence([family] * prompt, output, next_token=lambda position: position)
            made[index] = (sequence, prompt, output, None if patience is None else number + patience)
            live.append(sequence)
            scheduler.add(sequence)
        for sequence, _, _, leaves in made.values():
            if leaves == number:
                scheduler.abort(sequence)
        step = scheduler.begin()
        assert len(scheduler.running) <= scheduler._max_num_seqs
        check_books(scheduler.cache, [sequence.pages for sequence in live])
        if step is None:
            assert not scheduler.running
            if not pending:
                break
            continue
        assert 0 < step.tokens <= scheduler._budget
        assert step.tokens == sum(new for _, new in step.work)
        assert step.duration_s > 0
        for sequence, new in step.work:
            assert new > 0
            assert len(sequence.pages.blocks) * scheduler.cache.block_size >= sequence.computed + new
            assert chunked or sequence.computed + new == len(sequence.tokens)
        scheduler.complete(step)
        check_books(scheduler.cache, [sequence.pages for sequence in live])
    assert not pending
    assert not scheduler.waiting
    for sequence, prompt, output, leaves in made.values():
        assert sequence.state == "finished" or leaves is not None
        if sequence.state == "finished":
            assert sequence.tokens[prompt:] == list(range(output))  # each once and in order, however often preempted
    assert scheduler.cache.free == scheduler.cache.capacity


def test_memory_shortage_preempts_the_last_and_loses_no_token():
    scheduler = small_scheduler(blocks=8, seqs=4, budget=64, prefix_caching=False)
    sequences = [Sequence([1] * 14, 30, next_token=lambda position: position) for _ in range(4)]
    for sequence in sequences:
        scheduler.add(sequence)
    while (step := scheduler.begin()) is not None:
        scheduler.complete(step)
    assert scheduler.preemptions > 0
    assert sequences[0].preemptions == 0
    assert all(sequence.tokens[14:] == list(range(30)) for sequence in sequences)


def test_without_chunked_prefill_a_prompt_waits_until_it_fits_whole():
    scheduler = small_scheduler(blocks=16, budget=128, chunked=False)
    for prompt in (100, 100):
        scheduler.add(Sequence([prompt] * prompt, 2))
    assert [new for _, new in scheduler.begin().work] == [100]


def test_chunked_prefill_shares_a_step_between_prompts_and_answers():
    scheduler = small_scheduler(blocks=40, budget=64)
    scheduler.add(Sequence(list(range(40)), 5))
    scheduler.complete(scheduler.begin())
    scheduler.add(Sequence(list(range(100, 200)), 5))
    assert [new for _, new in scheduler.begin().work] == [1, 63]


def test_an_equal_prompt_is_found_in_the_prefix_cache_and_costs_less():
    scheduler = small_scheduler(blocks=40, budget=200)
    durations = []
    for _ in range(2):
        scheduler.add(Sequence(list(range(100)), 1))
        step = scheduler.begin()
        durations.append((step.tokens, step.duration_s))
        scheduler.complete(step)
    assert [tokens for tokens, _ in durations] == [100, 100 - 96]  # whole blocks of 8
    assert durations[1][1] <= durations[0][1]
    assert scheduler.cache.hit_tokens == 96
    assert scheduler.cache.reset()
    scheduler.add(Sequence(list(range(100)), 1))
    assert scheduler.begin().tokens == 100


def test_a_fully_cached_prompt_still_computes_one_token():
    cache = KvCache(8, 8, prefix_caching=True)
    first, second = Pages(), Pages()
    cache.extend_hashes(first, range(16))
    assert cache.allocate(first, 16)
    cache.store(first, 16)
    cache.extend_hashes(second, range(16))
    assert cache.take_cached(second, 16) == 8


def test_the_prefix_cache_forgets_the_least_recently_used_block():
    cache = KvCache(2, 8, prefix_caching=True)

    def use(start):
        pages = Pages()
        cache.extend_hashes(pages, range(start, start + 9))
        found = cache.take_cached(pages, 9)
        assert cache.allocate(pages, 8)
        cache.store(pages, 8)
        cache.release(pages)
        return found

    assert [use(start) for start in (0, 100, 0, 200, 0, 100)] == [0, 0, 8, 0, 8, 0]


def test_a_cache_in_use_is_not_reset():
    cache = KvCache(4, 8, prefix_caching=True)
    pages = Pages()
    assert cache.allocate(pages, 8)
    assert not cache.reset()
    cache.release(pages)
    assert cache.reset()


L4 = Settings(gpu="L4", max_model_len=2048)
H100 = Settings(gpu="H100", max_model_len=8192)


def measure(settings, concurrency, *, prompt=256, output=64, duration=30.0, warmup=10.0):
    result = simulate(
        settings,
        concurrency=concurrency,
        prompt_tokens=prompt,
        output_tokens=output,
        duration_s=duration,
        warmup_s=warmup,
    )
    assert result.died is None
    return {
        "ttft": statistics.median(sample.ttft_s for sample in result.samples),
        "tpot": statistics.mean(sample.tpot_s for sample in result.samples),
        "throughput": sum(sample.output_tokens for sample in result.samples) / duration,
        "preemptions": result.preemptions,
    }


def test_more_sequences_per_step_raise_throughput_and_time_per_token():
    few = measure(dataclasses.replace(H100, max_num_seqs=8), 64)
    many = measure(dataclasses.replace(H100, max_num_seqs=64), 64)
    assert many["throughput"] > 2 * few["throughput"]
    assert many["tpot"] > 1.2 * few["tpot"]
    assert many["ttft"] < few["ttft"]


def test_tensor_parallelism_is_faster_but_not_in_proportion():
    tpot = {
        tp: measure(dataclasses.replace(H100, tensor_parallel_size=tp), 4, prompt=1024)["tpot"] for tp in (1, 2, 4, 8)
    }
    assert tpot[1] > tpot[2] > tpot[4] > tpot[8]
    assert 1.1 * tpot[1] / 8 < tpot[8]
    pcie = measure(dataclasses.replace(L4, tensor_parallel_size=8), 4)["tpot"] / measure(L4, 4)["tpot"]
    nvlink = measure(dataclasses.replace(H100, tensor_parallel_size=8), 4)["tpot"] / measure(H100, 4)["tpot"]
    assert 1 / 8 < pcie < 1
    assert 1 / 8 < nvlink < 1


def test_a_small_token_budget_delays_first_tokens_and_a_large_one_the_others():
    small = measure(dataclasses.replace(L4, max_num_seqs=64, max_num_batched_tokens=128), 32, prompt=512)
    large = measure(dataclasses.replace(L4, max_num_seqs=64, max_num_batched_tokens=2048), 32, prompt=512)
    assert small["ttft"] > 2 * large["ttft"]
    assert small["tpot"] < large["tpot"] / 1.3


def test_memory_for_the_kv_cache_raises_throughput_until_everything_fits():
    tight = measure(dataclasses.replace(L4, gpu_memory_utilization=0.75), 48, prompt=512)
    roomy = measure(dataclasses.replace(L4, gpu_memory_utilization=0.92), 48, prompt=512)
    halved = measure(dataclasses.replace(L4, gpu_memory_utilization=0.75, kv_cache_dtype="fp8"), 48, prompt=512)
    assert roomy["throughput"] > 1.2 * tight["throughput"]
    assert halved["throughput"] > 1.2 * tight["throughput"]


def test_cuda_graphs_cost_memory_and_save_time_on_fast_gpus():
    small = Settings(model="qwen2.5-1.5b", gpu="H100", max_model_len=4096)
    eager = dataclasses.replace(small, enforce_eager=True)
    assert measure(eager, 4)["tpot"] > 1.5 * measure(small, 4)["tpot"]
    assert Scheduler(eager).memory.headroom > Scheduler(small).memory.headroom


def test_the_model_is_near_published_measurements():
    """Llama 3.1 8B on one H100, 1024 prompt and 512 output tokens: mean TPOT by concurrency (InferenceX, TensorRT-LLM)."""
    settings = dataclasses.replace(H100, max_num_batched_tokens=8192)
    for concurrency, published_ms in ((8, 7.42), (32, 9.88), (64, 13.1)):
        modelled = measure(settings, concurrency, prompt=1024, output=512, duration=20, warmup=10)["tpot"]
        assert modelled * 1000 == pytest.approx(published_ms, rel=0.2)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("llama-3.1-8b", 8.03), ("llama-3.1-70b", 70.6), ("qwen2.5-1.5b", 1.54), ("qwen2.5-7b", 7.62)],
)
def test_shapes_have_the_published_number_of_parameters(name, billions):
    assert SHAPES[name].parameters / 1e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3.1-70B", "llama-3.1-70b"),
        ("Qwen/Qwen2.5-1.5B-Instruct", "qwen2.5-1.5b"),
        ("/models/tiny/", "tiny"),
    ],
)
def test_models_are_found_by_their_usual_names(model, shape):
    assert find_shape(model) is SHAPES[shape]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"model": "meta-llama/Llama-3.1-70B"}, "CUDA out of memory. Tried to allocate", id="weights"),
        pytest.param({"gpu_memory_utilization": 0.68}, "No available memory for the cache blocks", id="no-cache"),
        pytest.param({"max_model_len": 131072}, "is larger than the available KV cache memory", id="long-context"),
        pytest.param({"max_num_batched_tokens": 65536}, "No available memory", id="activations"),
        pytest.param({"gpu_memory_utilization": 0.99}, "CUDA out of memory", id="cuda-graphs"),
    ],
)
def test_what_does_not_fit_is_out_of_memory_at_start(changes, message):
    plan_memory(resolve(L4), *L4.hardware())
    with pytest.raises(DeviceMemoryError, match=message) as error:
        Scheduler(resolve(dataclasses.replace(L4, **changes)))
    assert error.value.line.startswith(("torch.OutOfMemoryError: CUDA", "ValueError: "))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (Settings(model="gpt-5"), UnknownModelError, "not a valid model identifier"),
        (Settings(tensor_parallel_size=3), InvalidSettingsError, "divisible by tensor parallel size"),
        (Settings(max_model_len=10**6), InvalidSettingsError, "greater than the derived max_model_len"),
        (Settings(enable_chunked_prefill=False), InvalidSettingsError, "smaller than max_model_len"),
        (Settings(max_num_seqs=4096), InvalidSettingsError, "greater than or equal to max_num_seqs"),
    ],
)
def test_contradicting_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        resolve(settings)


def test_a_greedy_memory_share_dies_of_out_of_memory_only_when_many_sequences_run():
    greedy = dataclasses.replace(L4, gpu_memory_utilization=0.985, max_num_seqs=96)
    load = {"prompt_tokens": 256, "output_tokens": 64, "duration_s": 20.0}
    assert simulate(greedy, concurrency=8, **load).died is None
    died = simulate(greedy, concurrency=96, **load)
    assert died.died.startswith("CUDA out of memory")
    assert simulate(dataclasses.replace(greedy, gpu_memory_utilization=0.9), concurrency=96, **load).died is None
    assert simulate(dataclasses.replace(greedy, max_num_seqs=16), concurrency=96, **load).died is None
    assert (
        simulate(dataclasses.replace(greedy, enforce_eager=True, max_num_seqs=48), concurrency=96, **load).died is None
    )


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_memory_is_never_promised_twice(tp):
    for gpu in GPUS.values():
        settings = resolve(dataclasses.replace(L4, gpu=gpu.name, tensor_parallel_size=tp))
        memory = plan_memory(settings, *settings.hardware())
        assert memory.weights + memory.activations + memory.kv_blocks * memory.kv_block_bytes <= memory.budget
        assert memory.budget + memory.graphs + memory.max_samples * memory.sampler <= memory.total
        assert memory.kv_blocks * settings.block_size >= settings.max_model_len
        assert memory.total < 200 * GIB


@given(tokens=st.integers(1, 8192), samples=st.integers(0, 256), pairs=st.integers(0, 10**7), kv=st.integers(0, 10**6))
def test_a_step_never_gets_shorter_by_more_work(tokens, samples, pairs, kv):
    cost = StepCost(H100, *H100.hardware())
    base = cost.seconds(tokens=tokens, samples=samples, pairs=pairs, kv_tokens=kv)
    assert cost.seconds(tokens=tokens + 1, samples=samples, pairs=pairs, kv_tokens=kv) >= base
    assert cost.seconds(tokens=tokens, samples=samples + 1, pairs=pairs, kv_tokens=kv) > base
    assert cost.seconds(tokens=tokens, samples=samples, pairs=pairs + 1, kv_tokens=kv) >= base
    assert cost.seconds(tokens=tokens, samples=samples, pairs=pairs, kv_tokens=kv + 1) >= base


def test_equal_seeds_give_equal_batches_and_noise_differs_by_seed():
    noisy = dataclasses.replace(L4, noise=0.05)
    load = {"concurrency": 8, "prompt_tokens": 64, "output_tokens": 16, "duration_s": 10.0}
    assert simulate(noisy, **load) == simulate(noisy, **load)
    assert simulate(noisy, **load) != simulate(dataclasses.replace(noisy, seed=1), **load)


def test_time_scale_scales_every_latency():
    load = {"concurrency": 4, "prompt_tokens": 64, "output_tokens": 16, "client_s": 0.0}
    slow = simulate(L4, duration_s=20.0, **load)
    fast = simulate(dataclasses.replace(L4, time_scale=0.1), duration_s=2.0, **load)
    assert len(fast.samples) == len(slow.samples)
    for quick, sample in zip(fast.samples, slow.samples, strict=True):
        assert quick.e2e_s == pytest.approx(sample.e2e_s / 10)
