"""How often a verdict is wrong, and how many requests it takes: python -m benchmarks.search_verdicts [--quick].

Simulated servers whose true attainment (the share of requests that keep the limit) lies around what is asked for,
with latencies that follow each other: a log-normal autoregression, and a queue. Each is looked at as a running batch
is, until `sequential` decides or the batch ends. It prints, and asserts nothing.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from statistics import NormalDist, median
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.load import machine
from benchmarks.tables import Printer
from pytest_autotune.intervals import share_interval
from pytest_autotune.samples import Sample
from pytest_autotune.sequential import resolved, rule
from pytest_autotune.slo import Limit

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIDENCE = 0.95
FIXED = 1000  # requests of the rule that is compared with
MOST = 3000  # requests until a batch ends
RATE = 25.0  # requests per second: a look each second sees so many more
START = 8  # seconds before the first look: a fifth of the length of a batch of so many requests
ATTAINED = (0.90, 0.92, 0.94, 0.949, 0.951, 0.96, 0.97, 0.98, 0.99, 0.999)
CLEAR = (0.90, 0.999)
PASSES, FAILS, OPEN = "passes", "fails", "inconclusive"


def main() -> None:
    """Try all servers and print the error rates."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_verdicts", description="Errors of verdicts.")
    parser.add_argument("--servers", type=int, default=500, help="for each kind of server")
    parser.add_argument("--quick", action="store_true", help="few servers: to see that it works")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    asked = parser.parse_args()
    out = Printer(markdown=asked.markdown)
    out.note(machine())
    servers = 200 if asked.quick else asked.servers
    out.title(
        "Verdicts",
        f"{servers} servers for each row, limits on a p95, confidence {CONFIDENCE:.0%}, a look each second "
        f"({RATE:g} requests), at most {MOST} requests. Errors with their 95 % interval; naive: the p95 of {FIXED}.",
    )
    rows = []
    requests: list[float] = []
    wrong = Counter[str]()
    for name, likeness in (("independent", 0.0), ("correlation 0.5", 0.5), ("correlation 0.8", 0.8), ("queue", -1.0)):
        found = [trial(number, likeness) for number in range(servers)]
        below = [one for one in found if one[0] < 0.95]
        above = [one for one in found if one[0] > 0.95]
        false_pass = [decision == PASSES for _, decision, _, _ in below]
        false_fail = [decision == FAILS for _, decision, _, _ in above]
        clear = [count for attained, decision, count, _ in found if attained in CLEAR and decision != OPEN]
        requests += clear
        wrong.update(passes=sum(false_pass), below=len(below), fails=sum(false_fail), above=len(above))
        rows.append(
            [
                name,
                errors(false_pass),
                errors(false_fail),
                f"{np.mean([decision == OPEN for _, decision, _, _ in found]):.1%}",
                f"{median(clear):.0f}",
                errors([naive for _, _, _, naive in below]),
                errors([not naive for _, _, _, naive in above]),
            ]
        )
    header = ("latencies", "false pass", "false fail", "inconclusive", "requests, clear cases", "naive false pass")
    out.table((*header, "naive false fail"), rows)
    out.verdict("false passes of all", wrong["passes"] / wrong["below"], 1 - CONFIDENCE, "")
    out.verdict("false fails of all", wrong["fails"] / wrong["above"], 1 - CONFIDENCE, "")
    out.verdict(f"requests to a verdict at {CLEAR[0]} and {CLEAR[1]}, median", median(requests), FIXED / 3, "requests")


def trial(number: int, likeness: float) -> tuple[float, str, int, bool]:
    """Return a server's attainment, what is decided, after how many requests, and what the naive rule says."""
    attained = ATTAINED[number % len(ATTAINED)]
    chance = np.random.default_rng([number, round(100 * (likeness + 1))])
    latencies = queue(chance) if likeness < 0 else autoregression(chance, likeness)
    # The bound is the true quantile: of the process itself, or of a long stretch of it.
    bound = QUEUE[attained] if likeness < 0 else math.exp(NormalDist().inv_cdf(attained))
    limit = Limit("ttft.p95", bound)
    samples = [
        Sample(sent_s=i / RATE, first_s=i / RATE + v, end_s=i / RATE + v, prompt_tokens=1, output_tokens=1)
        for i, v in enumerate(latencies.tolist())
    ]
    naive = float(np.quantile(latencies[:FIXED], 0.95)) <= bound
    for second in range(START, int(MOST / RATE) + 1):
        count = int(second * RATE)
        if resolved(samples[:count], 1e9, [limit], confidence=CONFIDENCE, least_s=0.0):
            break
    decision = rule(samples[:count], 1e9, [limit], CONFIDENCE)["ttft.p95"].decision
    return attained, {"holds": PASSES, "missed": FAILS, "open": OPEN}[decision], count, naive


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
QUEUE = {attained: -math.log(1 - attained) / (1 - 0.6) for attained in ATTAINED}


def errors(events: list[bool]) -> str:
    """Return a share with its interval."""
    low, high = share_interval(np.array(events))
    return f"{np.mean(events):.1%} ({low:.1%} to {high:.1%})"


if __name__ == "__main__":
    main()
