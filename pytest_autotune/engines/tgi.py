"""Text Generation Inference: settings to the flags of ``text-generation-launcher``, what is installed, what it needs.

Its flags are read in its own ``--help``. What is known of that page is the published one,
docs/source/reference/launcher.md of huggingface/text-generation-inference at commit 032fc4c.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_autotune.deploy.docker import in_container
from pytest_autotune.engines import metric_names, requirements
from pytest_autotune.engines.command import executable_of
from pytest_autotune.engines.defaults import EngineDefaults
from pytest_autotune.engines.dialects import TGI as DIALECT
from pytest_autotune.engines.engine import Abilities, Cause, CauseKind, Command, Flag, Installed
from pytest_autotune.engines.flags import to_argv, with_reserved
from pytest_autotune.engines.installation import run_here
from pytest_autotune.engines.neutral import contradiction, told
from pytest_autotune.engines.packaged import settings_of
from pytest_autotune.errors import MissingRequirement
from pytest_autotune.variables import expand

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.engines.engine import Address, Knob
    from pytest_autotune.space import Configuration
    from pytest_autotune.suite import Suite

RESERVED = {
    "model-id": "say model: at the top of the suite",
    **dict.fromkeys(("hostname", "port"), "the deployment says where the server listens"),
    **dict.fromkeys(("ngrok", "ngrok-authtoken", "ngrok-edge"), "the deployment says where the server listens"),
    "api-key": "the load generator sends none",
    **dict.fromkeys(("env", "help", "version"), "it starts no server"),
}
_LAUNCHER = "text-generation-launcher"
_ASK_S = 60.0
_OPTION = re.compile(r"^ +(?:-\w, )?--(?P<name>[a-z][\w-]*)(?P<value> <[A-Z_]+>)?$")
_DEFAULT = re.compile(r"\[default: (.+)\]")
_POSSIBLE = re.compile(r"\[possible values: (.+)\]")
_CHOICE = re.compile(r"^ +- ([\w-]+): ")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


class TgiEngine(EngineDefaults):
    """Text Generation Inference's launcher: the one in ``PATH``, or what the suite's `command` names."""

    name = "tgi"
    # It lists its model by the name that it loaded it by, and knows no `ignore_eos`; /health is of its router.
    abilities = Abilities(metrics=metric_names.TGI, own_name=requirements.model_of)
    # A batch size of 0 or none is chosen by the launcher; a prefill is computed once to see whether it fits.
    memory_knobs: Mapping[str, Knob] = MappingProxyType({"max-batch-prefill-tokens": "more"})

    def __init__(self) -> None:
        self._asked: dict[tuple[object, ...], tuple[str, Mapping[str, Flag]] | MissingRequirement] = {}

    def inspect(self, suite: Suite) -> Installed:
        """Look for the launcher, ask it for its flags, and look for the model and for GPUs."""
        lacks = requirements.lacking(suite, (requirements.missing_model, requirements.missing_gpus))
        try:
            version, flags = self._launcher(suite)
        except MissingRequirement as error:
            return Installed(missing=(str(error), *lacks))
        return Installed(version, with_reserved(flags, RESERVED), tuple(lacks))

    def command(self, suite: Suite, configuration: Configuration, address: Address) -> Command:
        """Return how to start a server; raise `MissingRequirement` where `inspect` would tell the same.

        The number of shards is always said: the launcher takes all GPUs that it sees otherwise.
        """
        _, flags = self._launcher(suite)
        settings = told(suite, configuration, DIALECT)
        shards = () if {"num-shard", "sharded"} & settings.keys() else ("--num-shard", "1")
        argv = [
            *(*_start_of(suite), "--model-id", requirements.model_of(suite)),
            *("--hostname", address.host, "--port", str(address.port), *shards),
            *to_argv(settings, flags),
        ]
        return Command(tuple(argv), requirements.environment_of(suite))

    def gpus(self, suite: Suite, configuration: Configuration) -> int:
        """Return `suite.gpus`, else the number of shards."""
        return requirements.gpus_taken(suite, settings_of(suite, configuration))

    def refuses(self, suite: Suite, configuration: Configuration) -> Cause | None:
        """Say that a server takes more GPUs than there are, or what contradicts its model or its other flags."""
        settings = settings_of(suite, configuration)
        problem = contradiction(settings, suite, DIALECT)
        if not problem and "dtype" in settings and "quantize" in settings:
            problem = "dtype cannot be used with quantize"
        problem = problem or requirements.too_few_for(suite, self.gpus(suite, configuration)) or ""
        return Cause(CauseKind.BAD_ARGUMENT, problem) if problem else None

    def _launcher(self, suite: Suite) -> tuple[str, Mapping[str, Flag]]:
        start, env = _start_of(suite), requirements.environment_of(suite)
        image = suite.docker.image if suite.deploy == "docker" else None
        key = (image, start, tuple(sorted(env.items())))
        if key not in self._asked:
            try:
                self._asked[key] = _ask(suite, start, env)
            except MissingRequirement as error:
                self._asked[key] = error
        found = self._asked[key]
        if isinstance(found, MissingRequirement):
            raise found
        return found


def flags_in(text: str) -> dict[str, Flag]:
    """Return each flag of the launcher's help page, by its name; one without a value is a switch."""
    flags: dict[str, Flag] = {}
    current: Flag | None = None
    for line in text.splitlines():
        if option := _OPTION.match(line):
            current = Flag(option["name"], boolean=not option["value"])
        elif current is None:
            continue
        elif found := _DEFAULT.search(line):
            current = Flag(current.name, _plain(found[1]), current.choices, current.boolean)
        elif found := _POSSIBLE.search(line):
            switch = found[1] == "true, false"
            choices = () if switch else tuple(found[1].split(", "))
            current = Flag(current.name, current.default, choices, current.boolean or switch, valued=switch)
        elif found := _CHOICE.match(line):
            current = Flag(current.name, current.default, (*current.choices, found[1]), current.boolean)
        if current is not None:
            flags[current.name] = current
    return flags


def _plain(text: str) -> int | float | str:
    if not _NUMBER.fullmatch(text):
        return text
    return float(text) if "." in text else int(text)


def _start_of(suite: Suite) -> tuple[str, ...]:
    head, *more = suite.command or (_LAUNCHER,)
    return (executable_of(expand(head, key="command"), suite), *(expand(word, key="command") for word in more))


def _ask(suite: Suite, start: tuple[str, ...], env: Mapping[str, str]) -> tuple[str, Mapping[str, Flag]]:
    boxed = suite.deploy == "docker"
    if not boxed and shutil.which(start[0], path=env.get("PATH", os.environ.get("PATH"))) is None:
        remedy = f"put {_LAUNCHER} into PATH, name it as command, or use deploy: docker"
        raise MissingRequirement(f"needs Text Generation Inference: no such executable: {start[0]}; {remedy}")
    run = in_container(suite) if boxed else run_here
    try:
        told_flags, told_version = (run((*start, question), env, _ASK_S).stdout for question in ("--help", "--version"))
    except subprocess.TimeoutExpired:
        raise MissingRequirement(f"{start[0]} did not tell its flags within {_ASK_S:g} s") from None
    except OSError as error:
        raise MissingRequirement(f"{start[0]} cannot be run: {error.strerror}") from error
    flags = flags_in(told_flags)
    if "model-id" not in flags:
        raise MissingRequirement(f"{start[0]} is no {_LAUNCHER}: its --help names no --model-id")
    return told_version.rpartition(" ")[2].strip(), flags
