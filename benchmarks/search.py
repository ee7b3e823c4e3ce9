"""Compare ways to search on measured landscapes: python -m benchmarks.search --silicon FILE.

Everything runs through pytest, the plugin, the store and its selection; only the servers and the load are replayed
(`benchmarks.replay`). It prints, and asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING

from benchmarks.load import machine
from benchmarks.replay.landscape import e2e_s, read
from benchmarks.replay.world import METRIC, beyond
from benchmarks.tables import Printer
from pytest_autotune.recorded import unruled
from pytest_autotune.selection import judge_trial, select
from pytest_autotune.store import Store
from pytest_autotune.suite_file import load_suite

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.replay.landscape import Landscape, Setting
    from pytest_autotune.records import TrialRecord
    from pytest_autotune.selection import JudgedTrial

SHARES = (0.3, 0.5, 0.7)  # of the points that are too slow for the limit
CLOSE = 0.95  # of the true best: found
OTHERS = ("grid", "random", "tpe-as-used", "tpe-infinite", "graded")
STRATEGIES = (*OTHERS, "ours cold", "ours")
EARLIER = 3  # of the best of other workloads of the model, with which ours begins
PRIOR = 2  # of the ways to divide the model that are expected to be best, with which ours begins too
STORE = ".autotune/results.db"
WINDOW = 10.0  # times the median answer: requests of each stream in a window, as many as InferenceX sends
CONFIDENCE = "95%"  # of the verdicts of ours, whose windows end when they are decided
SPREAD = "2%"  # of whole batches, as ours is told: what the least steady servers of the replay have
PATIENCE = 4  # trials in a row without anything better that end our search
DRAWS = 2_000  # of the bootstrap


@dataclass(frozen=True, slots=True)
class Case:
    """One search: a landscape with a limit, a strategy and a seed."""

    landscape: Landscape
    share: float
    strategy: str
    seed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a search cost, and what its selection is worth without noise."""

    found: bool  # whether the best so far, by what was measured, ever came within 5 % of the true best
    deployments: int  # until then; as many as there are configurations when it never did
    load_s: float
    shown: int  # deployments until the selected one came as near, which is of those whose verdict is resolved
    all_deployments: int
    all_load_s: float
    resolved: bool  # as the verdict on the winner says; without one, its 95 % interval lies within the limit
    wrong: bool  # the winner truly misses the limit
    twice: int  # configurations that were deployed again


def main() -> None:
    """Run every case, and print the figures of each strategy."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description="Searches on measured landscapes.")
    parser.add_argument("--silicon", type=Path, required=True, metavar="FILE", help="CSV of measured points")
    parser.add_argument("--quick", action="store_true", help="every fifth landscape, one limit, one seed")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    asked = parser.parse_args()
    out = Printer(markdown=asked.markdown)
    out.note(machine())
    every = read(asked.silicon.resolve())
    chosen = every[::5] if asked.quick else every
    shares, seeds = (SHARES[1:2], 1) if asked.quick else (SHARES, asked.seeds)
    outcomes = run(asked.silicon.resolve(), chosen, shares, seeds)
    report(out, outcomes, f"{len(chosen)} of {len(every)} landscapes, {len(shares)} limits, {seeds} seeds.")


def run(file: Path, chosen: Sequence[Landscape], shares: Sequence[float], seeds: int) -> dict[Case, Outcome]:
    """Search in two processes at a time; what shares a limit and a seed shares a session and a store."""
    jobs: list[Callable[[], dict[Case, Outcome]]] = []
    for share in shares:
        for seed in range(seeds):
            jobs.append(partial(of_ours, file, chosen, share, seed))
            jobs += [partial(of_another, file, chosen, share, seed, strategy) for strategy in OTHERS]
    with ThreadPoolExecutor(2) as pool:
        found = [job.result() for job in [pool.submit(each) for each in jobs]]
    return {case: outcome for outcomes in found for case, outcome in outcomes.items()}


def of_another(file: Path, chosen: Sequence[Landscape], share: float, seed: int, strategy: str) -> dict[Case, Outcome]:
    """Search every landscape by one strategy."""
    with tempfile.TemporaryDirectory(prefix="search-") as text:
        return search(file, [Case(one, share, strategy, seed) for one in chosen], Path(text))


def of_ours(file: Path, chosen: Sequence[Landscape], share: float, seed: int) -> dict[Case, Outcome]:
    """Search every landscape with an empty store, then each with what was found for the model's other workloads."""
    with tempfile.TemporaryDirectory(prefix="search-") as text:
        cold = [Case(one, share, "ours cold", seed) for one in chosen]
        outcomes = search(file, cold, Path(text, "cold"))
        served: dict[tuple[str, str], list[Landscape]] = {}
        for one in chosen:
            served.setdefault((one.key.model_path, one.key.system), []).append(one)
        for place in range(max(len(those) for those in served.values())):
            targets = [those[place] for those in served.values() if len(those) > place]
            directory = Path(text, f"warm-{place}")
            (directory / ".autotune").mkdir(parents=True)
            shutil.copy(Path(text, "cold", STORE), directory / STORE)
            forget(directory / STORE, [name_of(one) for one in targets])
            outcomes |= search(file, [Case(one, share, "ours", seed) for one in targets], directory)
        return outcomes


