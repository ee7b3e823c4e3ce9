"""Durations, percentages, sizes and counts as people write them in a suite, turned into base units."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any, TypeGuard

from pytest_autotune.spelling import misspelled, show

# Patterns of the JSON schema, and of the readers below.
DURATION = r"^\s*[0-9]+(\.[0-9]+)?\s*(us|ms|s|m|h)\s*$"
PERCENTAGE = r"^\s*[0-9]+(\.[0-9]+)?\s*%\s*$"

_SECONDS = {"us": Decimal("1e-6"), "ms": Decimal("1e-3"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}
_BYTES: dict[str, int] = {
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("kMGT", start=1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", start=1)},
}
_DURATION_WORDS = {
    **dict.fromkeys(("us", "µs", "μs", "usec", "usecs", "micros", "microsecond", "microseconds"), "us"),
    **dict.fromkeys(("ms", "msec", "msecs", "millis", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), "m"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), "h"),
}
_DURATION_HELP = "write a number with a unit, e.g. 500ms, 30s, 2m"
_PERCENTAGE_HELP = "write a percentage, e.g. 1%, or a share of one, e.g. 0.01"
_SIZE_HELP = "write a number with a unit, e.g. 512MB, 16GiB"


def duration(value: Any) -> float:
    """Return seconds; a bare number is refused, except 0, because nobody can know its unit.

    >>> duration("500ms"), duration("1.5 s"), duration("2m"), duration(0)
    (0.5, 1.5, 120.0, 0.0)
    """
    if _is_number(value):
        if value == 0:
            return 0.0
        if value < 0:
            raise ValueError(f"{show(value)} is negative; {_DURATION_HELP}")
        raise ValueError(f"{show(value)} has no unit; write '{show(value)}s' or '{show(value)}ms'")
    number, unit = _split(value)
    if number is not None and unit in _SECONDS:
        return _finite(number * _SECONDS[unit], value)
    if number == 0 and not unit:
        return 0.0
    if isinstance(value, str) and re.fullmatch(r"\s*-[0-9].*", value, re.DOTALL):
        raise ValueError(f"{show(value)} is negative; {_DURATION_HELP}")
    if number is not None and not unit:
        raise ValueError(f"{show(value)} has no unit; write '{number}s' or '{number}ms'")
    raise ValueError(f"{show(value)} is not a duration{_did_you_mean(value, _duration_word)}; {_DURATION_HELP}")


def percentage(value: Any, *, most: float | None = 1.0) -> float:
    """Return a share of one: ``"1%"`` and 0.01 both give 0.01.

    With `most` at 1 a bare number of 1 or more is refused: ``1`` could mean 1 % or all. With
    `most` None any ratio is allowed, e.g. 2 for ``200%``.
    """
    if _is_number(value):
        if value < 0:
            raise ValueError(f"{show(value)} is negative; {_PERCENTAGE_HELP}")
        if most is not None and value >= 1:
            raise ValueError(
                f"{show(value)} is not a share below 1 (did you mean '{show(value)}%'?); {_PERCENTAGE_HELP}"
            )
        return _finite(value, value)
    number, unit = _split(value)
    if isinstance(value, str) and re.fullmatch(r"\s*-[0-9].*", value, re.DOTALL):
        raise ValueError(f"{show(value)} is negative; {_PERCENTAGE_HELP}")
    if number is None or unit != "%":
        raise ValueError(f"{show(value)} is not a percentage{_did_you_mean(value, _percent_word)}; {_PERCENTAGE_HELP}")
    share = _finite(number / 100, value)
    if most is not None and share > most:
        raise ValueError(f"{show(value)} is more than {most:.0%}; {_PERCENTAGE_HELP}")
    return share


def size(value: Any) -> int:
    """Return bytes: kB, MB, GB, TB are powers of 1000, KiB, MiB, GiB, TiB powers of 1024; 0 needs no unit."""
    if _is_number(value):
        if value == 0:
            return 0
        raise ValueError(f"{show(value)} has no unit; write '{show(value)}MB' or '{show(value)}GiB'")
    number, unit = _split(value)
    if number is None or unit not in _BYTES:
        raise ValueError(f"{show(value)} is not a size{_did_you_mean(value, _size_word)}; {_SIZE_HELP}")
    return round(number * _BYTES[unit])


def count(value: Any, *, least: int = 0) -> int:
    """Return a whole number of at least `least`; ``4k`` is refused, since it may mean 4000 or 4096."""
    wanted = f"write a whole number of at least {least}"
    if isinstance(value, int) and not isinstance(value, bool):
        if value < least:
            raise ValueError(f"{value} is too small; {wanted}")
        return value
    if isinstance(value, float) and value.is_integer():
        raise ValueError(f"{show(value)} is not a whole number (did you mean {value:.0f}?); {wanted}")
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
        raise ValueError(f"{show(value)} is text (did you mean {int(value)}, without quotes?); {wanted}")
    thousands = re.fullmatch(r"([0-9]{1,12})\s*[kK]", value) if isinstance(value, str) else None
    if thousands:
        number = int(thousands[1])
        raise ValueError(f"{show(value)} is ambiguous; write {number * 1000} or {number * 1024}")
    raise ValueError(f"{show(value)} is not a whole number; {wanted}")


def number(value: Any) -> float:
    """Return a finite number that was written without a unit."""
    if not _is_number(value):
        raise ValueError(f"{show(value)} is not a number")
    return _finite(value, value)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _split(value: Any) -> tuple[Decimal | None, str]:
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(.*?)\s*", value, re.DOTALL) if isinstance(value, str) else None
    return (Decimal(match[1]), match[2]) if match else (None, "")


def _finite(value: float | Decimal, written: Any) -> float:
    try:
        converted = float(value)
    except OverflowError:
        converted = math.inf
    if not math.isfinite(converted):
        raise ValueError(f"{show(written)} is not a finite number")
    return converted


def _did_you_mean(value: Any, word: Any) -> str:
    """Suggest a valid spelling of text that has a number, perhaps with a decimal comma, and some unit."""
    match = re.fullmatch(r"\s*([0-9]+(?:[.,][0-9]+)?|[.,][0-9]+)\s*(.*?)\s*", value) if isinstance(value, str) else None
    unit = word(match[2]) if match else None
    if not match or unit is None:
        return ""
    figure = match[1].replace(",", ".")
    return f" (did you mean '{'0' if figure.startswith('.') else ''}{figure}{unit}'?)"


def _duration_word(text: str) -> str | None:
    word = text.casefold()
    return _DURATION_WORDS.get(word) or _DURATION_WORDS.get(misspelled(word, _DURATION_WORDS) or "")


def _percent_word(text: str) -> str | None:
    return "%" if text.casefold() in ("", "%", "percent", "pct", "prozent") else None


def _size_word(text: str) -> str | None:
    spelled = {unit.casefold(): unit for unit in _BYTES}
    return spelled.get(text.casefold()) or spelled.get(f"{text.casefold()}b")
