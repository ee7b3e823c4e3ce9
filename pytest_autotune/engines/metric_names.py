"""Under which names engines tell on their Prometheus page what they do."""

from __future__ import annotations

from dataclasses import dataclass, fields

GAUGES = ("running", "waiting", "kv_use", "draft_acceptance")
COUNTERS = ("finished", "output_tokens", "preemptions", "prefix_queries", "prefix_hits", "drafted", "accepted")
HISTOGRAMS = ("queue", "prefill", "decode", "inference", "ttft", "itl", "e2e")


@dataclass(frozen=True, slots=True)
class MetricNames:
    """Where an engine's page is, and the names on it; empty for what the engine does not tell.

    A counter is named as its line is, with ``_total`` where it has one; a histogram without ``_bucket``, ``_sum`` and
    ``_count``. Times are seconds, shares are of one.
    """

    path: str = "/metrics"
    running: str = ""  # gauge: requests in the batch that is computed
    waiting: str = ""  # gauge: requests that wait for a place in it
    kv_use: str = ""  # gauge: share of the KV cache that is in use
    draft_acceptance: str = ""  # gauge: share of drafted tokens that were accepted, where it is not counted
    finished: str = ""  # counter: requests
    output_tokens: str = ""  # counter
    preemptions: str = ""  # counter: requests that were driven out of the batch for lack of KV cache
    prefix_queries: str = ""  # counter: tokens of prompts that were looked for in the prefix cache
    prefix_hits: str = ""  # counter: those that were found there
    drafted: str = ""  # counter: tokens of speculative decoding
    accepted: str = ""  # counter: those that were kept
    queue: str = ""  # histogram: from the arrival of a request until it is first computed
    prefill: str = ""  # histogram: from then to its first token
    decode: str = ""  # histogram: from its first token to its last
    inference: str = ""  # histogram: from when it is first computed to its last token
    ttft: str = ""  # histogram: from its arrival to its first token
    itl: str = ""  # histogram: between two of its tokens
    e2e: str = ""  # histogram: from its arrival to its last token

    def lines(self) -> frozenset[str]:
        """Return the names of all lines of the page that tell something."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {named[kind] for kind in (*GAUGES, *COUNTERS)}
        told = {f"{named[kind]}_{part}" for kind in HISTOGRAMS if named[kind] for part in ("bucket", "sum", "count")}
        return frozenset((plain | told) - {""})


# vllm/v1/metrics/loggers.py and vllm/v1/spec_decode/metrics.py, 0.32.0
VLLM = MetricNames(
    running="vllm:num_requests_running",
    waiting="vllm:num_requests_waiting",
    kv_use="vllm:kv_cache_usage_perc",
    finished="vllm:request_success_total",
    output_tokens="vllm:generation_tokens_total",
    preemptions="vllm:num_preemptions_total",
    prefix_queries="vllm:prefix_cache_queries_total",
    prefix_hits="vllm:prefix_cache_hits_total",
    drafted="vllm:spec_decode_num_draft_tokens_total",
    accepted="vllm:spec_decode_num_accepted_tokens_total",
    queue="vllm:request_queue_time_seconds",
    prefill="vllm:request_prefill_time_seconds",
    decode="vllm:request_decode_time_seconds",
    inference="vllm:request_inference_time_seconds",
    ttft="vllm:time_to_first_token_seconds",
    itl="vllm:inter_token_latency_seconds",
    e2e="vllm:e2e_request_latency_seconds",
)

# sglang/srt/observability/metrics_collector.py, 0.5.23; served with --enable-metrics only
SGLANG = MetricNames(
    running="sglang:num_running_reqs",
    waiting="sglang:num_queue_reqs",
    kv_use="sglang:token_usage",
    draft_acceptance="sglang:spec_accept_rate",
    finished="sglang:num_requests_total",
    output_tokens="sglang:generation_tokens_total",
    preemptions="sglang:num_retracted_requests_total",
    prefix_queries="sglang:prompt_tokens_total",
    prefix_hits="sglang:cached_tokens_total",
    queue="sglang:queue_time_seconds",
    ttft="sglang:time_to_first_token_seconds",
    itl="sglang:inter_token_latency_seconds",
    e2e="sglang:e2e_request_latency_seconds",
)

# llama.cpp: tools/server/README.md, "GET /metrics"; served with --metrics only, without any histogram
LLAMACPP = MetricNames(
    running="llamacpp:requests_processing",
    waiting="llamacpp:requests_deferred",
    output_tokens="llamacpp:tokens_predicted_total",
)

# text-generation-inference: docs/source/reference/metrics.md, 3.3
TGI = MetricNames(
    running="tgi_batch_current_size",
    waiting="tgi_queue_size",
    finished="tgi_request_success",
    output_tokens="tgi_request_generated_tokens_sum",
    queue="tgi_request_queue_duration",
    inference="tgi_request_inference_duration",
    itl="tgi_request_mean_time_per_token_duration",
    e2e="tgi_request_duration",
)

# tensorrt_llm/metrics/collector.py, 1.3; before it there were fewer of them
TRTLLM = MetricNames(
    path="/prometheus/metrics",
    running="trtllm_num_requests_running",
    waiting="trtllm_num_requests_waiting",
    kv_use="trtllm_kv_cache_utilization",
    finished="trtllm_request_success_total",
    output_tokens="trtllm_generation_tokens_total",
    queue="trtllm_request_queue_time_seconds",
    prefill="trtllm_request_prefill_time_seconds",
    decode="trtllm_request_decode_time_seconds",
    inference="trtllm_request_inference_time_seconds",
    ttft="trtllm_time_to_first_token_seconds",
    itl="trtllm_time_per_output_token_seconds",
    e2e="trtllm_e2e_request_latency_seconds",
)
