"""``vllm bench serve`` as a load generator: runs it, and reads each request that it recorded.

It sends a number of requests, not for a time. At a rate the number follows from the duration; in a closed
loop a short run of the tool beforehand finds how many the server answers in that time. What it recorded:

* `sent_s` is when it began to send; at a rate `due_s` is when it made the request, which it does not
  hold against the time that it had planned. It notes no end of a failed request: that is its last token.
* The window lasts until the last answer, as in its own figures, so in a closed loop the last
  requests meet a server that is less and less busy.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_autotune.load.generator import never
from pytest_autotune.load.others import child
from pytest_autotune.load.others.documents import read_each
from pytest_autotune.load.others.installed import Package, command_of
from pytest_autotune.load.others.measuring import error_kind, health, measurement
from pytest_autotune.load.others.refusals import Abilities, bearer, other_headers, refuse
from pytest_autotune.load.others.served import tokenizer_of
from pytest_autotune.load.others.shapes import FixedShape, UniformShape, shape_of
from pytest_autotune.samples import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_autotune.load.generator import Progress, Target, Workload
    from pytest_autotune.load.others.shapes import Shape
    from pytest_autotune.samples import Level, Measurement

TOOL = "vllm-bench"
PACKAGE = Package(
    name=TOOL,
    package="vllm",
    install="vllm",
    run=(str(Path(__file__).with_name("_vllm_serve.py")),),
    script=("vllm", "bench", "serve"),
)
ABILITIES = Abilities(
    tool=TOOL,
    apis=frozenset(("completions", "chat")),
    levels=frozenset(("concurrency", "rate")),
    lengths=(FixedShape, UniformShape),
    burstiness=None,
    cap=True,
)
_PILOT = 2  # requests of each stream in the run that finds how many the server answers
_AFTER_S = 1e-6  # a window holds what ends before its end, and its end is that of the last answer
_SEEDS = 2**32  # numpy takes no larger one; the brief run has one far away from those of other batches
_BACKENDS = {"completions": ("openai", "/v1/completions"), "chat": ("openai-chat", "/v1/chat/completions")}


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the tool recorded: requests in seconds from the beginning of its load."""

    samples: tuple[Sample, ...]
    length_s: float
    begun_s: float  # seconds of `time.monotonic` of the machine that it ran on
    delivered: float  # of a rate

    @property
    def rate(self) -> float:
        """Successful requests per second."""
        return sum(sample.error is None for sample in self.samples) / self.length_s


