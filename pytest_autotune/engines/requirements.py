"""What a suite needs of this machine: variables, interpreters, models, GPUs, disk."""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_autotune import hardware
from pytest_autotune.engines.flags import flag_name, merged
from pytest_autotune.errors import MissingRequirement
from pytest_autotune.formatting import count
from pytest_autotune.parallelism import NAME as PARALLELISM
from pytest_autotune.parallelism import Parallelism, parallelism_of
from pytest_autotune.space import Choice
from pytest_autotune.suite_gpus import GpuPool
from pytest_autotune.variables import expand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pytest_autotune.space import Parameter, Value
    from pytest_autotune.suite import Suite

    Check = Callable[[Suite], str | None]  # says what is missing

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_BILLIONS = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)[bB]\b")
_BYTES_PER_PARAMETER = 0.5  # 4-bit weights: the least that a download can need
_PARALLEL = (  # settings whose product is the number of GPUs, each in the spellings of the engines
    ("tensor-parallel-size", "tp-size", "tp", "num-shard"),
    ("pipeline-parallel-size", "pp-size", "pp"),
    ("prefill-context-parallel-size", "context-parallel-size", "cp-size"),
    ("data-parallel-size-local", "data-parallel-size", "dp-size", "dp"),
)


def lacking(suite: Suite, checks: Iterable[Check]) -> list[str]:
    """Return one sentence for each thing that a check finds missing, and for each check that cannot be made."""
    found: list[str] = []
    for check in checks:
        try:
            problem = check(suite)
        except MissingRequirement as error:
            problem = str(error)
        if problem is not None:
            found.append(problem)
    return found


def environment_of(suite: Suite) -> dict[str, str]:
    """Return what `suite.env` adds to the environment, with variables expanded."""
    return {name: expand(value, key=f"env.{name}") for name, value in suite.env.items()}


def interpreter_of(suite: Suite) -> str:
    """Return the absolute path of the Python that has the engine: ``engine_python`` or our own.

    A relative path counts from the suite's file; a bare name is looked up in ``PATH``. Raise
    `MissingRequirement` when there is no such interpreter.
    """
    if suite.deploy == "docker":
        return suite.engine_python or "python3"  # of the image, in which nothing can be looked up
    if suite.engine_python is None:
        return sys.executable
    return _interpreter(suite.engine_python, suite, key="engine_python")


def generator_interpreter_of(suite: Suite) -> str | None:
    """Return the absolute path of the Python that has the load generator; None when the suite names none."""
    named = suite.load.generator_python
    return None if named is None else _interpreter(named, suite, key="load.generator_python")


def _interpreter(named: str, suite: Suite, *, key: str) -> str:
    named = os.path.expanduser(expand(named, key=key))  # noqa: PTH111 - not every name is a path
    found = shutil.which(named) if os.sep not in named else shutil.which(suite.path.parent.absolute() / named)
    if found is None:
        raise MissingRequirement(f"{key}: no such interpreter: {named}")
    return os.path.abspath(found)  # noqa: PTH100 - not resolve(): a venv's python is a symlink out of it


def model_of(suite: Suite) -> str:
    """Return the model as the server is told it: an absolute path when it is local, else as it stands."""
    if suite.model is None:
        return ""
    model = expand(suite.model, key="model")
    return str(_local(model, suite)) if _is_local(model, suite) else model


def files_of_model(suite: Suite) -> str:
    """Return the directory that holds the model's files here, also those of a hub model; without one, `model_of`."""
    return files_of(model_of(suite), {**os.environ, **environment_of(suite)})


def files_of(model: str, variables: Mapping[str, str]) -> str:
    """Return where the cache that `variables` name has a hub model; `model` itself where it has none."""
    snapshots = _snapshots(model, variables)
    return next((str(path.parent) for path in sorted(snapshots.glob("*/config.json"))), model)


def missing_model(suite: Suite) -> str | None:
    """Say why `suite.model` cannot be served from here, or return None.

    A local model must hold a ``config.json``. A hub id must be in the local cache when the hub is
    switched off (``HF_HUB_OFFLINE``); otherwise there must be room to download it.
    """
    if suite.model is None:
        return "needs a model: say model: <directory or hub id>"
    model = expand(suite.model, key="model")
    if _is_local(model, suite):
        path = _local(model, suite)
        if path.is_file() or (path / "config.json").is_file():
            return None
        return f"model: no config.json in {path}" if path.is_dir() else f"model: no such directory: {path}"
    return _missing_on_hub(model, {**os.environ, **environment_of(suite)})


def _missing_on_hub(model: str, variables: Mapping[str, str]) -> str | None:
    if not _HUB_ID.fullmatch(model):
        return f"model: {model!r} is neither a directory nor a hub id like organisation/name"
    if any(_snapshots(model, variables).glob("*/config.json")):
        return None
    cache = hub_cache(variables)
    for switch in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if variables.get(switch, "").upper() in {"1", "ON", "YES", "TRUE"}:
            return f"model: {model} is not in {cache}, and {switch} is set"
    return missing_disk(cache, least_download(model), what=f"download {model}")


def missing_disk(directory: Path, needed: int, *, what: str) -> str | None:
    """Say that `directory` has fewer than `needed` bytes left to do `what`, or return None."""
    existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free >= needed:
        return None
    return f"needs {needed / 1e9:.0f} GB of disk in {directory} to {what}, {free / 1e9:.0f} GB are free"


def least_download(model: str) -> int:
    """Return the fewest bytes that a hub model can take, from the size in its name; 0 when it has none."""
    sizes = [float(size) for size in _BILLIONS.findall(model.replace("-", " ").replace("_", " "))]
    return int(max(sizes, default=0.0) * 1e9 * _BYTES_PER_PARAMETER)


