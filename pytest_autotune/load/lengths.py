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


def quantile_of(seed: int, number: int, purpose: int) -> float:
    """Return a uniform number in (0, 1) that only its arguments decide: random access, equal in every process."""
    mixed = 0
    for part in (seed, number, purpose):
        mixed = _mixed(mixed + part)
    return ((mixed >> 12) + 0.5) * 2.0**-52  # one bit more would round up to 1


def _mixed(value: int) -> int:
    """Return the next output of splitmix64 from a state (Steele, Lea and Flood, OOPSLA 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return value ^ value >> 31
