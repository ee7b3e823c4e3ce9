"""Fuzz the reading of answers, guided by coverage: python -m tests.fuzz_answer [minutes].

Needs atheris (`pip install atheris`). Every input is read whole and cut into parts: neither may raise, and both must
find the same. Ends with status 0 when nothing was found.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["pytest_autotune.load"]):
    from pytest_autotune.load import answer, events

from tests.test_load_answer import EVENTS, HEAD, chunked, outcome, read, with_length

SEEDS = (
    chunked(EVENTS),
    chunked([b"".join(EVENTS)], extension=b";a=b", trailer=b"x: y\r\n"),
    with_length(b"".join(EVENTS)),
    HEAD + b"\r\n" + b"".join(EVENTS).replace(b"\n", b"\r\n"),
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Busy\r\nretry-after: 3\r\ncontent-length: 0\r\n\r\n",
    chunked([b"event: error\n", b'data: {"error": {"message": "OOM"}}\n\n']),
    with_length(b'{"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 7}}'),
)


def check(data: bytes) -> None:
    """Read one input in several ways."""
    if len(data) < 3:
        return
    seed, streamed, raw = data[0], data[1] % 8 > 0, data[2:]
    cuts = sorted({0, len(raw), *((seed * step * 7919) % (len(raw) + 1) for step in range(1, 1 + seed % 16))})
    parts = [raw[begin:end] for begin, end in pairwise(cuts)]
    whole = read([raw], closed=True, streamed=streamed)
    for each in (True, False):
        split = read(parts, closed=True, streamed=streamed, each=each)
        assert outcome(split) == outcome(whole), (parts, outcome(split), outcome(whole))
    assert list(whole.stream.arrivals) == sorted(whole.stream.arrivals)


def main(minutes: float) -> None:
    assert answer
    assert events
    with TemporaryDirectory() as corpus, TemporaryDirectory() as directory:
        for number, seed in enumerate(SEEDS):
            Path(corpus, str(number)).write_bytes(bytes([number * 37 % 256, 1]) + seed)
        words = Path(directory, "words.dict")
        words.write_text('"data: "\n"\\x0d\\x0a"\n"\\x0a\\x0a"\n"[DONE]"\n"0\\x0d\\x0a\\x0d\\x0a"\n"\\"text\\": \\""\n')
        options = [f"-max_total_time={int(minutes * 60)}", f"-dict={words}", "-max_len=4096", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *options, corpus], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10)
