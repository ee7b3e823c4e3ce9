"""How long prompts and outputs are: distributions of whole numbers of tokens, read by quantile.

A length is not drawn from a stream of random numbers but looked up: request number `n` of a batch
asks its distribution for the quantile that `quantile_of` gives that number. So it has the same
lengths whichever process sends it, and whatever was sent before.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from statistics import NormalDist

_MASK = 2**64 - 1
_LAST_QUANTILE = 1 - 2.0**-53  # the largest that `quantile_of` returns


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


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every whole number from `low` to `high`, both included, equally often."""

    low: int
    high: int

    def at(self, quantile: float) -> int:
        """Return the length at a quantile."""
        return min(self.high, self.low + int(quantile * (self.high - self.low + 1)))


@dataclass(frozen=True, slots=True)
class Normal:
    """A normal distribution, rounded to whole numbers between `low` and `high`.

    It is truncated: what would lie outside the bounds is spread over what lies inside, in
    proportion, so that no length piles up at a bound; the mean moves away from the nearer bound.
    With `clamped`, it lies at the bound instead, as other load generators have it.
    """

    mean: float
    sd: float
    low: int = 1
    high: int | None = None
    clamped: bool = False

    def at(self, quantile: float) -> int:
        """Return the length at a quantile."""
        if self.sd == 0:
            return _whole(self.mean, self.low, self.high)
        standard = _standard_normal()
        if not self.clamped:
            low, high = _bounds(self.mean, self.sd, self.low - 0.5, None if self.high is None else self.high + 0.5)
            quantile = _within(low, high, quantile)
        return _whole(self.mean + self.sd * standard.inv_cdf(quantile), self.low, self.high)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """A log-normal distribution, rounded and truncated to whole numbers between `low` and `high`.

    Half of the lengths lie below `median`; `sigma` is the standard deviation of their natural
    logarithm: two thirds lie within a factor of e**sigma of the median. Lengths of real prompts and
    answers are spread so, over orders of magnitude with a long tail.
    """

    median: float
    sigma: float
    low: int = 1
    high: int | None = None

    @classmethod
    def of_mean(cls, mean: float, sd: float, *, low: int = 1, high: int | None = None) -> LogNormal:
        """Return the distribution whose mean and standard deviation, not yet bounded, are these."""
        ratio = 1 + (sd / mean) ** 2
        return cls(mean / math.sqrt(ratio), math.sqrt(math.log(ratio)), low, high)

    def at(self, quantile: float) -> int:
        """Return the length at a quantile."""
        if self.sigma == 0:
            return _whole(self.median, self.low, self.high)
        upper = None if self.high is None else math.log(self.high + 0.5)
        low, high = _bounds(math.log(self.median), self.sigma, math.log(self.low - 0.5), upper)
        deviation = self.sigma * _standard_normal().inv_cdf(_within(low, high, quantile))
        return _whole(self.median * math.exp(min(deviation, 700.0)), self.low, self.high)


@dataclass(frozen=True, slots=True)
class Empirical:
    """The lengths that were seen somewhere, each as often as its weight says; kept in ascending order."""

    values: tuple[int, ...]
    weights: tuple[float, ...] | None = None  # None: equally often
    _cumulated: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        weights = self.weights or (1,) * len(self.values)
        pairs = sorted(pair for pair in zip(self.values, weights, strict=True) if pair[1] > 0)
        assert pairs
        object.__setattr__(self, "values", tuple(value for value, _ in pairs))
        object.__setattr__(self, "weights", self.weights and tuple(weight for _, weight in pairs))
        object.__setattr__(self, "_cumulated", tuple(accumulate(weight for _, weight in pairs)))

    def at(self, quantile: float) -> int:
        """Return the smallest length that at least this share of all lengths does not exceed."""
        return self.values[bisect_left(self._cumulated, quantile * self._cumulated[-1])]


@dataclass(frozen=True, slots=True)
class AtLeast:
    """Another distribution, with what is shorter than `tokens` made that long."""

    tokens: int
    lengths: Lengths

    def at(self, quantile: float) -> int:
        """Return the length at a quantile."""
        return max(self.tokens, self.lengths.at(quantile))


def mean_length(lengths: Lengths, *, points: int = 1000) -> float:
    """Return the mean length, from so many quantiles: what a load of these lengths amounts to."""
    return sum(lengths.at((point + 0.5) / points) for point in range(points)) / points


def longest(lengths: Lengths) -> int:
    """Return the longest length that any request can have: what must fit into the model's context."""
    return lengths.at(_LAST_QUANTILE)


def quantile_of(seed: int, number: int, purpose: int) -> float:
    """Return a quantile in (0, 1), both ends excluded: evenly spread, and the same wherever it is asked for.

    It is ``mix(mix(mix(seed) + number) + purpose)`` in 64-bit arithmetic, the middle of the bin in
    which its upper 52 bits lie. `mix` is one step of SplitMix64 (Steele, Lea and Flood, "Fast splittable
    pseudorandom number generators", OOPSLA 2014), a permutation in which every bit of the input
    changes half of the output's: numbers, purposes and seeds that differ give quantiles that know
    nothing of each other.
    """
    return _middle_of_bin(_mix(_mix(_mix(seed & _MASK) + number) + purpose))


def _middle_of_bin(bits: int) -> float:
    return ((bits >> 12) + 0.5) * 2.0**-52  # 52 bits: with 53 the last middle would round to 1


def _mix(state: int) -> int:
    """Return the output of SplitMix64 in a state."""
    mixed = state + 0x9E3779B97F4A7C15 & _MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
    return mixed ^ mixed >> 31


@cache
def _standard_normal() -> NormalDist:
    # Imported late: a worker whose lengths are fixed starts 8 ms sooner without it.
    from statistics import NormalDist

    return NormalDist()


@cache
def _bounds(mean: float, sd: float, low: float, high: float | None) -> tuple[float, float]:
    """Return the quantiles of a normal distribution between which it is not cut off."""
    cdf = _standard_normal().cdf
    return cdf((low - mean) / sd), 1.0 if high is None else cdf((high - mean) / sd)


def _within(low: float, high: float, quantile: float) -> float:
    """Return the quantile of the whole distribution that is this quantile of the part between two others."""
    # Both ends of (0, 1) are infinitely far out; bounds so far out that all mass between them rounds away
    # are those too, and the caller's clamping makes lengths of them.
    return min(max(low + quantile * (high - low), 5e-324), _LAST_QUANTILE)


def _whole(length: float, low: int, high: int | None) -> int:
    """Round to the nearest whole number inside the bounds."""
    rounded = max(low, math.floor(length + 0.5))
    return rounded if high is None else min(high, rounded)
