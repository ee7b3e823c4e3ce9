"""From the store to the end of a run: each suite's selection, gate, exports and reports."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pytest_autotune.baseline import beside, read_baseline, record_anew, with_noise, write_baseline
from pytest_autotune.bench import OUTDATED
from pytest_autotune.budget import cost_of
from pytest_autotune.choosing import defaults_of, how_it_ended
from pytest_autotune.engines.engine import Address
from pytest_autotune.engines.requirements import environment_of
from pytest_autotune.errors import AutotuneError, MissingRequirement, StoreError
from pytest_autotune.files import file_name
from pytest_autotune.gate import Gate, Rule, judge_gate, judge_verification
from pytest_autotune.history import history_of
from pytest_autotune.load.plan import secrets_of
from pytest_autotune.pairing import comparison_of, counted, is_baseline
from pytest_autotune.plan import grid_cost
from pytest_autotune.recorded import under
from pytest_autotune.records import utc_now
from pytest_autotune.reporting.export import write_best
from pytest_autotune.reporting.formats import write_export
from pytest_autotune.reporting.junit import write_junit
from pytest_autotune.reporting.report import SuiteReport, TierReport
from pytest_autotune.reporting.terminal import summary_lines
from pytest_autotune.reporting.verification import verification_lines
from pytest_autotune.selection import judge_trial, select
from pytest_autotune.tiers import TierOutcome
from pytest_autotune.verifying import baseline_of, verification_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_autotune.baseline import Baseline
    from pytest_autotune.bench import Plan
    from pytest_autotune.held import Verification
    from pytest_autotune.history import Series
    from pytest_autotune.records import SuiteRecord, TrialRecord
    from pytest_autotune.run import Run
    from pytest_autotune.selection import JudgedTrial, Selection
    from pytest_autotune.slo import Limit, Tier
    from pytest_autotune.suite import Suite


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What a run came to for one suite."""

    nodeid: str
    gate: Gate
    lines: tuple[str, ...]  # for the end of the terminal output
    partial: str  # why the gate is not judged: only a part of the search was run; else empty


def conclude_suites(run: Run) -> list[Conclusion]:
    """Judge every suite that this run covers, from the store alone, and write its exports and the JUnit verdicts."""
    conclusions, reports = [], []
    width = shutil.get_terminal_size().columns
    for covered in run.store.suites_of_run(run.id):
        try:
            conclusion, report = _conclude(run, covered, width=width)
        except (AutotuneError, OSError) as error:
            conclusions.append(Conclusion(covered.suite, _not_concluded(error), lines=(), partial=""))
            continue
        conclusions.append(conclusion)
        if report is not None:
            reports.append(report)
    if run.settings.junit is not None:
        run.settings.junit.parent.mkdir(parents=True, exist_ok=True)
        write_junit(run.settings.junit, reports, family=run.settings.junit_family)
    for kind, path in run.settings.exports:
        write_export(kind, path, reports)
    return conclusions


def _conclude(run: Run, covered: SuiteRecord, *, width: int) -> tuple[Conclusion, SuiteReport | None]:
    plan = run.plan(Path(covered.document["path"]), nodeid=covered.suite)
    if plan.baseline is not None:
        return _conclude_verification(run, plan, plan.baseline, width=width)
    history = _standing(run, plan)
    report = _report(run, plan, history)
    written = write_best(run.directory / file_name(plan.suite.name), report)
    partial = _partial(plan, history, report.ended)
    if report.selection.best is not None:
        written = (*written, *_record(run, plan, report, partial=partial))
    run.selected(plan, report.selection.best)
    conclusion = Conclusion(
        nodeid=covered.suite,
        gate=report.gate,
        lines=tuple(summary_lines(report, files=written, width=width, verbose=run.settings.verbose)),
        partial=partial,
    )
    return conclusion, report


def _record(run: Run, plan: Plan, report: SuiteReport, *, partial: str) -> tuple[Path, ...]:
    """Keep what was selected: in the store, unless only a part was run; as a file beside the suite if that was asked.

    Runs without --autotune find the file; return what was written.
    """
    best, path = report.selection.best, beside(plan.suite.path)
    assert best is not None, "only what was selected is recorded"
    baseline = baseline_of(plan, best, run_id=run.id, at=report.finished_at, commit=report.commit)
    if report.gate.holds and not partial:
        run.store.baselines.record(baseline)
    if not run.settings.record:
        return ()
    record_anew(path, baseline)
    return (path,)


