"""Keeping secrets out of reports: by the name they go by, by their form, and by their value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MASK = "***"
_SECRET_WORDS = frozenset(
    ("token", "key", "apikey", "secret", "password", "passwd", "passphrase", "credential", "credentials")
)
_TOKENS_OF_TEXT = frozenset(
    ("bos", "eos", "pad", "unk", "sep", "cls", "mask", "stop", "image", "audio", "video", "special", "per", "output")
)
_KNOWN_FORMS = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,})")
_URL_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):[^@/\s]+(?=@)")
_HEADER = re.compile(r"\b((?:proxy-)?authorization:\s*)\S+(?:[ \t]+[^\s'\"]+)?", re.IGNORECASE)
_SHORTEST = 6  # a shorter value would be found by chance, and mask what it should not


def is_secret(name: str) -> bool:
    """Say whether a flag or environment variable of this name holds a secret: ``--api-key``, ``HF_TOKEN``.

    ``max-num-batched-tokens`` and ``eos-token`` are about text.
    """
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    if not words or not (words[-1] in _SECRET_WORDS or "secret" in words):
        return False
    return not (words[-1] == "token" and len(words) > 1 and words[-2] in _TOKENS_OF_TEXT)


def secret_values(named: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return the values of settings and variables whose names say that they are secrets, longest first."""
    values = {value for name, value in named if is_secret(name) and len(value) >= _SHORTEST}
    return tuple(sorted(values, key=lambda value: (-len(value), value)))


def mask_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Mask the given values, passwords in URLs and HTTP headers, and whatever has the form of a well-known token."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    text = _URL_PASSWORD.sub(rf"\1:{MASK}", text)
    return _KNOWN_FORMS.sub(MASK, _HEADER.sub(rf"\1{MASK}", text))


def mask(value: Any, secrets: Sequence[str] = ()) -> Any:
    """Mask every string in a JSON value, whole where its key names a secret."""
    if isinstance(value, str):
        return mask_text(value, secrets)
    if isinstance(value, Mapping):
        return {
            key: MASK if isinstance(inner, str | list | tuple) and is_secret(str(key)) else mask(inner, secrets)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [mask(inner, secrets) for inner in value]
    return value


def mask_argv(argv: Sequence[str], secrets: Sequence[str] = ()) -> list[str]:
    """Mask the secrets of a command line, also the values of flags that name one."""
    masked = []
    for index in range(len(argv)):
        prefix, value = split_flag(argv[index])
        masked.append(prefix + (MASK if is_secret(flag_of(argv, index)) else mask_text(value, secrets)))
    return masked


def split_flag(element: str) -> tuple[str, str]:
    """Split ``--flag=value`` behind the equals sign; any other element has no prefix."""
    match = re.match(r"--?[A-Za-z][\w.-]*=", element)
    return (match[0], element[match.end() :]) if match else ("", element)


def flag_of(argv: Sequence[str], index: int) -> str:
    """Return the flag that an element of a command line is the value of; empty when it is none's."""
    prefix, value = split_flag(argv[index])
    if prefix:
        return prefix.removesuffix("=")
    before = argv[index - 1] if index and not value.startswith("--") else ""
    return before if before.startswith("-") and "=" not in before else ""
