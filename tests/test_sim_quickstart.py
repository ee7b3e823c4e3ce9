"""The quickstart suite holds every outcome, with margins that a busy machine does not eat up."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pytest_autotune.engines.sim.arguments import Settings
from pytest_autotune.engines.sim.hardware import DeviceMemoryError
from pytest_autotune.engines.sim.simulate import simulate

SUITE = YAML(typ="safe").load(Path(__file__).parent.parent / "suites" / "quickstart.yaml")
MARGIN = 0.10  # of a limit, between any measured value and the verdict that it must not flip
LOADS = SUITE["load"]["concurrency"]


def seconds(text):
    return float(text[:-2]) / 1000 if text.endswith("ms") else float(text[:-1])


def configurations():
    yield {}
    names = list(SUITE["parameters"])
    for values in itertools.product(*SUITE["parameters"].values()):
        yield dict(zip(names, values, strict=True))


def p90(values):
    return sorted(values)[math.ceil(0.9 * len(values)) - 1]


def outcome(configuration, *, seed, client_s):
    """Return (what becomes of each load, best compliant throughput), with every value's distance from its limit checked."""
    settings = {name.replace("-", "_"): value for name, value in {**SUITE["fixed"], **configuration}.items()}
    server = replace(Settings(model=SUITE["model"], seed=seed, noise=0.02), **settings)
    load, slo = SUITE["load"], SUITE["slo"]
    loads, best = [], 0.0
    try:
        for concurrency in LOADS:
            result = simulate(
                server,
                concurrency=concurrency,
                prompt_tokens=load["prompt_tokens"],
                output_tokens=load["output_tokens"],
                duration_s=seconds(load["duration"]),
                warmup_s=seconds(load["warmup"]),
                client_s=client_s,
            )
            if result.died:
                loads.append("died")
                break
            actual = {
                "ttft.p90": p90([sample.ttft_s for sample in result.samples]),
                "tpot.mean": sum(sample.tpot_s for sample in result.samples) / len(result.samples),
            }
            excess = {name: value / seconds(slo[name]) - 1 for name, value in actual.items()}
            compliant = max(excess.values()) <= 0
            worst = max(excess.values())
            assert abs(worst) > MARGIN, (configuration, concurrency, actual)
            loads.append("compliant" if compliant else "violating")
            if compliant:
                best = max(best, sum(sample.output_tokens for sample in result.samples) / result.window_s)
    except DeviceMemoryError:
        return ("infeasible",), 0.0
    return tuple(loads), best


@pytest.mark.parametrize(("seed", "client_s"), [(0, 0.0005), (1, 0.001), (2, 0.004), (3, 0.008)])
def test_every_outcome_occurs_and_the_best_is_clear(seed, client_s):
    results = {tuple(sorted(c.items())): outcome(c, seed=seed, client_s=client_s) for c in configurations()}
    tried = {
        (dict(key).get("gpu-memory-utilization"), dict(key).get("max-num-batched-tokens")): value
        for key, value in results.items()
    }
    assert {key: loads for key, (loads, _) in tried.items()} == {
        (None, None): ("compliant", "compliant", "violating"),
        (0.70, 64): ("infeasible",),
        (0.70, 512): ("infeasible",),
        (0.70, 8192): ("infeasible",),
        (0.90, 64): ("violating", "violating", "violating"),
        (0.90, 512): ("compliant", "compliant", "compliant"),
        (0.90, 8192): ("compliant", "violating", "violating"),
        (0.99, 64): ("violating", "violating", "violating"),
        (0.99, 512): ("compliant", "compliant", "died"),
        (0.99, 8192): ("compliant", "violating", "died"),
    }
    ranked = sorted(((best, key) for key, (_, best) in tried.items()), key=lambda entry: -entry[0])
    assert ranked[0][1] == (0.90, 512)
    assert ranked[0][0] > 1.3 * ranked[1][0]


def test_a_run_fits_into_a_minute_and_a_quarter():
    per_load = seconds(SUITE["load"]["warmup"]) + seconds(SUITE["load"]["duration"])
    trials = sum(1 for _ in configurations())
    infeasible = 3
    assert (trials - infeasible) * (len(LOADS) * per_load + 1.0) + infeasible * 1.0 < 75