def _conclude_verification(
    run: Run, plan: Plan, baseline: Baseline, *, width: int
) -> tuple[Conclusion, SuiteReport | None]:
    history = tuple(trial for trial in plan.history(run.store) if trial.run_id == run.id)
    own = tuple(candidate for _, candidate in counted(history))
    own = own or tuple(trial for trial in history if not is_baseline(trial.slot))
    if not own:
        partial = "nothing of the recorded best was measured; the gate judges all"
        return Conclusion(plan.nodeid, Gate(()), lines=(), partial=partial), None
    report = _report(run, plan, own)
    judged = report.selection.ranking[-1]  # of several the worst
    verification, again = verification_of(plan, baseline, judged), f"pytest {plan.nodeid}"
    if plan.opponent is not None:
        verification = replace(verification, comparison=comparison_of(plan.suite, baseline.noise, history))
        again += f" --autotune-compare {run.settings.compare}"
    gate = judge_verification(judged, verification, plan.suite.gate, again=again)
    told, untold = _told_history(run, plan.suite)
    report = replace(report, gate=gate, verification=verification, history=told)
    unfinished = next((trial for trial in history if trial.state != "finished"), None)
    partial = "" if unfinished is None else f"only a part of {unfinished.slot} was measured; the gate judges all"
    lines = [*verification_lines(report, width=width, verbose=run.settings.verbose), *untold]
    if run.settings.record and not partial:
        lines += ["", _record_noise(run, plan, verification)]
    if gate.holds and not partial and plan.opponent is None:
        measured = baseline_of(plan, judged, run_id=run.id, at=report.finished_at, commit=report.commit)
        known = {} if verification.refused else baseline.noise  # none is known of another load
        run.store.baselines.record(measured.model_copy(update={"noise": known}))
    conclusion = Conclusion(
        nodeid=plan.nodeid,
        gate=gate,
        lines=tuple(lines),
        partial=partial,
    )
    return conclusion, report


def _record_noise(run: Run, plan: Plan, verification: Verification) -> str:
    """Note in the record what equal sides differed by, which automatic tolerances leave room for; say what was done."""
    if differing := (*verification.refused, *verification.changed):
        return f"  nothing recorded: the two sides differ by more than noise: {'; '.join(differing)}"
    assert verification.comparison is not None, "of a comparison"
    effects = verification.comparison.effects
    measured = {effect.metric: effect.noise for effect in effects if effect.noise is not None}
    if not measured:
        return "  nothing recorded: there are not two pairs with the same metrics on both sides"
    path = beside(plan.suite.path)
    record = read_baseline(path) if path.exists() else verification.baseline
    write_baseline(path, with_noise(record, measured))
    return f"  noise recorded: {os.path.relpath(path, run.config.invocation_params.dir)}"


def _told_history(run: Run, suite: Suite) -> tuple[tuple[Series, ...], tuple[str, ...]]:
    """Return the history of what the gate judges, and a line where it cannot be read.

    No verdict depends on what earlier runs have measured, so nothing of theirs turns this one red.
    """
    about = [suite.objective.metric, *(limit.metric for limit in suite.slo)]
    metrics = tuple(dict.fromkeys(suite.gate.tolerances or about))
    try:
        series = history_of(run.store, suite.name, metrics)
    except (StoreError, LookupError, ValueError) as error:
        return (), (f"  history: not shown, as it cannot be read from the store: {error}",)
    return tuple(one for one in series if len(one.points) > 1), ()


def _standing(run: Run, plan: Plan) -> tuple[TrialRecord, ...]:
    """Return what the store has of the suite's trials; those that are to be measured again are not finished."""
    history = plan.history(run.store)
    outdated = run.outdated(plan, history)
    return tuple(
        replace(trial, state="interrupted", reason=OUTDATED) if trial.id in outdated else trial for trial in history
    )


def _not_concluded(error: Exception) -> Gate:
    """What was measured is in the store, but nothing was selected from it: that must not be green."""
    remedy = "What was measured is stored: mend this, and run the same command again."
    return Gate((Rule("conclusion", False, f"The results could not be concluded: {error}. {remedy}"),))


