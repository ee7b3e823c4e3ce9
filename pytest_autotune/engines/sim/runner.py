"""The step loop in real time: what the scheduler decides, at the moment it would have happened.

A step ends at an absolute deadline, the end of the step before it plus its own (scaled) duration,
so that late wake-ups do not add up. All tokens of a step are written when it ends; a timer of the
event loop fires up to a millisecond late (epoll counts in milliseconds), and a token is written
so much later still as the step's other tokens take, some 10 to 20 us each.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pytest_autotune.engines.sim import faults
from pytest_autotune.engines.sim.api import Answer
from pytest_autotune.engines.sim.hardware import DeviceMemoryError
from pytest_autotune.engines.sim.oracle import known_answers
from pytest_autotune.engines.sim.scheduler import Sequence
from pytest_autotune.engines.sim.text import fingerprint, natural_length, word, word_id

if TYPE_CHECKING:
    import asyncio

    from pytest_autotune.engines.sim.api import Ask
    from pytest_autotune.engines.sim.arguments import Settings
    from pytest_autotune.engines.sim.connection import Exchange
    from pytest_autotune.engines.sim.metrics import Metrics
    from pytest_autotune.engines.sim.scheduler import Scheduler, Step

CATCH_UP_S = 0.25  # a loop that is later than this (a suspended machine) starts over from now


class Generation:
    """One answer in progress: its sequences, and what has been written of them."""

    def __init__(self, exchange: Exchange, ask: Ask, answer: Answer, *, damage: str | None) -> None:
        self.sequences: list[Sequence] = []
        self._exchange = exchange
        self._ask = ask
        self._answer = answer
        self._damage = damage
        self._words: list[list[str]] = [[] for _ in ask.prompts]
        self._reasons = [""] * len(ask.prompts)
        self._generated = 0
        self._unfinished = len(ask.prompts)
        self._open = False
        self._over = False

    def token(self, sequence: Sequence, text: str, reason: str | None) -> bool:
        """Write (or keep) one token; return False when the answer is over, though sequences may not be."""
        if self._over:
            return False
        words = self._words[sequence.index]
        if self._ask.stream:
            if not self._open:
                self._exchange.open_stream()
                self._open = True
            if faults.spoil_stream(
                self._damage, self._exchange, written=self._generated, planned=sum(s.length for s in self.sequences)
            ):
                self._over = True
                return False
            self._exchange.event(self._answer.token(sequence.index, text, first=not words, reason=reason))
        words.append(text)
        self._generated += 1
        if reason is not None:
            self._reasons[sequence.index] = reason
            self._unfinished -= 1
        if self._unfinished:
            return True
        self._finish()
        return False

    def _finish(self) -> None:
        counts = self._answer.usage(self._generated)
        if self._ask.stream:
            if self._ask.include_usage:
                self._exchange.event(self._answer.usage_event(counts))
            self._exchange.event(b"[DONE]")
            self._exchange.close_stream()
            return
        texts = [("".join(words), reason) for words, reason in zip(self._words, self._reasons, strict=True)]
        body = self._answer.body(texts, counts)
        if not faults.spoil_body(self._damage, self._exchange, body):
            self._exchange.reply(200, body)


class Runner:
    """Runs the scheduler's steps on the event loop while there is work."""

    def __init__(
        self,
        settings: Settings,
        scheduler: Scheduler,
        metrics: Metrics,
        injected: faults.Faults,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._settings = settings
        self._scheduler = scheduler
        self.metrics = metrics
        self._faults = injected
        self._loop = loop
        self._vocabulary = settings.hardware()[1].vocabulary
        self._known = known_answers(self._vocabulary)
        self._started_s = loop.time()
        self._deadline_s = 0.0
        self._busy = False
        self._count = 0

    def submit(self, exchange: Exchange, ask: Ask, *, model: str) -> None:
        """Take up a generation."""
        self._count += 1
        damage = self._faults.next_answer()
        identity = f"{'chatcmpl' if ask.chat else 'cmpl'}-{self._settings.seed}-{self._count}"
        answer = Answer(ask, identity=identity, model=model, created=int(time.time()))
        if self._faults.dead:
            self._faults.refuse_dead(exchange)
            return
        if faults.refuse(damage, exchange, answer, stream=ask.stream):
            return
        generation = Generation(exchange, ask, answer, damage=damage)
        repeat = len(ask.prompts) // ask.distinct
        for index, prompt in enumerate(ask.prompts):
            mark = fingerprint(prompt, self._settings.seed + index % repeat)
            known = self._known.get(fingerprint(prompt, 0), "")
            if self._faults.answers_wrongly(mark, kept_in=self._settings.kv_cache_dtype):
                mark, known = ~mark & 0xFFFFFFFF, ""
            length = 1 if known else natural_length(mark)
            sequence = Sequence(
                prompt,
                _length(ask, length),
                owner=_Origin(generation, mark, _reason(ask, length), known),
                next_token=partial(word_id, mark, vocabulary=self._vocabulary),
            )
            sequence.index = index
            sequence.arrived_s = self._loop.time()
            generation.sequences.append(sequence)
            self._scheduler.add(sequence)
        exchange.gone = partial(self._abort, generation)
        if not self._busy:
            self._busy = True
            self._deadline_s = self._loop.time()
            self._loop.call_soon(self._begin)  # with whatever else has arrived by then

    def _abort(self, generation: Generation) -> None:
        for sequence in generation.sequences:
            if sequence.state in ("waiting", "running"):
                self.metrics.finished["abort"] += 1
            self._scheduler.abort(sequence)

    def _begin(self) -> None:
        now = self._loop.time()
        stall_s = self._faults.stall_s(now - self._started_s)
        if stall_s:
            self._deadline_s = now + stall_s
            self._loop.call_later(stall_s, self._begin)
            return
        if self._faults.dead:
            return  # for ever busy: what runs hangs, too
        try:
            step = self._scheduler.begin()
        except DeviceMemoryError as error:
            faults.die(crash_report(error.line), 1)
        crash = self._faults.crash(len(self._scheduler.running))
        if crash is not None:
            line = self._scheduler.memory.out_of_memory(crash.concurrency)
            text = crash_report(f"torch.OutOfMemoryError: {line}")
            faults.die(text if crash.out_of_memory else "Fatal Python error: Segmentation fault", crash.status)
        if step is None:
            self._busy = False
            return
        for sequence, _ in step.work:
            if not sequence.scheduled_s:
                sequence.scheduled_s = now
        self.metrics.step(step.tokens)
        if now - self._deadline_s > CATCH_UP_S:
            self._deadline_s = now
        self._deadline_s += step.duration_s * self._settings.time_scale + self._faults.compile_s(len(step.work))
        self._loop.call_at(self._deadline_s, self._end, step)

    def _end(self, step: Step) -> None:
        now = self._loop.time()
        self.metrics.late(now - self._deadline_s)
        for sequence in self._scheduler.complete(step):
            if sequence.state == "aborted":
                continue  # by the disconnect or the fault that an earlier token of this step ran into
            origin: _Origin = sequence.owner
            self.metrics.token(sequence, now)
            reason = None
            if sequence.state == "finished":
                reason = origin.reason
                self.metrics.finish(sequence, reason)
            index = sequence.generated - 1
            text = origin.known if origin.known and not index else word(origin.mark, index)
            if not origin.generation.token(sequence, f" {text}" if index else text, reason):
                self._abort(origin.generation)
        self._begin()


def crash_report(line: str) -> str:
    """Return what a real server's engine process leaves in the log when it dies of `line`."""
    return (
        "ERROR [core.py] EngineCore encountered a fatal error.\n"
        "Traceback (most recent call last):\n"
        '  File "vllm/v1/engine/core.py", in run_busy_loop\n'
        '  File "vllm/v1/worker/gpu_model_runner.py", in execute_model\n'
        f"{line}\n"
    )


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a sequence comes from, and how it ends."""

    generation: Generation
    mark: int
    reason: str
    known: str = ""  # its first word, where the answer is known


def _reason(ask: Ask, natural: int) -> str:
    ends_itself = not ask.ignore_eos and max(ask.min_tokens, natural) <= ask.max_tokens
    return "stop" if ends_itself else "length"


def _length(ask: Ask, natural: int) -> int:
    if ask.ignore_eos:
        return ask.max_tokens
    return min(ask.max_tokens, max(ask.min_tokens, natural))
