"""What one line of recorded traffic says: when a request arrived, and how long it was.

Three formats are told apart by their first line:

* ``mooncake``: JSON Lines with `timestamp` in milliseconds, `input_length`, `output_length` and `hash_ids`, which
  number the blocks of 512 tokens of a prompt: equal leading ids are an equal prefix. As in
  https://github.com/kvcache-ai/Mooncake, FAST25-release/traces/, and section 4 of https://arxiv.org/pdf/2407.00079.
* ``azure``: CSV with the columns TIMESTAMP (``2023-11-16 18:17:03.9799600``, in 2024
  ``2024-05-10 00:00:00.009930+00:00``), ContextTokens and GeneratedTokens. As in
  https://github.com/Azure/AzurePublicDataset, AzureLLMInferenceDataset2023.md and AzureLLMInferenceDataset2024.md.
* ``jsonl``: JSON Lines of this package: `time_s` in seconds from any origin; `output_tokens`; and one of
  `prompt_tokens` (perhaps with `blocks`, as Mooncake's hash_ids), `text`, or `turns`, a list of a user's messages.
  What a line leaves out is as the workload says.

    {"time_s": 0.0, "prompt_tokens": 512, "output_tokens": 128}
    {"time_s": 0.25, "text": "Why is the sky blue?", "output_tokens": 64}
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, get_args

from pytest_autotune.load.generator import Row
from pytest_autotune.spelling import nearest, show

if TYPE_CHECKING:
    from collections.abc import Callable

    Parse = Callable[[str], tuple[float, Row]]

Format = Literal["mooncake", "azure", "jsonl"]

FORMATS_HELP = (
    "a trace has JSON lines with timestamp, input_length and output_length (mooncake) or with time_s (jsonl), "
    "or is CSV with the columns TIMESTAMP, ContextTokens, GeneratedTokens (azure)"
)
MOST_TOKENS = 10_000_000  # of a prompt or an output; the longest context of a published model so far (Llama 4 Scout)
PER_SECOND = {"mooncake": 1000, "azure": 1_000_000, "jsonl": 1}  # units of a parsed time

_MOONCAKE = ("timestamp", "input_length", "output_length", "hash_ids")
_OWN = ("time_s", "prompt_tokens", "output_tokens", "text", "turns", "blocks")
_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def sniff(text: str) -> Format:
    """Return the format of a trace by its first line."""
    if text.startswith("{"):
        record = _record(text)
        if "timestamp" in record:
            return "mooncake"
        if "time_s" in record:
            return "jsonl"
        raise ValueError(f"{show(text)} has no time{nearest(next(iter(record), ''), _OWN)}; {FORMATS_HELP}")
    if "TIMESTAMP" in text.split(","):
        return "azure"
    if text.startswith("["):
        raise ValueError("the trace is one JSON list; write one object per line, without the list around them")
    raise ValueError(f"{show(text)} is not the first line of a trace; {FORMATS_HELP}")


def parser_of(known: Format, head: str) -> Parse:
    """Return what reads the lines of a trace; `head` is its first, which names the columns of a CSV."""
    match known:
        case "mooncake":
            return _mooncake
        case "jsonl":
            return _own
        case "azure":
            return _azure(head)
        case _:
            raise ValueError(f"{show(known)} is not a format of traces; write one of {', '.join(get_args(Format))}")


def _mooncake(text: str) -> tuple[float, Row]:
    record = _record(text)
    prompt, output = _tokens(record, "input_length"), _tokens(record, "output_length")
    blocks = _blocks(record, "hash_ids") if "hash_ids" in record else ()
    return _time(record, "timestamp"), Row(prompt_tokens=prompt, output_tokens=output, blocks=blocks)


def _own(text: str) -> tuple[float, Row]:
    record = _record(text)
    unknown = [key for key in record if key not in _OWN]
    if unknown:
        allowed = nearest(unknown[0], _OWN) or f"; allowed: {', '.join(_OWN)}"
        raise ValueError(f"unknown key {show(unknown[0])}{allowed}")
    prompts = [key for key in ("prompt_tokens", "text", "turns") if key in record]
    if len(prompts) > 1:
        raise ValueError(f"both {prompts[0]} and {prompts[1]} say what is sent; remove one of them")
    if "blocks" in record and "prompt_tokens" not in record:
        raise ValueError("blocks are parts of a prompt of prompt_tokens tokens; add prompt_tokens or remove blocks")
    row = Row(
        text=_text(record["text"], "text") if "text" in record else None,
        turns=_turns(record["turns"]) if "turns" in record else (),
        prompt_tokens=_tokens(record, "prompt_tokens") if "prompt_tokens" in record else None,
        output_tokens=_tokens(record, "output_tokens") if "output_tokens" in record else None,
        blocks=_blocks(record, "blocks") if "blocks" in record else (),
    )
    return _time(record, "time_s"), row


def _azure(head: str) -> Parse:
    columns = [name.strip() for name in head.split(",")]
    missing = [name for name in _AZURE if name not in columns]
    if missing:
        hint = nearest(missing[0], columns)
        raise ValueError(f"the header {show(head)} has no column {missing[0]}{hint}; {FORMATS_HELP}")
    if "NumImages" in columns:
        raise ValueError("column NumImages asks for images, and only text is sent; remove it to replay the text alone")
    places = [columns.index(name) for name in _AZURE]
    shared: dict[tuple[str, str], Row] = {}  # many requests of a million are alike

    def parse(text: str) -> tuple[float, Row]:
        cells = text.split(",")
        if len(cells) != len(columns):
            raise ValueError(f"{show(text)} has {len(cells)} columns where the header has {len(columns)}")
        when, prompt, output = (cells[place] for place in places)
        row = shared.get((prompt, output))
        if row is None:
            tokens = {name: _number(cell) for name, cell in zip(_AZURE[1:], (prompt, output), strict=True)}
            row = Row(prompt_tokens=_tokens(tokens, _AZURE[1]), output_tokens=_tokens(tokens, _AZURE[2]))
            shared[prompt, output] = row
        return _microseconds(when), row

    return parse


def _record(text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{show(text)} is not JSON: {error.msg.lower()} at column {error.colno}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{show(text)} is nested too deep or has too long a number") from None
    if not isinstance(record, dict):
        raise ValueError(f"{show(text)} is not a JSON object; write one per line")
    return record


def _number(cell: str) -> int | str:
    return int(cell) if cell.strip().isdecimal() and len(cell) < 19 else cell


def _microseconds(text: str) -> int:
    """Return a time since 1970; one without a time zone is UTC. Tenths of a microsecond are cut off."""
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"TIMESTAMP {show(text)} is not a time; write e.g. 2023-11-16 18:17:03.9799600") from None
    since = (time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _nearest_unknown(name: str, record: dict[str, Any]) -> str:
    return nearest(name, [key for key in record if key not in (*_MOONCAKE, *_OWN)])


def _time(record: dict[str, Any], name: str) -> float:
    if name not in record:
        raise ValueError(
            f"the line has no {name}{_nearest_unknown(name, record)}; every request of a trace has its time"
        )
    time = record[name]
    if isinstance(time, bool) or not isinstance(time, int | float) or not -1e18 < time < 1e18:
        raise ValueError(f"{name} {show(time)} is not a time; write a number, e.g. 1250")
    return time


def _tokens(record: dict[str, Any], name: str) -> int:
    if name not in record:
        raise ValueError(f"the line has no {name}{_nearest_unknown(name, record)}; write a number of tokens")
    tokens = record[name]
    if isinstance(tokens, bool) or not isinstance(tokens, int):
        raise ValueError(f"{name} {show(tokens)} is not a whole number; write a number of tokens")
    if not 0 <= tokens <= MOST_TOKENS:
        bound = "negative" if tokens < 0 else f"more than {MOST_TOKENS}"
        raise ValueError(f"{name} {tokens} is {bound}; write 1 to {MOST_TOKENS} tokens")
    return max(1, tokens)


def _blocks(record: dict[str, Any], name: str) -> tuple[int, ...]:
    blocks = record[name]
    if not isinstance(blocks, list) or not all(type(block) is int for block in blocks):
        raise ValueError(f"{name} {show(blocks)} is not a list of whole numbers")
    return tuple(blocks)


def _turns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f'turns {show(value)} is not a list of messages; write e.g. ["Hello", "And then?"]')
    return tuple(_text(turn, "turns") for turn in value)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} {show(value)} is not text; write what is sent, in quotes")
    return value
