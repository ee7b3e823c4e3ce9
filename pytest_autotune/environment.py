"""What a run ran on: software, hardware, revision, CI."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pytest_autotune.masking import mask

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PACKAGES = (
    "pytest-autotune",
    "pytest",
    "pytest-xdist",
    "optuna",
    "pydantic",
    "sqlalchemy",
    "psycopg",
    "ruamel.yaml",
    "httptools",
    "uvloop",
    "junit-xml",
    "psutil",
)

# What tells where a run came from, on the usual CI services; none of them holds a secret.
CI_VARIABLES = (
    "CI",
    "CI_COMMIT_REF_NAME",
    "CI_COMMIT_SHA",
    "CI_JOB_URL",
    "CI_PIPELINE_ID",
    "CI_PROJECT_PATH",
    "GITHUB_ACTOR",
    "GITHUB_REF_NAME",
    "GITHUB_REPOSITORY",
    "GITHUB_RUN_ATTEMPT",
    "GITHUB_RUN_ID",
    "GITHUB_SHA",
    "GITHUB_WORKFLOW",
    "BUILDKITE_BRANCH",
    "BUILDKITE_BUILD_URL",
    "BUILDKITE_COMMIT",
    "BUILD_SOURCEBRANCHNAME",
    "BUILD_SOURCEVERSION",
    "BUILD_URL",
    "CIRCLE_BRANCH",
    "CIRCLE_BUILD_URL",
    "CIRCLE_SHA1",
    "GIT_BRANCH",
    "GIT_COMMIT",
)


def describe(directory: Path) -> dict[str, Any]:
    """Return the environment of a run whose suites are in `directory`, as JSON values without secrets.

    What cannot be found out is absent: no git, no repository, no GPU, no CI.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hostname": socket.gethostname(),
        "packages": _versions(PACKAGES),
        "hardware": _hardware(),
        "git": _revision(directory),
        "ci": mask({name: os.environ[name] for name in CI_VARIABLES if os.environ.get(name)}),
    }


def _versions(names: Iterable[str]) -> dict[str, str]:
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # not installed: an extra, or this package run from its source tree
    return versions


def _hardware() -> dict[str, Any]:
    from pytest_autotune import hardware

    found: dict[str, Any] = {
        "cpu": hardware.cpu_model(),
        "cores": hardware.cores(),
        "memory_bytes": hardware.memory_bytes(),
    }
    gpus = [{"name": gpu.name, "memory_bytes": gpu.memory_bytes, "driver": gpu.driver} for gpu in hardware.gpus()]
    return {**found, "gpus": gpus} if gpus else found


def _revision(directory: Path) -> dict[str, Any]:
    """Return revision, branch and whether anything under `directory` differs from the revision."""
    command = ["git", "-C", str(directory), "status", "--porcelain=v2", "--branch", "--", "."]
    try:
        answer = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=10,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    if answer.returncode != 0:
        return {}
    lines = answer.stdout.splitlines()
    heads = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# ") and " " in line[2:])
    revision = heads.get("branch.oid", "(initial)")
    branch = heads.get("branch.head", "(detached)")
    changed = [line for line in lines if not line.startswith("#") and not _ours(line)]
    found: dict[str, Any] = {"dirty": bool(changed)}
    if revision != "(initial)":
        found["revision"] = revision
    if branch != "(detached)":
        found["branch"] = branch
    return found


def _ours(line: str) -> bool:
    """Say whether a line of git's status names the directory of results, untracked: that changes with every run."""
    return line.startswith("? ") and ".autotune" in line[2:].strip('"').split("/")
