"""genai-bench as a load generator: runs it for one scenario at one level, and reads what it recorded.

What it does differently from what is asked (genai-bench 0.0.5):

* Its time limit counts whole minutes; so must `load.warmup` and `load.duration` together.
* It looks once a second whether `load.max_requests` have ended, so there are some more of them.
* It draws its prompts from a text of its own without a seed, so no two runs send the same.
* A request has no time limit; those under way at the end of the run are given up and are in no figure.
* What it records of a request is told in `genai_results`. The warm-up is cut off by those estimated times.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from pytest_autotune.errors import BenchmarkError
from pytest_autotune.load.generator import never
from pytest_autotune.load.others import child
from pytest_autotune.load.others.documents import read_each, skipped_text
from pytest_autotune.load.others.genai_results import TOOL, laid_out, requests
from pytest_autotune.load.others.installed import Package, command_of
from pytest_autotune.load.others.measuring import health, measurement
from pytest_autotune.load.others.refusals import REMEDY, Abilities, bearer, refuse
from pytest_autotune.load.others.served import tokenizer_of
from pytest_autotune.load.others.shapes import FixedShape, NormalShape, UniformShape, shape_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any

    from pytest_autotune.load.generator import Progress, Target, Workload
    from pytest_autotune.load.others.shapes import Shape
    from pytest_autotune.samples import Level, Measurement, Sample

PACKAGE = Package(
    name=TOOL,
    package="genai_bench",
    install="genai-bench",
    run=("-m", "genai_bench.cli.cli", "benchmark"),
    script=("genai-bench", "benchmark"),
)
ABILITIES = Abilities(
    tool=TOOL,
    apis=frozenset(("chat", "embeddings", "rerank")),
    levels=frozenset(("concurrency",)),
    lengths=(FixedShape, UniformShape, NormalShape),
    headers=False,
    unverified_tls=False,
)
_TASKS = {"chat": "text-to-text", "embeddings": "text-to-embeddings", "rerank": "text-to-rerank"}
_QUERY_TOKENS = 32  # of a rerank request
_NO_LIMIT = 10**9  # requests of a run
_FOLDER = "experiment"


class GenaiBench:
    """Loads a server by an installed genai-bench."""

    def __init__(self, *, python: str | None = None, tokenizer: str | None = None) -> None:
        self._command = command_of(PACKAGE, python)
        self._tokenizer = tokenizer

    def run(
        self,
        target: Target,
        level: Level,
        workload: Workload,
        *,
        died: Callable[[], object | None],
        on_progress: Callable[[Progress], None],
        enough: Callable[[Sequence[Sample], float], str] = never,  # noqa: ARG002 - it tells nothing before its end
    ) -> Measurement:
        """Load `target` at `level`; nothing is known of a request before the tool has ended."""
        refuse(ABILITIES, target, level, workload)
        minutes = whole_minutes(workload)
        asked = scenario(target, level, workload)
        tokenizer = tokenizer_of(target, self._tokenizer, TOOL)
        with child.fresh_directory(TOOL) as directory:
            argv = arguments(target, level, workload, tokenizer=tokenizer, minutes=minutes, traffic=asked)
            key = bearer(target)
            command = child.Command(
                tool=TOOL,
                argv=(
                    *self._command,
                    *argv,
                    *("--experiment-base-dir", str(directory), "--experiment-folder-name", _FOLDER),
                    *("--log-dir", str(directory)),
                ),
                # The key it uses: that of its arguments would be seen by every user of this machine.
                env=child.environment(target.url, ENABLE_UI="false", MODEL_API_KEY=key or "none"),
                begins="Starting benchmark with concurrency",
                ends="has finished after",
                secrets=(*target.headers.values(), *filter(None, (key,))),
            )
            plan = child.Plan(
                workload.warmup_s, 60.0 * minutes, child.START_S + 60 * minutes + workload.request_timeout_s
            )
            outcome = child.run_child(command, directory, plan, died=died, on_progress=on_progress)
            # Where every request failed it leaves a file for debugging instead of a result.
            paths = sorted((directory / _FOLDER).glob("*_time_*s.json")) or sorted(
                (directory / _FOLDER).glob("debug_for_run_*.json")
            )
            found, skipped = read_each(paths, _read)
            if not found:
                raise outcome.without_result(skipped)
        samples, told_s = found[0]
        begun_s = outcome.begun_s or outcome.started_s
        length_s = told_s or outcome.ended_s - begun_s
        return measurement(
            level,
            laid_out(samples, level.concurrency or 1, length_s),
            length_s=length_s,
            warmup_s=workload.warmup_s,
            client=health(TOOL, outcome.cpu_share(begun_s, outcome.ended_s)),
            stopped=_early(samples, workload, minutes, length_s, outcome.trouble or skipped_text(skipped)),
        )


def whole_minutes(workload: Workload) -> int:
    """Return warm-up and duration in minutes, which is what genai-bench counts in."""
    total_s = workload.warmup_s + workload.duration_s
    minutes = round(total_s / 60)
    if minutes < 1 or not math.isclose(total_s, 60 * minutes):
        raise BenchmarkError(
            f"{TOOL} counts its time in whole minutes, and load.warmup and load.duration make {total_s:g} s; "
            f"make it {60 * max(math.ceil(total_s / 60), 1)} s (load.max_requests ends it early), or {REMEDY}"
        )
    return minutes


def scenario(target: Target, level: Level, workload: Workload) -> str:
    """Return the scenario that draws such lengths, as genai-bench spells it."""
    prompt = shape_of(workload.prompt_tokens, less=target.template_tokens)
    if target.api in ("embeddings", "rerank"):
        if level.concurrency != 1:
            raise BenchmarkError(f"{TOOL} loads the {target.api} API with one request at a time, not {level}; {REMEDY}")
        if not isinstance(prompt, FixedShape):
            raise BenchmarkError(f"{TOOL} sends documents of one length to the {target.api} API; {REMEDY}")
        return f"E({prompt.tokens})" if target.api == "embeddings" else f"R({prompt.tokens},{_QUERY_TOKENS})"
    output = shape_of(workload.output_tokens)
    kinds = {type(prompt), type(output)} - {FixedShape}
    if not kinds:
        assert isinstance(prompt, FixedShape)
        assert isinstance(output, FixedShape)
        return f"D({prompt.tokens},{output.tokens})"
    if kinds == {NormalShape}:
        return f"N{_normal(prompt)}/{_normal(output)}"
    if kinds == {UniformShape}:
        return f"U{_uniform(prompt)}/{_uniform(output)}"
    raise BenchmarkError(f"{TOOL} cannot mix a uniform and a normal distribution; {REMEDY}")


def arguments(
    target: Target, level: Level, workload: Workload, *, tokenizer: str, minutes: int, traffic: str
) -> list[str]:
    """Return the arguments of ``genai-bench benchmark``."""
    # Only for these two does it send `ignore_eos`, and knows reranking.
    engine = target.ignore_eos or target.api == "rerank"
    options: dict[str, object] = {
        "api-backend": "vllm" if engine else "openai",
        "api-base": target.url,
        "api-key": "none",
        "api-model-name": target.model,
        "model-tokenizer": tokenizer,
        "task": _TASKS[target.api],
        "traffic-scenario": traffic,
        "max-time-per-run": minutes,
        "max-requests-per-run": workload.max_requests or _NO_LIMIT,
    }
    if target.api == "chat":
        options["num-concurrency"] = level.concurrency
    else:
        options["batch-size"] = workload.documents if target.api == "rerank" else 1
    if target.api == "chat" and engine:
        options["additional-request-params"] = json.dumps({"ignore_eos": True})
    return [str(part) for name, value in options.items() for part in (f"--{name}", value)]


def _read(_path: Path, document: dict[str, Any]) -> tuple[list[Sample], float]:
    return requests(document), float(document["aggregated_metrics"]["run_duration"])


def _early(samples: list[Sample], workload: Workload, minutes: int, length_s: float, trouble: str) -> str:
    """Say why a window closed before its time."""
    if trouble or length_s >= 60 * minutes:
        return trouble
    if workload.max_requests is not None and len(samples) >= workload.max_requests:
        return f"{workload.max_requests} requests have ended"
    return f"{TOOL} ended its load after {length_s:.3g} s"


def _normal(shape: Shape | None) -> str:
    if isinstance(shape, NormalShape):
        return f"({shape.mean},{shape.sd})"
    assert isinstance(shape, FixedShape)
    return f"({shape.tokens},0)"


def _uniform(shape: Shape | None) -> str:
    """Return the bounds as genai-bench draws from them: it cuts off fractions, so the upper one is never reached."""
    if isinstance(shape, UniformShape):
        return f"({shape.low},{shape.high + 1})"
    assert isinstance(shape, FixedShape)
    return f"({shape.tokens},{shape.tokens + 1})"
