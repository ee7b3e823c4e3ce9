"""From the store to the end of a run: each suite's selection, gate, exports and reports."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pytest_autotune.engines.engine import Address
from pytest_autotune.files import file_name
from pytest_autotune.gate import judge_gate
from pytest_autotune.records import utc_now
from pytest_autotune.reporting.export import write_best
from pytest_autotune.reporting.junit import write_junit
from pytest_autotune.reporting.report import SuiteReport
from pytest_autotune.reporting.terminal import summary_lines
from pytest_autotune.selection import judge_trial, select

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_autotune.gate import Gate
    from pytest_autotune.records import TrialRecord
    from pytest_autotune.run import Run
    from pytest_autotune.selection import JudgedTrial
    from pytest_autotune.trial import Plan


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
        plan = run.plan(Path(covered.document["path"]), nodeid=covered.suite)
        history = run.store.history(plan.study)
        report = _report(run, plan, history)
        written = write_best(run.directory / file_name(plan.suite.name), report)
        run.selected(plan, report.selection.best)
        searched = plan.suite.search.strategy != "grid"
        complete = searched or len(history) >= len(plan.slots)
        conclusions.append(
            Conclusion(
                nodeid=covered.suite,
                gate=report.gate,
                lines=tuple(summary_lines(report, files=written, width=width, verbose=run.settings.verbose)),
                partial="" if complete else f"{len(history)} of {len(plan.slots)} trials were run; the gate judges all",
            )
        )
        reports.append(report)
    if run.settings.junit is not None:
        write_junit(run.settings.junit, reports)
    return conclusions


def _judge(run: Run, plan: Plan, trial: TrialRecord) -> JudgedTrial:
    """Judge one recorded trial by the suite as it stands now."""
    suite = plan.suite
    return judge_trial(
        run.restated(plan, trial),
        limits=suite.slo,
        objective=suite.objective,
        steepness=suite.steepness,
        score=partial(run.score, suite),
    )


def _report(run: Run, plan: Plan, history: Sequence[TrialRecord]) -> SuiteReport:
    suite = plan.suite
    selection = select(_judge(run, plan, trial) for trial in history)
    environment = run.environment
    now = utc_now()
    best = selection.best
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
        environment=environment,
        commit=str(environment.get("git", {}).get("revision", "")),
    )


def _address(trial: TrialRecord) -> Address | None:
    """The values in the trial's command line that belonged to that one deployment."""
    parts = urlsplit(trial.url)
    if parts.hostname is None or parts.port is None:
        return None
    return Address(host=parts.hostname, port=parts.port, model_name=trial.model_name)
