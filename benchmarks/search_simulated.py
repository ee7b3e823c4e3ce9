"""Compare ways to search where many configurations crash: python -m benchmarks.search_simulated.

Eight parameters, about ten thousand configurations, and servers that the embedded engine's own model answers for
(`benchmarks.replay.simulated`); then a space in which nearly all fail, and what a suggestion takes. The strategies
are called as the plugin calls them; nothing is deployed. It prints, and asserts nothing.
"""

from __future__ import annotations

import argparse
import random
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.load import machine
from benchmarks.replay.proposers import PROPOSERS
from benchmarks.replay.simulated import TRAFFICS
from benchmarks.tables import Printer
from pytest_autotune.search import Observation, failure_value, suggest
from pytest_autotune.space import Choice, Space

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_autotune.space import Configuration

DEPLOYMENTS = 20
CLOSE = 0.95  # of the optimum: found
STRATEGIES = ("random", "tpe-as-used", "tpe-infinite", "graded", "tpe", "bayes", "ours")
FAILING = 60  # deployments in the space where nearly all fail
DRAWS = 2_000  # of the bootstrap

# A corner of 4 in 10,000 works; elsewhere a server fails the later, the nearer it is.
CORNER = Space(tuple(Choice(f"knob-{index}", tuple(range(8))) for index in range(5)))


@dataclass(frozen=True, slots=True)
class Course:
    """How one search went."""

    worth: tuple[float, ...]  # of what would have been selected after each deployment, relative to the optimum
    crashes: int


def main() -> None:
    """Run every part, and print its figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_simulated", description="Simulated landscapes.")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    asked = parser.parse_args()
    out = Printer(markdown=asked.markdown)
    out.note(machine())
    report_landscapes(out, asked.seeds)
    report_failing(out, asked.seeds)
    report_speed(out)


def propose(
    strategy: str, space: Space, history: Sequence[Observation], seed: int, barred: Callable[[Configuration], bool]
) -> Configuration:
    """Ask a strategy as the plugin does: `ours` is `bayes` without what is known not to start."""
    if strategy in PROPOSERS and strategy != "random":
        return PROPOSERS[strategy](space, history, seed, {})
    if strategy == "ours":
        return suggest(replace(space, bars=barred), history, seed=seed, strategy="bayes")
    return suggest(space, history, seed=seed, strategy=strategy)  # type: ignore[arg-type]


def course(number: int, strategy: str, seed: int) -> Course:
    """Search one landscape; equal seeds have equal noise."""
    traffic, chance = TRAFFICS[number], np.random.default_rng([seed, number])
    history: list[Observation] = []
    worth = []
    for index in range(DEPLOYMENTS):
        chosen = propose(strategy, traffic.space, history, 1000 * seed + index, traffic.barred(history))
        history.append(traffic.observe(chosen, chance))
        measured = [row for row in history if row.value is not None]
        best = max(measured, key=lambda row: row.value or 0.0, default=None)
        worth.append(0.0 if best is None else (traffic.worth(best.configuration) or 0.0) / traffic.best)
    return Course(tuple(worth), sum(row.constraints["crash"] > 0 for row in history))


def report_landscapes(out: Printer, seeds: int) -> None:
    """Print how near each strategy came to the optimum, and how often its servers crashed."""
    sizes = [len(traffic.truth) for traffic in TRAFFICS]
    shares = [traffic.crash_share for traffic in TRAFFICS]
    out.title(
        "Simulated landscapes",
        f"{len(TRAFFICS)} landscapes of {min(sizes)} to {max(sizes)} configurations, {min(shares):.0%} to "
        f"{max(shares):.0%} of which crash, {seeds} seeds, {DEPLOYMENTS} deployments. Mean, and 95 % interval by "
        "bootstrap over searches; found: within 5 % of the optimum.",
    )
    courses: dict[str, list[Course]] = {}
    rows = []
    with ProcessPoolExecutor(2) as pool:
        for strategy in STRATEGIES:
            cases = [(number, strategy, seed) for number in range(len(TRAFFICS)) for seed in range(seeds)]
            courses[strategy] = those = list(pool.map(course, *zip(*cases, strict=True), chunksize=4))
            rows.append(
                [
                    strategy,
                    f"{fmean(one.worth[9] for one in those):.2f}",
                    f"{fmean(one.worth[-1] for one in those):.2f}",
                    interval([float(one.worth[-1] >= CLOSE) for one in those]),
                    interval([float(one.crashes) for one in those]),
                ]
            )
    out.table(("strategy", "after 10", "after 20", "found", "crashes"), rows)
    ours, chance = courses["ours"], courses["random"]
    out.verdict(
        "searches of ours that found it", fmean(one.worth[-1] >= CLOSE for one in ours), 0.75, "", at_least=True
    )
    share = fmean(one.crashes for one in ours) / fmean(one.crashes for one in chance)
    out.verdict("crashes of ours relative to random", share, 0.5, "")
    bare = fmean(one.crashes for one in courses["bayes"]) / fmean(one.crashes for one in chance)
    out.note(f"crashes relative to random without what is known before a launch: {bare:.2f}")


def fails(configuration: Configuration, *, graded: bool) -> Observation:
    """Return what a trial in the corner's space comes to; without the graded scale all failures are alike."""
    away = sum(configuration.values()) / (7 * len(CORNER.parameters))
    if sum(configuration.values()) <= 2:
        return Observation(configuration, "done", 100.0 - away, {"crash": 0.0})
    scale = failure_value(1.0 - away, 1.0, "exit status 1") if graded else failure_value(0.0, 1.0, "")
    return Observation(configuration, "done", None, {"crash": scale})


