"""Verification: what is recorded of a suite's best configuration, and the trial that measures it again."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_autotune.baseline import (
    Answered,
    Baseline,
    Served,
    beside,
    changes,
    differences,
    read_baseline,
    recorded_metrics,
    rounded,
    workload,
)
from pytest_autotune.bench import Slot
from pytest_autotune.choosing import given
from pytest_autotune.errors import SuiteError
from pytest_autotune.examining import exam_of_recorded
from pytest_autotune.hardware import fingerprint
from pytest_autotune.held import Verification, hold
from pytest_autotune.masking import mask, mask_argv
from pytest_autotune.records import utc_text
from pytest_autotune.selection import judge_trial, select

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from pytest_autotune.bench import Plan
    from pytest_autotune.records import TrialRecord
    from pytest_autotune.selection import JudgedBatch, JudgedTrial
    from pytest_autotune.store import Store

BEST = "best"  # name of the trial that verifies


def baseline_of(plan: Plan, best: JudgedTrial, *, run_id: str, at: datetime, commit: str = "") -> Baseline:
    """Return what is recorded of a trial: its compliant load levels.

    In a search for the load they are those that it stands for; a verification then measures no others.
    """
    batches: Iterable[JudgedBatch] = best.compliant
    if plan.suite.load.searched is not None and plan.baseline is None:
        batches = (batch for batch in batches if batch.level in (best.capacity, best.level))
    names = recorded_metrics(plan.suite)
    levels = {
        batch.level.name: rounded({name: batch.record.metrics[name] for name in names if name in batch.record.metrics})
        for batch in batches
    }
    return _described(plan, best.trial, levels, run=run_id, recorded_at=utc_text(at, timespec="seconds"), commit=commit)


def _described(plan: Plan, trial: TrialRecord, levels: dict[str, dict[str, float]], **origin: str) -> Baseline:
    suite = plan.suite
    load = suite.load.model_dump(mode="json", exclude_defaults=True)
    served: dict[str, Any] = mask(suite.model_dump(mode="json", include=set(Served.model_fields)))
    served["command"] = list(mask_argv(suite.command))
    return Baseline(
        suite=suite.name,
        engine=suite.engine,
        engine_version=plan.installed.version,
        model=suite.model,
        hardware=fingerprint(per_server=suite.cores.per_server),
        configuration=dict(trial.configuration),
        server=Served.model_validate(served),
        load=workload(load),
        levels=levels,
        accuracy=_answered(trial),
        **origin,
    )


def _answered(trial: TrialRecord) -> Answered | None:
    found = trial.accuracy
    if found is None or trial.answers is None:
        return None
    reference = None if found.against is None else found.against.texts
    return Answered(questions=trial.answers.questions, kept=found.kept, asked=found.asked, reference=reference)


def recorded(plan: Plan, store: Store | None) -> Baseline | None:
    """Return the recorded best of a suite: that of the file beside it, else what the store's last search selects.

    Raises `SuiteError` for a file that cannot be read, or that another suite or engine was recorded in.
    """
    path = beside(plan.suite.path)
    if path.exists():
        baseline = read_baseline(path)
        for name, now in (("suite", plan.suite.name), ("engine", plan.suite.engine)):
            then = getattr(baseline, name)
            if then != now:
                problem = f"{name}: recorded for {then}, but {plan.suite.path.name} has {now}"
                raise SuiteError(f"{problem}; record it anew with --autotune --autotune-record", path=path)
        return baseline
    return None if store is None else _stored(plan, store)


def _stored(plan: Plan, store: Store) -> Baseline | None:
    suite = plan.suite
    best = select(
        judge_trial(trial, limits=suite.slo, objective=suite.objective, steepness=suite.steepness)
        for trial in plan.history(store)
    ).best
    if best is None:
        return None
    return baseline_of(plan, best, run_id=best.trial.run_id, at=best.trial.started_at)


def verified(plan: Plan, baseline: Baseline) -> Plan:
    """Return the plan of a verification: one trial with the recorded configuration, at the recorded load levels.

    Its measurements are a study of their own: each run makes them anew.
    """
    for name in baseline.configuration:
        if name in plan.suite.fixed:
            problem = (
                f"configuration: {name!r} stands in fixed of {plan.suite.path.name}, too; remove it from one of them"
            )
            raise SuiteError(problem, path=beside(plan.suite.path))
    study = hashlib.sha256(f"verify {plan.study}".encode()).hexdigest()[:32]
    slot = Slot(BEST, 0, baseline.configuration, given(baseline.configuration))
    levels = tuple(baseline.measured)
    exam = exam_of_recorded(plan.suite, baseline)
    return replace(plan, study=study, slots=(slot,), levels=levels, first=(), exam=exam, baseline=baseline)


def verification_of(plan: Plan, baseline: Baseline, judged: JudgedTrial) -> Verification:
    """Hold what was measured against the baseline, if the two may be compared."""
    suite = plan.suite
    levels = {batch.level.name: rounded(batch.record.metrics) for batch in judged.batches} or baseline.levels
    now = _described(plan, judged.trial, levels, run=judged.trial.run_id, recorded_at="")
    refused, changed = tuple(differences(baseline, now)), tuple(changes(baseline, now))
    if refused:
        return Verification(baseline, (), refused=refused, changed=changed)
    held = hold(
        baseline.levels,
        [batch.record for batch in judged.batches],
        metrics=recorded_metrics(suite),
        tolerances=suite.gate.tolerances,
    )
    shown = {one.metric for one in held}
    lacking = tuple(metric for metric in suite.gate.tolerances if metric not in shown)
    return Verification(baseline, held, changed=changed, lacking=lacking if judged.batches else ())
