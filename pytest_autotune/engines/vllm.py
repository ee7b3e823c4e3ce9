"""vLLM: settings to its API server's flags, what is installed, why it failed, what it says it runs with."""

from __future__ import annotations

import logging
import os
import re
import shutil
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_autotune.engines import metric_names, requirements, vllm_layout, vllm_rules
from pytest_autotune.engines.dialects import VLLM as DIALECT
from pytest_autotune.engines.engine import Abilities, Cause, CauseKind, Command, Engine, Installed
from pytest_autotune.engines.flags import flag_name, to_argv, with_reserved
from pytest_autotune.engines.inquiry import Inquiry
from pytest_autotune.engines.installation import VLLM, Installation
from pytest_autotune.engines.neutral import told
from pytest_autotune.engines.reprs import plain, split
from pytest_autotune.engines.roofline import Served, gpu_named
from pytest_autotune.engines.transformer import read_transformer
from pytest_autotune.errors import MissingRequirement

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pytest_autotune.engines.engine import Address, Knob
    from pytest_autotune.engines.roofline import Layout
    from pytest_autotune.hardware import Gpu
    from pytest_autotune.space import Configuration, Value
    from pytest_autotune.suite import Suite

log = logging.getLogger(__name__)

RESERVED = {
    "model": "say model: at the top of the suite",
    "served-model-name": "every deployment has a name of its own",
    "host": "the deployment says where the server listens",
    "port": "the deployment says where the server listens",
    "uds": "the deployment says where the server listens",
    "grpc": "the load is sent over HTTP",
    "headless": "the load is sent over HTTP",
    "config": "settings belong into the suite, where they are recorded",
    "api-key": "the load generator sends none",
    "hf-token": "secrets belong into the environment: env: {HF_TOKEN: ${HF_TOKEN}}",
}
_ON_THIS_MACHINE = ("local", "docker")
_THREADS = "VLLM_CPU_OMP_THREADS_BIND"
_NON_DEFAULT = re.compile(r"non-default args: \{(?P<items>.*)\}\s*$", re.MULTILINE)
_KEY = re.compile(r"\s*(?P<quote>['\"])(?P<name>\w+)(?P=quote):\s*")


@dataclass(frozen=True, slots=True)
class _Surroundings:
    installation: Installation
    checkpoint: vllm_rules.Checkpoint
    gpus: tuple[Gpu, ...]


