"""What the hand-written peers have in common: their arguments, their requests, and the figures they print."""

from __future__ import annotations

import asyncio
import json
import random
import resource
import sys
import time

WORDS = ("old", "man", "sea", "boat", "fish", "sun", "day", "line")


class Load:
    """What to send, from the command line, and what came of it."""

    def __init__(self):
        self.spec = json.loads(sys.argv[1])
        self.begin_s = time.monotonic() + self.spec["warmup_s"]
        self.end_s = self.begin_s + self.spec["window_s"]
        self._numbers = 0
        self._measured = []  # (sent, first, end, tokens)
        self._inside = self._failed = 0
        self.open = 0  # requests sent inside the window that have not ended

    def body(self):
        """Return the next request."""
        self._numbers += 1
        words = (WORDS[(i * 7 + self._numbers) % 8] for i in range(1, self.spec["prompt_tokens"]))
        return {
            "model": "truth",
            "prompt": f"request{self._numbers:08d} {' '.join(words)}",
            "max_tokens": self.spec["output_tokens"],
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def begun(self):
        """Return the time at which a request is sent."""
        now = time.monotonic()
        self.open += self._measures(now)
        return now

    def token(self, now):
        """Count a token of the answer that arrived now."""
        self._inside += self._measures(now)

    def ended(self, sent, first, end, tokens):
        """Note a request that succeeded, or failed when it has too few tokens."""
        if self._measures(sent):
            self.open -= 1
            if tokens == self.spec["output_tokens"]:
                self._measured.append((sent, first, end, tokens))
            else:
                self._failed += 1

    def _measures(self, at):
        return self.begin_s <= at < self.end_s

    async def drive(self, send):
        """Call `send(load)` in a closed loop of streams, or at random times of a rate, until the window has closed."""
        if self.spec["rate"] is None:
            await asyncio.gather(*(self._stream(send, number) for number in range(self.spec["streams"])))
        else:
            await self._poisson(send)

    async def _stream(self, send, number):
        spread_s = min(self.spec["warmup_s"] / 2, 1.0)
        await asyncio.sleep(spread_s * number / self.spec["streams"])
        while time.monotonic() < self.end_s:
            await send(self)

    async def _poisson(self, send):
        chance, due, tasks = random.Random(1), time.monotonic(), set()
        while (due := due + chance.expovariate(self.spec["rate"])) < self.end_s:
            await asyncio.sleep(due - time.monotonic())
            task = asyncio.create_task(send(self))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    def tell(self):
        """Print the figures."""
        ttfts = sorted(first - sent for sent, first, _, _ in self._measured)
        tpots = [(end - first) / (tokens - 1) for _, first, end, tokens in self._measured if tokens > 1]
        used = resource.getrusage(resource.RUSAGE_SELF)
        told = {
            "begin_s": self.begin_s,
            "end_s": self.end_s,
            "requests": len(ttfts),
            "failed": self._failed,
            "ttft_p50_s": percentile(ttfts, 50),
            "ttft_p99_s": percentile(ttfts, 99),
            "tpot_mean_s": sum(tpots) / len(tpots),
            "tokens_per_s": self._inside / self.spec["window_s"],
            "cpu_s": used.ru_utime + used.ru_stime,
        }
        print(json.dumps(told))


def percentile(ordered, q):
    """Interpolate between neighbours, as everywhere here."""
    position = (len(ordered) - 1) * q / 100
    below = int(position)
    above = ordered[min(below + 1, len(ordered) - 1)]
    return ordered[below] + (above - ordered[below]) * (position - below)
