"""What a run ran on: software, hardware, revision, CI; and how secrets are kept out of every record."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

MASK = "***"

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

_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")  # where camelCase changes words
_SECRET = re.compile(r"(?:key|secret|password|passwd|passphrase|credential)s?(?![a-z])|token$", re.IGNORECASE)
# `long-prefill-token-threshold: 2048` counts tokens, `MY_TOKEN_PROD: hf_...` is one; `max_tokens` is neither.
_TOKEN_WITHIN = re.compile(r"token(?![a-z])", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"([a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s@]+@", re.IGNORECASE)
_QUERY_PASSWORD = re.compile(r"([?&;](?:password|passwd|token|api_?key|secret|sslpassword)=)[^&\s]+", re.IGNORECASE)
_AUTHORIZATION = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE)
_TOKEN = re.compile(r"\b(?:hf_|sk-|gh[pousr]_|glpat-)[A-Za-z0-9_-]{16,}")  # tell themselves by their form
_FLAG = re.compile(r"(--?[a-z][\w.-]*)(?:=(.*))?", re.IGNORECASE | re.DOTALL)


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


def mask(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy in which the values of secret names, and passwords within URLs, are ``***``; at any depth."""
    return {name: _masked(str(name), value) for name, value in mapping.items()}


def mask_argv(argv: Sequence[str]) -> tuple[str, ...]:
    """Return a command line without secrets: ``--api-key X``, ``--api-key=X``, ``HF_TOKEN=X``, passwords in URLs."""
    shown: list[str] = []
    name = ""  # of the flag whose value comes next
    for argument in argv:
        if name and not argument.startswith("-"):
            shown.append(_masked(name, argument))
            name = ""
            continue
        flag = _FLAG.fullmatch(argument)
        name = flag[1] if flag is not None and flag[2] is None else ""
        left, equals, right = argument.partition("=")
        assigned = bool(equals) and re.fullmatch(r"-{0,2}[\w.-]+", left) is not None
        shown.append(f"{left}={_masked(left, right)}" if assigned else mask_text(argument))
    return tuple(shown)


def mask_text(text: str) -> str:
    """Return `text` without passwords in URLs, credentials of HTTP headers, and tokens of known form."""
    text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
    text = _QUERY_PASSWORD.sub(rf"\1{MASK}", text)
    return _TOKEN.sub(MASK, _AUTHORIZATION.sub(rf"\1 {MASK}", text))


def _masked(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return mask(value)
    if isinstance(value, list | tuple):
        return [_masked(name, element) for element in value]
    if not isinstance(value, str) or not value:
        return value
    return MASK if _secret(name, value) else mask_text(value)


def _secret(name: str, value: str) -> bool:
    words = _WORDS.sub("_", name)
    if _SECRET.search(words):
        return True
    return _TOKEN_WITHIN.search(words) is not None and not value.replace(".", "", 1).isdigit()


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
