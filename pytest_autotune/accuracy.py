"""How the answers of a server with fewer bits stand against those of one without loss: what may win, and what may not.

Answers are greedy, so a second asking brings the same ones, and a lost answer is a fact about that prompt: no test of
significance stands between a stated share and the verdict.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_autotune.formatting import count
from pytest_autotune.questions import plain
from pytest_autotune.records import Accuracy, Answers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_autotune.questions import Question
    from pytest_autotune.records import TrialRecord
    from pytest_autotune.space import Configuration

# Share of the expected answers that a reference gives at least; one that gives fewer cannot answer these questions at
# all (a model that is not trained, or too small), and only whether others agree with it says anything.
CAPABLE = 0.25
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Exam:
    """What the servers of a suite are asked, and how their answers are judged."""

    questions: tuple[Question, ...]
    fingerprint: str  # of the questions and of how they are asked
    least: float  # share of what the reference keeps
    max_tokens: int
    losses: Callable[[Configuration], tuple[str, ...]]  # what a configuration is less exact by, in words
    recorded: Answers | None = None  # of a verification: the reference's answers of then

    def unasked(self, trial: TrialRecord) -> bool:
        """Say whether a trial was measured without these questions, and cannot be judged, or serve as reference."""
        needed = not trial.configuration or bool(self.losses(trial.configuration))
        return needed and any(batch.status == "measured" for batch in trial.batches) and not self._asked(trial)

    def held(self, trials: Iterable[TrialRecord]) -> tuple[TrialRecord, ...]:
        """Return the trials of one search with how each stands that may have lost something.

        One without answers stands only when it was measured. While a reference may still come, what has none
        is not judged.
        """
        everything = tuple(trials)
        reference, pending = self.reference(everything), self._pending(everything)
        return tuple(self._held(trial, reference, pending=pending) for trial in everything)

    def reference(self, trials: Sequence[TrialRecord]) -> Answers | None:
        """Return the answers that others are held against.

        Those of the engine's defaults when they lose nothing, else of the trial without loss that answers best.
        """
        if self.recorded is not None:
            return self.recorded
        exact = [trial for trial in trials if self._asked(trial) and not self.losses(trial.configuration)]
        best = min(exact, key=lambda trial: (bool(trial.configuration), -self._right(trial), trial.id), default=None)
        return None if best is None else best.answers

    def stand(self, own: Answers, reference: Answers | None, losses: Sequence[str]) -> Accuracy:
        """Hold answers against those of the reference; without one, against what is expected.

        An answer is kept that is the expected one; where none is expected, or the reference gives hardly any
        of those, one that is the reference's. That two say nothing is no agreement: what the reference leaves
        unanswered does not count then.
        """
        agreed = reference is not None and self._incapable(reference)
        asked = [index for index in range(len(self.questions)) if self._tells(index, reference, agreed=agreed)]
        missed = tuple(index for index in asked if not self._keeps(index, own, reference, agreed=agreed))
        kept = len(asked) - len(missed)
        full = len(asked)
        if reference is not None and not agreed:
            full = sum(self._keeps(index, reference, reference, agreed=False) for index in asked)
        holds = bool(asked) and kept >= self.least * full - _ROUNDING
        told = self._told(kept, len(asked), None if reference is None else full, agreed=agreed)
        words = f"{told}; {' and '.join(losses)}"
        return Accuracy(kept, len(asked), None if reference is None else full, missed, words, holds, reference)

    def _held(self, trial: TrialRecord, reference: Answers | None, *, pending: bool) -> TrialRecord:
        losses = self.losses(trial.configuration)
        if not losses or (reference is None and pending):
            return trial
        if not self._asked(trial) or trial.answers is None:
            return replace(trial, accuracy=self._unknown(losses)) if self.unasked(trial) else trial
        return replace(trial, accuracy=self.stand(trial.answers, reference, losses))

    def _unknown(self, losses: Sequence[str]) -> Accuracy:
        words = f"was measured without these prompts, run --autotune again to ask them; {' and '.join(losses)}"
        return Accuracy(0, 0, None, (), words, holds=False)

    def _asked(self, trial: TrialRecord) -> bool:
        return trial.answers is not None and trial.answers.questions == self.fingerprint

    def _pending(self, trials: Sequence[TrialRecord]) -> bool:
        return any(trial.state == "running" and not self.losses(trial.configuration) for trial in trials)

    def _right(self, trial: TrialRecord) -> int:
        texts = () if trial.answers is None else trial.answers.texts
        return sum(question.answered(text) for question, text in zip(self.questions, texts, strict=True))

    def _incapable(self, reference: Answers) -> bool:
        known = [pair for pair in zip(self.questions, reference.texts, strict=True) if not pair[0].free]
        return sum(question.answered(text) for question, text in known) < CAPABLE * len(known)

    def _tells(self, index: int, reference: Answers | None, *, agreed: bool) -> bool:
        """Whether there is anything to hold the answer to a question against."""
        if not agreed and not self.questions[index].free:
            return True
        return reference is not None and bool(plain(reference.texts[index] or ""))

    def _keeps(self, index: int, own: Answers, reference: Answers | None, *, agreed: bool) -> bool:
        question, text = self.questions[index], own.texts[index]
        if not agreed and not question.free:
            return question.answered(text)
        expected = None if reference is None else reference.texts[index]
        return text is not None and expected is not None and plain(text) == plain(expected)

    def _told(self, kept: int, asked: int, reference: int | None, *, agreed: bool) -> str:
        share = f"{100 * self.least:g} % asked for"
        prompts = count(asked, "prompt")
        if not asked and reference is None:
            return "cannot be judged: no prompt has an expected answer, and there is no reference without loss"
        if not asked:
            return f"cannot be judged: the reference answers nothing within {self.max_tokens} tokens (max_tokens)"
        if reference is None:
            return f"answers {kept} of {prompts} ({share}, and there is no reference without loss)"
        if agreed:
            return f"answers {kept} of {prompts} as the reference does ({share})"
        return f"answers {kept} of {prompts}, the reference {reference} ({share})"
