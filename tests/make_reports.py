"""Whole reports for the tests of terminal, export and JUnit, judged and selected by the real parts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pytest_autotune.gate import judge_gate
from pytest_autotune.reporting.report import SuiteReport, TierReport
from pytest_autotune.selection import judge_trial, select
from pytest_autotune.slo import Limit, Status, Tier
from pytest_autotune.space import Space
from pytest_autotune.suite import Objective, Suite
from pytest_autotune.tiers import TierOutcome
from tests.make_records import START, batch, died, trial

ARGV = (
    "/usr/bin/vllm", "serve", "meta/Llama 3", "--host", "127.0.0.1", "--port", "41234", "--served-model-name", "llama-x7f3",
    "--max-model-len", "41234", "--api-key", "sk-0123456789abcdefghij", "--speculative-config", '{"k": [1, 2], "s": "it\'s"}',
)  # fmt: skip


@dataclass(frozen=True)
class At:
    host: str = "127.0.0.1"
    port: int = 41234
    model_name: str = "llama-x7f3"


def suite(**fields) -> Suite:
    fields = {
        "name": "chat",
        "engine": "vllm",
        "model": "meta/Llama 3",
        "slo": (Limit("ttft.p90", 0.5), Limit("output_throughput", 10.0, floor=True)),
        "objective": Objective(metric="output_throughput"),
        **fields,
    }
    return Suite(space=Space(()), **fields)


def good(concurrency, throughput, ttft=0.394):
    return batch(
        concurrency, ttft__p90=ttft, tpot__mean=0.0123, e2e__p90=4.5, output_throughput=throughput, error_rate=0.0
    )


DEFAULTS = trial(1, good(1, 40.0), good(8, 180.5), good(16, 250.0, ttft=0.7), configuration={}, slot="defaults")
BEST = trial(
    2, good(1, 45.0, ttft=0.1), good(8, 231.7), good(16, 264.48, ttft=0.612), died(32),
    configuration={"max-num-seqs": 64, "tp": 2}, argv=ARGV, gpus=2, slot="max-num-seqs:64-tp:2",
)  # fmt: skip
VIOLATING = trial(3, good(1, 900.0, ttft=0.61), good(8, 950.0, ttft=0.8), configuration={"max-num-seqs": 8, "tp": 1})
REFUSED = trial(
    4,
    status=Status.INFEASIBLE,
    reason="out of memory: 3 GiB\nshort",
    cause="out of memory",
    configuration={"max-num-seqs": 999, "tp": 1},
)
INTERRUPTED = trial(5, good(1, 999.0), state="interrupted", configuration={"max-num-seqs": 32, "tp": 1})


def selected(trials, limits, of: Suite):
    return select(judge_trial(t, limits=limits, objective=of.objective, steepness=of.steepness) for t in trials)


def report(*trials, of: Suite | None = None, tiers=None, **fields) -> SuiteReport:
    of = of or suite()
    selection = selected(trials, of.slo, of)
    outcomes = (TierOutcome(Tier(name, limits), selected(trials, limits, of)) for name, limits in (tiers or {}).items())
    return SuiteReport(
        **{
            "suite": of,
            "path": "suites/chat.yaml",
            "engine_version": "0.11.0",
            "selection": selection,
            "gate": judge_gate(selection),
            "run_id": "20260102-030405",
            "started_at": START,
            "finished_at": START + timedelta(minutes=10),
            "elapsed_s": 600.0,
            "deployments": len(trials),
            "address": At(),
            "tiers": tuple(TierReport(outcome, At()) for outcome in outcomes),
            "environment": {
                "python": "3.11.9",
                "store": "postgresql://me:hunter2@db/x",
                "load": float("inf"),
                "path": Path("/x"),
            },
            "gpu": "2 x NVIDIA H100",
            "commit": "0123abc",
            **fields,
        }
    )
