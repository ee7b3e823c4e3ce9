"""Makes a row to send of a dataset's record: finds its prompt, its conversation and its lengths by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_autotune.load.generator import Row

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

# The first of these that a record has is its prompt: a text or a conversation, whatever its name says.
PROMPTS = ("conversations", "conversation", "messages", "turns", "prompt", "text", "question", "instruction")
PROMPT_TOKENS = ("prompt_tokens",)
OUTPUT_TOKENS = ("output_tokens", "max_tokens")
_USERS = frozenset({"human", "user", "prompter"})


@dataclass(frozen=True, slots=True)
class Columns:
    """Where the parts of a row stand; None: wherever their usual names say."""

    prompt: str | None = None
    prompt_tokens: str | None = None
    output_tokens: str | None = None
    turns: int | None = None  # of a conversation that are taken at most

    @property
    def wanted(self) -> frozenset[str]:
        """All columns that may be needed."""
        named = {self.prompt, self.prompt_tokens, self.output_tokens} - {None}
        return frozenset({*PROMPTS, *PROMPT_TOKENS, *OUTPUT_TOKENS, *(name for name in named if name)})


def row_of(fields: Mapping[str, Any], names: Collection[str], columns: Columns) -> Row | None:
    """Return the row of a record, None when it is empty. Raises `ValueError` that says what is wrong with it."""
    prompt_column = _column(columns.prompt, PROMPTS, fields, names)
    prompt_tokens = _tokens(_column(columns.prompt_tokens, PROMPT_TOKENS, fields, names), fields)
    output_tokens = _tokens(_column(columns.output_tokens, OUTPUT_TOKENS, fields, names), fields)
    if prompt_column is None:
        if prompt_tokens is None:
            raise ValueError(
                f"no prompt: none of {', '.join(PROMPTS)} or {PROMPT_TOKENS[0]} among its columns "
                f"{', '.join(names) or '(none)'}; name the column"
            )
        return Row(prompt_tokens=prompt_tokens, output_tokens=output_tokens)
    turns = _turns(fields[prompt_column], prompt_column)[: columns.turns]
    if not turns:
        return None
    if len(turns) == 1:
        return Row(text=turns[0], prompt_tokens=prompt_tokens, output_tokens=output_tokens)
    return Row(turns=turns, prompt_tokens=prompt_tokens, output_tokens=output_tokens)


def _column(named: str | None, usual: tuple[str, ...], fields: Mapping[str, Any], names: Collection[str]) -> str | None:
    """Return the column of a part: the one that was named, else the first usual one with something in it."""
    if named is not None:
        if named not in names:
            raise ValueError(f"no column {named!r}; there are {', '.join(names) or 'none'}")
        return named
    there = [name for name in usual if name in names]
    return next((name for name in there if fields[name] is not None), there[0] if there else None)


def _tokens(column: str | None, fields: Mapping[str, Any]) -> int | None:
    """Return a number of tokens; None when the record has none."""
    value = None if column is None else fields[column]
    if value is None or value == "":
        return None
    try:
        tokens = int(value) if not isinstance(value, float) or value.is_integer() else 0
    except (TypeError, ValueError):
        tokens = 0
    if tokens < 1 or isinstance(value, bool):
        raise ValueError(f"{column} is {_shown(value)}, expected a whole number of tokens, at least 1")
    return tokens


def _turns(value: Any, column: str) -> tuple[str, ...]:
    """Return what the user says in a prompt, without what is empty."""
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    if isinstance(value, dict) and value and all(isinstance(part, list) for part in value.values()):
        value = [dict(zip(value, parts, strict=False)) for parts in zip(*value.values(), strict=False)]  # HF's Sequence
    if not isinstance(value, list):
        raise ValueError(f"{column} is {_shown(value)}, expected a text or a list of messages")
    system, turns = "", []
    for message in value:
        role, text = _message(message, column)
        if role == "system":
            system += f"{text}\n\n" if text.strip() else ""
        elif role in _USERS and text.strip():
            turns.append(system + text)
            system = ""  # stands before the next turn only: a row has no place of its own for it
    return tuple(turns)


def _message(message: Any, column: str) -> tuple[str, str]:
    """Return role and text of a message: ``{"from", "value"}``, ``{"role", "content"}``, or the user's bare text."""
    if isinstance(message, str):
        return "user", message
    if isinstance(message, dict):
        role = message.get("from") or message.get("role")
        content = message.get("value") or message.get("content")
        if isinstance(content, list):  # parts: those that are no text cannot be sent
            parts = [part.get("text") for part in content if isinstance(part, dict)]
            content = "\n".join(part for part in parts if isinstance(part, str))
        if isinstance(role, str) and (content is None or isinstance(content, str)):
            return role.lower(), content or ""
    raise ValueError(f"{column} holds {_shown(message)}, expected a message with from and value, or role and content")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