def first_success(strategy: str, seed: int) -> int | None:
    """Return how many deployments it took until a server worked."""
    history: list[Observation] = []
    # Told as infinite, or by bayes as one crash like any other, failures have no slope.
    name = strategy.removesuffix(" ungraded")
    for index in range(FAILING):
        chosen = propose(name, CORNER, history, 1000 * seed + index, lambda _one: False)
        history.append(fails(chosen, graded=name == strategy))
        if history[-1].value is not None:
            return index + 1
    return None


def report_failing(out: Printer, seeds: int) -> None:
    """Print how often each encoding of failures leads out of a failing region."""
    working = sum(fails(one, graded=True).value is not None for one in CORNER.grid({}))
    out.title(
        "Nearly all trials fail",
        f"{working} of {CORNER.size()} configurations work; a server fails the later, the nearer it is to them. "
        f"{seeds} seeds, at most {FAILING} deployments.",
    )
    strategies = ("random", "tpe-as-used", "tpe-infinite", "graded", "tpe", "bayes ungraded", "bayes")
    found: dict[str, list[int | None]] = {}
    with ProcessPoolExecutor(2) as pool:
        for strategy in strategies:
            found[strategy] = list(pool.map(first_success, [strategy] * seeds, range(seeds), chunksize=2))
    rows = [
        [
            strategy,
            f"{sum(one is not None for one in those)} of {seeds}",
            f"{median(FAILING + 1 if one is None else one for one in those):.0f}",
        ]
        for strategy, those in found.items()
    ]
    out.table(("strategy", "got out", "deployments, median"), rows)
    share = {strategy: fmean(one is not None for one in those) for strategy, those in found.items()}
    out.verdict("searches with infinite scores that got out", share["tpe-infinite"], 0.1, "")
    out.verdict("searches of ours that got out", share["bayes"], 0.9, "", at_least=True)


def report_speed(out: Printer) -> None:
    """Print what a suggestion takes, alternating between strategies in one process."""
    out.title("Time per suggestion", "Eight parameters; median of five, in milliseconds.")
    traffic, chance = TRAFFICS[0], np.random.default_rng(0)
    every = list(traffic.space.grid({}))
    drawn = [every[index] for index in chance.permutation(len(every))[:5_000]]
    history = [traffic.observe(one, chance) for one in drawn]
    took: dict[tuple[int, str], list[float]] = {}
    for number in (20, 200, 5_000):
        for repeat in range(6):
            for strategy in ("random", "tpe", "bayes"):
                begun = time.perf_counter()
                suggest(traffic.space, history[:number], seed=repeat, strategy=strategy)
                if repeat:  # the first one imports
                    took.setdefault((number, strategy), []).append(1e3 * (time.perf_counter() - begun))
    rows = [[f"{number} trials, {strategy}", f"{median(times):.1f}"] for (number, strategy), times in took.items()]
    out.table(("history", "ms"), rows)
    out.verdict("a suggestion of TPE after 200 trials", median(took[200, "tpe"]), 50, "ms")
    for strategy in ("tpe", "bayes"):
        out.verdict(f"a suggestion of {strategy} after 5,000 trials", median(took[5_000, strategy]), 1_000, "ms")


def interval(values: Sequence[float]) -> str:
    """Return a mean with its 95 % interval by bootstrap."""
    chance = random.Random(0)
    drawn = sorted(fmean(chance.choices(values, k=len(values))) for _ in range(DRAWS))
    return f"{fmean(values):.2f} ({drawn[DRAWS // 40]:.2f} to {drawn[-DRAWS // 40]:.2f})"


if __name__ == "__main__":
    main()