def _judge(run: Run, suite: Suite, trial: TrialRecord, limits: Sequence[Limit]) -> JudgedTrial:
    """Judge one recorded trial by the suite as it stands now, and by its limits or those of a tier."""
    return judge_trial(
        trial,
        limits=limits,
        objective=suite.objective,
        steepness=suite.steepness,
        score=partial(run.score, suite),
    )


def _report(run: Run, plan: Plan, history: tuple[TrialRecord, ...]) -> SuiteReport:
    suite = plan.suite
    restated = tuple(run.restated(plan, trial) for trial in history)
    selection = select(_judge(run, suite, trial, suite.slo) for trial in restated)
    environment = run.environment
    now = utc_now()
    best = selection.best
    whole = _finished(plan, history) >= len(plan.searching)
    ended = "" if whole else how_it_ended(suite, history, defaults_of(suite, plan.installed))
    return SuiteReport(
        suite=suite,
        path=plan.nodeid,
        engine_version=plan.installed.version,
        selection=selection,
        gate=judge_gate(selection),
        run_id=run.id,
        started_at=run.started_at,
        finished_at=now,
        elapsed_s=(now - run.started_at).total_seconds(),
        deployments=sum(trial.run_id == run.id and trial.deploy_s is not None for trial in history),
        recorded=sum(trial.run_id != run.id for trial in history),
        address=None if best is None else _address(best.trial),
        env=_server_env(plan),
        keys=_keys(plan),
        environment=environment,
        gpu=_gpus(environment),
        root=str(run.settings.root),
        commit=str(environment.get("git", {}).get("revision", "")),
        ended=ended,
        spent=cost_of(history, now),
        tiers=tuple(_tier(run, suite, tier, restated, selection) for tier in suite.tiers),
        everything=None if _partial(plan, history, ended) else grid_cost(plan, history),
    )


def _tier(run: Run, suite: Suite, tier: Tier, trials: Sequence[TrialRecord], own: Selection) -> TierReport:
    """Select the best for a tier from what was measured; `own` is what the suite's own limits select."""
    selection = own
    if set(tier.limits) != set(suite.slo):
        seen = (under(tier, trial, suite, run.store) for trial in trials)
        # What was measured again was the best by the suite's own limits, which may not be the best here.
        selection = select((_judge(run, suite, trial, tier.limits) for trial in seen), confirmed_first=False)
    chosen = suite.load.searched is not None or suite.load.skip is not None
    best = selection.best
    outcome = TierOutcome(tier, selection, loads_for_slo=chosen)
    return TierReport(outcome, None if best is None else _address(best.trial))


def _finished(plan: Plan, history: Sequence[TrialRecord]) -> int:
    """Return how many trials of the search are finished; there may be fewer to confirm than was allowed for."""
    names = {slot.name for slot in plan.searching}
    return sum(trial.state == "finished" and trial.slot in names for trial in history)


def _partial(plan: Plan, history: Sequence[TrialRecord], ended: str) -> str:
    """Say that only a part of a search was run; empty for a whole one.

    A search that ended before its last trial, or found nothing left to try, is whole with what was finished.
    """
    number = _finished(plan, history)
    needed = len(plan.searching) if plan.suite.strategy == "grid" and not ended else 1
    return "" if number >= needed else f"{number} of {len(plan.searching)} trials were finished; the gate judges all"


def _server_env(plan: Plan) -> dict[str, str]:
    """The suite's environment with variables filled in; nothing when one of them is not set any more."""
    try:
        return environment_of(plan.suite)
    except MissingRequirement:
        return {}


def _keys(plan: Plan) -> tuple[str, ...]:
    """The secrets that the load sends; nothing when one of their variables is not set any more."""
    try:
        return secrets_of(plan.suite.load)
    except MissingRequirement:
        return ()


def _gpus(environment: Mapping[str, Any]) -> str:
    """Name this machine's GPUs, e.g. ``8 x NVIDIA H100 80GB HBM3``; empty without any."""
    counted = Counter(str(gpu["name"]) for gpu in environment.get("hardware", {}).get("gpus", ()))
    return ", ".join(f"{number} x {name}" for name, number in counted.items())


def _address(trial: TrialRecord) -> Address | None:
    """The values in the trial's command line that belonged to that one deployment."""
    parts = urlsplit(trial.url)
    if parts.hostname is None or parts.port is None:
        return None
    return Address(host=parts.hostname, port=parts.port, model_name=trial.model_name)