def parallel_gpus(settings: Mapping[str, Value]) -> int:
    """Return how many GPUs a server with `settings` takes: the product of its parallel sizes."""
    return math.prod(parallel_sizes(settings))


def gpus_taken(suite: Suite, settings: Mapping[str, Value]) -> int:
    """Return how many GPUs a server with `settings` takes, as the suite says it, else by its parallel sizes."""
    return parallel_gpus(settings) if suite.gpus is None else suite.gpus


def parallel_sizes(settings: Mapping[str, Value]) -> tuple[int, ...]:
    """Return the sizes of tensor, pipeline, prefill-context and data parallelism; 1 of what is not set.

    Those of `parallelism` as well, unless a setting of the engine says another one.
    """
    values = {flag_name(name): value for name, value in settings.items()}
    whole = parallelism_of(values.get(PARALLELISM)) or Parallelism()
    found = []
    for spellings, size in zip(_PARALLEL, (whole.tp, whole.pp, whole.cp, whole.dp), strict=True):
        value = next((values[name] for name in spellings if name in values), size)
        found.append(value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 1)
    return tuple(found)


def is_parallel(settings: Mapping[str, Value]) -> bool:
    """Say whether any of `settings` is a parallel size, or all of them at once."""
    names = (flag_name(name) for name in settings)
    return any(name == PARALLELISM or any(name in spellings for spellings in _PARALLEL) for name in names)


def most_gpus(suite: Suite) -> int:
    """Return the most GPUs that any configuration of `suite` takes."""
    return max(_gpus_taken(suite), default=1)


def least_gpus(suite: Suite) -> int:
    """Return the fewest GPUs that any configuration of `suite` takes."""
    return min(_gpus_taken(suite), default=1)


def _gpus_taken(suite: Suite) -> list[int]:
    """Return how many GPUs the combinations of parallel sizes take, the engine's defaults apart."""
    if suite.gpus is not None:
        return [suite.gpus]
    parallel = tuple(parameter for parameter in suite.space.parameters if is_parallel({parameter.name: None}))
    space = suite.space.narrowed([parameter.name for parameter in parallel])
    try:
        configurations = list(space.grid(suite.fixed))
    except ValueError:  # a range without grid points: at least its low end is tried, unless it has a condition
        configurations = [{parameter.name: _least(parameter) for parameter in parallel if parameter.when is None}]
    return [parallel_gpus(merged(suite.fixed, configuration)) for configuration in configurations]


def gpus_here(suite: Suite) -> tuple[hardware.Gpu, ...]:
    """Return the GPUs of this machine that servers of `suite` may be given, which are visible to them."""
    visible = {**os.environ, **environment_of(suite)}.get("CUDA_VISIBLE_DEVICES")
    found = hardware.gpus(visible=visible) if suite.pool.leased and not suite.pool.pretended else ()
    members = suite.pool.members
    return found if members is None else tuple(gpu for gpu in found if any(gpu.is_named(name) for name in members))


def gpus_in_pool(suite: Suite) -> int:
    """Return how many GPUs servers of `suite` may be given, those that are but pretended included."""
    return suite.pool.pretended or len(gpus_here(suite))


def missing_gpus(suite: Suite) -> str | None:
    """Say that there are fewer GPUs than every configuration of `suite` takes, or return None."""
    if absent := _absent_gpu(suite):
        return absent
    return too_few_for(suite, least_gpus(suite))


def _absent_gpu(suite: Suite) -> str | None:
    found = gpus_here(suite)
    for member in suite.pool.members or ():
        if not any(gpu.is_named(member) for gpu in found):
            here = ", ".join(str(gpu.index) for gpu in gpus_here(suite.model_copy(update={"pool": GpuPool()})))
            return f"gpus: there is no GPU {member} here, only {here or 'none'}"
    return None


def too_few_for(suite: Suite, needed: int) -> str | None:
    """Say that servers of `suite` cannot be given as many GPUs as are needed, or return None."""
    if not suite.pool.leased:
        return None
    if suite.pool.pretended or suite.pool.members is not None:
        found = gpus_in_pool(suite)
        return None if found >= needed else f"needs {count(needed, 'GPU')}, {found} may be taken (gpus:)"
    return too_few_gpus(len(gpus_here(suite)), needed)


def too_few_gpus(found: int, needed: int) -> str | None:
    """Say that fewer GPUs were found than are needed, or return None."""
    if found >= needed:
        return None
    return f"needs {count(needed, 'GPU')}, this machine has {found or 'none'}"


def _is_local(model: str, suite: Suite) -> bool:
    return model.startswith(("/", "./", "../", "~")) or _local(model, suite).exists()


def _local(model: str, suite: Suite) -> Path:
    return (suite.path.parent / Path(model).expanduser()).absolute()


def _snapshots(model: str, variables: Mapping[str, str]) -> Path:
    return hub_cache(variables) / f"models--{model.replace('/', '--')}" / "snapshots"


def hub_cache(variables: Mapping[str, str]) -> Path:
    """Return the cache of hub models by the rules of `huggingface_hub`, without importing it."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if variables.get(name):
            return Path(variables[name]).expanduser()
    caches = variables.get("XDG_CACHE_HOME") or "~/.cache"
    home = variables.get("HF_HOME") or f"{caches}/huggingface"
    return Path(home).expanduser() / "hub"


def _least(parameter: Parameter) -> Value:
    return parameter.values[0] if isinstance(parameter, Choice) else parameter.low