class VllmBench:
    """Loads a server by ``vllm bench serve`` of an installed vLLM."""

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
        tokenizer = tokenizer_of(target, self._tokenizer, TOOL)
        batch = _Batch(self._command, target, level, workload, tokenizer, died, on_progress)
        total_s = workload.warmup_s + workload.duration_s
        if level.concurrency is None:
            requests = max(round(level.value * total_s), 1)
        else:
            pilot, outcome = batch.once(_PILOT * level.concurrency, seed=workload.seed + _SEEDS // 2)
            if not pilot.rate:  # nothing but failures: more of them tell nothing more
                return _measurement(level, pilot, outcome, warmup_s=0.0)
            requests = max(math.ceil(pilot.rate * total_s), level.concurrency)
        capped = workload.max_requests is not None and workload.max_requests < requests
        if workload.max_requests is not None:
            requests = min(requests, workload.max_requests)
        recorded, outcome = batch.once(requests, seed=workload.seed)
        early = f"{requests} requests have ended" if capped else ""
        return _measurement(level, recorded, outcome, warmup_s=workload.warmup_s, early=early)


@dataclass(frozen=True, slots=True)
class _Batch:
    """What the runs of one batch share."""

    command: tuple[str, ...]
    target: Target
    level: Level
    workload: Workload
    tokenizer: str
    died: Callable[[], object | None]
    on_progress: Callable[[Progress], None]

    def once(self, requests: int, *, seed: int) -> tuple[Recorded, child.Outcome]:
        """Run the tool once; raise `BenchmarkError` when it leaves no result."""
        target, workload = self.target, self.workload
        total_s = workload.warmup_s + workload.duration_s
        key = bearer(target)
        with child.fresh_directory(TOOL) as directory:
            result = directory / "result.json"
            argv = arguments(target, self.level, workload, tokenizer=self.tokenizer, requests=requests, seed=seed)
            command = child.Command(
                tool=TOOL,
                argv=(*self.command, *argv, "--result-dir", str(directory), "--result-filename", result.name),
                env=child.environment(target.url, **({"OPENAI_API_KEY": key} if key else {})),
                begins="Starting main benchmark run",
                ends="Serving Benchmark Result",
                finished=re.compile(rf"(\d+)/{requests} \["),
                secrets=(*target.headers.values(), *filter(None, (key,))),
            )
            plan = child.Plan(workload.warmup_s, total_s, child.START_S + 2 * total_s + workload.request_timeout_s)
            outcome = child.run_child(command, directory, plan, died=self.died, on_progress=self.on_progress)
            rate = None if self.level.concurrency else self.level.value
            found, skipped = read_each(
                [result] if result.exists() else [], lambda _path, document: read(document, rate=rate)
            )
            if not found:
                raise outcome.without_result(skipped)
        return found[0], outcome


def arguments(
    target: Target, level: Level, workload: Workload, *, tokenizer: str, requests: int, seed: int
) -> list[str]:
    """Return the arguments of ``vllm bench serve``."""
    backend, endpoint = _BACKENDS[target.api]
    options: dict[str, object] = {
        "backend": backend,
        "base-url": target.url,
        "endpoint": endpoint,
        "model": target.model,
        "tokenizer": tokenizer,
        "dataset-name": "random",
        "num-prompts": requests,
        "seed": seed % _SEEDS,
        "temperature": 0,
        # For random prompts it asks every server to go on after an end of text, whatever --ignore-eos says.
        "extra-body": json.dumps({"ignore_eos": target.ignore_eos}),
        **_lengths(target, workload),
    }
    if level.concurrency is not None:
        options["max-concurrency"] = level.concurrency
    else:
        burstiness = workload.arrivals.burstiness
        options |= {"request-rate": f"{level.value:.12g}", "burstiness": f"{burstiness:.12g}"}
        if workload.max_concurrency is not None:
            options["max-concurrency"] = workload.max_concurrency
    argv = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    argv += ["--save-result", "--save-detailed"]
    if not target.verify_tls:
        argv.append("--insecure")
    headers = [f"{name}={value}" for name, value in other_headers(target).items()]
    return [*argv, *(["--header", *headers] if headers else [])]


def read(document: dict[str, Any], *, rate: float | None) -> Recorded:
    """Read a result of ``--save-result --save-detailed``; `rate` is the one that was asked for.

    Raises `KeyError` for a result without the details of its requests.
    """
    sent = document["start_times"]
    count = len(sent)
    waited = document.get("queue_times") or [0.0] * count
    if not count:
        raise ValueError("no request in it")
    ends = [
        begun + max(latency, ttft + math.fsum(gaps))
        for begun, latency, ttft, gaps in zip(
            sent, document.get("latencies") or [0.0] * count, document["ttfts"], document["itls"], strict=True
        )
    ]
    made = [begun - late for begun, late in zip(sent, waited, strict=True)]
    length_s = float(document["duration"])
    begun_s = min(*made, max(ends) - length_s)
    length_s = max(length_s, max(ends) - begun_s + _AFTER_S)
    samples = tuple(
        Sample(
            sent_s=sent[n] - begun_s,
            first_s=sent[n] + ttft - begun_s if (ttft := document["ttfts"][n]) else None,
            end_s=ends[n] - begun_s,
            prompt_tokens=document["input_lens"][n],
            output_tokens=document["output_lens"][n],
            gaps_s=tuple(document["itls"][n]),
            error=error_kind(document["errors"][n]) if document["errors"][n] else None,
            due_s=None if rate is None else made[n] - begun_s,
        )
        for n in range(count)
    )
    delivered = 1.0 if rate is None else count / rate / max(max(made) - begun_s, 1e-9)
    return Recorded(samples, length_s, begun_s, min(delivered, 1.0))


def _measurement(
    level: Level, recorded: Recorded, outcome: child.Outcome, *, warmup_s: float, early: str = ""
) -> Measurement:
    share = outcome.cpu_share(recorded.begun_s, recorded.begun_s + recorded.length_s)
    waits = [sample.sent_s - sample.due_s for sample in recorded.samples if sample.due_s is not None]
    return measurement(
        level,
        recorded.samples,
        length_s=recorded.length_s,
        warmup_s=warmup_s,
        client=health(TOOL, share, send_delays_s=waits),
        delivered=recorded.delivered,
        stopped=outcome.trouble or early,
    )


def _lengths(target: Target, workload: Workload) -> dict[str, object]:
    prompt = shape_of(workload.prompt_tokens, less=target.template_tokens)
    output = shape_of(workload.output_tokens)
    (prompt_tokens, prompt_ratio), (output_tokens, output_ratio) = _around(prompt), _around(output)
    options: dict[str, object] = {"random-input-len": prompt_tokens, "random-output-len": output_tokens}
    if prompt_ratio or output_ratio:
        options["random-range-ratio"] = json.dumps({"input": prompt_ratio, "output": output_ratio})
    return options


def _around(shape: Shape | None) -> tuple[int, float]:
    """Return a length and the share of it that lengths lie around it at most."""
    if isinstance(shape, FixedShape):
        return shape.tokens, 0.0
    assert isinstance(shape, UniformShape)
    middle = (shape.low + shape.high) // 2
    return middle, max((shape.high - middle) / middle - 1e-9, 0.0)  # it rounds up, and so would a rounding error
