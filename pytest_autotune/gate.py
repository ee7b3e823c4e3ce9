"""The rules that decide whether a run is green, each with what to do when it is not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_autotune.formatting import count, settings
from pytest_autotune.slo import Status

if TYPE_CHECKING:
    from pytest_autotune.selection import Selection

COMPLIANT_CONFIGURATION = "compliant-configuration"


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition of the gate; `name` is stable, reports are trended by it."""

    name: str
    holds: bool
    explanation: str  # what was found; when the rule does not hold also what to do


@dataclass(frozen=True, slots=True)
class Gate:
    """The judgement over a run of one suite."""

    rules: tuple[Rule, ...]

    @property
    def holds(self) -> bool:
        """Whether every rule holds."""
        return all(rule.holds for rule in self.rules)

    @property
    def reason(self) -> str:
        """The explanations of the rules that do not hold, one per line."""
        return "\n".join(f"{rule.name}: {rule.explanation}" for rule in self.rules if not rule.holds)


def judge_gate(selection: Selection) -> Gate:
    """Hold every rule against the outcome of a search."""
    return Gate((_compliant_configuration(selection),))


def _compliant_configuration(selection: Selection) -> Rule:
    if selection.best is not None:
        best = selection.best
        return Rule(COMPLIANT_CONFIGURATION, True, f"{settings(best.trial.configuration)}: {best.headline}.")
    return Rule(COMPLIANT_CONFIGURATION, False, _none(selection))


def _none(selection: Selection) -> str:
    finished = [judged for judged in selection.ranking if judged.trial.state == "finished"]
    unscored = [judged for judged in finished if judged.status is Status.COMPLIANT]
    if not finished:
        return "No trial was finished. Run the same command again: it continues where this run stopped."
    if unscored:
        return (
            f"{count(len(unscored), 'configuration')} met the SLO, but no compliant batch has the objective "
            f"{unscored[0].metric}. Choose an objective that the engine and the load can measure."
        )
    undecided = [judged for judged in finished if judged.status is Status.INCONCLUSIVE]
    if undecided:
        return (
            f"No configuration is shown to meet the SLO, and {count(len(undecided), 'trial')} could not be told: "
            f"{settings(undecided[0].trial.configuration)}, {undecided[0].reason}. "
            "Measure longer (load: max_duration), ask for less confidence, or leave the limit more room."
        )
    if selection.closest is not None:
        closest = selection.closest
        return (
            f"No configuration meets the SLO: the binding limit is {closest.check} at "
            f"{closest.batch.level.words} in {settings(closest.trial.trial.configuration)}. "
            "Relax that limit, add a lower load level, or widen the parameters."
        )
    outcomes = Counter(str(judged.status) for judged in finished)
    told = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
    return (
        f"No configuration could be measured: of {count(len(finished), 'trial')}, {told}; "
        f"{settings(finished[0].trial.configuration)}: {finished[0].reason}. "
        "Read the end of the server logs, and leave out settings that this machine cannot start."
    )