def forget(store: Path, names: Sequence[str]) -> None:
    """Take the searches of these suites out of a store."""
    with closing(sqlite3.connect(store)) as connection, connection:
        for name in names:
            trials = "select id from trials where study in (select study from suites where suite like ?)"
            batches = f"select id from batches where trial_id in ({trials})"
            connection.execute(f"delete from samples where batch_id in ({batches})", [f"%{name}.yaml"])
            connection.execute(f"delete from batches where id in ({batches})", [f"%{name}.yaml"])
            connection.execute(f"delete from trials where id in ({trials})", [f"%{name}.yaml"])
            connection.execute("delete from suites where suite like ?", [f"%{name}.yaml"])


def name_of(landscape: Landscape) -> str:
    """Return the name of a landscape's suite, the same in every session."""
    return re.sub(r"[^A-Za-z0-9]+", "-", "-".join(map(str, landscape.key)))


def search(file: Path, cases: Sequence[Case], directory: Path) -> dict[Case, Outcome]:
    """Run pytest once over the suites of all cases, and read what it stored."""
    paths = {case: directory / "suites" / f"{name_of(case.landscape)}.yaml" for case in cases}
    (directory / "suites").mkdir(parents=True, exist_ok=True)
    for case, path in paths.items():
        path.write_text(json.dumps(suite(file, case)))
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider"]
    command += ["-p", "benchmarks.replay.world", "suites", "--autotune"]
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTEST_ADDOPTS": "", "PYTHONPATH": root}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout[-4000:] + done.stderr[-4000:])
    with Store(f"sqlite:///{directory / STORE}") as store:
        run_id = store.runs()[0].id
        studies = {Path(one.suite).stem: one.study for one in store.suites_of_run(run_id)}
        trials: dict[str, list[TrialRecord]] = {}
        for trial in store.trials_of_run(run_id):
            trials.setdefault(trial.study, []).append(trial)
    return {case: outcome(case, trials[studies[path.stem]], path) for case, path in paths.items()}


