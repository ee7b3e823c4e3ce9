"""A tokenizer and a writer that agree: what the server writes has as many tokens when it comes back as a prompt."""

from __future__ import annotations

import re
import zlib
from functools import lru_cache
from itertools import product

_TOKEN = re.compile(r"\w{1,8}|[^\w\s]")
_WORDS = tuple(
    first + vowel + last for first, vowel, last in product("bdfgklmn", "aeio", "lmnrstk" + "p")
)  # 256 words of one token each


@lru_cache(maxsize=65536)
def _token_id(word: str, vocabulary: int) -> int:
    return zlib.crc32(word.encode()) % vocabulary


def tokenize(text: str, vocabulary: int) -> list[int]:
    """Return the token ids of a text: one per word of up to eight characters, or per punctuation mark."""
    return [_token_id(word, vocabulary) for word in _TOKEN.findall(text)]


def fingerprint(tokens: list[int], seed: int) -> int:
    """Return a number that stands for a prompt under a seed, the same on every machine."""
    return zlib.crc32(repr(tokens).encode(), seed & 0xFFFFFFFF)


def word(mark: int, index: int) -> str:
    """Return the output token at `index` of a sequence with this fingerprint."""
    return _WORDS[(mark + index * (2 * (mark >> 8) + 1)) % len(_WORDS)]


def word_id(mark: int, index: int, vocabulary: int) -> int:
    """Return the token id of `word`."""
    return _token_id(word(mark, index), vocabulary)


def natural_length(mark: int) -> int:
    """Return after how many tokens a sequence ends of itself: geometric, 200 on average.

    Drawn from the fingerprint by inverting the distribution, so that equal prompts end equally.
    """
    uniform = (zlib.crc32(mark.to_bytes(4, "little")) + 0.5) / 2**32
    length = 1
    survival = remaining = 1.0 - 1.0 / 200
    while remaining > uniform and length < 4096:
        remaining *= survival
        length += 1
    return length
