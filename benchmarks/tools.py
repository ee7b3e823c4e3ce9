"""Peers that are whole tools: genai-bench and GuideLLM, each by its own command line and result file."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from benchmarks.clients import PEERS_PYTHON, ROOT, Reading

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.clients import Load


TOOLS = ("genai-bench", "guidellm")


class GenaiBench:
    """genai-bench: chat completions, and a run that it may make longer than it was asked to."""

    name = "genai-bench"
    open_loop = False
    most_streams = 512

    def __init__(self, tokenizer: Path) -> None:
        self._tokenizer = tokenizer

    def missing(self) -> str:
        """Return what is not there."""
        return "" if which("genai-bench") else _remedy("genai-bench")

    def command(self, load: Load, directory: Path) -> Sequence[str]:
        """Return the command; its time limit is in whole minutes, so requests end the run."""
        options: dict[str, object] = {
            "api-backend": "openai",
            "api-base": load.url,
            "api-key": "none",
            "api-model-name": load.model,
            "model-tokenizer": self._tokenizer,
            "task": "text-to-text",
            "max-time-per-run": 1,
            "max-requests-per-run": load.requests,
            "num-concurrency": load.streams,
            "traffic-scenario": f"D({load.prompt_tokens},{load.output_tokens})",
            "additional-request-params": '{"ignore_eos": true}',
            "experiment-base-dir": directory,
            "experiment-folder-name": "experiment",
        }
        return [which("genai-bench"), "benchmark", *_flags(options)]

    def read(self, output: str, directory: Path) -> Reading:  # noqa: ARG002
        """Return its figures."""
        (result,) = (directory / "experiment").glob("D*_num_concurrency_*.json")
        told = json.loads(result.read_text())["aggregated_metrics"]
        return Reading(
            requests=told["num_completed_requests"],
            failed=told["num_error_requests"],
            ttft_p50_s=told["stats"]["ttft"]["p50"],
            ttft_p99_s=told["stats"]["ttft"]["p99"],
            tpot_mean_s=told["stats"]["tpot"]["mean"],
            tokens_per_s=told["mean_output_throughput_tokens_per_s"],
        )


class GuideLlm:
    """GuideLLM: completions by several processes of its own."""

    name = "GuideLLM"
    open_loop = True
    most_streams = 512

    def __init__(self, tokenizer: Path) -> None:
        self._tokenizer = tokenizer

    def missing(self) -> str:
        """Return what is not there."""
        return "" if which("guidellm") else _remedy("guidellm")

    def command(self, load: Load, directory: Path) -> Sequence[str]:
        """Return the command."""
        profile = f"concurrent,streams={load.streams}" if load.rate is None else f"poisson,rate={load.rate}"
        options: dict[str, object] = {
            "backend": f"kind=openai_http,target={load.url},model={load.model},request_format=/v1/completions",
            "profile": f"kind={profile}",
            "constraint": f"kind=max_requests,count={load.requests}",
            "data": f"kind=synthetic_text,prompt_tokens={load.prompt_tokens},output_tokens={load.output_tokens}",
            "tokenizer": f"kind=hf_auto,model={self._tokenizer}",
            "output": f"kind=json,path={directory / 'result.json'}",
        }
        return [which("guidellm"), "run", *_flags(options), "--disable-console"]

    def read(self, output: str, directory: Path) -> Reading:  # noqa: ARG002
        """Return its figures."""
        (told,) = json.loads((directory / "result.json").read_text())["benchmarks"]
        metrics = told["metrics"]
        ttft = metrics["time_to_first_token_ms"]["successful"]
        return Reading(
            requests=metrics["request_totals"]["successful"],
            failed=metrics["request_totals"]["errored"],
            ttft_p50_s=ttft["median"] / 1000,
            ttft_p99_s=ttft["percentiles"]["p99"] / 1000,
            # What it calls time per output token has the first one in it; this is TPOT as everyone else has it.
            tpot_mean_s=metrics["inter_token_latency_ms"]["successful"]["mean"] / 1000,
            tokens_per_s=metrics["output_tokens_per_second"]["successful"]["mean"],
        )


def which(name: str) -> str:
    """Return where a tool is: beside the other peers, in an environment of its own, or on the path; else nothing."""
    for python in (PEERS_PYTHON, ROOT / f".venv-{name}" / "bin" / "python"):
        if (found := python.parent / name).exists():
            return str(found)
    return shutil.which(name) or ""


def _remedy(name: str) -> str:
    return f"{name} is not installed in .venv-{name} or beside the other peers (see benchmarks/README.md)"


def _flags(options: dict[str, object]) -> list[str]:
    return [str(part) for name, value in options.items() for part in (f"--{name}", value)]
