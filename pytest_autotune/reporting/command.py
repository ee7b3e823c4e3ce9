"""A server's command line as somebody else can run it: stable address and model name, secrets from the environment."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_autotune.engines.registry import builtin
from pytest_autotune.masking import holds_secret, name_of, split_setting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_autotune.reporting.report import SuiteReport
    from pytest_autotune.suite import Suite

PORT = 8000


@dataclass(frozen=True, slots=True)
class Word:
    """One argv element; a `prefix` is what stands before the value, as in ``--port=``."""

    kind: Literal["literal", "host", "port", "address", "secret"]  # an address: host and port
    value: str  # of a secret: the environment variable that holds it
    prefix: str = ""


def stable_words(report: SuiteReport, argv: Sequence[str]) -> list[Word]:
    """Return the command line with what belonged to one deployment replaced, and nothing else.

    Only whole elements, or whole values behind ``--flag=`` or ``NAME=``, are replaced. A port that is also
    the value of some other setting (``--max-model-len 32768``) is told from it by its flag.
    """
    words = [_hide(argv, index, report.secrets) for index in range(len(argv))]
    address = report.address
    if address is None:
        return words
    if not _has_own_name(report.suite):
        words = [_swap(word, address.model_name, Word("literal", _lasting_name(report.suite))) for word in words]
    words = [_swap(word, f"{address.host}:{address.port}", Word("address", f"{address.host}:{PORT}")) for word in words]
    words = [_swap(word, address.host, Word("host", address.host)) for word in words]
    ports = [index for index, word in enumerate(words) if word.kind == "literal" and word.value == str(address.port)]
    if len(ports) > 1:
        ports = [index for index in ports if "port" in name_of(argv, index).lower()]
    for index in ports:
        words[index] = Word("port", str(PORT), words[index].prefix)
    return words


def _has_own_name(suite: Suite) -> bool:
    """Say whether the server is asked for by its model, which then stands in the command line as that alone."""
    engine = builtin(suite.engine)
    return engine is not None and engine.abilities.own_name is not None


def _lasting_name(suite: Suite) -> str:
    """Return the name to serve for good: what the suite says, the model's on a hub, else the suite's; never a path."""
    of_hub = suite.model if suite.model and not suite.model.startswith(("/", ".", "~", "$")) else None
    return suite.model_name or of_hub or suite.name


def script_words(words: Sequence[Word]) -> list[str]:
    """Return each word as source of sh, where ``$HOST`` and ``$PORT`` are set."""
    return [word.prefix + _source(word) for word in words]


def one_line(report: SuiteReport, argv: Sequence[str]) -> str:
    """Return the command line, with its environment variables before it, to paste into a shell.

    Secrets stay references to variables that the reader's shell must have.
    """
    assignments = [
        f"{name}={shlex.quote(value)}"
        for name, value in sorted(report.server_env.items())
        if not holds_secret(name, value, report.secrets)
    ]
    words = [
        f'{word.prefix}"${word.value}"' if word.kind == "secret" else shlex.quote(word.prefix + word.value)
        for word in stable_words(report, argv)
    ]
    return " ".join([*assignments, *words])


def _source(word: Word) -> str:
    if word.kind == "literal":
        return shlex.quote(word.value)
    if word.kind == "secret":
        return f'"${{{word.value}:?set {word.value}}}"'
    return '"$HOST:$PORT"' if word.kind == "address" else f'"${word.kind.upper()}"'


def _hide(argv: Sequence[str], index: int, secrets: Sequence[str]) -> Word:
    """Leave a secret to the reader's environment; what a stored command line does not tell any more is one, too."""
    prefix, value = split_setting(argv[index])
    name = name_of(argv, index)
    if holds_secret(name, value, secrets):
        return Word("secret", re.sub(r"[^A-Z0-9]+", "_", name.strip("-").upper()) or "SECRET", prefix)
    return Word("literal", value, prefix)


def _swap(word: Word, old: str, new: Word) -> Word:
    if word.kind != "literal" or word.value != old:
        return word
    return Word(new.kind, new.value, word.prefix)
