"""How often a verdict is wrong, and how many requests it takes: python -m benchmarks.search_verdicts [--quick].

Simulated servers whose true attainment (the share of requests that keep the limit) lies around what is asked for, or
whose true mean does. Their latencies follow each other: a log-normal autoregression, and a queue. Each is looked at as
a running batch is, until `sequential` decides or the batch ends. It prints, and asserts nothing.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from dataclasses import dataclass
from statistics import NormalDist, median
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.load import machine
from benchmarks.tables import Printer
from pytest_autotune.intervals import share_interval
from pytest_autotune.samples import Sample
from pytest_autotune.sequential import resolved, rule
from pytest_autotune.slo import Certainty, Limit

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIDENCE = 0.95
CERTAINTY = Certainty(CONFIDENCE)
FIXED = 1000  # requests of the rule that is compared with
MOST = 3000  # requests until a batch ends
RATE = 25.0  # requests per second: a look each second sees so many more
START = 8  # seconds before the first look: a fifth of the length of a batch of so many requests
ATTAINED = (0.90, 0.92, 0.94, 0.949, 0.951, 0.96, 0.97, 0.98, 0.99, 0.999)
CLEAR = (0.90, 0.999)
MEANS = (1.5, 1.2, 1.1, 1.01, 0.99, 0.9, 0.8, 0.6)  # times the bound
CLEAR_MEANS = (1.5, 0.6)
STATISTICS = ("p95", "mean")
PASSES, FAILS, OPEN = "passes", "fails", "inconclusive"


def main() -> None:
    """Try all servers and print the error rates."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_verdicts", description="Errors of verdicts.")
    parser.add_argument("--servers", type=int, default=500, help="for each kind of server")
    parser.add_argument("--only", choices=STATISTICS, help="limits on this alone")
    parser.add_argument("--quick", action="store_true", help="few servers: to see that it works")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    asked = parser.parse_args()
    out = Printer(markdown=asked.markdown)
    out.note(machine())
    for statistic in STATISTICS if asked.only is None else (asked.only,):
        report(out, statistic, 200 if asked.quick else asked.servers)


def report(out: Printer, statistic: str, servers: int) -> None:
    """Try all servers with a limit on one statistic and print the error rates."""
    out.title(
        f"Verdicts on a {statistic}",
        f"{servers} servers for each row, confidence {CONFIDENCE:.0%}, a look each second ({RATE:g} requests), at most "
        f"{MOST} requests. Errors with their 95 % interval; naive: the {statistic} of {FIXED}.",
    )
    rows = []
    requests: list[float] = []
    wrong = Counter[str]()
    for name, likeness in (("independent", 0.0), ("correlation 0.5", 0.5), ("correlation 0.8", 0.8), ("queue", -1.0)):
        found = [trial(number, likeness, statistic) for number in range(servers)]
        bad = [one for one in found if not one.keeps]
        good = [one for one in found if one.keeps]
        false_pass = [one.decision == PASSES for one in bad]
        false_fail = [one.decision == FAILS for one in good]
        clear = [one.requests for one in found if one.clear and one.decision != OPEN]
        requests += clear
        wrong.update(passes=sum(false_pass), bad=len(bad), fails=sum(false_fail), good=len(good))
        rows.append(
            [
                name,
                errors(false_pass),
                errors(false_fail),
                f"{np.mean([one.decision == OPEN for one in found]):.1%}",
                f"{median(clear):.0f}",
                errors([one.naive for one in bad]),
                errors([not one.naive for one in good]),
            ]
        )
    header = ("latencies", "false pass", "false fail", "inconclusive", "requests, clear cases", "naive false pass")
    out.table((*header, "naive false fail"), rows)
    out.verdict("false passes of all", wrong["passes"] / wrong["bad"], 1 - CONFIDENCE, "")
    out.verdict("false fails of all", wrong["fails"] / wrong["good"], 1 - CONFIDENCE, "")
    out.verdict("requests to a verdict in clear cases, median", median(requests), FIXED / 3, "requests")


@dataclass(frozen=True, slots=True)
class Trial:
    """One server: what is true of it, what is decided after how many requests, and what the naive rule says."""

    keeps: bool
    clear: bool
    decision: str
    requests: int
    naive: bool  # it passes


def trial(number: int, likeness: float, statistic: str) -> Trial:
    """Look at one server until its limit is decided."""
    chance = np.random.default_rng([number, round(100 * (likeness + 1))])
    latencies = queue(chance) if likeness < 0 else autoregression(chance, likeness)
    # The bound is the true quantile or a multiple of the true mean, of the process itself.
    if statistic == "mean":
        place = MEANS[number % len(MEANS)]
        bound = (QUEUE_MEAN if likeness < 0 else math.exp(0.5)) / place
        keeps, clear, naive = place < 1, place in CLEAR_MEANS, float(latencies[:FIXED].mean()) <= bound
    else:
        attained = ATTAINED[number % len(ATTAINED)]
        bound = QUEUE[attained] if likeness < 0 else math.exp(NormalDist().inv_cdf(attained))
        naive = float(np.quantile(latencies[:FIXED], 0.95)) <= bound
        keeps, clear = attained > 0.95, attained in CLEAR
    limit = Limit(f"ttft.{statistic}", bound)
    samples = [
        Sample(sent_s=i / RATE, first_s=i / RATE + v, end_s=i / RATE + v, prompt_tokens=1, output_tokens=1)
        for i, v in enumerate(latencies.tolist())
    ]
    for second in range(START, int(MOST / RATE) + 1):
        count = int(second * RATE)
        if resolved(samples[:count], 1e9, [limit], certainty=CERTAINTY, least_s=0.0):
            break
    decision = rule(samples[:count], 1e9, [limit], CERTAINTY)[limit.metric].decision
    return Trial(keeps, clear, {"holds": PASSES, "missed": FAILS, "open": OPEN}[decision], count, naive)


def autoregression(chance: np.random.Generator, likeness: float) -> NDArray[np.float64]:
    """Return log-normal latencies of which each is like the one before."""
    steps = chance.normal(size=MOST) * math.sqrt(1 - likeness * likeness)
    values = np.empty(MOST)
    values[0] = chance.normal()
    for index in range(1, MOST):
        values[index] = likeness * values[index - 1] + steps[index]
    return np.exp(values)


def queue(chance: np.random.Generator, count: int = MOST, *, load: float = 0.6) -> NDArray[np.float64]:
    """Return the times in a queue with one server, Poisson arrivals and exponential service (Lindley's recursion)."""
    gaps, services = chance.exponential(1 / load, count + 200), chance.exponential(1.0, count + 200)
    waits = np.empty(count + 200)
    wait = 0.0
    for index in range(count + 200):
        wait = max(0.0, wait + services[index - 1] - gaps[index]) if index else 0.0
        waits[index] = wait
    return (waits + services)[200:]


# The time in this queue is exponential with mean 1 / (1 - load) (Kleinrock, "Queueing Systems", 1975, section 5.12).
QUEUE_MEAN = 1 / (1 - 0.6)
QUEUE = {attained: -math.log(1 - attained) / (1 - 0.6) for attained in ATTAINED}


def errors(events: list[bool]) -> str:
    """Return a share with its interval."""
    low, high = share_interval(np.array(events))
    return f"{np.mean(events):.1%} ({low:.1%} to {high:.1%})"


if __name__ == "__main__":
    main()