class VllmEngine(Engine):
    """vLLM's OpenAI-compatible server, run by an interpreter that has vLLM installed."""

    name = "vllm"
    abilities = Abilities(
        token_ids=True, ignore_eos=True, reset_prefix_cache="/reset_prefix_cache", metrics=metric_names.VLLM
    )
    # What is profiled and captured grows with the first two, what one sequence must find room for with the last.
    # Parallel sizes are none (buffers to communicate), and utilization takes from one use what it gives another.
    memory_knobs: Mapping[str, Knob] = MappingProxyType(
        {"max-num-seqs": "more", "max-num-batched-tokens": "more", "max-model-len": "more"}
    )

    def __init__(self, *, cache_dir: Path | None = None) -> None:
        self._inquiry = Inquiry(VLLM, cache_dir=cache_dir)
        self._seen: tuple[Suite, _Surroundings] | None = None

    def inspect(self, suite: Suite) -> Installed:
        """Look for vLLM in the suite's interpreter, for its model and for GPUs.

        The first look at an installation imports vLLM, which takes 5 to 20 s; the answer is kept on disk.
        """
        missing: list[str] = []
        installation: Installation | None = None
        try:
            installation = self._installation(suite)
        except MissingRequirement as error:
            missing.append(str(error))
        checks = [requirements.missing_model]
        # A CPU build needs no GPU; without a vLLM, one GPU may turn out not to be needed.
        if installation.device != "cpu" if installation else requirements.most_gpus(suite) > 1:
            checks.append(requirements.missing_gpus)
        missing += requirements.lacking(suite, checks)
        lacks = tuple(dict.fromkeys(missing))
        if installation is None:
            return Installed(missing=lacks)
        return Installed(installation.version, with_reserved(installation.flags, RESERVED), lacks)

    def command(self, suite: Suite, configuration: Configuration, address: Address) -> Command:
        """Return how to start a server; raise `MissingRequirement` where `inspect` would tell the same.

        A build for CPUs gets all cores but one, unless it is given some (`suite.cores`), or the suite binds its
        threads itself (``VLLM_CPU_OMP_THREADS_BIND``): its processes spin while they work, and a load generator
        that has to share a core with them is stalled for tenths of a second.
        """
        installation = self._installation(suite)
        argv = [
            *(_all_cores_but_one() if self._may_bind(suite, installation) else ()),
            *(requirements.interpreter_of(suite), "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", requirements.model_of(suite), "--served-model-name", address.model_name),
            *("--host", address.host, "--port", str(address.port)),
            *to_argv(told(suite, configuration, DIALECT), installation.flags),
        ]
        # Without the development mode there is no way to empty the prefix cache between batches.
        return Command(tuple(argv), {"VLLM_SERVER_DEV_MODE": "1", **requirements.environment_of(suite)})

    def _may_bind(self, suite: Suite, installation: Installation) -> bool:
        bound = suite.cores.leased or _THREADS in suite.env
        return suite.deploy == "local" and installation.device == "cpu" and not bound

    def gpus(self, suite: Suite, configuration: Configuration) -> int:
        """Return the product of the parallel sizes; 0 on a build for CPUs."""
        try:
            device = self._installation(suite).device
        except MissingRequirement:
            device = ""
        if device == "cpu":
            return 0
        return requirements.gpus_taken(suite, told(suite, configuration, DIALECT))

    def refuses(self, suite: Suite, configuration: Configuration) -> Cause | None:
        """Say which rule of vLLM's a configuration breaks, or what it lacks here: GPUs, or their memory.

        What is in the model's directory is only known of a local one.
        """
        here = None if suite.deploy == "endpoint" else self._look_around(suite)
        if here is None:
            return None
        flags = here.installation.flags
        settings = {name: value for name, value in told(suite, configuration, DIALECT).items() if value is not None}
        version = here.installation.version
        if problem := vllm_rules.contradiction(settings, here.checkpoint.config, flags=flags, version=version):
            return Cause(CauseKind.BAD_ARGUMENT, problem)
        if here.installation.device != "cuda" or suite.deploy not in _ON_THIS_MACHINE:
            return None
        if lacking := requirements.too_few_for(suite, requirements.gpus_taken(suite, settings)):
            return Cause(CauseKind.BAD_ARGUMENT, lacking)
        share = flags["gpu-memory-utilization"].default if "gpu-memory-utilization" in flags else None
        largest = max((gpu.memory_bytes for gpu in here.gpus), default=0)
        device = vllm_rules.Device(largest, share if isinstance(share, int | float) else 1.0)
        problem = vllm_rules.too_large(settings, here.checkpoint, device)
        return Cause(CauseKind.OUT_OF_MEMORY, problem) if problem else None

    def served(self, suite: Suite) -> Served | None:
        """Return the model by its files, and the one kind of GPUs of this machine; the log says what is not known."""
        if suite.deploy not in _ON_THIS_MACHINE:
            return None
        try:
            gpus, files = requirements.gpus_here(suite), requirements.files_of_model(suite)
        except MissingRequirement:
            return None  # which preflight tells
        names = {gpu.name for gpu in gpus}
        kinds = {gpu_named(name) for name in names}
        gpu = kinds.pop() if len(kinds) == 1 else None
        if gpu is None:
            log.info(
                "nothing is expected of %s: no figures of %s", suite.name, " and ".join(sorted(names)) or "no GPUs"
            )
            return None
        transformer = read_transformer(vllm_rules.read_checkpoint(files).config)
        if transformer is None:
            log.info("nothing is expected of %s: no config.json that is understood in %s", suite.name, files)
            return None
        return Served(transformer, gpu)

    def layout(self, suite: Suite, configuration: Configuration) -> Layout | None:
        """Return what the settings and the defaults of the vLLM that is installed amount to."""
        try:
            installation = self._installation(suite)
        except MissingRequirement:
            return vllm_layout.layout_of(told(suite, configuration, DIALECT), {}, gpus=suite.gpus)
        if installation.device == "cpu":
            return None
        return vllm_layout.layout_of(told(suite, configuration, DIALECT), installation.flags, gpus=suite.gpus)

    def effective(self, log: str) -> Mapping[str, Value]:
        """Read back the settings that differ from vLLM's defaults, by the names of their flags.

        A value that is not a plain one (a configuration object) is given as the text in the log.
        """
        found = _NON_DEFAULT.search(log)
        if found is None:
            return {}
        settings = {flag_name(name): plain(text) for name, text in _items(found["items"])}
        return {name: value for name, value in settings.items() if name not in RESERVED and name != "model-tag"}

    def _look_around(self, suite: Suite) -> _Surroundings | None:
        """Return what a server of `suite` finds, looked up once; None when that is not all there."""
        if self._seen is None or self._seen[0] is not suite:
            try:
                checkpoint = vllm_rules.read_checkpoint(requirements.model_of(suite))
                here = _Surroundings(self._installation(suite), checkpoint, requirements.gpus_here(suite))
            except MissingRequirement:  # which `inspect` tells
                return None
            self._seen = suite, here
        return self._seen[1]

    def _installation(self, suite: Suite) -> Installation:
        return self._inquiry.answer(suite)


def _all_cores_but_one() -> tuple[str, ...]:
    """Return a prefix for a command line; empty where there is one core, or no `taskset`."""
    cores = sorted(os.sched_getaffinity(0))[:-1]
    return ("taskset", "-c", ",".join(map(str, cores))) if cores and shutil.which("taskset") else ()


def _items(text: str) -> Iterator[tuple[str, str]]:
    """Split the inside of a dictionary's repr into names and values, whatever objects are among the values."""
    for part in split(text):
        if key := _KEY.match(part):
            yield key["name"], part[key.end() :].strip()
