"""How the price of a GPU is written in a suite file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pytest_autotune.fields import read_above_zero, read_mapping
from pytest_autotune.problems import Collector
from pytest_autotune.spelling import show

CURRENCY = r"^[^\s\x00-\x1f\x7f-\x9f]{1,12}$"
_PRICE_KEYS = ("per_gpu_hour", "currency")


def read_price(value: Any) -> tuple[float, str]:
    """Read `price:`, a number or a mapping; return the price of one GPU for one hour, and its currency or nothing."""
    if not isinstance(value, Mapping):
        return _read_amount(value), ""
    read_mapping(value, keys=_PRICE_KEYS)
    if "per_gpu_hour" not in value:
        raise ValueError("missing key 'per_gpu_hour': what one GPU costs for one hour, e.g. {per_gpu_hour: 2.50}")
    collector = Collector()
    price = collector.read(("per_gpu_hour",), _read_amount, value["per_gpu_hour"])
    currency = collector.read(("currency",), _read_currency, value["currency"]) if "currency" in value else ""
    collector.finish()
    return price, currency


def _read_amount(value: Any) -> float:
    if isinstance(value, str):
        hint = "write a number, and its currency as {per_gpu_hour: 2.50, currency: USD}"
        raise ValueError(f"{show(value)} is not a number; {hint}")
    return read_above_zero(value)


def _read_currency(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(CURRENCY, value):
        raise ValueError(f"{show(value)} is not a currency; write a word of at most 12 characters, e.g. USD")
    return value


_PRICE = {"type": "number", "exclusiveMinimum": 0}
PRICE_SCHEMA: dict[str, Any] = {
    "anyOf": [
        _PRICE,
        {
            "type": "object",
            "properties": {
                "per_gpu_hour": {**_PRICE, "description": "What one GPU costs for one hour.", "examples": [2.5]},
                "currency": {
                    "type": "string",
                    "pattern": r"^\S{1,12}$",
                    "description": "What the price is in; names the costs in reports.",
                    "examples": ["USD"],
                },
            },
            "additionalProperties": False,
            "required": ["per_gpu_hour"],
        },
    ]
}
