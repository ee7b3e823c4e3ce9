"""What looks like a secret, and how it is hidden in everything that is stored or shown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

MASK = "***"

_ENVIRONMENT = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
# The last word of a setting: api-key and hf-token are secrets, max-num-batched-tokens is not.
_SETTING = re.compile(r"(^|[-_.])(key|apikey|token|secret|password|passwd|credentials?)$", re.IGNORECASE)
_TEXT = re.compile(r"\b(hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,})")


def secret_variable(name: str) -> bool:
    """Say whether an environment variable of this name holds a secret, e.g. ``HF_TOKEN``."""
    return _ENVIRONMENT.search(name) is not None


def secret_setting(name: str) -> bool:
    """Say whether a setting of this name holds a secret, e.g. ``api-key``; leading dashes count for nothing."""
    return _SETTING.search(name.lstrip("-")) is not None


def mask_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with the values of secrets hidden."""
    return {name: MASK if secret_variable(name) else mask(value) for name, value in env.items()}


def mask_arguments(argv: Sequence[str]) -> tuple[str, ...]:
    """Return a command line with the values of secret flags hidden: ``--api-key ***``, ``--hf-token=***``."""
    masked: list[str] = []
    for argument in argv:
        flag, equals, _ = argument.partition("=")
        if masked and masked[-1].startswith("-") and secret_setting(masked[-1]) and not argument.startswith("--"):
            masked.append(MASK)
        elif equals and flag.startswith("-") and secret_setting(flag):
            masked.append(f"{flag}={MASK}")
        else:
            masked.append(mask(argument))
    return tuple(masked)


def mask(value: Any) -> Any:
    """Return a JSON value with secrets hidden: settings by their name, text by its form (``hf_...``)."""
    if isinstance(value, str):
        return _TEXT.sub(MASK, value)
    if isinstance(value, Mapping):
        return {key: MASK if item is not None and secret_setting(key) else mask(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask(item) for item in value]
    return value
