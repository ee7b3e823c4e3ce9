"""The requests of a batch as the bytes that go to the socket: distinct prompts of a set length, by seed."""

from __future__ import annotations

import itertools
import json
import random
import secrets
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from pytest_autotune.errors import BenchmarkError

if TYPE_CHECKING:
    from pytest_autotune.load.generator import Target, Workload

# 256 common words that tokenizers of every family hold as one token when a space stands before them.
_COMMON = """
a about above across act add after again age air all also always am an and animal answer any are area arm art as ask at
away back bad ball bank base be bed been before began best better big bird black blue boat body book both box boy bring
build but buy by call came can car card care case cat cause change check child city class clear close cold color come
common cost could country course cry cut dark day deep did do dog done door down draw dream drive dry early earth east
easy eat end enough even ever every eye face fact fall family far farm fast father fear feel feet few field fight fill
final find fine fire first fish five fly follow food foot for force form found four free friend from front full game
gave get girl give glass go gold gone good got government great green ground group grow had half hand happen hard has
have he head hear heart heat help her here high hill him his hit hold home hope horse hot hour house how hundred ice
idea if in inch into is island it job join just keep kind king knew know land language large last late laugh law lay
lead learn leave left less let letter life light like line list live long look lost lot love low made make man many map
mark may me mean meet men might mile milk mind mine money month moon more morning most mother move much music
"""
WORDS = tuple(_COMMON.split())
TOKEN_IDS = range(300, 900)  # past the special and byte tokens of common vocabularies, and inside every one
HEAD = 8  # symbols that make a prompt unlike any other, before its first prefix-cache block (16 tokens) ends
_VARIETY = 1024  # different places in the base text at which a prompt's body begins
_ODD = 0x9E3779B97F4A7C15  # an odd factor permutes the numbers below 2**64 (Fibonacci hashing)


class Request(NamedTuple):
    """One request, ready to be written."""

    id: str
    payload: bytes
    prompt_tokens: int  # as intended; exact when the prompt goes as token ids


class Requests:
    """The sequence of requests of one batch.

    Equal seeds give equal prompts in the same order. The first eight tokens of a prompt are a
    64-bit number that no other request of the batch has (and none of another seed, but for a chance
    of about 1e-15), so that a prefix cache never hits, however long the rest; shorter prompts are
    distinct as far as their length allows. As text, a prompt is so many common words: about as
    many tokens, to which a chat template adds its own.

    Decoding is greedy (temperature 0), so that runs repeat and the sampler's settings are not part of
    what is compared. Building a request costs two copies of memory, whatever its length.
    """

    def __init__(self, target: Target, workload: Workload) -> None:
        as_ids = target.token_ids and target.api == "completions"
        generator = random.Random(workload.seed)  # noqa: S311 -- prompts are no secrets
        self._symbols = [b"%d," % token for token in TOKEN_IDS] if as_ids else [f"{word} ".encode() for word in WORDS]
        generator.shuffle(self._symbols)
        base = generator.choices(self._symbols, k=workload.prompt_tokens.at(0.5) + _VARIETY)
        self._base = b"".join(base)
        self._offsets = list(itertools.accumulate(map(len, base), initial=0))
        self._key = generator.getrandbits(64)
        self._prompt_tokens = workload.prompt_tokens.at(0.5)
        self._numbers = itertools.count()
        self._name = secrets.token_hex(4)  # engines refuse an id that an aborted request of an earlier batch still has
        self._before, self._after = _body(target, workload, as_ids=as_ids)
        self._head = _head(target)

    def build(self) -> Request:
        """Return the next request."""
        number = next(self._numbers)
        prompt = self._prompt(number)
        identity = f"autotune-{self._name}-{number}"
        length = len(self._before) + len(prompt) + len(self._after)
        fields = f"x-request-id: {identity}\r\ncontent-length: {length}\r\n\r\n".encode()
        payload = b"".join((self._head, fields, self._before, prompt, self._after))
        return Request(identity, payload, self._prompt_tokens)

    def _prompt(self, number: int) -> bytes:
        mixed = (number * _ODD + self._key) % 2**64
        distinct = min(HEAD, self._prompt_tokens)
        head = b"".join(self._symbols[mixed >> 8 * place & 255] for place in range(distinct))
        start = (mixed >> 32) % _VARIETY
        end = start + self._prompt_tokens - distinct
        return (head + self._base[self._offsets[start] : self._offsets[end]])[:-1]


def _body(target: Target, workload: Workload, *, as_ids: bool) -> tuple[bytes, bytes]:
    """Return the JSON body before and after the prompt."""
    fields = {
        "model": target.model,
        "max_tokens": workload.output_tokens.at(0.5),
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if target.ignore_eos:
        fields |= {"ignore_eos": True, "min_tokens": workload.output_tokens.at(0.5)}
    before = json.dumps(fields)[:-1]
    if target.api == "chat":
        return f'{before}, "messages": [{{"role": "user", "content": "'.encode(), b'"}]}'
    if as_ids:
        return f'{before}, "prompt": ['.encode(), b"]}"
    return f'{before}, "prompt": "'.encode(), b'"}'


def _head(target: Target) -> bytes:
    """Return the request line and the header fields that all requests share."""
    parts = urlsplit(target.url)
    path = "chat/completions" if target.api == "chat" else "completions"
    fields = {
        "host": parts.netloc.rpartition("@")[2],
        "content-type": "application/json",
        "accept": "text/event-stream",
        **target.headers,
    }
    lines = [f"POST {parts.path}/v1/{path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    for line in lines:
        if not line.isprintable() or not line.isascii():
            name = line.partition(":")[0]
            raise BenchmarkError(
                f"header {name!r} holds a character that HTTP does not allow; remove it from the suite"
            )
    return "\r\n".join([*lines, ""]).encode("ascii")
