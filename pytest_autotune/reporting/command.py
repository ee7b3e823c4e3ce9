"""A server's command line as somebody else can run it: stable address and model name, secrets from the environment."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_autotune.reporting.masking import MASK, is_secret, mask_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_autotune.reporting.report import SuiteReport

PORT = 8000


@dataclass(frozen=True, slots=True)
class Word:
    """One argv element; a `prefix` is what stands before the value, as in ``--port=``."""

    kind: Literal["literal", "host", "port", "secret"]
    value: str  # of a secret: the environment variable that holds it
    prefix: str = ""


def stable_words(report: SuiteReport, argv: Sequence[str]) -> list[Word]:
    """Return the command line with what belonged to one deployment replaced, and nothing else.

    Only whole elements, or whole values behind ``--flag=``, are replaced. A port that is also
    the value of some other setting (``--max-model-len 32768``) is told from it by its flag.
    """
    words = [_hide(argv, index, report.secrets) for index in range(len(argv))]
    address = report.address
    if address is None:
        return words
    named = report.suite.model_name or report.suite.model or report.suite.name
    words = [_swap(word, address.model_name, Word("literal", named)) for word in words]
    words = [_swap(word, address.host, Word("host", address.host)) for word in words]
    ports = [index for index, word in enumerate(words) if word.kind == "literal" and word.value == str(address.port)]
    if len(ports) > 1:
        ports = [index for index in ports if "port" in _flag(words, index).lower()]
    for index in ports:
        words[index] = Word("port", str(PORT), words[index].prefix)
    return words


def script_words(words: Sequence[Word]) -> list[str]:
    """Return each word as source of sh, where ``$HOST`` and ``$PORT`` are set."""
    return [shlex.quote(word.prefix) * bool(word.prefix) + _source(word) for word in words]


def one_line(report: SuiteReport, argv: Sequence[str]) -> str:
    """Return the command line, with its environment variables before it, to paste into a shell.

    Secrets stay references to variables that the reader's shell must have.
    """
    assignments = [
        f"{name}={shlex.quote(value)}"
        for name, value in sorted(report.server_env.items())
        if not is_secret(name) and mask_text(value, report.secrets) == value
    ]
    words = [
        f'{word.prefix}"${word.value}"' if word.kind == "secret" else shlex.quote(word.prefix + word.value)
        for word in stable_words(report, argv)
    ]
    return " ".join([*assignments, *words])


def _source(word: Word) -> str:
    match word.kind:
        case "host":
            return '"$HOST"'
        case "port":
            return '"$PORT"'
        case "secret":
            return f'"${{{word.value}:?set {word.value}}}"'
        case "literal":
            return shlex.quote(word.value)


def _hide(argv: Sequence[str], index: int, secrets: Sequence[str]) -> Word:
    element = argv[index]
    match = re.match(r"(--?[A-Za-z][\w.-]*)=", element)
    prefix = match[0] if match else ""
    before = argv[index - 1] if index else ""
    flag = prefix or (before if before.startswith("-") and "=" not in before else "")
    value = element.removeprefix(prefix)
    if is_secret(flag):
        return Word("secret", _variable(flag), prefix)
    masked = mask_text(value, secrets)
    if MASK in masked and masked != value:
        return Word("secret", _variable(flag) if flag else "SECRET", prefix)
    return Word("literal", value, prefix)


def _variable(flag: str) -> str:
    return re.sub(r"[^A-Z0-9]+", "_", flag.strip("-=").upper()) or "SECRET"


def _swap(word: Word, old: str, new: Word) -> Word:
    if word.kind != "literal" or word.value != old:
        return word
    return Word(new.kind, new.value, word.prefix)


def _flag(words: Sequence[Word], index: int) -> str:
    if words[index].prefix or not index:
        return words[index].prefix
    return words[index - 1].prefix + words[index - 1].value
