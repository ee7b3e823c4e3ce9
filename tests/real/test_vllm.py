"""A real vLLM: its flags, a server from our command line, an impossible configuration, its own load generator."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from pytest_autotune.deploy.leftovers import owner_id
from pytest_autotune.deploy.local import LocalDeployer
from pytest_autotune.deploy.server import Launch
from pytest_autotune.engines.engine import CauseKind
from pytest_autotune.engines.validation import unknown_flags
from pytest_autotune.engines.vllm import VllmEngine
from pytest_autotune.errors import Infeasible
from pytest_autotune.load.generator import Target, Workload
from pytest_autotune.load.http import HttpLoad
from pytest_autotune.load.lengths import Fixed
from pytest_autotune.notation import read_parameters
from pytest_autotune.presets.library import all_presets
from pytest_autotune.samples import Level
from pytest_autotune.space import Choice, Constraint, Space
from pytest_autotune.statistics import summarise
from pytest_autotune.suite import Suite, TimeoutsBlock
from pytest_autotune.suite_file import load_suite

HERE = Path(__file__).parent
PYTHON = os.environ.get("PYTEST_AUTOTUNE_VLLM_PYTHON", "")
SUITE = HERE.parents[1] / "suites" / "vllm_cpu.yaml"

PROMPT_TOKENS, OUTPUT_TOKENS, CONCURRENCY = 64, 32, 2
WINDOW_S, WARMUP_REQUESTS = 4.0, 4
PAIRS, ATTEMPTS = 5, 12
LAG_S = 0.02  # woken later than this once in a hundred times, a client cannot tell milliseconds

pytestmark = [
    pytest.mark.xdist_group("real"),
    pytest.mark.real_engine,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="set PYTEST_AUTOTUNE_VLLM_PYTHON to a Python that has vLLM"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    subprocess.run([PYTHON, HERE / "tiny_model.py", directory], check=True, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def suite(model):
    return Suite(
        name="real",
        engine="vllm",
        engine_python=PYTHON,
        model=str(model),
        env={"HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"},
        fixed={"load-format": "dummy", "enforce-eager": True, "max-model-len": 512, "enable-prefix-caching": False},
        timeouts=TimeoutsBlock(start=300, ready=120, stop=15),
    )


@pytest.fixture(scope="module")
def engine():
    return VllmEngine()


@pytest.fixture(scope="module")
def launch(suite, engine, tmp_path_factory):
    logs = tmp_path_factory.mktemp("logs")

    def launch(configuration):
        return Launch(suite, engine, configuration, logs / "server.log", owner_id("real"), lambda _phase: None)

    return launch


@pytest.fixture(scope="module")
def server(launch):
    with LocalDeployer().deploy(launch({"max_num_seqs": 8})) as server:
        yield server


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.status, answer.read()


def test_the_flags_of_the_installed_vllm_are_known(suite, engine):
    installed = engine.inspect(suite)
    assert installed.missing == ()
    assert installed.version[0].isdigit()
    assert {"max-num-seqs", "tensor-parallel-size", "gpu-memory-utilization"} <= installed.flags.keys()
    assert installed.flags["enable-prefix-caching"].negatable
    assert "fp8" in installed.flags["kv-cache-dtype"].choices
    assert unknown_flags(suite, installed) == ()


def test_the_shipped_presets_name_flags_and_values_of_the_installed_vllm(suite, engine):
    presets = [preset for preset in all_presets(beside=None) if preset.engine == "vllm"]
    parameters = {preset.name: read_parameters(preset.content) for preset in presets}
    assert len(parameters) >= 5
    installed = engine.inspect(suite)
    told = {
        name: unknown_flags(suite.model_copy(update={"space": Space(each), "fixed": {}}), installed)
        for name, each in parameters.items()
    }
    assert told == dict.fromkeys(parameters, ())


def test_a_typo_gives_the_nearest_flag(suite, engine):
    space = Space((Choice("max-num-seq", (1,)),), (Constraint("max_num_batched_tokns > 1"),))
    told = [str(error) for error in unknown_flags(suite.model_copy(update={"space": space}), engine.inspect(suite))]
    assert "has no flag 'max-num-seq' (did you mean 'max-num-seqs'?)" in told[0]
    assert "has no flag 'max_num_batched_tokns' (did you mean 'max-num-batched-tokens'?)" in told[1]
    assert len(told) == 2


def test_the_shipped_suite_is_one_that_this_vllm_understands(monkeypatch, model, engine):
    monkeypatch.setenv("AUTOTUNE_TINY_MODEL", str(model))
    shipped = load_suite(SUITE)
    installed = engine.inspect(shipped)
    assert installed.missing == ()
    assert unknown_flags(shipped, installed) == ()
    assert len(list(shipped.configurations())) >= 3


def test_a_server_answers_under_its_own_name_with_token_ids(server):
    body = {"model": server.model_name, "prompt": list(range(10, 17)), "max_tokens": 9, "ignore_eos": True}
    _, answer = post(f"{server.url}/v1/completions", body)
    usage = json.loads(answer)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (7, 9)
    assert server.model_name.startswith("real-")


def test_the_prefix_cache_can_be_emptied(server, engine):
    status, _ = post(server.url + engine.abilities.reset_prefix_cache, {})
    assert status == 200


def test_effective_settings_are_the_ones_that_were_asked_for(server, suite):
    assert server.effective == {**suite.fixed, "max-num-seqs": 8}


def test_a_build_for_cpus_takes_no_gpus(suite, engine):
    assert engine.gpus(suite, {"tensor-parallel-size": 2}) == 0


def test_an_impossible_configuration_is_infeasible(launch):
    with (
        pytest.raises(Infeasible) as raised,
        LocalDeployer().deploy(launch({"max-num-batched-tokens": 4, "max-num-seqs": 8})),
    ):
        pytest.fail("it started")
    assert raised.value.cause.kind is CauseKind.BAD_ARGUMENT
    assert "max_num_batched_tokens (4) must be greater than or equal to max_num_seqs (8)" in raised.value.reason


@pytest.mark.alone
def test_our_load_generator_agrees_with_vllms_own(server, model, tmp_path):
    """Mean TTFT and TPOT within 10 % or 3 ms: medians of interleaved runs, since a machine drifts.

    A pair during which somebody else took the processor says nothing about either client, and does not count.
    """
    pairs = []
    for attempt in range(ATTEMPTS):
        ours = our_means(server, seed=attempt)
        prompts = max(ours["requests"], 10 * CONCURRENCY)
        theirs = their_means(server, model, tmp_path / f"{attempt}.json", prompts=prompts, seed=attempt)
        if not ours["disturbed"] and not theirs["disturbed"]:
            pairs.append((ours, theirs))
        if len(pairs) == PAIRS:
            break
    else:
        pytest.skip(f"the machine is too busy: {len(pairs)} undisturbed pairs of {ATTEMPTS}, and {PAIRS} are needed")
    for metric in ("ttft_ms", "tpot_ms"):
        our_ms, their_ms = (statistics.median(run[metric] for run in runs) for runs in zip(*pairs, strict=True))
        print(f"{metric}: ours {our_ms:.2f}, vllm bench serve {their_ms:.2f}")
        assert abs(our_ms - their_ms) <= max(3.0, 0.1 * their_ms), (metric, pairs)


def our_means(server, *, seed):
    measurement = HttpLoad().run(
        Target(server.url, server.model_name, token_ids=True, ignore_eos=True),
        Level(CONCURRENCY),
        # Without a warm-up all streams start at once, as vLLM's own client does. Requests of equal length stay in that
        # step, and prompts that meet in one step of the server wait for each other: staggered ones have a lower TTFT.
        Workload(
            Fixed(PROMPT_TOKENS),
            Fixed(OUTPUT_TOKENS),
            duration_s=WINDOW_S,
            warmup_s=0.0,
            request_timeout_s=60.0,
            seed=seed,
        ),
        died=server.died,
        on_progress=lambda _progress: None,
    )
    assert measurement.errors == {}
    metrics = summarise(measurement.samples, measurement.window_s, gpus=0, request_limits={})
    return {
        "ttft_ms": 1e3 * metrics["ttft.mean"],
        "tpot_ms": 1e3 * metrics["tpot.mean"],
        "requests": round(metrics["requests"]),
        "disturbed": measurement.client.lag_p99_s > LAG_S,
    }


def their_means(server, model, result, *, prompts, seed):
    options = {
        "backend": "vllm",
        "base-url": server.url,
        "model": server.model_name,
        "tokenizer": model,
        "dataset-name": "random",
        "random-input-len": PROMPT_TOKENS,
        "random-output-len": OUTPUT_TOKENS,
        "max-concurrency": CONCURRENCY,
        "num-prompts": prompts,
        "num-warmups": WARMUP_REQUESTS,
        "seed": seed,
        "result-filename": result,
    }
    argv = [PYTHON, HERE / "bench_serve.py", "--ignore-eos", "--save-result", "--disable-tqdm"]
    argv += [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    with subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    ) as bench:
        lags = sorted(lag_until(lambda: bench.poll() is not None))
    assert bench.returncode == 0
    told = json.loads(result.read_text())
    assert told["completed"] == prompts
    disturbed = lags[int(0.99 * len(lags))] > LAG_S
    return {"ttft_ms": told["mean_ttft_ms"], "tpot_ms": told["mean_tpot_ms"], "disturbed": disturbed}


def lag_until(done, pause_s=0.01):
    """Say how late this process, which wants nothing but to wake up, is woken."""
    lags = []
    while not done():
        due = time.monotonic() + pause_s
        time.sleep(pause_s)
        lags.append(time.monotonic() - due)
    return lags
