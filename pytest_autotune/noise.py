"""How the differences of two equal sides vary: what an automatic tolerance has to leave room for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import ConfigDict, Field

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True, slots=True)
class Noise:
    """How the differences of pairs vary, as a standard deviation: of logarithms, or of shares."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    deviation: Annotated[float, Field(ge=0)]
    freedom: Annotated[int, Field(ge=1)]  # values that it rests on, less one for each comparison

    def with_more(self, other: Self) -> Noise:
        """Return what both say together, each weighted by its freedom (the pooled variance)."""
        freedom = self.freedom + other.freedom
        squares = self.freedom * self.deviation**2 + other.freedom * other.deviation**2
        return Noise(math.sqrt(squares / freedom), freedom)
