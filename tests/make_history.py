"""Series of verifications, one a day, each of a commit of its own."""

from __future__ import annotations

from datetime import timedelta

from pytest_autotune.history import Point, Series, changes_of
from tests.make_records import START


def commit(number) -> str:
    return f"{number:02d}c0ffee".ljust(40, "0")


def series(*values, metric="output_throughput", level="c8", since=0, version="0.11.0", commits=True) -> Series:
    """The first of the values was measured on the `since`-th day."""
    points = tuple(
        Point(f"run-{day:02d}", START + timedelta(days=day), commit(day) if commits else "", version, value)
        for day, value in enumerate(values, start=since)
    )
    return Series(level, metric, points, changes_of(points))


SLOWER = tuple((200.0 if day < 7 else 150.0) + day % 3 for day in range(12))  # from the eighth of twelve on
