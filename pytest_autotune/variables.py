"""Variables of the environment in the values of a suite: ``${NAME}`` and ``${NAME:-default}``."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from pytest_autotune.errors import MissingRequirement

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")


def expand(text: str, *, key: str, environment: Mapping[str, str] | None = None) -> str:
    """Replace ``${NAME}`` and ``${NAME:-default}`` in the value that a suite gives for `key`.

    Raise `MissingRequirement` naming the variable when it is not set, or empty, and has no default.
    """
    variables = os.environ if environment is None else environment

    def value(match: re.Match[str]) -> str:
        found = variables.get(match["name"]) or match["default"]
        if found is None:
            raise MissingRequirement(f"set {match['name']} ({key}: {text})")
        return found

    return VARIABLE.sub(value, text)
