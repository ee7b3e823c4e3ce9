"""Which distribution lengths follow, as far as other load generators know it: fixed, uniform or normal."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_autotune.load.lengths import Lengths

_QUANTILES = tuple(number / 40 for number in range(1, 40))
_EDGE = 1e-9  # as near to the ends of a distribution as its quantiles are asked for


@dataclass(frozen=True, slots=True)
class FixedShape:
    """Always so many tokens."""

    tokens: int


@dataclass(frozen=True, slots=True)
class UniformShape:
    """From `low` to `high` tokens, both included, each as likely as the other."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class NormalShape:
    """Around `mean` tokens with the standard deviation `sd`."""

    mean: int
    sd: int


Shape = FixedShape | UniformShape | NormalShape


def shape_of(lengths: Lengths, *, less: int = 0) -> Shape | None:
    """Return the distribution that lengths follow, `less` tokens shorter; None when it is another one.

    Told by their quantiles, so that it does not matter what they are called. A length is a whole
    number, and bounds cut distributions off: one that is near what the distribution says belongs to it.
    """
    values = [lengths.at(quantile) for quantile in _QUANTILES]
    low, middle, high = lengths.at(_EDGE), lengths.at(0.5), lengths.at(1 - _EDGE)
    if low == high:
        return FixedShape(max(low - less, 1))
    if _near(values, [low + quantile * (high - low) for quantile in _QUANTILES]):
        return UniformShape(max(low - less, 1), max(high - less, 1))
    upper = NormalDist().cdf(1.0)
    sd = max(lengths.at(upper) - middle, 1)
    normal = NormalDist(middle, sd)
    wanted = [min(max(normal.inv_cdf(quantile), low), high) for quantile in _QUANTILES]
    if _near(values, wanted):
        return NormalShape(max(middle - less, 1), sd)
    return None


def _near(values: list[int], wanted: list[float]) -> bool:
    tolerance = max(1.5, 0.02 * (values[-1] - values[0]))
    return all(abs(value - want) <= tolerance for value, want in zip(values, wanted, strict=True))
