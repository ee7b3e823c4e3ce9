"""What is to be measured, read from options: the server, its load levels, the workload and the limits."""

from __future__ import annotations

import os
import secrets
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from pytest_autotune.errors import SuiteError
from pytest_autotune.load.generator import Api, Target, Workload
from pytest_autotune.load_command import values
from pytest_autotune.load_command.options import API_KEY_VARIABLE
from pytest_autotune.samples import Level, Shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.load_command.options import Written
    from pytest_autotune.slo import Limit

SHAPES: tuple[Shape, ...] = ("concurrency", "rate", "burst")  # options that list load levels
_NEEDS = {"arrivals": ("rate",), "max_concurrency": ("rate", "burst"), "think_time": ("turns",)}


@dataclass(frozen=True, slots=True)
class LoadTest:
    """A server, the levels to load it at, and what is promised of it."""

    target: Target  # its model is empty when the server is to be asked for it
    levels: tuple[Level, ...]
    workload: Workload  # of all levels; `workload_at` is that of one
    limits: tuple[Limit, ...] = ()
    gpus: int = 1
    options: Mapping[str, object] = field(default_factory=dict)  # as they were written, without secrets
    secrets: tuple[str, ...] = ()  # to be masked wherever text is shown or stored

    def workload_at(self, level: Level, *, attempt: int = 1) -> Workload:
        """Return the workload of one batch.

        Its seed is made of the test's and of the level's name, so that a level is sent the same
        requests whichever others are measured beside it, and no two batches share any.
        """
        seed = zlib.crc32(f"{self.workload.seed} {level.name} {attempt}".encode())
        return replace(self.workload, seed=seed)


def read_load_test(written: Written) -> LoadTest:
    """Return the load test that the options ask for; raise `SuiteError` for the first that is wrong."""
    for name, others in _NEEDS.items():
        if name in written and not any(other in written for other in others):
            needed = " or ".join(written.label(other) for other in others)
            raise written.wrong(name, f"means something with {needed} only; remove it or add that")
    target = _read_target(written)
    seed = written.read_given("seed", values.read_count)
    errors, error_share = written.read_given("max_errors", values.read_errors) or (None, None)
    workload = Workload(
        prompt_tokens=written.read("prompt_tokens", values.read_lengths),
        output_tokens=written.read("output_tokens", values.read_lengths),
        duration_s=written.read("duration", values.read_positive_duration),
        warmup_s=written.read("warmup", values.read_duration),
        request_timeout_s=written.read("request_timeout", values.read_positive_duration),
        max_requests=written.read_given("max_requests", values.read_positive_count),
        max_errors=errors,
        max_error_share=error_share,
        seed=secrets.randbelow(2**31) if seed is None else seed,
        prefix_tokens=written.read("prefix_tokens", values.read_count),
        prefix_groups=written.read("prefix_groups", values.read_positive_count),
        turns=written.read("turns", values.read_lengths),
        think_s=written.read("think_time", values.read_duration),
        arrivals=written.read("arrivals", values.read_arrivals),
        max_concurrency=written.read_given("max_concurrency", values.read_positive_count),
        workers=written.read("workers", values.read_workers),
    )
    if "prefix_groups" in written and not workload.prefix_tokens:
        raise written.wrong("prefix_groups", f"means something with {written.label('prefix_tokens')} only")
    shortest = workload.prompt_tokens.at(0.5)
    if workload.prefix_tokens and workload.prefix_tokens >= shortest:
        raise written.wrong(
            "prefix_tokens", f"{workload.prefix_tokens} leaves nothing of prompts of {shortest} tokens; use fewer"
        )
    return LoadTest(
        target=target,
        levels=_read_levels(written),
        workload=workload,
        limits=written.read("slo", values.read_slo),
        gpus=written.read("gpus", values.read_count),
        options=written.shown(),
        secrets=tuple(word for value in target.headers.values() for word in (value, value.split()[-1]) if value),
    )


def _read_levels(written: Written) -> tuple[Level, ...]:
    shapes = [shape for shape in SHAPES if shape in written]
    if len(shapes) != 1:
        allowed = ", ".join(written.label(shape) for shape in SHAPES)
        found = " and ".join(written.label(shape) for shape in shapes) or "no load level"
        raise SuiteError(f"{found}: give one of {allowed}, e.g. {written.label('concurrency')} 1,8,64")
    shape = shapes[0]

    def levels(value: Any) -> tuple[Level, ...]:
        read = values.read_positive_number if shape == "rate" else values.read_positive_count
        found = tuple(Level(read(item), shape) for item in values.split_list(value))
        twice = next((level for level in found if found.count(level) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice} is listed twice; remove one")
        return found

    return written.read(shape, levels)


def _read_target(written: Written) -> Target:
    if "url" not in written:
        raise written.wrong("url", "is missing; write the base URL of the server, e.g. http://127.0.0.1:8000")
    api = cast("Api", written.read("api", values.read_api))
    token_ids = bool(written.read("token_ids", values.read_flag))
    if token_ids and api != "completions":
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
        ignore_eos=bool(written.read("ignore_eos", values.read_flag)),
        headers=headers,
        verify_tls=not written.read("insecure", values.read_flag),
    )
