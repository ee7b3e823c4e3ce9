"""The quickstart suite holds every outcome, with margins that a busy machine does not eat up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_autotune.engines.sim.arguments import Settings
from pytest_autotune.engines.sim.hardware import DeviceMemoryError
from pytest_autotune.engines.sim.simulate import simulate
from pytest_autotune.statistics import summarise
from pytest_autotune.suite_file import load_suite

MARGIN = 0.15  # of a limit, between what decides a verdict and the limit


@pytest.fixture(scope="module")
def suite():
    return load_suite(Path(__file__).parent.parent / "suites" / "quickstart.yaml")


def outcome(suite, configuration, *, seed, client_s):
    """Return what becomes of each load, the best compliant throughput, and the seconds that the loads took."""
    settings = {name.replace("-", "_"): value for name, value in {**suite.fixed, **configuration}.items()}
    server = replace(Settings(model=suite.model, seed=seed, noise=0.03), **settings)
    loads, best, took_s = [], 0.0, 0.0
    for concurrency in suite.load.concurrency:
        try:
            result = simulate(
                server,
                concurrency=concurrency,
                prompt_tokens=suite.load.prompt_tokens.at(0.5),
                output_tokens=suite.load.output_tokens.at(0.5),
                duration_s=suite.load.duration_s,
                warmup_s=suite.load.warmup_s,
                client_s=client_s,
            )
        except DeviceMemoryError:
            return ("infeasible",), 0.0, 0.0
        if result.died:
            loads.append("died")
            break
        took_s += suite.load.warmup_s + max(sample.end_s for sample in result.samples)
        metrics = summarise(result.samples, result.window_s, gpus=1, request_limits={})
        worst = max(metrics[limit.metric] / limit.bound - 1 for limit in suite.slo)
        assert abs(worst) > MARGIN, (
            configuration,
            concurrency,
            {limit.metric: metrics[limit.metric] for limit in suite.slo},
        )
        loads.append("compliant" if worst <= 0 else "violating")
        if worst <= 0:
            best = max(best, metrics[suite.objective.metric])
    return tuple(loads), best, took_s


@pytest.mark.parametrize(("seed", "client_s"), [(0, 0.0005), (1, 0.001), (2, 0.004), (3, 0.008)])
def test_every_outcome_occurs_and_the_best_is_clear(suite, seed, client_s):
    configurations = [{}, *suite.space.grid(suite.fixed)]
    tried = {
        (configuration.get("gpu-memory-utilization"), configuration.get("max-num-batched-tokens")): outcome(
            suite, configuration, seed=seed, client_s=client_s
        )
        for configuration in configurations
    }
    assert {key: loads for key, (loads, _, _) in tried.items()} == {
        (None, None): ("compliant", "compliant", "violating"),
        (0.70, 64): ("infeasible",),
        (0.70, 512): ("infeasible",),
        (0.70, 8192): ("infeasible",),
        (0.90, 64): ("violating", "violating", "violating"),
        (0.90, 512): ("compliant", "compliant", "compliant"),
        (0.90, 8192): ("compliant", "compliant", "violating"),
        (0.99, 64): ("violating", "violating", "violating"),
        (0.99, 512): ("compliant", "compliant", "died"),
        (0.99, 8192): ("compliant", "compliant", "died"),
    }
    ranked = sorted(((best, key) for key, (_, best, _) in tried.items()), reverse=True, key=lambda entry: entry[0])
    assert ranked[0][1] == (0.90, 512)
    assert ranked[0][0] > 1.2 * ranked[1][0]
    deployments_s = 1.0 * len(configurations)
    assert deployments_s + sum(took_s for _, _, took_s in tried.values()) < 75
