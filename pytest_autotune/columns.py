"""Samples as columns of numbers: latencies, gaps and what each slice of the window delivered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytest_autotune.metrics import RATES, TIMES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from pytest_autotune.samples import Sample

Column = NDArray[np.float64]

_BLOCK = 256  # requests whose tokens are placed at once: faster than one by one, and small beside all of them


def times(samples: Sequence[Sample], families: Collection[str] = TIMES) -> dict[str, Column]:
    """Return the values of each time of successful requests, in the order of the requests; none without data."""
    answered = [sample for sample in samples if sample.first_s is not None]
    columns: dict[str, Column] = {}
    if "ttft" in families:
        columns["ttft"] = _column(sample.ttft_s for sample in answered)
    if "tpot" in families:
        columns["tpot"] = _column(tpot for sample in answered if (tpot := sample.tpot_s) is not None)
    if "itl" in families:
        columns["itl"] = gaps(samples)
    if "e2e" in families:
        columns["e2e"] = _column(sample.e2e_s for sample in samples)
    if any(sample.due_s is not None for sample in samples):  # a closed loop sends when it is due: no second reading
        if "ttft_sent" in families:
            columns["ttft_sent"] = _column(
                first - sample.sent_s for sample in answered if (first := sample.first_s) is not None
            )
        if "e2e_sent" in families:
            columns["e2e_sent"] = _column(sample.end_s - sample.sent_s for sample in samples)
    if "client" in families and any(sample.client_s for sample in answered):  # all zero: not measured
        columns["client"] = _column(sample.client_s for sample in answered)
    return {family: column for family, column in columns.items() if column.size}


def gaps(samples: Sequence[Sample]) -> Column:
    """Return all gaps of all requests, one after the other, without a Python number for any of them."""
    column = np.empty(sum(len(sample.gaps_s) for sample in samples))
    position = 0
    for sample in samples:
        column[position : position + len(sample.gaps_s)] = sample.gaps_s
        position += len(sample.gaps_s)
    return column


def amounts(samples: Sequence[Sample], edges: Column, limits: Mapping[str, float]) -> dict[str, Column]:
    """Return what each slice [edges[k], edges[k + 1]) of the window delivered, under the name of its rate.

    Which requests and tokens count is what `statistics` says of throughput. `limits` are the
    per-request limits of goodput.
    """
    succeeded = [sample for sample in samples if sample.error is None]
    answered = [sample for sample in succeeded if sample.first_s is not None]
    output = _output(answered, edges)
    prompt = _count(_column(sample.first_s for sample in answered), edges, [s.prompt_tokens for s in answered])
    good = [sample for sample in succeeded if within(sample, limits)] if limits else succeeded
    columns = (
        output,
        output + prompt,
        prompt,
        _count(_column(sample.end_s for sample in succeeded), edges),
        _count(_column(sample.end_s for sample in good), edges),
    )
    return dict(zip(RATES, columns, strict=True))


def within(sample: Sample, limits: Mapping[str, float]) -> bool:
    """Say whether a successful request meets every per-request limit; a figure that it lacks meets its own."""
    longest = float(np.max(sample.gaps_s)) if "itl" in limits and len(sample.gaps_s) else None
    figures = {"ttft": sample.ttft_s, "tpot": sample.tpot_s, "itl": longest, "e2e": sample.e2e_s}
    return all((figure := figures[family]) is None or figure <= limit for family, limit in limits.items())


def _output(samples: Sequence[Sample], edges: Column) -> Column:
    """Return how many output tokens arrived in each slice."""
    firsts = _column(sample.first_s for sample in samples)
    lasts = _column(sample.end_s for sample in samples)
    tokens = _column(sample.output_tokens for sample in samples)
    begin, end = _slice(firsts, edges), _slice(lasts, edges)
    whole = begin == end
    total = _count(firsts[whole], edges, tokens[whole])
    # Of requests that cross an edge the tokens count where they arrived; nothing of those beyond both ends.
    crossing = np.flatnonzero(~whole & (lasts >= edges[0]) & (firsts < edges[-1]))
    streamed = np.fromiter((len(samples[number].gaps_s) > 0 for number in crossing.tolist()), dtype=np.bool_)
    # Without the gaps (a sample that was stored compactly) the tokens came evenly.
    for number in crossing[~streamed].tolist():
        share = np.diff(np.clip((edges - firsts[number]) / (lasts[number] - firsts[number]), 0.0, 1.0))
        total += tokens[number] * share
    rest = crossing[streamed].tolist()
    for begun in range(0, len(rest), _BLOCK):
        block = rest[begun : begun + _BLOCK]
        arrivals, sizes = _arrivals([samples[number] for number in block], firsts[block])
        total += _count(arrivals, edges, np.repeat(tokens[block] / sizes, sizes))
    return total


def _arrivals(samples: Sequence[Sample], firsts: Column) -> tuple[Column, NDArray[np.int64]]:
    """Return when all tokens arrived (seconds of the window), one request after the other, and how many each has."""
    sizes = np.fromiter((len(sample.gaps_s) + 1 for sample in samples), dtype=np.int64)
    moments = np.empty(int(sizes.sum()))
    end = 0
    for sample, first, size in zip(samples, firsts.tolist(), sizes.tolist(), strict=True):
        own = moments[end : (end := end + size)]
        own[0], own[1:] = first, sample.gaps_s
        np.cumsum(own, out=own)
    return moments, sizes


def _count(moments: Column, edges: Column, weights: Sequence[float] | Column | None = None) -> Column:
    """Return how many moments (or how much of their weights) lie in each slice."""
    places = _slice(moments, edges)
    inside = (places >= 0) & (places < edges.size - 1)
    chosen = None if weights is None else np.asarray(weights, dtype=np.float64)[inside]
    return np.bincount(places[inside], chosen, minlength=edges.size - 1).astype(np.float64)


def _slice(moments: Column, edges: Column) -> NDArray[np.int64]:
    return np.searchsorted(edges, moments, side="right") - 1


def _column(numbers: Iterable[float | None]) -> Column:
    return np.fromiter(numbers, dtype=np.float64)  # callers left out what is None
