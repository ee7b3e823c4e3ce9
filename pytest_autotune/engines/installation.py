"""What engine an interpreter has: version, platform, flags; asked once and remembered on disk."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_autotune.engines.engine import Flag
from pytest_autotune.engines.flags import flag_name
from pytest_autotune.errors import MissingRequirement
from pytest_autotune.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Run = Callable[[Sequence[str], Mapping[str, str], float], subprocess.CompletedProcess[str]]

FORMAT = 2  # of the cache files; a file in another format has another name
WHERE_S = 30.0
FLAGS_S = 180.0


@dataclass(frozen=True, slots=True)
class Package:
    """An engine that is a Python package, as `python_probe` knows it."""

    name: str  # of the engine, and of its distribution
    title: str  # as messages call it
    install: str  # what pip is told


VLLM = Package("vllm", "vLLM", "vllm")


@dataclass(frozen=True, slots=True)
class Installation:
    """One installed engine."""

    version: str
    device: str  # "cuda", "rocm", "cpu", ...: what it was built for, not what the machine has
    flags: Mapping[str, Flag]


def run_here(argv: Sequence[str], env: Mapping[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a command on this machine, with what `env` adds to our own variables; never raises for its exit status."""
    return subprocess.run(
        argv,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )


def default_cache_dir() -> Path:
    """Return where answers are kept: they belong to the machine, not to a project."""
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "pytest-autotune"


def find_installation(
    python: str,
    *,
    env: Mapping[str, str],
    cache_dir: Path,
    package: Package = VLLM,
    timeout_s: float = FLAGS_S,
    run: Run = run_here,
) -> Installation | None:
    """Return the engine that `python` imports where `run` runs it, or None when it has none.

    The first answer takes seconds, because the engine is imported for it; it is kept in `cache_dir` until
    the installation changes. Any number of processes may ask at once. Where it cannot be imported, a table
    of the flags of its release answers for it (`known_release`). Raise `MissingRequirement` when there is none,
    or the interpreter does not answer within `timeout_s`.
    """
    where = _ask(run, python, "where", package, env=env, timeout_s=WHERE_S)
    if not where:
        return None
    key = json.dumps([FORMAT, python, where, sorted(env.items())])
    path = cache_dir / f"{package.name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    try:
        return _installation(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):  # not asked before, or the file is damaged: ask again
        try:
            answer = _ask(run, python, "flags", package, env=env, timeout_s=timeout_s)
        except MissingRequirement:
            if known := known_release(package, where["version"]):
                return known
            raise
    installation = _installation(answer)
    _keep(path, answer)
    return installation


def known_release(package: Package, version: str) -> Installation | None:
    """Return the flags of the release that a version belongs to, from the table of it; None without one.

    A release is ``0.5`` of ``0.5.23``: within one, flags are added and hardly ever taken away.
    """
    for table in resources.files("pytest_autotune.engines").joinpath("known").iterdir():
        name, _, known = table.name.removesuffix(".json").rpartition("-")
        if name == package.name and version and known.split(".")[:2] == version.split(".")[:2]:
            return replace(_installation(json.loads(table.read_text(encoding="utf-8"))), version=version)
    return None


def _ask(
    run: Run, python: str, question: str, package: Package, *, env: Mapping[str, str], timeout_s: float
) -> dict[str, Any]:
    source = resources.files("pytest_autotune.engines").joinpath("python_probe.py").read_text(encoding="utf-8")
    try:
        done = run([python, "-c", source, question, package.name], env, timeout_s)
    except subprocess.TimeoutExpired:
        raise MissingRequirement(f"{python} did not tell which {package.title} it has within {timeout_s:g} s") from None
    except OSError as error:
        raise MissingRequirement(f"{python} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        raise MissingRequirement(f"{package.title} of {python} cannot be imported: {_last_line(done.stderr)}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _installation(answer: Mapping[str, Any]) -> Installation:
    flags = [Flag(**{**flag, "choices": tuple(flag.get("choices", ()))}) for flag in answer["flags"]]
    return Installation(answer["version"], answer["device"], {flag_name(flag.name): flag for flag in flags})


def _keep(path: Path, answer: Mapping[str, Any]) -> None:
    try:
        write_atomically(path, json.dumps(answer))
    except OSError:  # a read-only home costs seconds, not the run
        return


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("nanobind")]
    errors = [line for line in lines if "Error" in line.partition(":")[0]]
    return (errors or lines or ["no message"])[-1]
