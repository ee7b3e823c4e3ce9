"""The best configuration, and that of each tier, as files: `best.json` for programs, and what starts the server."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from typing import TYPE_CHECKING, Any

from pytest_autotune.files import json_value, write_atomically
from pytest_autotune.formatting import count, settings
from pytest_autotune.masking import holds_secret, mask, mask_argv, mask_text
from pytest_autotune.records import utc_text
from pytest_autotune.reporting.command import PORT, script_words, stable_words
from pytest_autotune.reporting.kubernetes import helm_values, kubernetes_manifest
from pytest_autotune.reporting.manifests import compose_file, docker_script, sglang_config, vllm_config
from pytest_autotune.reporting.recipe import recipe_of
from pytest_autotune.reporting.sending import client_shares
from pytest_autotune.selection import NOISE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_autotune.pareto import Point
    from pytest_autotune.records import TrialRecord
    from pytest_autotune.reporting.report import SuiteReport, TierReport
    from pytest_autotune.samples import Level
    from pytest_autotune.selection import JudgedBatch, JudgedTrial
    from pytest_autotune.slo import Check, Limit

SCHEMA = 1
SHOWN = 80  # characters of an answer that was not right
CONTAINED = {
    "docker.sh": docker_script,
    "compose.yaml": compose_file,
    "kubernetes.yaml": kubernetes_manifest,
}
CONFIGURED = {"vllm": vllm_config, "sglang": sglang_config}
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def write_best(directory: Path, report: SuiteReport) -> tuple[Path, ...]:
    """Write `best.json`, and `best.sh` when a command line started the server; return what was written.

    Each tier has a `best.<tier>.sh`. Beside a script are the forms to deploy, where the engine has some. Nothing is
    written when no configuration was selected, neither for the suite's own limits nor for a tier. Each file appears
    whole or not at all.
    """
    best = report.selection.best
    if best is None and not any(tier.best for tier in report.tiers):
        return ()
    written = [directory / "best.json"]
    document = json.dumps(best_document(report, best), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_atomically(written[0], document + "\n")
    chosen = [
        ("", report, best),
        *((tier.name, dataclasses.replace(report, address=tier.address), tier.best) for tier in report.tiers),
    ]
    started = [(tier, of, judged) for tier, of, judged in chosen if judged is not None and judged.trial.argv]
    files = {_named(tier, "sh"): best_script(of, judged, tier=tier) for tier, of, judged in started}
    for tier, of, judged in started:
        for form, text in best_forms(of, judged, tier=tier).items():
            files.setdefault(_named(tier, form), text)  # a tier may be called docker: its script comes first
    for name, text in files.items():
        written.append(directory / name)
        write_atomically(written[-1], text, executable=name.endswith(".sh"))
    return tuple(written)


def best_document(report: SuiteReport, best: JudgedTrial | None) -> dict[str, Any]:
    """Return what `best.json` holds: base units throughout (seconds, shares, per second), secrets masked."""
    suite, reference = report.suite, report.selection.reference
    document = {
        "schema": SCHEMA,
        "suite": {"name": suite.name, "path": report.path, "description": suite.description, "commit": report.commit},
        "engine": {"name": suite.engine, "version": report.engine_version},
        "model": suite.model,
        "fixed": suite.fixed,
        "best": None if best is None else _trial(best, report.secrets),
        "defaults": None if reference is None else _trial(reference, report.secrets),
        "measured": {
            "load": suite.load.model_dump(mode="json"),
            "slo": [_limit(limit) for limit in suite.slo],
            "steepness": suite.steepness,
            "confidence": suite.confidence,
            "spread": suite.spread,
            "objective": suite.objective.model_dump(mode="json"),
            "price": None if suite.price is None else suite.price.model_dump(mode="json"),
            "tradeoffs": [objective.model_dump(mode="json") for objective in suite.tradeoffs],
            "search": suite.search.model_dump(mode="json"),
            "trials": report.outcomes,
            "ended": report.ended,
            "spent": None if report.spent is None else dataclasses.asdict(report.spent),
            "full_grid": None if report.everything is None else dataclasses.asdict(report.everything),
            "noise": NOISE,
            "tied": [dict(judged.trial.configuration) for judged in report.selection.tied[1:]],
        },
        "pareto_front": [_point(point, report) for point in report.front],
        "accuracy": _accuracy(report),
        "tiers": [_tier(tier, report.secrets) for tier in report.tiers],
        "explanation": None if report.explanation is None else dataclasses.asdict(report.explanation),
        "gate": [dataclasses.asdict(rule) for rule in report.gate.rules],
        "environment": report.environment,
        "gpu": report.gpu,
        "run": {
            "id": report.run_id,
            "started_at": utc_text(report.started_at, timespec="seconds"),
            "finished_at": utc_text(report.finished_at, timespec="seconds"),
            "elapsed_s": report.elapsed_s,
        },
    }
    masked: dict[str, Any] = mask(json_value(document), report.secrets)
    return masked


def best_script(report: SuiteReport, best: JudgedTrial, *, tier: str = "") -> str:
    """Return a POSIX shell script that starts the selected server, of a tier if one is named, on ``$HOST:$PORT``."""
    words = stable_words(report, best.trial.argv)
    kinds = {word.kind for word in words}
    lines = [
        "#!/bin/sh",
        *(f"# {_one_line(mask_text(line, report.secrets))}" for line in _remarks(report, best, tier)),
        "set -eu",
    ]
    lines.extend(_exports(report.server_env, report.secrets))
    if kinds & {"host", "address"} and report.address is not None:
        lines.append(f'HOST="${{HOST:-{report.address.host}}}"')
    if kinds & {"port", "address"}:
        lines.append(f'PORT="${{PORT:-{PORT}}}"  # set it from outside to listen elsewhere')
    return "\n".join(lines) + "\nexec " + " \\\n  ".join(script_words(words)) + "\n"


def best_forms(report: SuiteReport, best: JudgedTrial, *, tier: str = "") -> dict[str, str]:
    """Return the selected server in each form to deploy it, by the end of the file's name; nothing without any.

    A version that is no release has no image: only its configuration file can be told.
    """
    remarks = [mask_text(line, report.secrets) for line in _remarks(report, best, tier)]
    recipe = recipe_of(report, best, tier=tier, remarks=remarks)
    if recipe is None:
        return {}
    engine = report.suite.engine
    boxed = {**CONTAINED, **({"helm.yaml": helm_values} if engine == "vllm" else {})} if recipe.container.tag else {}
    contained = {form: write(recipe) for form, write in boxed.items()}
    return {**contained, f"{engine}.yaml": CONFIGURED[engine](recipe)}


def _trial(judged: JudgedTrial, secrets: tuple[str, ...]) -> dict[str, Any]:
    trial = judged.trial
    return {
        "trial": trial.slot,
        "configuration": trial.configuration,
        "effective": trial.effective,
        "argv": mask_argv(trial.argv, secrets),
        "gpus": trial.gpus,
        "deploy_s": trial.deploy_s,
        "status": judged.status,
        "reason": judged.reason,
        "score": judged.score,
        "score_metric": judged.metric,
        "score_covers": judged.coverage,
        "repeats": [_repeat(again) for again in judged.repeats],
        **_level(judged.level),
        "capacity": None if judged.capacity is None else judged.capacity.number,
        "started_at": utc_text(trial.started_at, timespec="seconds"),
        "run_id": trial.run_id,
        "batches": [_batch(batch) for batch in judged.batches],
    }


def _accuracy(report: SuiteReport) -> dict[str, Any]:
    """Return how each trial stands that may have lost something, best first, with the questions that it missed."""
    gate = report.suite.accuracy
    judged = [each.trial for each in report.selection.ranking if each.trial.accuracy is not None]
    return {
        "gate": None if gate is None else gate.model_dump(mode="json"),
        "trials": [_answered(trial) for trial in judged],
    }


def _answered(trial: TrialRecord) -> dict[str, Any]:
    found, texts = trial.accuracy, () if trial.answers is None else trial.answers.texts
    assert found is not None, "only what was judged is listed"
    missed = [{"question": index + 1, "answer": _short(texts[index])} for index in found.missed if texts]
    return {
        "trial": trial.slot,
        "configuration": trial.configuration,
        "holds": found.holds,
        "reason": found.words,
        "kept": found.kept,
        "asked": found.asked,
        "reference": found.reference,
        "missed": missed,
    }


def _short(answer: str | None) -> str | None:
    text = None if answer is None else " ".join(answer.split())
    return text if text is None or len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _tier(tier: TierReport, secrets: tuple[str, ...]) -> dict[str, Any]:
    best, nearest = tier.best, tier.outcome.nearest
    return {
        "name": tier.name,
        "slo": [_limit(limit) for limit in tier.outcome.tier.limits],
        "best": None if best is None else _tier_best(best, secrets),
        "binding": tier.outcome.binding,
        "closest": None if nearest is None else nearest.trial.configuration,
    }


def _tier_best(judged: JudgedTrial, secrets: tuple[str, ...]) -> dict[str, Any]:
    trial = judged.trial
    return {
        "trial": trial.slot,
        "configuration": trial.configuration,
        "argv": mask_argv(trial.argv, secrets),
        "gpus": trial.gpus,
        "score": judged.score,
        "score_metric": judged.metric,
        "score_covers": judged.coverage,
        **_level(judged.level),
        "capacity": None if judged.capacity is None else judged.capacity.number,
        "metrics": None if judged.best is None else judged.best.record.metrics,
    }


def _named(tier: str, form: str) -> str:
    return f"best.{tier}.{form}" if tier else f"best.{form}"


def _repeat(again: JudgedTrial) -> dict[str, Any]:
    return {"trial": again.trial.slot, "status": again.status, "score": again.score, "run_id": again.trial.run_id}


def _point(point: Point, report: SuiteReport) -> dict[str, Any]:
    metrics = (objective.metric for objective in report.suite.objectives)
    return {
        "trial": point.trial.trial.slot,
        "configuration": point.trial.trial.configuration,
        "gpus": point.trial.trial.gpus,
        **_level(point.batch.level),
        "metrics": dict(zip(metrics, point.values, strict=True)),
    }


def _batch(batch: JudgedBatch) -> dict[str, Any]:
    record, verdict = batch.record, batch.verdict
    return {
        **_level(batch.level),
        "status": record.status,
        "verdict": verdict.status,
        "reason": verdict.reason,
        "penalty": verdict.penalty,
        "checks": [_check(check) for check in verdict.checks],
        "metrics": record.metrics,
        "requests": record.requests,
        "errors": record.errors,
        "window_s": record.window_s,
        "intervals": record.intervals,
        "delivered": record.delivered,
        "oversaturated": record.oversaturated,
        "stopped": record.stopped,
        "remarks": record.remarks,
        "server": record.server,
        "client": None if record.client is None else dataclasses.asdict(record.client),
        "client_share": client_shares(record),
        "started_at": utc_text(record.started_at, timespec="seconds"),
    }


def _level(level: Level | None) -> dict[str, Any]:
    """Return where something was measured, by the level's name, and by its value under the name of its shape."""
    if level is None:
        return {"level": None, "concurrency": None}
    return {"level": level.name, "concurrency": level.concurrency, level.shape: level.number}


