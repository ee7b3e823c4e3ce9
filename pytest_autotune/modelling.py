"""A prior from aiconfigurator's models of GPUs, where that is installed; it needs neither a GPU nor a network."""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import subprocess
import sys
from importlib import resources
from typing import TYPE_CHECKING, Any

from pytest_autotune.engines.flags import flag_name
from pytest_autotune.engines.installation import run_here
from pytest_autotune.engines.neutral import dialect_of, told
from pytest_autotune.engines.requirements import files_of_model, gpus_here
from pytest_autotune.errors import MissingRequirement
from pytest_autotune.load.lengths import mean_length
from pytest_autotune.parallelism import NAME as PARALLELISM
from pytest_autotune.parallelism import Parallelism
from pytest_autotune.seeding import fits
from pytest_autotune.space import Choice, Float, takes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_autotune.slo import Limit
    from pytest_autotune.space import Configuration, Parameter, Value
    from pytest_autotune.suite import Suite

log = logging.getLogger(__name__)

ANSWER_S = 180.0  # it takes ten seconds on a fast core
NO_LIMIT_MS = 1e6
LAYOUTS = 16  # that are asked for: more than there are of one machine
_SYSTEMS = (  # names of GPUs, as the driver tells them, and of the systems that are modelled
    (r"\bGB300\b", "gb300"),
    (r"\bGB200\b", "gb200"),
    (r"\bB300\b", "b300_sxm"),
    (r"\bB200\b", "b200_sxm"),
    (r"\bH200\b(?! NVL)", "h200_sxm"),
    (r"\bH100 80GB HBM3\b", "h100_sxm"),
    (r"\bH100 PCIe\b", "h100_pcie"),
    (r"\bA100-SXM4-80GB\b", "a100_sxm"),
    (r"\bA100 80GB PCIe\b", "a100_pcie"),
    (r"\bL40S\b", "l40s"),
    (r"\bL4\b", "l4"),
    (r"\bA30\b", "a30"),
)
_FLAGS = {"tp": "tensor-parallel-size", "pp": "pipeline-parallel-size", "dp": "data-parallel-size"}


def modelled(suite: Suite) -> tuple[Configuration, ...]:
    """Return what aiconfigurator expects most of among what the suite can try, best first.

    Nothing where it is not installed, does not model the engine, model or GPUs, or fails: a log line says
    why, and the search begins without it.
    """
    if suite.engine != "vllm" or suite.deploy != "local" or importlib.util.find_spec("aiconfigurator") is None:
        return ()
    question = question_of(suite)
    return () if question is None else expressed(_ask(question), suite)


def question_of(suite: Suite) -> dict[str, Any] | None:
    """Return the arguments of aiconfigurator's ``cli_default``; None for GPUs that it does not model."""
    try:
        gpus, model = gpus_here(suite), files_of_model(suite)
    except MissingRequirement:
        return None  # which preflight tells
    names = {gpu.name for gpu in gpus}
    systems = {next((system for name, system in _SYSTEMS if re.search(name, gpu)), None) for gpu in names}
    system = systems.pop() if len(systems) == 1 else None
    if system is None:
        log.info("%s has no prior: aiconfigurator models no system of %s", suite.name, ", ".join(names) or "no GPUs")
        return None
    prompt, output = suite.load.lengths
    question = {
        "model_path": model,
        "total_gpus": len(gpus),
        "system": system,
        "backend": "vllm",
        "isl": round(mean_length(prompt)),
        "osl": max(2, round(mean_length(output))),
        "ttft": _tightest_ms(suite.slo, "ttft"),
        "tpot": _tightest_ms(suite.slo, "tpot", "itl"),
        "top_n": LAYOUTS,
    }
    latency_ms = _tightest_ms(suite.slo, "e2e")
    return question if latency_ms == NO_LIMIT_MS else {**question, "request_latency": latency_ms}


def expressed(rows: Iterable[Mapping[str, int]], suite: Suite) -> tuple[Configuration, ...]:
    """Return the layouts that the suite can try, with the batch as the nearest ``max-num-seqs`` that holds it.

    A degree that is not tuned must be what the suite has fixed, or 1.
    """
    own = {flag_name(parameter.name): parameter for parameter in suite.space.parameters}
    fixed, whole = told(suite, {}, dialect_of(suite)), own.get(PARALLELISM)
    found: list[Configuration] = []
    for row in rows:
        configuration: dict[str, Value] = {}
        for short, flag in _FLAGS.items():
            if flag in own:
                configuration[own[flag].name] = row[short]
        if whole is not None:
            configuration[whole.name] = str(Parallelism(**{short: row[short] for short in _FLAGS}))
        untuned = [short for short, flag in _FLAGS.items() if flag not in own and whole is None]
        if any(row[short] != fixed.get(_FLAGS[short], 1) for short in untuned):
            continue
        if (seqs := own.get("max-num-seqs", own.get("max-sequences"))) is not None and (
            number := _holding(seqs, row["bs"])
        ) is not None:
            configuration[seqs.name] = number
        if configuration and fits(suite.space, configuration, suite.fixed):
            found.append(configuration)
    return tuple(found)


def _holding(parameter: Parameter, number: int) -> Value | None:
    """Return the smallest value of at least `number`, else the largest."""
    if isinstance(parameter, Float):
        return None
    if isinstance(parameter, Choice):
        values = [each for each in parameter.values if isinstance(each, int) and not isinstance(each, bool)]
        return min((each for each in values if each >= number), default=max(values, default=None))
    step = parameter.step or 1
    last = parameter.low + (parameter.high - parameter.low) // step * step
    steps = -((parameter.low - number) // step) if number > parameter.low else 0
    value = min(parameter.low + steps * step, last)
    assert takes(parameter, value, grid=False)
    return value


def _tightest_ms(limits: Iterable[Limit], *families: str) -> float:
    bounds = (limit.bound * 1000 for limit in limits if limit.metric.partition(".")[0] in families)
    return min(bounds, default=NO_LIMIT_MS)


def _ask(question: Mapping[str, Any]) -> list[dict[str, int]]:
    source = resources.files("pytest_autotune.engines").joinpath("aiconfigurator_probe.py").read_text(encoding="utf-8")
    try:
        done = run_here([sys.executable, "-c", source, json.dumps(question)], {}, ANSWER_S)
    except subprocess.TimeoutExpired:
        log.info("no prior: aiconfigurator did not answer within %g s", ANSWER_S)
        return []
    if done.returncode != 0:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        log.info("no prior: aiconfigurator failed: %s", last)
        return []
    rows: list[dict[str, int]] = json.loads(done.stdout.splitlines()[-1])
    return rows