def suite(file: Path, case: Case) -> dict[str, object]:
    """Return the suite of a case."""
    landscape, ours = case.landscape, case.strategy.startswith("ours")
    levels = landscape.levels
    typical_s = median(e2e_s(point, landscape.key.osl) for one in landscape.settings for point in one.points.values())
    load: dict[str, object] = {
        "prompt_tokens": landscape.key.isl,
        "output_tokens": landscape.key.osl,
        "concurrency": list(levels[::-1] if ours else levels),
        "duration": f"{WINDOW * typical_s:.3f}s",
        "warmup": f"{typical_s:.3f}s",
    }
    sure = {"confidence": CONFIDENCE, "spread": SPREAD}
    if ours:
        # From the highest level on, and none below one that complies or brings no more than the best so far.
        load |= {"max_duration": load["duration"], "skip": "dominated"}
    strategy = "bayes" if ours else {"grid": "grid", "random": "random"}.get(case.strategy, "tpe")
    # Numbered slots take the seed plus their number: seeds far apart share none.
    settings: dict[str, object] = {"strategy": strategy, "defaults": False, "seed": 1000 * case.seed}
    if case.strategy != "grid":
        settings["trials"] = len(landscape.settings)
        settings |= {"earlier": EARLIER if case.strategy == "ours" else 0, "prior": PRIOR if ours else 0}
    if ours:
        settings["patience"] = PATIENCE
    names = {"file": str(file), **landscape.key._asdict(), "noise": case.seed, "proposer": case.strategy}
    return {
        "name": "case",
        "engine": "replay",
        "model": f"{landscape.key.model_path}@{landscape.key.system}",
        "parameters": {name: list(values) for name, values in landscape.varying.items()},
        "constraints": list(landscape.conditions),
        "fixed": names,
        "load": load,
        "slo": {METRIC: f"{1e3 * landscape.tpot_limit_s(case.share):.6f}ms"} | (sure if ours else {}),
        "objective": "maximize output_throughput_per_gpu",
        "search": settings,
    }


def outcome(case: Case, trials: Sequence[TrialRecord], path: Path) -> Outcome:
    """Follow a search trial by trial: what was the best so far after each.

    What was found counts for every strategy by the same rule, whether what was measured keeps the limit; what ours
    would select, by whether it was shown to.
    """
    rules, landscape = load_suite(path), case.landscape
    limit_s = landscape.tpot_limit_s(case.share)
    ordered = sorted(trials, key=lambda trial: trial.id)
    judged = [judge_trial(trial, limits=rules.slo, objective=rules.objective) for trial in ordered]
    measured = [judge_trial(unruled(trial), limits=rules.slo, objective=rules.objective) for trial in ordered]
    loads_s = [load_s(trial, rules.load.warmup_s) for trial in ordered]
    until = until_close(case, measured)
    best = select(judged).best
    return Outcome(
        found=until is not None,
        deployments=until or len(landscape.settings),
        load_s=sum(loads_s[:until]),
        shown=until_close(case, judged) or len(landscape.settings),
        all_deployments=len(ordered),
        all_load_s=sum(loads_s),
        resolved=best is not None and is_resolved(best, limit_s),
        wrong=best is not None and misses(case, best),
        twice=len(ordered) - len({json.dumps(dict(trial.configuration), sort_keys=True) for trial in ordered}),
    )


def until_close(case: Case, judged: Sequence[JudgedTrial]) -> int | None:
    """Return the number of deployments after which the best is truly within 5 % of the best; None if it never is."""
    limit_s = case.landscape.tpot_limit_s(case.share)
    wanted = CLOSE * max(case.landscape.true_value(one, limit_s) for one in case.landscape.settings)
    return next((n for n in range(1, len(judged) + 1) if worth(case, select(judged[:n]).best) >= wanted), None)


def load_s(trial: TrialRecord, warmup_s: float) -> float:
    """Return the simulated seconds of load of a trial, without those in which the last answers are waited for."""
    return sum(warmup_s + batch.window_s for batch in trial.batches if batch.status == "measured")


def worth(case: Case, best: JudgedTrial | None) -> float:
    """Return what a selected configuration truly brings, at the best level of the landscape for it."""
    setting = None if best is None else case.landscape.setting(best.trial.configuration)
    return 0.0 if setting is None else case.landscape.true_value(setting, case.landscape.tpot_limit_s(case.share))


def is_resolved(best: JudgedTrial, limit_s: float) -> bool:
    """Say whether the selected configuration is shown to keep the limit at the level it was selected for."""
    assert best.best is not None  # it was selected
    record = best.best.record
    if METRIC in record.rulings:
        return record.rulings[METRIC].decision == "holds"
    upper = record.intervals.get(METRIC, (None, None))[1]
    return upper is not None and upper <= limit_s


