"""Counters and histograms under vLLM's names, in Prometheus' text format."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_autotune.engines.sim.scheduler import Scheduler, Sequence

_TTFT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_REQUEST = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
_LATENESS = (0.0002, 0.0005, 0.001, 0.0015, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)


class Histogram:
    """Cumulative buckets, sum and count."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: str) -> Iterator[str]:
        """Yield the exposition lines."""
        total = 0
        for bound, count in zip((*map(float, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {float(total)}'
        yield f"{name}_count{{{labels}}} {float(total)}"
        yield f"{name}_sum{{{labels}}} {self._sum}"


class Metrics:
    """What one server has done since it started, in real seconds."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished = {"stop": 0, "length": 0, "abort": 0}
        self._lateness = Histogram(_LATENESS)
        self._histograms = {
            "time_to_first_token_seconds": Histogram(_TTFT),
            "inter_token_latency_seconds": Histogram(_PER_TOKEN),
            "request_time_per_output_token_seconds": Histogram(_PER_TOKEN),
            "e2e_request_latency_seconds": Histogram(_REQUEST),
            "request_queue_time_seconds": Histogram(_REQUEST),
            "request_inference_time_seconds": Histogram(_REQUEST),
            "request_prefill_time_seconds": Histogram(_REQUEST),
            "request_decode_time_seconds": Histogram(_REQUEST),
            "request_prompt_tokens": Histogram(_TOKENS),
            "request_generation_tokens": Histogram(_TOKENS),
            "iteration_tokens_total": Histogram(_TOKENS),
        }

    def late(self, seconds: float) -> None:
        """Note how late a step's end was acted on: how well this machine keeps up with the simulation."""
        self._lateness.observe(seconds)

    def step(self, tokens: int) -> None:
        """Count a step."""
        self._histograms["iteration_tokens_total"].observe(tokens)

    def token(self, sequence: Sequence, now: float) -> None:
        """Count an output token that is written at `now`."""
        self.generation_tokens += 1
        if sequence.generated == 1:
            sequence.first_s = now
            self.prompt_tokens += sequence.prompt
            self._histograms["time_to_first_token_seconds"].observe(now - sequence.arrived_s)
        else:
            self._histograms["inter_token_latency_seconds"].observe(now - sequence.last_s)
        sequence.last_s = now

    def finish(self, sequence: Sequence, reason: str) -> None:
        """Count a finished sequence; its last token has been counted."""
        self.finished[reason] += 1
        observe = {name: histogram.observe for name, histogram in self._histograms.items()}
        observe["e2e_request_latency_seconds"](sequence.last_s - sequence.arrived_s)
        observe["request_queue_time_seconds"](sequence.scheduled_s - sequence.arrived_s)
        observe["request_inference_time_seconds"](sequence.last_s - sequence.scheduled_s)
        observe["request_prefill_time_seconds"](sequence.first_s - sequence.scheduled_s)
        observe["request_decode_time_seconds"](sequence.last_s - sequence.first_s)
        observe["request_prompt_tokens"](sequence.prompt)
        observe["request_generation_tokens"](sequence.generated)
        if sequence.generated > 1:
            per_token = (sequence.last_s - sequence.first_s) / (sequence.generated - 1)
            observe["request_time_per_output_token_seconds"](per_token)

    def render(self, scheduler: Scheduler, model: str) -> str:
        """Return the page for ``/metrics``."""
        name = model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        labels = f'engine="0",model_name="{name}"'
        gauges = {
            "num_requests_running": len(scheduler.running),
            "num_requests_waiting": len(scheduler.waiting),
            "kv_cache_usage_perc": scheduler.cache.usage,
        }
        counters = {
            "prefix_cache_queries": scheduler.cache.queried_tokens,
            "prefix_cache_hits": scheduler.cache.hit_tokens,
            "num_preemptions": scheduler.preemptions,
            "prompt_tokens": self.prompt_tokens,
            "generation_tokens": self.generation_tokens,
        }
        lines: list[str] = []
        for key, value in gauges.items():
            lines += [f"# TYPE vllm:{key} gauge", f"vllm:{key}{{{labels}}} {float(value)}"]
        for key, count in counters.items():
            lines += [f"# TYPE vllm:{key}_total counter", f"vllm:{key}_total{{{labels}}} {float(count)}"]
        lines.append("# TYPE vllm:request_success_total counter")
        for reason, count in self.finished.items():
            lines.append(f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {float(count)}')
        for key, histogram in self._histograms.items():
            lines += [f"# TYPE vllm:{key} histogram", *histogram.lines(f"vllm:{key}", labels)]
        lines += [
            "# TYPE sim:step_lateness_seconds histogram",
            *self._lateness.lines("sim:step_lateness_seconds", labels),
        ]
        return "\n".join(lines) + "\n"
