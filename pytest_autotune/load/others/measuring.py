"""Turns what a tool recorded into a measurement: one time frame, the warm-up cut off, errors by kind, its health."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING

from pytest_autotune.errors import BenchmarkError
from pytest_autotune.samples import ClientHealth, Measurement
from pytest_autotune.statistics import measured, percentile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_autotune.samples import Level, Sample

BUSY = 0.95  # CPU seconds per second of one process from which it is the tool that was measured
_KINDS = (  # the first whose pattern is in the text
    (r"timed? ?out|timeout", "timeout"),
    (r"connection refused|errno 111", "connect-refused"),
    (r"name or service not known|name resolution|getaddrinfo|no address associated", "dns"),
    (r"certificate|ssl", "tls"),
    (r"connection ?reset|errno 104|broken ?pipe|readerror", "reset"),
    (r"payload|incomplete|chunked|protocol ?error|prematurely|transferencoding", "cut"),
    (r"disconnected|connection aborted|closed", "closed"),
    (r"never received a valid chunk|empty", "empty"),
    (r"json|decode|malformed", "malformed"),
)
_STATUS = re.compile(r"\b([45]\d\d) [A-Z][a-z]")
_PHRASES = {status.phrase.lower(): status.value for status in HTTPStatus}


def error_kind(text: str, status: int | None = None) -> str:
    """Return what kind of failure a tool's text is about, in the words of the built-in load generator."""
    last = (text.strip().splitlines() or [""])[-1]
    code = status or _PHRASES.get(last.strip().lower())
    if code is None and (match := _STATUS.search(text)):
        code = int(match[1])
    if code is not None:
        return f"http-{code}"
    for shown in (last.lower(), text.lower()):
        for pattern, kind in _KINDS:
            if re.search(pattern, shown):
                return kind
    return "failed"


def health(tool: str, cpu_share: float, *, send_delays_s: Sequence[float] = (), workers: int = 1) -> ClientHealth:
    """Return what is known of a tool's own health: it does not measure its lag, which is 0 here for *not known*.

    A process that used a whole core made the figures itself.
    """
    saturated = None
    if cpu_share >= BUSY:
        saturated = (
            f"client saturated: a process of {tool} used {cpu_share:.0%} of a core, so its figures are its own and "
            "not the server's; use load.generator: builtin, or lower the level"
        )
    delays = sorted(send_delays_s) or [0.0]
    return ClientHealth(
        lag_p99_s=0.0,
        lag_max_s=0.0,
        send_p99_s=max(percentile(delays, 99), 0.0),
        cpu_share=cpu_share,
        saturated=saturated,
        send_max_s=max(delays[-1], 0.0),
        workers=workers,
    )


def measurement(
    level: Level,
    samples: Sequence[Sample],
    *,
    length_s: float,
    warmup_s: float,
    client: ClientHealth,
    delivered: float = 1.0,
    stopped: str = "",
) -> Measurement:
    """Return a measurement of samples whose times count from the beginning of the load, `length_s` seconds long.

    The first `warmup_s` of it are no part of the window; requests that ended in them are in no figure.
    """
    window_s = length_s - warmup_s
    if window_s <= 0:
        raise BenchmarkError(
            f"{level} ended after {length_s:.3g} s, within its warm-up of {warmup_s:g} s; shorten load.warmup"
        )
    shifted = [_shifted(sample, warmup_s) for sample in samples]
    kept = tuple(sample for sample in shifted if sample.end_s >= 0)
    errors = Counter(sample.error for sample in measured(kept, window_s) if sample.error is not None)
    return Measurement(
        level=level,
        samples=kept,
        window_s=window_s,
        warmup_requests=len(shifted) - len(kept),
        client=client,
        errors=errors,
        delivered=min(delivered, 1.0),
        stopped=stopped,
    )


def _shifted(sample: Sample, by_s: float) -> Sample:
    return replace(
        sample,
        sent_s=sample.sent_s - by_s,
        first_s=None if sample.first_s is None else sample.first_s - by_s,
        end_s=sample.end_s - by_s,
        due_s=None if sample.due_s is None else sample.due_s - by_s,
    )
