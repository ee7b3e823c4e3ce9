"""Quantiles of the distributions that intervals and tests rest on, exact and with the standard library alone."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

_SERIES = 200  # degrees of freedom up to which the closed form is summed


def normal_quantile(probability: float) -> float:
    """Return the value that a standard normal variable stays below with this probability."""
    return NormalDist().inv_cdf(probability)


@lru_cache(maxsize=1024)
def student_quantile(probability: float, freedom: int) -> float:
    """Return the value that a Student t variable stays below with this probability (above one half).

    Up to 200 degrees of freedom by bisection of the closed form of its distribution (Abramowitz and
    Stegun, "Handbook of Mathematical Functions", 1964, 26.7.3 and 26.7.4), beyond by the expansion
    26.7.5, whose error is then below 1e-9.
    """
    assert 0.5 <= probability < 1
    assert freedom >= 1
    if freedom > _SERIES:
        return _expansion(normal_quantile(probability), freedom)
    low, high = 0.0, 1.0
    while _central(high, freedom) < 2 * probability - 1:
        low, high = high, 2 * high
    while high - low > 1e-13 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _central(middle, freedom) < 2 * probability - 1:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def two_sided(confidence: float, freedom: int) -> float:
    """Return how many standard errors a two-sided Student t interval reaches to each side."""
    return student_quantile((1 + confidence) / 2, freedom)


def _central(t: float, freedom: int) -> float:
    """Return the probability that a Student t variable lies between -t and t."""
    angle = math.atan2(t, math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for step in range((freedom - odd) // 2):
        total += term
        term *= (
            cosine * cosine * (2 * step + 2) / (2 * step + 3)
            if odd
            else cosine * cosine * (2 * step + 1) / (2 * step + 2)
        )
    return (2 / math.pi) * (angle + sine * total) if odd else sine * total


def _expansion(z: float, freedom: int) -> float:
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / float(freedom**power) for power, term in enumerate(terms))
