"""Samples of a batch as compact bytes: columns of whole microseconds, compressed."""

from __future__ import annotations

import json
import struct
import zlib
from array import array
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pytest_autotune.columns import Column, gaps
from pytest_autotune.errors import StoreError
from pytest_autotune.samples import Sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

CODEC = "columns-2"
_OLDER = ("columns-1",)  # without due times and the client's share; still read

Numbers = NDArray[np.int64]

# Widths a column may have, lowest byte first; the narrowest that holds its largest value above its smallest is taken.
_TYPES = {"B": "<u1", "H": "<u2", "I": "<u4", "Q": "<u8"}
_LIMITS = {code: 256 ** np.dtype(kind).itemsize for code, kind in _TYPES.items()}
_FAR = 2.0**62  # microseconds: sums and differences of two times still fit 64 bits
_NOTHING = -1  # index of "no error" in the table of error kinds
_SCALARS = (
    "sent",
    "end",
    "answered",
    "scheduled",
    "client",
    "prompt",
    "output",
    "error",
    "gap_count",
)  # of each request


def encode_samples(samples: Sequence[Sample]) -> bytes:
    """Return `samples` as bytes; times are rounded to the microsecond, everything else is exact.

    Raises `ValueError` or `OverflowError` for a time that is not finite.
    """
    kinds = sorted({sample.error for sample in samples if sample.error is not None})
    index = {kind: number for number, kind in enumerate(kinds)}
    columns: dict[str, Numbers] = {
        "sent": _micros(sample.sent_s for sample in samples),
        "end": _micros(sample.end_s for sample in samples),
        "answered": _whole(int(sample.first_s is not None) for sample in samples),
        "first": _micros(sample.first_s for sample in samples if sample.first_s is not None),
        "scheduled": _whole(int(sample.due_s is not None) for sample in samples),
        "due": _micros(sample.due_s for sample in samples if sample.due_s is not None),
        "client": _micros(sample.client_s for sample in samples),
        "prompt": _whole(sample.prompt_tokens for sample in samples),
        "output": _whole(sample.output_tokens for sample in samples),
        "error": _whole(_NOTHING if sample.error is None else index[sample.error] for sample in samples),
        "gap_count": _whole(len(sample.gaps_s) for sample in samples),
        "gaps": _rounded(gaps(samples)),
    }
    ids = [sample.id for sample in samples] if any(sample.id for sample in samples) else []
    heads, bodies = [], []
    for name, values in columns.items():
        head, body = _pack(values)
        heads.append([name, *head])
        bodies.append(body)
    header = json.dumps({"kinds": kinds, "ids": ids, "columns": heads}, separators=(",", ":")).encode()
    # Level 1: the noise in the low bytes does not compress at any level, and 6 takes three times as long.
    return zlib.compress(b"".join((struct.pack("<I", len(header)), header, *bodies)), 1)


def decode_samples(codec: str, encoded: bytes) -> tuple[Sample, ...]:
    """Return the samples that `encode_samples` was given, times within half a microsecond, gaps as arrays."""
    if codec != CODEC and codec not in _OLDER:
        raise StoreError(
            f"samples are stored as {codec!r}, this version of pytest-autotune reads {CODEC!r}: upgrade pytest-autotune"
        )
    try:
        return tuple(_samples(encoded))
    except zlib.error as error:
        raise StoreError(f"stored samples are damaged ({error}): measure the batch again") from error


def _samples(encoded: bytes) -> Iterator[Sample]:
    plain = zlib.decompress(encoded)  # checks its own sum: what it returns is what was written
    (size,) = struct.unpack_from("<I", plain)
    start = 4 + size
    header = json.loads(plain[4:start])
    columns: dict[str, Numbers] = {}
    for name, code, count, offset in header["columns"]:
        end = start + count * np.dtype(_TYPES[code]).itemsize
        columns[name] = _unpack(plain[start:end], code, offset)
        start = end
    requests = columns["sent"].size
    for name in ("scheduled", "client"):
        columns.setdefault(name, np.zeros(requests, dtype=np.int64))
    spans = columns["gaps"] / 1e6
    firsts, dues = iter(columns["first"].tolist()), iter(columns["due"].tolist() if "due" in columns else ())
    ids = header["ids"] or [""] * requests
    position = 0
    for number, (sent, end, answered, scheduled, client, prompt, output, error, gap_count) in enumerate(
        zip(*(columns[name].tolist() for name in _SCALARS), strict=True)
    ):
        yield Sample(
            sent_s=sent / 1e6,
            first_s=next(firsts) / 1e6 if answered else None,
            end_s=end / 1e6,
            prompt_tokens=prompt,
            output_tokens=output,
            gaps_s=array("d", spans[position : position + gap_count].tobytes()) if gap_count else (),
            error=None if error == _NOTHING else header["kinds"][error],
            id=ids[number],
            due_s=next(dues) / 1e6 if scheduled else None,
            client_s=client / 1e6,
        )
        position += gap_count


def _whole(numbers: Iterable[int]) -> Numbers:
    return np.fromiter(numbers, dtype=np.int64)


def _micros(seconds: Iterable[float]) -> Numbers:
    return _rounded(np.fromiter(seconds, dtype=np.float64))


def _rounded(seconds: Column) -> Numbers:
    """Return whole microseconds; uses the seconds up."""
    seconds *= 1e6
    if not np.isfinite(seconds).all():
        raise ValueError("a time of a sample is not finite")
    if seconds.size and max(float(seconds.max()), -float(seconds.min())) >= _FAR:
        raise OverflowError("a time of a sample is further away than 146,000 years")
    return np.rint(seconds, out=seconds).astype(np.int64)


def _pack(values: Numbers) -> tuple[tuple[str, int, int], bytes]:
    """Return (typecode, count, smallest) and the values above the smallest, all lowest bytes first."""
    offset = int(values.min()) if values.size else 0
    span = int(values.max()) - offset if values.size else 0
    code = next(code for code, limit in _LIMITS.items() if span < limit)
    above = (values - offset).astype(_TYPES[code])
    # Equal bytes side by side: the high bytes of nearly equal numbers compress to nothing.
    planes = above.view(np.uint8).reshape(values.size, above.itemsize).T
    return (code, values.size, offset), planes.tobytes()


def _unpack(packed: bytes, code: str, offset: int) -> Numbers:
    kind = np.dtype(_TYPES[code])
    planes = np.frombuffer(packed, dtype=np.uint8).reshape(kind.itemsize, -1)
    return np.ascontiguousarray(planes.T).view(kind).ravel().astype(np.int64) + offset
