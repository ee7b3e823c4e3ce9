"""The questions of an accuracy gate: read from a file or shipped, and whether an answer to one is right."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_autotune.errors import SuiteError
from pytest_autotune.fields import unknown_key
from pytest_autotune.load.dataset_files import read_json_lines
from pytest_autotune.spelling import show

if TYPE_CHECKING:
    from collections.abc import Sequence

SHIPPED = Path(__file__).with_name("sanity.jsonl")
MOST = 1000  # questions of a file: each server answers all of them before it is loaded
_EXPECTED = ("answer", "choices", "pattern")
_KEYS = ("prompt", "messages", *_EXPECTED)
_HELP = 'write e.g. {"prompt": "What is 2 + 2?", "answer": "4"}'
_LONGEST_PATTERN = 1000  # characters


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and what is known of the answer; nothing where it is to be that of the reference."""

    messages: tuple[tuple[str, str], ...]  # role and content; a prompt is one message of the user
    choices: tuple[str, ...] = ()  # answers of which each is right
    pattern: str = ""  # regular expression that a right answer contains

    @property
    def prompt(self) -> str:
        """The text that is completed where there is no chat."""
        return "\n".join(content for _, content in self.messages)

    @property
    def free(self) -> bool:
        """Whether nothing is known of the answer."""
        return not self.choices and not self.pattern

    def answered(self, text: str | None) -> bool:
        """Say whether a text contains a right answer, as words of their own, in any case and any white space."""
        if text is None or self.free:
            return False
        if self.pattern:
            return re.search(self.pattern, text) is not None
        said = plain(text)
        return any(re.search(rf"(?<!\w){re.escape(plain(choice))}(?!\w)", said) for choice in self.choices)


def plain(text: str) -> str:
    """Return a text as answers are compared: without differences of case and of white space."""
    return " ".join(text.casefold().split())


def fingerprint(questions: Sequence[Question], *, max_tokens: int) -> str:
    """Return what tells apart answers that cannot be compared: SHA-256 over what is asked, 16 digits of it."""
    asked = json.dumps([max_tokens, [question.messages for question in questions]], ensure_ascii=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


@cache
def shipped_questions() -> tuple[Question, ...]:
    """Return the sanity set: arithmetic, common knowledge, completion and copying, with one short answer each."""
    return read_questions(SHIPPED)


def read_questions(path: Path) -> tuple[Question, ...]:
    """Read a file with one JSON object per line; raise `SuiteError` naming file, line, value and remedy."""
    questions = []
    try:
        for record in read_json_lines(path, _KEYS):
            try:
                questions.append(_question(record.fields))
            except ValueError as error:
                raise SuiteError(str(error), path=path, line=record.line) from None
            if len(questions) > MOST:
                raise SuiteError(f"more than {MOST} questions; keep {MOST} of them", path=path, line=record.line)
    except OSError as error:
        raise SuiteError(f"cannot be read: {error.strerror or error}", path=path) from None
    if not questions:
        raise SuiteError(f"has no question; {_HELP}", path=path)
    return tuple(questions)


def _question(fields: dict[str, Any]) -> Question:
    for key in fields:
        if key not in _KEYS:
            raise ValueError(f"{key}: {unknown_key(key, _KEYS)}")
    if ("prompt" in fields) is ("messages" in fields):
        both = (
            "both prompt and messages; remove one of the two" if "prompt" in fields else "neither prompt nor messages"
        )
        raise ValueError(f"there is {both}" if "prompt" in fields else f"there is {both}; {_HELP}")
    known = [key for key in _EXPECTED if key in fields]
    if len(known) > 1:
        raise ValueError(f"{known[1]}: there is {known[0]} as well; remove one of the two")
    messages = (("user", _text("prompt", fields["prompt"])),) if "prompt" in fields else _messages(fields["messages"])
    if "pattern" in fields:
        return Question(messages, pattern=_pattern(fields["pattern"]))
    choices = fields.get("choices", [fields["answer"]] if "answer" in fields else [])
    if not isinstance(choices, list) or ("choices" in fields and not choices):
        raise ValueError(f'choices: {show(choices)} is not a list of answers; write e.g. ["4", "four"]')
    return Question(messages, tuple(_text("choices" if "choices" in fields else "answer", each) for each in choices))


def _messages(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f'messages: {show(value)} is not a list; write e.g. [{{"role": "user", "content": "Hello"}}]')
    found = []
    for index, message in enumerate(value):
        if not isinstance(message, dict) or message.keys() != {"role", "content"}:
            raise ValueError(f"messages[{index}]: {show(message)} is not a message; it has role and content")
        found.append((_text(f"messages[{index}].role", message["role"]), _text("content", message["content"])))
    return tuple(found)


def _pattern(value: Any) -> str:
    text = _text("pattern", value)
    if len(text) > _LONGEST_PATTERN:
        raise ValueError(f"pattern: has {len(text)} characters; write at most {_LONGEST_PATTERN}")
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"pattern: {show(text)} is no regular expression: {error}") from None
    return text


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key}: {show(value)} is not a text with something in it")
    return value
