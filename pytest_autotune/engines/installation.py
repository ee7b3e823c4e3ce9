"""What an interpreter's own vLLM is: version, platform, flags; asked once and remembered on disk."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_autotune.engines.engine import Flag
from pytest_autotune.errors import MissingRequirement
from pytest_autotune.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Run = Callable[[Sequence[str], Mapping[str, str], float], subprocess.CompletedProcess[str]]

FORMAT = 1  # of the cache files; a file in another format has another name
WHERE_S = 30.0
FLAGS_S = 180.0


@dataclass(frozen=True, slots=True)
class Installation:
    """One installed vLLM."""

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
    python: str, *, env: Mapping[str, str], cache_dir: Path, timeout_s: float = FLAGS_S, run: Run = run_here
) -> Installation | None:
    """Return the vLLM that `python` imports where `run` runs it, or None when it has none.

    The first answer takes seconds, because vLLM is imported for it; it is kept in `cache_dir` until
    the installation changes. Any number of processes may ask at once. Raise `MissingRequirement`
    when the interpreter does not answer within `timeout_s`, or fails.
    """
    where = _ask(run, python, "where", env=env, timeout_s=WHERE_S)
    if not where:
        return None
    key = json.dumps([FORMAT, python, where, sorted(env.items())])
    path = cache_dir / f"vllm-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    try:
        return _installation(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):  # not asked before, or the file is damaged: ask again
        answer = _ask(run, python, "flags", env=env, timeout_s=timeout_s)
    installation = _installation(answer)
    _keep(path, answer)
    return installation


def _ask(run: Run, python: str, question: str, *, env: Mapping[str, str], timeout_s: float) -> dict[str, Any]:
    source = resources.files("pytest_autotune.engines").joinpath("vllm_probe.py").read_text(encoding="utf-8")
    try:
        done = run([python, "-c", source, question], env, timeout_s)
    except subprocess.TimeoutExpired:
        raise MissingRequirement(f"{python} did not tell which vLLM it has within {timeout_s:g} s") from None
    except OSError as error:
        raise MissingRequirement(f"{python} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        raise MissingRequirement(f"vLLM of {python} cannot be imported: {_last_line(done.stderr)}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _installation(answer: Mapping[str, Any]) -> Installation:
    flags = [Flag(**{**flag, "choices": tuple(flag["choices"])}) for flag in answer["flags"]]
    return Installation(answer["version"], answer["device"], {flag.name: flag for flag in flags})


def _keep(path: Path, answer: Mapping[str, Any]) -> None:
    try:
        write_atomically(path, json.dumps(answer))
    except OSError:  # a read-only home costs seconds, not the run
        return


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("nanobind")]
    errors = [line for line in lines if "Error" in line.partition(":")[0]]
    return (errors or lines or ["no message"])[-1]
