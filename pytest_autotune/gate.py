"""The rules that decide whether a run is green, each with what to do when it is not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_autotune.formatting import count, settings, title
from pytest_autotune.slo import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_autotune.comparison import Comparison
    from pytest_autotune.held import Verification
    from pytest_autotune.selection import JudgedTrial, Selection
    from pytest_autotune.suite_gate import Terms

COMPLIANT_CONFIGURATION = "compliant-configuration"
SLO = "slo"
ACCURACY = "accuracy"
COMPARABLE = "comparable"
NOT_WORSE = "not-worse."  # and a metric


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition of the gate; `name` is stable, reports are trended by it."""

    name: str
    holds: bool
    explanation: str  # what was found; when the rule does not hold also what to do
    open: bool = False  # it could not be told, and the suite does not say what follows: neither green nor red


@dataclass(frozen=True, slots=True)
class Gate:
    """The judgement over a run of one suite."""

    rules: tuple[Rule, ...]

    @property
    def holds(self) -> bool:
        """Whether every rule holds."""
        return all(rule.holds for rule in self.rules)

    @property
    def broken(self) -> bool:
        """Whether some rule does not hold, and not only because it could not be told."""
        return any(not rule.holds and not rule.open for rule in self.rules)

    @property
    def reason(self) -> str:
        """The explanations of the rules that do not hold, one per line."""
        return "\n".join(f"{rule.name}: {rule.explanation}" for rule in self.rules if not rule.holds)


def judge_gate(selection: Selection) -> Gate:
    """Hold every rule against the outcome of a search."""
    return Gate((_compliant_configuration(selection),))


def judge_verification(judged: JudgedTrial, verification: Verification, terms: Terms, *, again: str) -> Gate:
    """Hold every rule against what was measured of a recorded configuration; `again` is the command that repeats it.

    One stored measurement tells little: a metric breaks the gate only when it is worse than its tolerance by more
    than the noise within the batches, and what is open holds, and says so; unless nothing could be told at all.
    """
    since = f"since {verification.baseline.origin}"
    rules = list(_keeps_slo(judged, again))
    if verification.comparison is not None:
        return Gate((*rules, *_paired(verification.comparison, terms, since=since, again=again)))
    if terms.tolerances and verification.refused:
        told = "; ".join(verification.refused)
        remedy = "Record it anew here (--autotune --autotune-record), or write gate: {inconclusive: warn}."
        text = f"The baseline of {verification.baseline.origin} is no measure of this: {told}. {remedy}"
        return Gate((*rules, Rule(COMPARABLE, terms.inconclusive == "warn", text)))
    for metric in verification.lacking:
        text = (
            f"{title(metric)} was not measured on both sides at each of the load levels "
            f"{', '.join(verification.baseline.levels)}, so it is not compared. Record the baseline anew."
        )
        rules.append(Rule(NOT_WORSE + metric, terms.inconclusive == "warn", _sentence(text)))
    for held in verification.held:
        if held.tolerance is not None:
            holds = held.outcome != "regression" and (held.told or terms.inconclusive == "warn")
            remedy = "" if held.told else " Measure longer (load: duration), or write gate: {inconclusive: warn}."
            text = f"{_sentence(held.words)}, {since}."
            told = text if holds else f"{text}{remedy} To see it again: {again}."
            rules.append(Rule(NOT_WORSE + held.metric, holds, told))
    return Gate(tuple(rules))


def _paired(comparison: Comparison, terms: Terms, *, since: str, again: str) -> Iterator[Rule]:
    """Yield a rule for each metric.

    What is open breaks the gate unless the suite says that it only warns. Where the suite says neither this nor what
    its tolerances are, it is neither green nor red: nobody has said how long to measure until that can be told.
    """
    warns = terms.inconclusive == "warn"
    for effect in comparison.effects:
        undecided = effect.outcome == "open"
        holds = effect.outcome != "regression" and (not undecided or warns)
        found = f"{_sentence(str(effect))}, {since}."
        neither = undecided and not holds and terms.inconclusive is None and effect.tolerance.automatic
        remedy = " Measure longer (load: duration), or more often (gate: pairs)." if undecided else ""
        text = found if holds else f"{found}{remedy} To see it again: {again}."
        yield Rule(NOT_WORSE + effect.metric, holds, text, open=neither)
    for refusal in comparison.refusals:
        text = f"{_sentence(str(refusal))}. To see it again: {again}."
        yield Rule(NOT_WORSE + refusal.metric, warns, text)
    told = {effect.metric for effect in comparison.effects} | {refusal.metric for refusal in comparison.refusals}
    for metric in terms.tolerances:
        if told and metric not in told:
            text = f"{title(metric)} was measured on neither side, so it is not compared. Remove it from gate:."
            yield Rule(NOT_WORSE + metric, warns, _sentence(text))
    if not told:
        yield Rule(COMPARABLE, warns, f"Nothing was measured on both sides. To see it again: {again}.")


def _sentence(text: str) -> str:
    """Begin a text as a sentence, but for a name such as ttft.p90."""
    return text if "." in text.split(maxsplit=1)[0] else text[0].upper() + text[1:]


def _keeps_slo(judged: JudgedTrial, again: str) -> Iterator[Rule]:
    """Yield whether answers are accurate, where that is asked, and whether limits are kept, where answers are."""
    found = judged.trial.accuracy
    if found is not None:
        text = f"{settings(judged.trial.configuration)} {found.words}."
        yield Rule(ACCURACY, found.holds, text if found.holds else f"{text} To see it again: {again}.")
    if found is None or found.holds:
        yield _keeps_limits(judged, again)


def _keeps_limits(judged: JudgedTrial, again: str) -> Rule:
    broken = [batch for batch in judged.batches if not batch.compliant]
    if judged.batches and not broken:
        return Rule(SLO, True, f"{settings(judged.trial.configuration)}: {judged.coverage}.")
    if not broken:
        return Rule(SLO, False, f"Nothing was measured: {judged.reason}. To see it again: {again}.")
    told = "; ".join(f"{batch.level.words}: {batch.verdict.status}, {batch.verdict.reason}" for batch in broken)
    text = f"{settings(judged.trial.configuration)} does not keep its limits: {told}. To see it again: {again}."
    return Rule(SLO, False, text)


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
    inaccurate = [judged for judged in finished if judged.trial.inaccurate and judged.batches]
    if inaccurate:
        return (
            f"No configuration meets the SLO, and {count(len(inaccurate), 'trial')} cannot win by its answers: "
            f"{settings(inaccurate[0].trial.configuration)} {inaccurate[0].trial.inaccurate}. "
            "Ask for less (accuracy:), ask other prompts, or write accuracy: none where answers do not matter."
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
