"""The embedded engine as a suite sees it: command line, settings, and what its log says."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import signal
import sys
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest_autotune
from pytest_autotune.engines import metric_names, requirements
from pytest_autotune.engines.dialects import VLLM
from pytest_autotune.engines.engine import Abilities, Cause, CauseKind, Command, Engine, Flag, Installed
from pytest_autotune.engines.flags import flag_name, to_argv
from pytest_autotune.engines.neutral import told
from pytest_autotune.engines.sim.arguments import MANAGED, build_parser
from pytest_autotune.engines.sim.hardware import SHAPES, find_shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.engines.engine import Address, Knob
    from pytest_autotune.space import Configuration, Value
    from pytest_autotune.suite import Suite

_SYMPTOMS = (  # in the order in which they explain each other
    (
        CauseKind.OUT_OF_MEMORY,
        re.compile(r"out of memory|No available memory for the cache|is larger than the available KV"),
    ),
    (CauseKind.PORT, re.compile(r"Address already in use", re.IGNORECASE)),
    (CauseKind.MODEL, re.compile(r"is not a valid model identifier")),
    (CauseKind.BAD_ARGUMENT, re.compile(r"pytest_autotune\.engines\.sim: error: |^ValueError: ")),
)
_EFFECTIVE = re.compile(r"non-default args: (\{.*\})$", re.MULTILINE)


class SimEngine(Engine):
    """Engine `sim`; see `pytest_autotune.engines.engine.Engine`."""

    name = "sim"
    abilities = Abilities(
        token_ids=True, ignore_eos=True, reset_prefix_cache="/reset_prefix_cache", metrics=metric_names.VLLM
    )
    # By `plan_memory`. With tensor-parallel-size the weights shrink, but buffers to communicate are added.
    memory_knobs: Mapping[str, Knob] = MappingProxyType(
        {"max-num-seqs": "more", "max-num-batched-tokens": "more", "max-model-len": "more"}
    )

    def inspect(self, suite: Suite) -> Installed:
        """Always there; a suite can only name a model of which no shape is known."""
        missing: tuple[str, ...] = ()
        if suite.model is not None and find_shape(suite.model) is None:
            missing = (f"engine sim has no shape of model {suite.model!r} (known: {', '.join(SHAPES)})",)
        return Installed(version=package_version(), flags=server_flags(), missing=missing, simulated=True)

    def command(self, suite: Suite, configuration: Configuration, address: Address) -> Command:
        """Start this very package in this very interpreter."""
        model = () if suite.model is None else ("--model", suite.model)
        argv = (
            requirements.interpreter_of(suite) if suite.deploy == "docker" else sys.executable,
            "-m",
            "pytest_autotune.engines.sim",
            *("--host", address.host, "--port", str(address.port)),
            *model,
            *("--served-model-name", address.model_name),
            *to_argv(told(suite, configuration, VLLM), server_flags()),
        )
        if suite.deploy == "docker":  # the image has the package
            return Command(argv=argv)
        home = str(Path(pytest_autotune.__file__).resolve().parent.parent)
        path = os.pathsep.join(part for part in (home, os.environ.get("PYTHONPATH")) if part)
        return Command(argv=argv, env={"PYTHONPATH": path})

    def gpus(self, suite: Suite, configuration: Configuration) -> int:
        """Return the simulated GPUs; the machine needs none."""
        value = told(suite, configuration, VLLM).get("tensor-parallel-size")
        return 1 if value is None else int(value)

    def refuses(self, suite: Suite, configuration: Configuration) -> Cause | None:  # noqa: ARG002 - the contract's names
        """Return nothing: that a server has to be started to find out is what it simulates."""
        return None

    def classify(self, log: str, returncode: int | None) -> Cause:
        """Look for the last line that explains the end, then go by the exit status."""
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        for kind, symptom in _SYMPTOMS:
            found = [line for line in lines if symptom.search(line)]
            if found:
                return Cause(kind, found[-1], tuple(found))
        last = tuple(lines[-1:])
        if returncode is None:
            return Cause(CauseKind.TIMEOUT, "no answer in time", last)
        if returncode < 0:
            return Cause(CauseKind.KILLED, f"killed by {_signal_name(-returncode)}", last)
        return Cause(CauseKind.CRASH, f"exit status {returncode}: {''.join(last) or 'nothing in the log'}", last)

    def effective(self, log: str) -> Mapping[str, Value]:
        """Return the settings that differ from the defaults, as the server logged them when it started."""
        found = _EFFECTIVE.search(log)
        if found is None:
            return {}
        return {name: value for name, value in json.loads(found[1]).items() if name not in MANAGED}


def package_version() -> str:
    """Return this package's version; ``0`` when it runs from a directory without being installed."""
    try:
        return importlib.metadata.version("pytest-autotune")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def server_flags() -> dict[str, Flag]:
    """Return the server's flags by name, without those that the deployment sets itself."""
    flags = (_flag(action) for action in build_parser()._actions)  # noqa: SLF001  argparse has no public list
    return {flag.name: flag for flag in flags if flag.name not in (*MANAGED, "help")}


def _flag(action: argparse.Action) -> Flag:
    boolean = isinstance(action, argparse.BooleanOptionalAction)
    return Flag(
        name=flag_name(action.option_strings[-1 if not boolean else 0]),
        default=action.default,
        choices=tuple(str(choice) for choice in action.choices or ()),
        boolean=boolean,
        negatable=boolean,
        many=action.nargs == "+",
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
