"""How long prompts and outputs are: distributions of whole numbers of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Lengths(Protocol):
    """A distribution of lengths in tokens; frozen, hashable plain data."""

    def at(self, quantile: float) -> int:
        """Return the length, at least 1, at a quantile in (0, 1)."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same length."""

    tokens: int

    def at(self, quantile: float) -> int:  # noqa: ARG002 - all quantiles of one value are that value
        """Return the length."""
        return self.tokens