def _check(check: Check) -> dict[str, Any]:
    return {
        **_limit(check.limit),
        "actual": check.actual,
        "ratio": None if check.actual is None else check.ratio,
        "holds": check.holds,
        "ruling": None if check.ruling is None else dataclasses.asdict(check.ruling),
        "breach": check.breach,
    }


def _limit(limit: Limit) -> dict[str, Any]:
    return {
        "metric": limit.metric,
        "min" if limit.floor else "max": limit.bound,
        "hard_fail": limit.hard_fail,
        "fail_ratio": limit.fail_ratio,
        "weight": limit.weight,
    }


def _remarks(report: SuiteReport, best: JudgedTrial, tier: str) -> list[str]:
    where = report.gpu or (count(best.trial.gpus, "GPU") if best.trial.gpus else "CPU")
    trials = count(len(report.selection.ranking), "trial")
    version = f" {report.engine_version}" if report.engine_version else ""
    of = f"for tier {tier} of" if tier else "of"
    return [
        f"Best configuration {of} suite {report.suite.name} ({report.path}), {report.suite.engine}{version}:",
        f"  {settings(mask(dict(best.trial.configuration), report.secrets))}",
        f"Measured {utc_text(best.trial.started_at, timespec='seconds')} on {where}: {best.headline}.",
        f"Selected from {trials} in run {report.run_id}; numbers are in best.json.",
    ]


def _exports(env: Mapping[str, str], secrets: tuple[str, ...]) -> list[str]:
    lines = []
    for name, value in sorted(env.items()):
        if not _IDENTIFIER.fullmatch(name):
            lines.append(f"# {_one_line(name)} was set too; sh cannot export a variable of that name")
        elif holds_secret(name, value, secrets):
            lines.extend((f': "${{{name}:?set {name}}}"', f"export {name}"))
        else:
            lines.append(f"export {name}={shlex.quote(value)}")
    return lines


def _one_line(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)
