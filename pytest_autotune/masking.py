"""Keeping secrets out of everything that is shown or stored: by the name they go by, by their form, by their value.

Where the two err, a text that is masked without need is better than a secret that is told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MASK = "***"
_SHORTEST = 6  # a shorter value would be found by chance, and mask what it should not

_WORD_ENDS = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")  # camelCase changes words too
_ALWAYS = re.compile(r"\w*(?:password|passwd|passphrase|secret|credential|apikey|(?:hf|api|auth|access)token)s?")
_USUALLY = re.compile(r"keys?|token|auth|authorization")  # but `token-threshold: 2048` is no secret
_OF_TEXT = re.compile(  # what comes before "token" where it is a piece of text
    r"bos|eos|pad|unk|sep|cls|mask|stop|begin|start|end|think|first|last|next|new|max|min|prompt|input|output|per|"
    r"special|text|image|audio|video|draft"
)
_PLACES = frozenset(("file", "path", "dir"))  # `--ssl-key-file` says where the secret is
_PLAIN_VALUE = re.compile(r"|true|false|yes|no|on|off|none|null", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")

_FLAG_OR_NAME = re.compile(r"(-{0,2}[A-Za-z_][\w.-]*)=(.*)", re.DOTALL)
_NO_VALUE = re.compile(r"--.*|-[A-Za-z]", re.DOTALL)  # what follows a flag and is the next one

_KNOWN_FORMS = re.compile(
    r"\b(?:(?:hf_|gh[pousr]_)[A-Za-z0-9]{16,}|(?:sk-|glpat-|github_pat_|nvapi-)[A-Za-z0-9_-]{16,}"
    r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+)"
)
# Up to the last @, for a password may hold anything; but a number after the host is its port.
_URL_PASSWORD = re.compile(
    r"(\b[a-z][a-z0-9+.-]{0,30}://[^\s/:@]*):(?!\d{1,5}(?:[/?#,;'\"\])}]|$))(?:(?!://)[^\s@])+@", re.IGNORECASE
)
_HEADER = re.compile(
    r"\b((?:(?:proxy-)?authorization|x-api-key)[\"']?\s*[:=]\s*[\"']?)(?!\*\*\*)"
    r"(?:((?:bearer|basic)\s+)[^\s'\"]+|[^\s'\"]+(?:[ \t]+[^\s'\"]+)?)",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\b(bearer)\s+[\w.~+/=-]{8,}", re.IGNORECASE)
_ASSIGNED = re.compile(r"(?<![\w.-])(-{0,2}([A-Za-z_][\w.-]*)=[\"']?)([^\s&'\"]+)")
_JSON_MEMBER = re.compile(r"(([\"'])([\w.-]+)\2\s*:\s*([\"']))((?:\\.|(?!\4).)*)(?=\4)")


def is_secret(name: str, value: object = MASK) -> bool:
    """Say whether a flag, variable or key of this name holds a secret: ``--api-key``, ``HF_TOKEN``, ``clientSecret``.

    ``max-num-batched-tokens``, ``eos-token`` and ``TOKENIZERS_PARALLELISM`` are about text; with `value`, ``true`` and
    the like are no secrets, and a number is one only behind a name that leaves no doubt.
    """
    if value is None or isinstance(value, bool | float) or _PLAIN_VALUE.fullmatch(str(value)):
        return False
    words = [word.lower() for word in _WORD_ENDS.split(name) if word]
    if not words or words[-1] in _PLACES:
        return False
    if any(_ALWAYS.fullmatch(word) for word in words):
        return True
    usually = [
        index
        for index, word in enumerate(words)
        if _USUALLY.fullmatch(word) and not (word == "token" and index and _OF_TEXT.fullmatch(words[index - 1]))
    ]
    return bool(usually) and (usually[-1] == len(words) - 1 or not _NUMBER.fullmatch(str(value)))


def holds_secret(name: str, value: str, secrets: Iterable[str] = ()) -> bool:
    """Say whether a setting's value is, contains or was a secret: what has been masked before counts."""
    return is_secret(name, value) or MASK in value or mask_text(value, secrets) != value


def secret_values(named: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return the values of settings and variables whose names say that they are secrets, longest first."""
    values = {value for name, value in named if len(value) >= _SHORTEST and is_secret(name, value)}
    return tuple(sorted(values, key=lambda value: (-len(value), value)))


def mask_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Mask the given values, and what says itself that it is secret.

    That is: passwords in URLs, HTTP authorization, tokens of well-known forms, and values behind a secret's name in
    ``NAME=value``, ``?key=value`` and ``{"name": "value"}``.
    """
    for secret in secrets:
        text = text.replace(secret, MASK)
    text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
    text = _HEADER.sub(lambda found: f"{found[1]}{found[2] or ''}{MASK}", text)
    text = _BEARER.sub(rf"\1 {MASK}", text)
    text = _JSON_MEMBER.sub(lambda found: found[1] + MASK if is_secret(found[3], found[5]) else found[0], text)
    text = _ASSIGNED.sub(lambda found: found[1] + MASK if is_secret(found[2], found[3]) else found[0], text)
    return _KNOWN_FORMS.sub(MASK, text)


def mask(value: Any, secrets: Sequence[str] = ()) -> Any:
    """Mask every string in a JSON value at any depth; under the name of a secret all of them, and whole."""
    return _masked("", value, secrets)


def mask_argv(argv: Sequence[str], secrets: Sequence[str] = ()) -> tuple[str, ...]:
    """Mask the secrets of a command line, also in ``--api-key X``, ``--api-key=X`` and ``HF_TOKEN=X``."""
    masked = []
    for index in range(len(argv)):
        prefix, value = split_setting(argv[index])
        masked.append(prefix + (MASK if is_secret(name_of(argv, index), value) else mask_text(value, secrets)))
    return tuple(masked)


def split_setting(element: str) -> tuple[str, str]:
    """Split ``--flag=value`` and ``NAME=value`` behind the equals sign; any other element has no prefix."""
    match = _FLAG_OR_NAME.fullmatch(element)
    return (f"{match[1]}=", match[2]) if match else ("", element)


def name_of(argv: Sequence[str], index: int) -> str:
    """Return the flag or variable that an element of a command line is the value of; empty when it is none's."""
    prefix, value = split_setting(argv[index])
    if prefix:
        return prefix.removesuffix("=")
    before = argv[index - 1] if index and not _NO_VALUE.fullmatch(value) else ""
    return before if before.startswith("-") and "=" not in before else ""


def _masked(name: str, value: Any, secrets: Sequence[str]) -> Any:
    """Mask the value that goes by `name`; what is within a secret goes by its name too."""
    if isinstance(value, Mapping):
        within = name if is_secret(name) else ""
        return {key: _masked(within or str(key), inner, secrets) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(name, inner, secrets) for inner in value]
    if is_secret(name, value):
        return MASK
    return mask_text(value, secrets) if isinstance(value, str) else value
