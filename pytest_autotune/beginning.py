"""What a search begins with beyond what its suite says: the best of earlier searches, and a prior."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from pytest_autotune.expectation import everything, expectations, likeliest
from pytest_autotune.hardware import fingerprint
from pytest_autotune.load.lengths import mean_length
from pytest_autotune.modelling import modelled
from pytest_autotune.pricing import priced
from pytest_autotune.recorded import restate, unruled
from pytest_autotune.seeding import distinct, fits, proposed, without
from pytest_autotune.selection import judge_trial, select
from pytest_autotune.slo import Limit, Status
from pytest_autotune.transfer import EXPECTED, Worths, most_promising, nearness, worths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from pytest_autotune.bench import Plan
    from pytest_autotune.records import TrialRecord
    from pytest_autotune.selection import JudgedTrial
    from pytest_autotune.space import Configuration
    from pytest_autotune.store import Store
    from pytest_autotune.suite import Suite

log = logging.getLogger(__name__)

OTHER_LIMITS = 1 / math.e  # weight of a search that is judged by its own limits, as of one with prompts e times as long
VERIFIES = "verifies"  # key of a suite's document: the baseline that a verification was about
FIRST = "first"  # key of a suite's document: what its search began with beyond what the suite says


def first_of(plan: Plan, store: Store, *, ask: Callable[..., Any], fresh: bool) -> dict[str, list[Configuration]]:
    """Return what a search that has not begun will begin with: ``earlier``, then ``prior``, without repetitions.

    `ask` is the hook `pytest_autotune_prior`; raises `SuiteError` for what it should not have returned.
    """
    suite = plan.suite
    search = suite.search
    earlier: tuple[Configuration, ...] = ()
    if search.earlier and suite.strategy != "random" and not fresh and suite.deploy == "local":
        earlier = without(_earlier(plan, store), plan.first, most=search.earlier)
    known = distinct(plan.first, earlier)
    prior: tuple[Configuration, ...] = ()
    if search.prior:
        prior = without(_prior(plan, known, ask), known, most=search.prior)
    log.info("%s begins with %d earlier and %d prior configurations", suite.name, len(earlier), len(prior))
    return {"earlier": [dict(each) for each in earlier], "prior": [dict(each) for each in prior]}


def _prior(plan: Plan, known: tuple[Configuration, ...], ask: Callable[..., Any]) -> tuple[Configuration, ...]:
    """Return what a plugin proposes; without one, what is modelled, if the suite says how many of that it wants."""
    suite = plan.suite
    answer = ask(suite=suite, configurations=known)
    if answer is not None:
        try:
            return proposed(answer, suite.space, suite.fixed)
        except ValueError as error:
            raise suite.error(f"pytest_autotune_prior: {error}", "search", "prior") from None
    if "prior" not in suite.search.model_fields_set:
        return ()
    return modelled(suite) or likeliest(suite, plan.engine, known)


def begins_with(plan: Plan, document: Mapping[str, Any]) -> tuple[Configuration, ...]:
    """Return all that the search of a plan begins with, by the suite's document as its run noted it.

    What was masked in the document is left out.
    """
    first, suite = document.get(FIRST, {}), plan.suite
    noted = (*first.get("earlier", ()), *first.get("prior", ()))
    return distinct(plan.first, (each for each in noted if fits(suite.space, each, suite.fixed)))


def _earlier(plan: Plan, store: Store) -> tuple[Configuration, ...]:
    """Return what other searches have tried and this one can, what they agree on as the best first.

    What is expected of servers has a small say, and the only one on what none of the searches has tried.
    """
    suite = plan.suite
    space, fixed, load = suite.space, suite.fixed, _lengths(suite)
    searches, tried = [], []
    for weight, ranking in _searches(plan, store):
        near = nearness(load, _measured_lengths(ranking))
        searches.append(Worths(weight * near, worths(ranking, suite.objective, space, fixed)))
        tried += [one.trial for one in ranking if one.eligible and fits(space, one.trial.configuration, fixed)]
    if not tried:
        return ()
    tried.sort(key=lambda trial: (len(trial.configuration), trial.started_at, trial.id))
    known = distinct(
        (space.fitted(trial.configuration, fixed) for trial in tried if trial.configuration),
        everything(suite) or (),
    )
    return most_promising(searches, known, Worths(EXPECTED, expectations(suite, plan.engine, known)))


def _lengths(suite: Suite) -> tuple[float, float]:
    """Return the mean tokens of the suite's prompts and answers; 0 where a file decides."""
    if suite.load.dataset is not None or suite.load.replay is not None:
        return 0.0, 0.0
    prompt, output = suite.load.lengths
    return mean_length(prompt), mean_length(output)


def _measured_lengths(ranking: Iterable[JudgedTrial]) -> tuple[float, float]:
    """Return the mean tokens of the prompts and answers of a search; 0 where nothing was answered."""
    batches = (batch.record for one in ranking for batch in one.batches if batch.record.status == "measured")
    metrics = next((batch.metrics for batch in batches if batch.metrics.get("request_throughput")), None)
    if metrics is None:
        return 0.0, 0.0
    requests = metrics["request_throughput"]
    return metrics.get("input_throughput", 0.0) / requests, metrics.get("output_throughput", 0.0) / requests


def _searches(plan: Plan, store: Store) -> Iterator[tuple[float, tuple[JudgedTrial, ...]]]:
    """Yield the rankings of other searches with the same engine, model and hardware, each with its weight.

    By this suite's own standards, where anything keeps its limits; and, with less weight, by the search's own limits,
    as its loads were chosen to be near those. With another objective it then says nothing. What was measured
    decides, however sure it is: this is an order to try things in, and no verdict.
    """
    suite = plan.suite
    wanted = {"engine": suite.engine, "model": suite.model, "hardware": fingerprint()}
    for other in store.studies():
        if VERIFIES in other.document:
            continue
        if other.study == plan.study or any(other.document.get(key) != value for key, value in wanted.items()):
            continue
        trials = [trial for trial in store.history(other.study) if trial.state == "finished"]
        ranking = _ranked((_completed(trial, suite, store) for trial in trials), suite.slo, suite)
        if any(one.eligible for one in ranking):
            yield 1.0, ranking
        if other.document["objective"] == suite.objective.model_dump(mode="json"):
            limits = tuple(Limit(**each) for each in other.document["slo"])
            yield OTHER_LIMITS, _ranked((priced(trial, suite.hourly) for trial in trials), limits, suite)


def _ranked(trials: Iterable[TrialRecord], limits: Sequence[Limit], suite: Suite) -> tuple[JudgedTrial, ...]:
    judged = (
        judge_trial(unruled(trial), limits=limits, objective=suite.objective, steepness=suite.steepness)
        for trial in trials
    )
    return select(judged).ranking


def _completed(trial: TrialRecord, suite: Suite, store: Store) -> TrialRecord:
    """Return a trial with the metrics that the suite's limits and objective need: anew where it lacks one.

    Goodput depends on the limits, so the one that is stored is another suite's.
    """
    trial = priced(trial, suite.hourly)
    if trial.status is Status.INFEASIBLE:
        return trial
    needed = {suite.objective.metric, *(limit.metric for limit in suite.slo)}
    lacking = any(batch.status == "measured" and not needed <= batch.metrics.keys() for batch in trial.batches)
    anew = lacking or any(metric.startswith("goodput") for metric in needed)
    return priced(restate(trial, suite, store), suite.hourly) if anew else trial
