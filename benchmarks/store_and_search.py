"""What a suggestion, a claim and a stored batch cost.

python benchmarks/store_and_search.py
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from pytest_autotune.records import BatchRecord
from pytest_autotune.sample_codec import CODEC, decode_samples, encode_samples
from pytest_autotune.samples import Level, Sample
from pytest_autotune.search import Observation, suggest
from pytest_autotune.slo import Status
from pytest_autotune.space import Choice, Constraint, Float, Integer, Space
from pytest_autotune.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_autotune.search import Strategy

SPACE = Space(
    (
        Choice("tensor-parallel-size", (1, 2, 4, 8)),
        Integer("max-num-seqs", 16, 512, log=True),
        Integer("max-num-batched-tokens", 512, 16384, step=512),
        Float("gpu-memory-utilization", 0.8, 0.95),
        Choice("kv-cache-dtype", ("auto", "fp8")),
        Choice("enforce-eager", (True, False)),
    ),
    (Constraint("max-num-batched-tokens >= max-num-seqs"),),
)


def main() -> None:
    suggestions()
    codec()
    store()


def suggestions() -> None:
    chance = random.Random(1)
    for rows in (50, 200):
        history: list[Observation] = []
        while len(history) < rows:
            configuration = suggest(SPACE, history, seed=0, strategy="random")
            limits = {"crash": chance.choice((0.0, 0.0, 1.5)), "ttft.p90": chance.uniform(-1, 1)}
            history.append(Observation(configuration, "done", chance.random(), limits))
        strategies: tuple[Strategy, ...] = ("random", "tpe")
        for strategy in strategies:
            suggest(SPACE, history, seed=0, strategy=strategy)  # imports optuna
            costs = [seconds(partial(suggest, SPACE, history, seed=n, strategy=strategy)) for n in range(9)]
            show(f"{strategy} suggestion over {rows} rows", statistics.median(costs))


def codec() -> None:
    samples = batch_of(10_000)
    encoded = encode_samples(samples)
    show("encode 10,000 requests of 128 tokens", seconds(lambda: encode_samples(samples)))
    show("decode them", seconds(lambda: decode_samples(CODEC, encoded)))
    print(f"{'their size':42} {len(encoded) / 1e6:8.2f} MB")


def store() -> None:
    now = datetime.now(UTC)
    batch = BatchRecord(Level(8), "measured", {f"m{n}": n / 7 for n in range(40)}, None, {}, 500, 30.0, now)
    samples = batch_of(500)
    with tempfile.TemporaryDirectory() as directory, Store(f"sqlite:///{directory}/results.db") as opened:
        show("first use of a new store", seconds(opened.migrate))
        opened.begin_run("run", started_at=now, environment={}, arguments=[])
        claims, batches = [], []
        for number in range(200):
            begin = time.perf_counter()
            claim = opened.claim(
                "run", "study", f"trial-{number:03d}", owner="me", fresh=False, choose=lambda h: {"n": len(h)}
            )
            claims.append(time.perf_counter() - begin)
            batches.append(seconds(partial(opened.record_batch, claim.trial.id, batch, samples)))
            opened.finish(claim.trial.id, status=Status.COMPLIANT, elapsed_s=1.0)
        show("claim after 200 trials", statistics.median(claims[-20:]))
        show("record a batch of 500 requests", statistics.median(batches))
        show("history of 200 trials", seconds(lambda: opened.history("study")))


def batch_of(requests: int) -> list[Sample]:
    chance = random.Random(1)
    samples = []
    for number in range(requests):
        gaps = tuple(abs(chance.gauss(0.025, 0.004)) for _ in range(128))
        sent = number * 0.01
        samples.append(Sample(sent, sent + 0.2, sent + 0.2 + sum(gaps), 512, 129, gaps))
    return samples


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def show(what: str, cost_s: float) -> None:
    print(f"{what:42} {cost_s * 1e3:8.1f} ms")


if __name__ == "__main__":
    main()
