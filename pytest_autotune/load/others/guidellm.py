"""GuideLLM as a load generator: runs it from a scenario file, and reads each request that it recorded.

What it recorded, and what it did not (GuideLLM 0.8):

* `sent_s` is when its worker began the request, `due_s` when its schedule wanted it at a rate. It keeps
  no time of single tokens but the first and the last, so there are no inter-token latencies.
* Requests that were under way when its time was over are cut off and are in no figure, so long answers are
  missing at the end of the window.
* `load.request_timeout` is its limit between two reads, not of a whole request.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_autotune.errors import BenchmarkError
from pytest_autotune.load.generator import never
from pytest_autotune.load.others import child
from pytest_autotune.load.others.documents import read_each
from pytest_autotune.load.others.installed import Package, command_of
from pytest_autotune.load.others.measuring import error_kind, health, measurement
from pytest_autotune.load.others.refusals import REMEDY, Abilities, bearer, other_headers, refuse
from pytest_autotune.load.others.served import tokenizer_of
from pytest_autotune.load.others.shapes import FixedShape, NormalShape, UniformShape, shape_of
from pytest_autotune.samples import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pytest_autotune.load.generator import Progress, Target, Workload
    from pytest_autotune.load.others.shapes import Shape
    from pytest_autotune.samples import Level, Measurement

TOOL = "guidellm"
PACKAGE = Package(
    name=TOOL, package="guidellm", install="guidellm", run=("-m", "guidellm", "run"), script=("guidellm", "run")
)
ABILITIES = Abilities(
    tool=TOOL,
    apis=frozenset(("completions", "chat")),
    levels=frozenset(("concurrency", "rate")),
    lengths=(FixedShape, UniformShape, NormalShape),
    burstiness=frozenset((1.0, math.inf)),
    error_limits=True,
    cap=True,
)
_STRAY = 3.0  # standard deviations that a number of arrivals may be off
_STRAY_LEAST = 0.1
_LEAST_FOR_SHARE = 20  # requests before a share of errors ends a batch, as in `Workload`


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the tool recorded: requests in seconds from the beginning of its load."""

    samples: tuple[Sample, ...]
    length_s: float
    begun_s: float  # seconds since the epoch
    workers: int
    delivered: float  # of a rate


class GuideLlm:
    """Loads a server by an installed GuideLLM."""

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
        total_s = workload.warmup_s + workload.duration_s
        rate = None if level.concurrency else level.value
        with child.fresh_directory(TOOL) as directory:
            asked, result = directory / "scenario.json", directory / "result.json"
            asked.write_text(json.dumps(scenario(target, level, workload, tokenizer=tokenizer, result=result)))
            key = bearer(target)
            command = child.Command(
                tool=TOOL,
                argv=(*self._command, "--config", str(asked), "--disable-console-interactive"),
                env=child.environment(target.url),
                begins="starting benchmarks",
                ends="Benchmarking complete",
                secrets=(*target.headers.values(), *filter(None, (key,))),
            )
            plan = child.Plan(workload.warmup_s, total_s, child.START_S + total_s + workload.request_timeout_s)
            outcome = child.run_child(command, directory, plan, died=died, on_progress=on_progress)
            found, skipped = read_each(
                [result] if result.exists() else [], lambda _path, document: read(document, rate=rate)
            )
            if not found:
                raise outcome.without_result(skipped)
        recorded = found[0]
        begun_s = recorded.begun_s - time.time() + time.monotonic()
        share = outcome.cpu_share(begun_s, begun_s + recorded.length_s)
        late = [sample.sent_s - sample.due_s for sample in recorded.samples if sample.due_s is not None]
        return measurement(
            level,
            recorded.samples,
            length_s=recorded.length_s,
            warmup_s=workload.warmup_s,
            client=health(TOOL, share, send_delays_s=late, workers=recorded.workers),
            delivered=recorded.delivered,
            stopped=outcome.trouble or _early(recorded, workload),
        )


def scenario(target: Target, level: Level, workload: Workload, *, tokenizer: str, result: Path) -> dict[str, Any]:
    """Return the scenario file of one batch."""
    key = bearer(target)
    prompt = shape_of(workload.prompt_tokens, less=target.template_tokens)
    return {
        "spec": {
            "backend": {
                "kind": "openai_http",
                "target": target.url,
                "model": target.model,
                "request_format": "/v1/chat/completions" if target.api == "chat" else "/v1/completions",
                "api_key": key or None,
                "timeout": workload.request_timeout_s,
                "verify": target.verify_tls,
                "validate_backend": False,  # it would ask for /health, which not every server has
                "extras": {
                    "headers": other_headers(target),
                    # Greedy, as with the other load generators. It asks every server to go on after an end of text.
                    "body": {"temperature": 0, "ignore_eos": target.ignore_eos},
                },
            },
            "profile": _profile(level, workload),
            "constraints": list(_constraints(workload)),
            "tokenizer": {"kind": "huggingface_auto", "model": tokenizer},
            "data": [
                {
                    "kind": "synthetic_text",
                    **_lengths("prompt_tokens", prompt),
                    **_lengths("output_tokens", shape_of(workload.output_tokens)),
                }
            ],
            "seed": {"kind": "static", "value": workload.seed},
            "metrics": {"kind": "generative", "sample_size": 0},  # no texts; times and counts of all requests stay
            "outputs": [{"kind": "json", "path": str(result)}],
        }
    }


