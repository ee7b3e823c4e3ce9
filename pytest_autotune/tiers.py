"""The best for each tier: a further set of limits, held against the measurements that were made for `slo:`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_autotune.explanation import what_binds
from pytest_autotune.slo import Status

if TYPE_CHECKING:
    from pytest_autotune.selection import JudgedTrial, Selection
    from pytest_autotune.slo import Tier


@dataclass(frozen=True, slots=True)
class TierOutcome:
    """What was selected for a tier."""

    tier: Tier
    selection: Selection
    loads_for_slo: bool = False  # loads were chosen for the limits of `slo:`, so the tier may lack some

    @property
    def best(self) -> JudgedTrial | None:
        """The best configuration for the tier; None when none complies."""
        return self.selection.best

    @property
    def binding(self) -> str:
        """What keeps the best from a higher load, or else the nearest configuration from complying, in a sentence."""
        if self.best is None:
            return self._why_none()
        if any(batch.level > self.best.level for batch in self.best.batches if self.best.level is not None):
            text = what_binds(self.best)
        else:
            text = f"nothing: a higher load was not measured{self._chosen}"
        confirmed = any(judged.repeats for judged in self.selection.ranking)
        return f"{text}; not measured again" if confirmed and not self.best.repeats else text

    @property
    def _chosen(self) -> str:
        return ", loads are chosen for slo" if self.loads_for_slo else ""

    @property
    def nearest(self) -> JudgedTrial | None:
        """The configuration that comes nearest to complying, when none does: one that cannot be told before others."""
        if self.best is not None:
            return None
        finished = [judged for judged in self.selection.ranking if judged.trial.state == "finished"]
        undecided = next((judged for judged in finished if judged.status is Status.INCONCLUSIVE), None)
        if undecided is not None:
            return undecided
        if self.selection.closest is not None:
            return self.selection.closest.trial
        return finished[0] if finished else None

    def _why_none(self) -> str:
        nearest, closest = self.nearest, self.selection.closest
        if nearest is None:
            return "no trial was finished"
        if nearest.status is Status.COMPLIANT:
            return f"no compliant batch has {nearest.metric}"
        if closest is None or nearest is not closest.trial:
            return nearest.reason
        lowest = min(batch.level for batch in nearest.batches if batch.record.status == "measured")
        lower = self.loads_for_slo and closest.batch.level == lowest
        more = f"; a lower load was not measured{self._chosen}" if lower else ""
        return f"at {closest.batch.level.words}: {closest.check}{more}"
