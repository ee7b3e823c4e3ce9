"""Continuous batching as vLLM V1 does it, as a pure object: no clock, no sockets, no randomness but its own seed.

Each step spends a token budget: first on the running sequences (one token each when decoding, a
chunk when still reading the prompt), then on waiting ones, first come first served. A running
sequence that finds no free KV block drives out the one that came last, which starts again later:
its prompt and what it has generated are computed anew, no token is lost or repeated.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_autotune.engines.sim.hardware import DeviceMemoryError, StepCost, plan_memory
from pytest_autotune.engines.sim.kvcache import KvCache, Pages

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_autotune.engines.sim.arguments import Settings


class Sequence:
    """One prompt on its way to `length` output tokens."""

    __slots__ = (
        "arrived_s", "cached", "computed", "first_s", "index", "last_s", "length", "next_token", "owner", "pages",
        "preemptions", "prompt", "scheduled_s", "state", "tokens",
    )  # fmt: skip

    def __init__(
        self, prompt: list[int], length: int, *, owner: Any = None, next_token: Callable[[int], int] | None = None
    ) -> None:
        self.prompt = len(prompt)
        self.tokens = prompt  # grows by the output
        self.length = length
        self.owner = owner
        self.next_token = next_token or int
        self.index = 0  # among its owner's
        self.state = "waiting"  # waiting, running, finished, aborted
        self.computed = 0  # tokens whose keys and values are in the cache
        self.cached = 0  # of these, found there when it was first scheduled
        self.preemptions = 0
        self.pages = Pages()
        self.arrived_s = 0.0
        self.scheduled_s = 0.0
        self.first_s = 0.0
        self.last_s = 0.0

    @property
    def generated(self) -> int:
        """Output tokens so far."""
        return len(self.tokens) - self.prompt


@dataclass(frozen=True, slots=True)
class Step:
    """One pass over the model."""

    work: tuple[tuple[Sequence, int], ...]  # with the number of tokens each gets computed
    tokens: int
    samples: int  # sequences that get an output token
    duration_s: float  # simulated seconds


class Scheduler:
    """Decides what each step computes, and how long it takes."""

    def __init__(self, settings: Settings) -> None:
        gpu, shape = settings.hardware()
        self.memory = plan_memory(settings, gpu, shape)
        self.cache = KvCache(self.memory.kv_blocks, settings.block_size, prefix_caching=settings.enable_prefix_caching)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._cost = StepCost(settings, gpu, shape)
        self._budget = settings.max_num_batched_tokens
        self._max_num_seqs = settings.max_num_seqs
        self._chunked = settings.enable_chunked_prefill
        self._noise = settings.noise
        self._random = random.Random(settings.seed)  # noqa: S311  a model's noise, not a secret

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; prompt and output together must fit max-model-len."""
        self.cache.extend_hashes(sequence.pages, sequence.tokens)
        self.waiting.append(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence and free its memory; one that is already over is left alone."""
        if sequence.state == "waiting":
            self.waiting.remove(sequence)
        elif sequence.state == "running":
            self.running.remove(sequence)
        else:
            return
        sequence.state = "aborted"
        self.cache.release(sequence.pages)

    def begin(self) -> Step | None:
        """Decide on the next step, or return None when there is nothing to do.

        Raises `DeviceMemoryError` when the sampler's buffers no longer fit the GPU: the server dies.
        """
        work: list[tuple[Sequence, int]] = []
        budget = self._budget
        preempted = False
        position = 0
        while position < len(self.running) and budget:
            sequence = self.running[position]
            new = min(len(sequence.tokens) - sequence.computed, budget)
            while not (fits := self.cache.allocate(sequence.pages, sequence.computed + new)):
                preempted = True
                if self._preempt() is sequence:
                    break
            if not fits:
                break
            work.append((sequence, new))
            budget -= new
            position += 1
        if not preempted:
            self._admit(work, budget)
        return self._priced(work) if work else None

    def complete(self, step: Step) -> list[Sequence]:
        """Book a step's results; return the sequences that got one more output token, finished ones among them."""
        sampled: list[Sequence] = []
        for sequence, new in step.work:
            if sequence.state != "running":
                continue  # aborted while the step ran
            sequence.computed += new
            if sequence.computed == len(sequence.tokens):
                sequence.tokens.append(sequence.next_token(sequence.generated))
                sampled.append(sequence)
            if self.cache.prefix_caching:
                if not len(sequence.tokens) % self.cache.block_size:
                    self.cache.extend_hashes(sequence.pages, sequence.tokens)
                self.cache.store(sequence.pages, sequence.computed)
            if sequence.generated >= sequence.length:
                sequence.state = "finished"
                self.cache.release(sequence.pages)
        if any(sequence.state == "finished" for sequence in sampled):
            self.running = [sequence for sequence in self.running if sequence.state == "running"]
        return sampled

    def _preempt(self) -> Sequence:
        """Drive out the sequence that came last; it waits in front of all others."""
        victim = self.running.pop()
        self.cache.release(victim.pages)
        victim.computed = 0
        victim.preemptions += 1
        victim.state = "waiting"
        self.waiting.appendleft(victim)
        self.preemptions += 1
        return victim

    def _admit(self, work: list[tuple[Sequence, int]], budget: int) -> None:
        """Spend the rest of the budget on waiting sequences, in order; the first that does not fit stops the rest."""
        while self.waiting and budget and len(self.running) < self._max_num_seqs:
            sequence = self.waiting[0]
            total = len(sequence.tokens)
            queried, hits = self.cache.queried_tokens, self.cache.hit_tokens
            found = self.cache.take_cached(sequence.pages, total)
            new = total - found if not self._chunked else min(total - found, budget)
            if new > budget or not self.cache.allocate(sequence.pages, found + new):
                self.cache.release(sequence.pages)
                self.cache.queried_tokens, self.cache.hit_tokens = queried, hits  # it will ask again
                return
            self.waiting.popleft()
            sequence.computed = found
            if not sequence.preemptions:
                sequence.cached = found
            sequence.state = "running"
            self.running.append(sequence)
            work.append((sequence, new))
            budget -= new

    def _priced(self, work: list[tuple[Sequence, int]]) -> Step:
        tokens = samples = pairs = kv_tokens = 0
        for sequence, new in work:
            computed = sequence.computed
            tokens += new
            kv_tokens += computed + new
            pairs += new * computed + new * (new + 1) // 2
            samples += computed + new == len(sequence.tokens)
        if samples > self.memory.max_samples:
            raise DeviceMemoryError(self.memory.out_of_memory(samples))
        seconds = self._cost.seconds(tokens=tokens, samples=samples, pairs=pairs, kv_tokens=kv_tokens)
        if self._noise:
            seconds *= max(0.1, self._random.gauss(1.0, self._noise))
        return Step(work=tuple(work), tokens=tokens, samples=samples, duration_s=seconds)
