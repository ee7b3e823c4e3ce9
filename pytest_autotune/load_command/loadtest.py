"""What is to be measured, read from options: the server, its load levels, the workload and the limits."""

from __future__ import annotations

import os
import secrets
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pytest_autotune.load.generator import Target, Workload
from pytest_autotune.load_command import values
from pytest_autotune.load_command.levels import at_level, read_levels
from pytest_autotune.load_command.options import API_KEY_VARIABLE
from pytest_autotune.load_command.prompts import read_prompts
from pytest_autotune.slo import ERROR_RATE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.load.generator import Api
    from pytest_autotune.load_command.options import Written
    from pytest_autotune.samples import Level
    from pytest_autotune.slo import Limit

_NEEDS = {
    "arrivals": ("rate", "stages"),
    "max_concurrency": ("rate", "burst", "stages", "replay"),
    "think_time": ("turns", "dataset"),
    "prefix_groups": ("prefix_tokens",),
    "shuffle": ("dataset",),
    "limit": ("dataset", "replay"),
    "speed": ("replay",),
    "stages_of": ("stages",),
}


@dataclass(frozen=True, slots=True)
class LoadTest:
    """A server, the levels to load it at, and what is promised of it."""

    target: Target  # its model is empty when the server is to be asked for it
    levels: tuple[Level, ...]
    workload: Workload  # of all levels; `workload_at` is that of one
    limits: tuple[Limit, ...] = ()
    gpus: int = 1
    whole_trace: bool = False  # the window lasts as long as the trace
    made_up: bool = True  # prompts are made up to a length
    prompt_lengths: str = ""  # how the server counts made-up prompts; empty when it was not asked
    options: Mapping[str, object] = field(default_factory=dict)  # as they were written, without secrets
    secrets: tuple[str, ...] = field(default=(), repr=False)  # to be masked wherever text is shown or stored

    def workload_at(self, level: Level, *, attempt: int = 1) -> Workload:
        """Return the workload of one batch.

        Its seed is made of the test's and of the level's name, so that a level is sent the same
        requests whichever others are measured beside it, and no two batches share any.
        """
        seed = zlib.crc32(f"{self.workload.seed} {level.name} {attempt}".encode())
        return replace(at_level(self.workload, level, whole_trace=self.whole_trace), seed=seed)

    @property
    def planned_s(self) -> float:
        """How long all levels take when none ends early."""
        workloads = [self.workload_at(level) for level in self.levels]
        return sum(workload.warmup_s + workload.duration_s for workload in workloads)


def read_load_test(written: Written) -> LoadTest:
    """Return the load test that the options ask for; raise `SuiteError` for the first that is wrong."""
    for name, others in _NEEDS.items():
        if name in written and not any(other in written for other in others):
            needed = " or ".join(written.label(other) for other in others)
            raise written.wrong(name, f"means something with {needed} only; remove it or add that")
    plan = read_levels(written)
    prompts = read_prompts(written)
    target = _read_target(written, prompts.api)
    seed = written.read_given("seed", values.read_count)
    errors, error_share = written.read_given("max_errors", values.read_errors) or (None, None)
    workload = Workload(
        prompt_tokens=prompts.prompt_tokens,
        output_tokens=prompts.output_tokens,
        duration_s=plan.duration_s or 0.0,
        warmup_s=plan.warmup_s,
        request_timeout_s=written.read("request_timeout", values.read_positive_duration),
        max_requests=written.read_given("max_requests", values.read_positive_count),
        max_errors=errors,
        max_error_share=error_share,
        seed=secrets.randbelow(2**31) if seed is None else seed,
        rows=prompts.rows,
        shuffle=written.read("shuffle", values.read_flag),
        prefix_tokens=written.read("prefix_tokens", values.read_count),
        prefix_groups=written.read("prefix_groups", values.read_positive_count),
        turns=written.read("turns", values.read_lengths),
        think_s=written.read("think_time", values.read_duration),
        query_tokens=prompts.query_tokens,
        documents=written.read("documents", values.read_positive_count),
        arrivals=written.read("arrivals", values.read_arrivals),
        stages=plan.stages,
        stages_of=plan.stages_of,
        times_s=prompts.times_s,
        max_concurrency=written.read_given("max_concurrency", values.read_positive_count),
        workers=written.read("workers", values.read_workers),
    )
    return LoadTest(
        target=target,
        levels=plan.levels,
        workload=workload,
        limits=_with_error_rate(written.read("slo", values.read_slo)),
        gpus=written.read("gpus", values.read_count),
        whole_trace=plan.duration_s is None,
        made_up=prompts.made_up,
        options=written.shown(),
        secrets=tuple(word for value in target.headers.values() for word in (value, value.split()[-1]) if value),
    )


def _with_error_rate(limits: tuple[Limit, ...]) -> tuple[Limit, ...]:
    """Add the limit on errors that suites have too: a server that answers half of its requests keeps no promise."""
    if not limits or any(limit.metric == ERROR_RATE.metric for limit in limits):
        return limits
    return (*limits, ERROR_RATE)


def _read_target(written: Written, api: Api) -> Target:
    if "url" not in written:
        raise written.wrong("url", "is missing; write the base URL of the server, e.g. http://127.0.0.1:8000")
    token_ids = written.read("token_ids", values.read_flag)
    if token_ids and api not in ("completions", "embeddings"):
        raise written.wrong("token_ids", f"{api} takes text only; remove it, or use {written.label('api')} completions")
    headers = written.read("header", values.read_headers)
    key = written.read("api_key", lambda value: value or os.environ.get(API_KEY_VARIABLE, ""))
    if key and "authorization" in headers and "api_key" in written:
        raise written.wrong("api_key", f"{written.label('header')} gives an authorization too; remove one of them")
    if key:
        headers = {"authorization": f"Bearer {written.read('api_key', lambda _: values.read_value(key))}", **headers}
    return Target(
        url=written.read("url", values.read_url),
        model=written.read("model", lambda value: "" if value is None else values.read_text(value)),
        api=api,
        token_ids=token_ids,
        ignore_eos=written.read("ignore_eos", values.read_flag),
        headers=headers,
        verify_tls=not written.read("insecure", values.read_flag),
    )
