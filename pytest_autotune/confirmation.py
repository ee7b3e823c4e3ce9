"""Measuring the best again before it is believed: which configurations, in which order, and what came of it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_autotune.formatting import change, count, quantity
from pytest_autotune.space import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_autotune.selection import JudgedTrial, Selection
    from pytest_autotune.space import Configuration

_SLOT = "confirm-"


def slot_name(repeat: int, place: int) -> str:
    """Return the name of the trial that measures something again: the place-th of its round, both from 0."""
    return f"{_SLOT}{repeat + 1}-{place + 1}"


def confirms(slot: str) -> bool:
    """Say whether a trial of that name measures a configuration again."""
    return slot.startswith(_SLOT)


def to_confirm(selection: Selection, *, top: int, repeat: int, seed: int) -> tuple[Configuration, ...]:
    """Return what one round measures again, in its order: the best `top` configurations, and the engine's defaults.

    Every round has an order of its own, by seed, so that neither warmth nor drift favours one of them. `selection`
    is of the search alone. Defaults that were never measured are left out.
    """
    chosen = [judged.trial.configuration for judged in selection.ranking if judged.eligible][:top]
    reference = selection.reference
    if chosen and reference is not None and reference.batches and {} not in chosen:
        chosen.append(reference.trial.configuration)
    random.Random(f"{seed}:{repeat}").shuffle(chosen)  # noqa: S311 - an order is no secret
    return tuple(chosen)


def merge_repeats(
    trials: Iterable[JudgedTrial], *, rank: Callable[[JudgedTrial], tuple[object, ...]]
) -> list[JudgedTrial]:
    """Return one trial for each configuration that was measured again: its worst, which carries the others.

    `rank` is smaller for better ones. Of a configuration that has a finished trial, unfinished ones are dropped.
    """
    again: dict[str, list[JudgedTrial]] = {}
    first: list[JudgedTrial] = []
    for judged in trials:
        if confirms(judged.trial.slot):
            again.setdefault(canonical(judged.trial.configuration), []).append(judged)
        else:
            first.append(judged)
    merged = [_worst([judged, *again.pop(canonical(judged.trial.configuration), ())], rank) for judged in first]
    return [*merged, *(_worst(group, rank) for group in again.values())]


def confirmation_lines(selection: Selection) -> list[str]:
    """Say what measuring again has shown; nothing when nothing was."""
    again = [judged for judged in selection.ranking if judged.repeats]
    if not again:
        return []
    told = count(len(again), "configuration")
    lines = [f"measured again: {told}, in changing order and with other prompts; of each the worst counts"]
    if selection.best is not None and not selection.best.repeats:
        lines.append("the best is not confirmed: every configuration that was measured again fell behind its limits")
    if selection.reference is not None and (drift := _drift(selection.reference)):
        lines.append(drift)
    return lines


def _worst(group: Sequence[JudgedTrial], rank: Callable[[JudgedTrial], tuple[object, ...]]) -> JudgedTrial:
    finished = [judged for judged in group if judged.trial.state == "finished"] or list(group[:1])
    if len(finished) == 1:
        return finished[0]
    worst = max(finished, key=rank)
    return replace(worst, repeats=tuple(judged for judged in finished if judged is not worst))


def _drift(reference: JudgedTrial) -> str:
    """Say how far the defaults were from themselves in the course of the search."""
    measured = sorted((reference, *reference.repeats), key=lambda judged: judged.trial.started_at)
    scores = [judged.score for judged in measured if judged.score is not None]
    if len(scores) < 2 or not scores[0]:
        return ""
    return (
        f"drift: the engine's defaults had {quantity(reference.metric, scores[0])} first and "
        f"{quantity(reference.metric, scores[-1])} last ({change(scores[-1] / scores[0] - 1)}), "
        f"of {count(len(scores), 'measurement')}"
    )