def read(document: dict[str, Any], *, rate: float | None) -> Recorded:
    """Read the first benchmark of a JSON result; `rate` is the one that was asked for."""
    benchmark = document["benchmarks"][0]
    begun_s, ended_s = float(benchmark["start_time"]), float(benchmark["end_time"])
    requests = benchmark["requests"]
    ended = [*(requests["successful"] or ()), *(requests["errored"] or ())]
    samples = [_sample(request, begun_s, open_loop=rate is not None) for request in ended]
    if not samples:
        raise ValueError("no request in it ended")
    samples.sort(key=lambda sample: sample.sent_s)
    cut = len(requests["incomplete"] or ())
    length_s = ended_s - begun_s
    delivered = 1.0 if rate is None else _delivered(samples, cut, rate, length_s)
    workers = {request["info"].get("scheduler_node_id") for request in ended}
    return Recorded(tuple(samples), length_s, begun_s, len(workers), delivered)


def _sample(request: dict[str, Any], origin_s: float, *, open_loop: bool) -> Sample:
    info = request["info"]
    timings = info["timings"]
    sent_s = timings["request_start"] or timings["resolve_start"]
    first_s = timings["first_token_iteration"]
    end_s = timings["request_end"] or timings["resolve_end"]
    error = info["error"]
    return Sample(
        sent_s=sent_s - origin_s,
        first_s=None if first_s is None else first_s - origin_s,
        end_s=end_s - origin_s,
        prompt_tokens=request["prompt_tokens"] or 0,
        output_tokens=request["output_tokens"] or 0,
        error=error_kind(error) if error else None,
        id=request["request_id"],
        due_s=timings["targeted_start"] - origin_s if open_loop else None,
    )


def _delivered(samples: Sequence[Sample], cut: int, rate: float, length_s: float) -> float:
    """Return the share of a rate that was sent; raise `BenchmarkError` when it was another rate altogether.

    A Poisson process of n requests strays by their square root, and no further. GuideLLM's own may: its processes
    draw equal delays from equal seeds, and may begin before the schedule has (0.8.1).
    """
    asked = rate * length_s
    sent = len(samples) + cut
    stray = _STRAY / math.sqrt(asked)
    ratio = sent / asked
    early = any(sample.due_s is not None and sample.due_s < -length_s for sample in samples)
    if early or ratio > 1 + max(stray, _STRAY_LEAST):
        raise BenchmarkError(
            f"{TOOL} sent {sent / length_s:.3g} requests/s where {rate:g} were asked for: its processes did not keep "
            f"its schedule; run it again with constant arrivals, or {REMEDY}"
        )
    return 1.0 if ratio >= 1 - stray else ratio


def _early(recorded: Recorded, workload: Workload) -> str:
    """Say why a window closed before its time, as far as that can be told from outside."""
    if recorded.length_s >= 0.99 * (workload.warmup_s + workload.duration_s):
        return ""
    if workload.max_requests is not None and len(recorded.samples) >= workload.max_requests:
        return f"{workload.max_requests} requests have ended"
    failed = sum(sample.error is not None for sample in recorded.samples)
    return f"{TOOL} ended its load after {recorded.length_s:.3g} s, with {failed} failed requests"


def _profile(level: Level, workload: Workload) -> dict[str, Any]:
    if level.concurrency is not None:
        return {"kind": "concurrent", "streams": [level.concurrency]}
    kind = "constant" if math.isinf(workload.arrivals.burstiness) else "poisson"
    return {"kind": kind, "rate": [level.value], "max_concurrency": workload.max_concurrency}


def _constraints(workload: Workload) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"kind": "max_duration", "seconds": workload.warmup_s + workload.duration_s}]
    if workload.max_requests is not None:
        found.append({"kind": "max_requests", "count": workload.max_requests})
    if workload.max_errors is not None:
        found.append({"kind": "max_errors", "count": workload.max_errors})
    if workload.max_error_share is not None:
        share = {"kind": "max_global_error_rate", "rate": workload.max_error_share, "minimum": _LEAST_FOR_SHARE}
        found.append(share)
    return found


def _lengths(name: str, shape: Shape | None) -> dict[str, int]:
    if isinstance(shape, FixedShape):
        return {name: shape.tokens}
    if isinstance(shape, UniformShape):
        return {name: (shape.low + shape.high) // 2, f"{name}_min": shape.low, f"{name}_max": shape.high}
    assert isinstance(shape, NormalShape)
    return {name: shape.mean, f"{name}_stdev": shape.sd}
