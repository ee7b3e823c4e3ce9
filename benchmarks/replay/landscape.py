"""Measured points of one model, GPU and workload, and what is true of them."""

from __future__ import annotations

import csv
import math
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_autotune.space import Configuration, Value

COLUMNS = (
    "backend",
    "backend_version",
    "precision",
    "gemm_quant_mode",
    "moe_quant_mode",
    "tp_size",
    "pp_size",
    "attention_dp_size",
    "moe_tp_size",
    "moe_ep_size",
)
LEAST_CONFIGURATIONS = 6


class Key(NamedTuple):
    """What a landscape is of."""

    model_path: str
    system: str
    isl: int
    osl: int


class Point(NamedTuple):
    """Mean latencies under one concurrency."""

    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """One configuration of a landscape, with what was measured of it."""

    values: tuple[Value, ...]  # of COLUMNS
    points: Mapping[int, Point]  # by concurrency, ascending

    @property
    def gpus(self) -> int:
        """GPUs of its server: tp * pp, or moe_tp * moe_ep * pp where that is more."""
        of = dict(zip(COLUMNS, self.values, strict=True))
        return int(max(of["tp_size"], of["moe_tp_size"] * of["moe_ep_size"]) * of["pp_size"])

    def at(self, concurrency: int) -> Point | None:
        """Return the means at a concurrency, interpolated on logarithmic scales; None outside of what was measured."""
        levels = list(self.points)
        place = bisect_left(levels, concurrency)
        if place < len(levels) and levels[place] == concurrency:
            return self.points[concurrency]
        if place in (0, len(levels)):
            return None
        low, high = levels[place - 1], levels[place]
        share = math.log(concurrency / low) / math.log(high / low)
        pairs = zip(self.points[low], self.points[high], strict=True)
        return Point(*(one ** (1 - share) * other**share for one, other in pairs))


@dataclass(frozen=True, slots=True, eq=False)
class Landscape:
    """The configurations that were measured for one key."""

    key: Key
    settings: tuple[Setting, ...]

    @property
    def levels(self) -> tuple[int, ...]:
        """Every concurrency that some configuration was measured at."""
        return tuple(sorted({level for setting in self.settings for level in setting.points}))

    @property
    def varying(self) -> Mapping[str, tuple[Value, ...]]:
        """The columns that differ between configurations, with their values."""
        columns = zip(COLUMNS, zip(*(one.values for one in self.settings), strict=True), strict=True)
        found = {name: tuple(dict.fromkeys(values)) for name, values in columns}
        return {name: values for name, values in found.items() if len(values) > 1}

    @property
    def conditions(self) -> Iterator[str]:
        """Conditions between the varying columns that only the configurations of the landscape keep."""
        names = list(self.varying)
        rows = [[configuration[name] for name in names] for configuration in map(self.configuration, self.settings)]
        for depth in range(1, len(names)):
            following: dict[tuple[Value, ...], list[Value]] = {}
            for row in rows:
                following.setdefault(tuple(row[:depth]), []).append(row[depth])
            for prefix, values in following.items():
                if len(set(values)) < len(self.varying[names[depth]]):
                    given = " and ".join(f"{name} == {_literal(at)}" for name, at in zip(names, prefix, strict=False))
                    allowed = ", ".join(_literal(value) for value in dict.fromkeys(values))
                    yield f"{given} => {names[depth]} in [{allowed}]"

    def configuration(self, setting: Setting) -> Configuration:
        """Return the parameters of a setting: its varying columns."""
        varying = self.varying
        return {name: at for name, at in zip(COLUMNS, setting.values, strict=True) if name in varying}

    def setting(self, configuration: Configuration) -> Setting | None:
        """Return what was measured of a configuration; None when nothing was."""
        return next((one for one in self.settings if self.configuration(one) == configuration), None)

    def throughput_per_gpu(self, setting: Setting, concurrency: int) -> float:
        """Return output tokens/s per GPU of a closed loop without noise; 0 outside of what was measured."""
        point = setting.at(concurrency)
        return 0.0 if point is None else concurrency * self.key.osl / e2e_s(point, self.key.osl) / setting.gpus

    def tpot_limit_s(self, share: float) -> float:
        """Return the TPOT that this share of the points is too slow for.

        It lies in the middle between two neighbours, so that no verdict is decided by noise alone.
        """
        tpots = sorted({point.tpot_s for one in self.settings for point in one.points.values()}, reverse=True)
        place = min(int(share * (len(tpots) - 1)), len(tpots) - 2)
        return math.sqrt(tpots[place] * tpots[place + 1])

    def true_value(self, setting: Setting, tpot_limit_s: float) -> float:
        """Return the most that a setting brings within the limit, at the levels of the landscape."""
        points = {level: setting.at(level) for level in self.levels}
        kept = [level for level, point in points.items() if point is not None and point.tpot_s <= tpot_limit_s]
        return max((self.throughput_per_gpu(setting, level) for level in kept), default=0.0)


def e2e_s(point: Point, osl: int) -> float:
    """Return the time of a whole answer."""
    return point.ttft_s + (osl - 1) * point.tpot_s


@cache
def read(path: Path) -> tuple[Landscape, ...]:
    """Return the landscapes of a file with at least six configurations; points measured twice count by their means.

    A size that a row leaves empty is 1: there is nothing of that kind to divide.
    """
    rows: dict[Key, dict[tuple[Value, ...], dict[int, list[Point]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            key = Key(row["model_path"], row["system"], int(row["isl"]), int(row["osl"]))
            values = tuple(int(row[name] or 1) if name.endswith("_size") else row[name] for name in COLUMNS)
            point = Point(float(row["ttft_ms"]) / 1e3, float(row["tpot_ms"]) / 1e3)
            rows[key][values][int(row["concurrency"])].append(point)
    found = []
    for key in sorted(rows):
        settings = tuple(
            Setting(values, {level: _mean(points) for level, points in sorted(levels.items())})
            for values, levels in sorted(rows[key].items())
        )
        if len(settings) >= LEAST_CONFIGURATIONS:
            found.append(Landscape(key, settings))
    return tuple(found)


def _mean(points: Sequence[Point]) -> Point:
    return Point(fmean(one.ttft_s for one in points), fmean(one.tpot_s for one in points))


def _literal(value: Value) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)