def misses(case: Case, best: JudgedTrial) -> bool:
    """Say whether the selected configuration truly misses the limit at the level it was selected for."""
    setting: Setting | None = case.landscape.setting(best.trial.configuration)
    if setting is None or best.level is None or best.level.concurrency is None:
        return True
    limit_s, concurrency = case.landscape.tpot_limit_s(case.share), best.level.concurrency
    point = setting.at(concurrency) or beyond(setting, concurrency)
    return point.tpot_s > limit_s


def report(out: Printer, outcomes: Mapping[Case, Outcome], note: str) -> None:
    """Print the means of each strategy, and ours relative to the others, with intervals over landscapes."""
    out.title("Measured landscapes", f"{note} Mean, and 95 % interval by bootstrap over landscapes.")
    rows = []
    for strategy in STRATEGIES:
        those = [one for case, one in outcomes.items() if case.strategy == strategy]
        resolved = [one for one in those if one.resolved]
        figures: tuple[Callable[[Outcome], float], ...] = (
            lambda one: one.deployments,
            lambda one: one.load_s / 60,
            lambda one: one.shown,
            lambda one: one.all_deployments,
            lambda one: one.all_load_s / 60,
        )
        cells = [interval(outcomes, strategy, figure) for figure in figures]
        wrong = f"{sum(one.wrong for one in resolved)} of {len(resolved)}"
        rows.append([strategy, *cells, f"{fmean(one.found for one in those):.0%}", wrong])
    out.table(
        ("strategy", "deployments", "load, min", "until shown", "whole search", "load, min", "found", "wrong"), rows
    )
    for strategy in ("random", "tpe-as-used"):
        share, text = ratio(outcomes, strategy, lambda one: one.deployments)
        out.verdict(f"deployments of ours against {strategy} {text}", share, 0.5, "")
    for name, figure in (("until found", lambda one: one.load_s), ("whole search", lambda one: one.all_load_s)):
        share, text = ratio(outcomes, "grid", figure)
        out.verdict(f"load time of ours against the grid, {name} {text}", share, 0.25, "")
    ours = [one for case, one in outcomes.items() if case.strategy.startswith("ours")]
    out.verdict("wrong winners of ours called resolved", sum(one.wrong and one.resolved for one in ours), 0, "")
    out.verdict("configurations of ours deployed twice", sum(one.twice for one in ours), 0, "")


def interval(outcomes: Mapping[Case, Outcome], strategy: str, figure: Callable[[Outcome], float]) -> str:
    means = list(by_landscape(outcomes, strategy, figure).values())
    chance = random.Random(0)
    drawn = sorted(fmean(chance.choices(means, k=len(means))) for _ in range(DRAWS))
    return f"{fmean(means):.2f} ({drawn[DRAWS // 40]:.2f} to {drawn[-DRAWS // 40]:.2f})"


def ratio(outcomes: Mapping[Case, Outcome], strategy: str, figure: Callable[[Outcome], float]) -> tuple[float, str]:
    """Return ours relative to a strategy, from the same landscapes, limits and seeds."""
    ours, theirs = by_landscape(outcomes, "ours", figure), by_landscape(outcomes, strategy, figure)
    pairs = [(ours[key], theirs[key]) for key in ours]
    chance = random.Random(0)
    drawn = sorted(share_of(chance.choices(pairs, k=len(pairs))) for _ in range(DRAWS))
    return share_of(pairs), f"({drawn[DRAWS // 40]:.2f} to {drawn[-DRAWS // 40]:.2f})"


def share_of(pairs: Sequence[tuple[float, float]]) -> float:
    return sum(one for one, _ in pairs) / sum(other for _, other in pairs)


def by_landscape(
    outcomes: Mapping[Case, Outcome], strategy: str, figure: Callable[[Outcome], float]
) -> dict[object, float]:
    """Return the mean of a figure on each landscape, over limits and seeds."""
    found: dict[object, list[float]] = {}
    for case, one in outcomes.items():
        if case.strategy == strategy:
            found.setdefault(case.landscape.key, []).append(figure(one))
    return {key: fmean(values) for key, values in found.items()}


if __name__ == "__main__":
    main()
