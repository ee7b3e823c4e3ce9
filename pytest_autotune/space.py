"""Parameters, constraints, canonical ids and enumeration of configurations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Value = Any  # a JSON value: None, bool, int, float, str, list or dict of them
Configuration = Mapping[str, Value]  # parameter name -> value; only overrides, never engine defaults


@dataclass(frozen=True, slots=True)
class Choice:
    """A parameter with a list of values (any JSON values), in the order of the file."""

    name: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number in [low, high]; `levels` grid points, log-spaced if `log`, or every `step`."""

    name: str
    low: int
    high: int
    log: bool = False
    step: int | None = None
    levels: int | None = None


@dataclass(frozen=True, slots=True)
class Float:
    """A number in [low, high]; `levels` grid points, log-spaced if `log`, or every `step`."""

    name: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    levels: int | None = None


Parameter = Choice | Integer | Float


@dataclass(frozen=True, slots=True)
class Constraint:
    """A condition over parameters, e.g. ``max-num-batched-tokens >= max-num-seqs``; never `eval`-ed."""

    text: str

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Evaluate over `values`; a constraint naming something that `values` lacks holds."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Space:
    """The parameters of a suite with the constraints between them."""

    parameters: tuple[Parameter, ...]
    constraints: tuple[Constraint, ...] = ()

    def grid(self, fixed: Mapping[str, Value]) -> Iterator[Configuration]:
        """Yield every allowed configuration, last parameter fastest; constraints also see `fixed`."""
        raise NotImplementedError

    def allows(self, configuration: Configuration, fixed: Mapping[str, Value]) -> bool:
        """Say whether every constraint holds."""
        raise NotImplementedError


def canonical(configuration: Configuration) -> str:
    """Return the configuration as canonical JSON (sorted keys, no spaces): its identity."""
    raise NotImplementedError


def label(configuration: Configuration) -> str:
    """Return a readable node id, e.g. ``tp:4-max-num-seqs:256``; ``defaults`` for the empty one."""
    raise NotImplementedError
