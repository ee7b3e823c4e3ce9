"""Numbers for people: durations, rates, shares and changes with their units."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from pytest_autotune.metrics import COSTS, PER_GPU, RATES, SHARES, TIMES

if TYPE_CHECKING:
    from pytest_autotune.space import Configuration

_RATE_UNITS = {rate: "req/s" if rate in ("request_throughput", "goodput") else "tok/s" for rate in RATES}


def seconds(value: float, *, digits: int = 3) -> str:
    """Write a latency: ``394 ms`` below one second, ``6.2 s`` from there on; `digits` significant ones."""
    rounded = _significant(value, digits)
    if abs(rounded) < 1:
        return f"{_trimmed(value * 1000, digits)} ms"
    text = _trimmed(value, digits)
    return f"{text} s" if "." in text or abs(rounded) >= 100 else f"{text}.0 s"


def duration(value: float) -> str:
    """Write how long something took: ``6.2 s``, ``2 min 05 s``, ``1 h 02 min``."""
    if value < 99.5:
        return seconds(value)
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(value / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def change(fraction: float) -> str:
    """Write a relative difference: ``+24 %``, ``-3.5 %``, ``+0.08 %``; ``0 %`` only when there is none."""
    if fraction == 0:
        return "0 %"
    percent = fraction * 100
    if abs(percent) >= 9.95:
        return f"{percent:+.0f} %"
    if abs(percent) >= 0.01:
        return f"{'+' if percent > 0 else '-'}{_trimmed(abs(percent), 2 if abs(percent) >= 1 else 1)} %"
    return "+<0.01 %" if percent > 0 else "-<0.01 %"


def points(difference: float) -> str:
    """Write a difference of shares: ``+1.9 pp``; it is given as it is (0.019)."""
    return change(difference).replace("%", "pp")


def unit(metric: str) -> str:
    """Return the unit that `amount` writes a metric in, for a table's header; empty when it has none."""
    family = metric.partition(".")[0]
    if family in TIMES:
        return "ms"
    if family in SHARES:
        return "%"
    if family in COSTS:
        return "per Mtok"
    base = family.removesuffix(PER_GPU)
    return _RATE_UNITS.get(base, "") + ("/GPU" if base in _RATE_UNITS and base != family else "")


def in_unit(metric: str, value: float) -> float:
    """Return a metric's value in `unit(metric)`, for the axis of a chart."""
    return value * {"ms": 1000, "%": 100}.get(unit(metric), 1)


def amount(metric: str, value: float) -> str:
    """Write a metric's value as a bare number in `unit(metric)`, for the columns of a table."""
    match unit(metric):
        case "ms":
            milliseconds = in_unit(metric, value)
            return f"{milliseconds:.0f}" if abs(milliseconds) >= 100 else f"{milliseconds:.2f}"
        case "%":
            return _trimmed(in_unit(metric, value), 3)
        case "per Mtok":
            return _trimmed(value, 4)
        case "":
            return f"{value:.6g}"
        case _:
            return _rate(value, 3)


def quantity(metric: str, value: float, *, digits: int = 3) -> str:
    """Write a metric's value with its unit: ``394 ms``, ``231.70 tok/s``, ``1.2 %``."""
    metric_unit = unit(metric)
    if metric_unit == "ms":
        return seconds(value, digits=digits)
    if metric_unit == "%":
        return f"{_trimmed(value * 100, digits)} %"
    if not metric_unit:
        return f"{value:.{max(6, digits)}g}"
    number = _trimmed(value, digits + 1) if metric_unit == "per Mtok" else _rate(value, digits)
    return f"{number} {metric_unit}"


def quantities(metric: str, first: float, second: float) -> tuple[str, str]:
    """Write two values of a metric with as many digits as it takes to tell them apart."""
    texts = ("", "")
    for digits in range(3, 18):
        texts = (quantity(metric, first, digits=digits), quantity(metric, second, digits=digits))
        if first == second or texts[0] != texts[1]:
            break
    return texts


def title(metric: str) -> str:
    """Return a metric's name in running text: ``output throughput per GPU``, ``ttft.p90``."""
    return metric if "." in metric else metric.replace("_gpu", "_GPU").replace("_", " ")


def count(number: int, noun: str) -> str:
    """Write a number of things: ``1 trial``, ``2 trials``, ``3 batches``."""
    plural = f"{noun}es" if noun.endswith(("ch", "s", "x")) else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def settings(configuration: Configuration) -> str:
    """Write a configuration as ``name=value`` words, sorted; ``engine defaults`` when it overrides nothing."""
    if not configuration:
        return "engine defaults"
    return " ".join(f"{name}={setting(configuration[name])}" for name in sorted(configuration))


def setting(value: object) -> str:
    """Write the value of one parameter: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))


def _rate(value: float, digits: int) -> str:
    magnitude = abs(value)
    if magnitude >= 1e15:
        return f"{value:.{digits}g}"
    if magnitude >= 10_000:
        return f"{value:.{max(0, digits - 3)}f}"
    if magnitude >= 1 or value == 0:
        return f"{value:.{digits - 1}f}"
    return _trimmed(value, digits)


def _significant(value: float, digits: int) -> float:
    return float(f"{value:.{digits - 1}e}")


def _trimmed(value: float, digits: int) -> str:
    """Round to `digits` significant digits (whole numbers keep all of theirs), without trailing zeros."""
    rounded = _significant(value, digits)
    if rounded == 0:
        return "0"
    if not 1e-6 <= abs(rounded) < 1e15:
        return f"{value:.{digits}g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
