"""Made-up prompts: so many words or token ids, each unlike any other from its first tokens on, by seed."""

from __future__ import annotations

import itertools
import random
from enum import IntEnum

# 256 common words that are one token each, at the start of a text and after a space, to the tokenizers of
# DeepSeek, Mistral (v1 to v7 and Tekken) and Qwen; for a server that counts otherwise there is `calibrate`.
_COMMON = """
a about above act add after again age air all also always am an and animal answer any are area arm art as ask at away
back bad ball bank base be bed been before best better big bird black blue boat body book both box boy bring build but
buy by call can car card care case cat cause change check child city class clear close color come common cost could
country course cut dark day deep did do dog done door down draw drive early earth end even ever every eye face fact fall
family far fast father field fill final find fine fire first fish five fly follow food foot for force form found four
free friend from front full game get girl give glass go gold good got great green ground group had half hand hard has
have he head heart heat help her here high hill him his hit hold home horse hot hour house how ice idea if in inch into
is it job join just keep kind king know land language large last late law lay lead learn leave left less let letter life
light like line list live long look lost lot love low made make man many map mark may me mean men mile mind mine money
month more most mother move much music must my no on own page party pass pay person place real rich row sat sea sharp
show sign sing star still the through tree try under use water we work world year
"""
WORDS = tuple(_COMMON.split())
TOKEN_IDS = range(300, 900)  # past the special and byte tokens of common vocabularies, and inside every one
HEAD = 8  # symbols that make a piece unlike any other, before its first prefix-cache block (16 tokens) ends
_PERIOD = 16384  # symbols after which the text that bodies are cut from begins again
_ODD = 0x9E3779B97F4A7C15  # an odd factor permutes the numbers below 2**64 (Fibonacci hashing)

Pieces = list["bytes | memoryview[int]"]  # to be joined; each symbol ends with its separator


class Kind(IntEnum):
    """What a piece of a prompt is; pieces of different kinds never begin alike."""

    OWN = 0
    PREFIX = 1
    BLOCK = 2
    DOCUMENT = 3


class Prompts:
    """Writes pieces of prompts: a word of text or a token id per token.

    The first eight tokens of a piece are a 64-bit number that no other piece of its kind has (and
    none of another kind or seed, but for a chance of about 1e-15), so that a prefix cache never hits
    by accident, however long the rest; shorter pieces are distinct as far as their length allows. The
    first token alone tells any 256 consecutive numbers apart.

    A piece is put together from slices of one text: no work per token, and no copy before `join`.
    """

    def __init__(self, seed: int, *, as_ids: bool) -> None:
        generator = random.Random(seed)  # noqa: S311 -- prompts are no secrets
        self._symbols = [b"%d," % token for token in TOKEN_IDS] if as_ids else [f"{word} ".encode() for word in WORDS]
        generator.shuffle(self._symbols)
        self._keys = [generator.getrandbits(64) for _ in Kind]
        unit = generator.choices(self._symbols, k=_PERIOD)
        self._unit = b"".join(unit)
        self._offsets = list(itertools.accumulate(map(len, unit), initial=0))
        self._text = memoryview(self._unit)

    def piece(self, kind: Kind, number: int, tokens: int) -> Pieces:
        """Return the piece of a kind with a number, cut to so many tokens: a shorter one begins a longer one."""
        mixed = (number * _ODD + self._keys[kind]) % 2**64
        distinct = min(HEAD, tokens)
        pieces: Pieces = [self._symbols[mixed >> 8 * place & 255] for place in range(distinct)]
        if tokens > distinct:
            start = (mixed >> 32) % _PERIOD
            pieces.append(self._slice(start, start + tokens - distinct))
        return pieces

    def _slice(self, start: int, end: int) -> memoryview[int]:
        first, last = self._offset(start), self._offset(end)
        if last > len(self._text):
            self._text = memoryview(self._unit * (2 * last // len(self._unit) + 1))  # the old one lives in its slices
        return self._text[first:last]

    def _offset(self, symbol: int) -> int:
        periods, rest = divmod(symbol, _PERIOD)
        return periods * len(self._unit) + self._offsets[rest]


def trimmed(pieces: Pieces) -> Pieces:
    """Return pieces without the separator after their last symbol."""
    return [*pieces[:-1], pieces[-1][:-1]]
