"""Ollama: settings to the environment of ``ollama serve``, what is installed, which model it has.

Its settings are variables ``OLLAMA_<SETTING>``: a suite names them without the prefix, in lower case. Those that count
are the ones that ``ollama serve --help`` lists where it is installed. It cannot be had as a package: what is known of
it is its source (envconfig/config.go and cmd/cmd.go of ollama/ollama); it was not run.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from pytest_autotune.engines import requirements
from pytest_autotune.engines.engine import Abilities, Command, Engine, Flag, Installed
from pytest_autotune.engines.executables import Answers, Executable
from pytest_autotune.engines.flags import flag_name, text_of, with_reserved
from pytest_autotune.engines.neutral import told
from pytest_autotune.errors import MissingRequirement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.engines.engine import Address, Knob
    from pytest_autotune.engines.executables import Asked
    from pytest_autotune.space import Configuration
    from pytest_autotune.suite import Suite

RESERVED = {
    "host": "the deployment says where the server listens",
    "models": "where the models are belongs into the environment: env: {OLLAMA_MODELS: ...}",
    "origins": "the load generator is no browser",
}
_OLLAMA = Executable("ollama", "Ollama")
_PREFIX = "OLLAMA_"
_VARIABLE = re.compile(rf"^ +{_PREFIX}(?P<name>[A-Z_]+) ", re.MULTILINE)
_VERSION = re.compile(r"version is (\S+)")


class _Server(NamedTuple):
    version: str
    flags: Mapping[str, Flag]


def listed_as(model: str) -> str:
    """Return a model as a server lists it: with its tag, which is ``latest`` where none is named."""
    return model if ":" in model.rpartition("/")[2] else f"{model}:latest"


class OllamaEngine(Engine):
    """Ollama's server: the ``ollama`` in ``PATH``, or what the suite's `command` names.

    The model must have been pulled or created before; the first request, which ends a deployment, loads it.
    """

    name = "ollama"
    abilities = Abilities(health="/api/version", own_name=listed_as)
    # Each of them is a length or a number of caches.
    memory_knobs: Mapping[str, Knob] = MappingProxyType({"context-length": "more"})

    def __init__(self) -> None:
        self._answers = Answers(_OLLAMA, _read)

    def inspect(self, suite: Suite) -> Installed:
        """Look for Ollama, ask it for its variables, and look for GPUs where the suite says that it takes some."""
        lacks = requirements.lacking(suite, [requirements.missing_gpus] if suite.gpus else ())
        try:
            server = self._answers.of(suite)
        except MissingRequirement as error:
            return Installed(missing=tuple(dict.fromkeys([str(error), *lacks])))
        return Installed(server.version, with_reserved(server.flags, RESERVED), tuple(lacks))

    def command(self, suite: Suite, configuration: Configuration, address: Address) -> Command:
        """Return how to start a server, with its settings on the command line, where reports and exports have them.

        A model stays loaded unless a setting says how long, so that a pause is not measured as the next batch's start.
        """
        settings = {"keep-alive": -1, **told(suite, configuration, None)}
        named = [_assignment(name, value) for name, value in settings.items() if value is not None]
        argv = ("env", f"{_PREFIX}HOST={address.host}:{address.port}", *named, *_OLLAMA.start(suite), "serve")
        return Command(argv, requirements.environment_of(suite))

    def gpus(self, suite: Suite, configuration: Configuration) -> int:  # noqa: ARG002 - the contract's names
        """Return `suite.gpus`, else one if there is one: a model goes to the GPUs that the server sees."""
        return suite.gpus if suite.gpus is not None else min(1, requirements.gpus_in_pool(suite))


def _assignment(name: str, value: object) -> str:
    said = str(int(value)) if isinstance(value, bool) else text_of(value)
    return f"{_PREFIX}{flag_name(name).replace('-', '_').upper()}={said}"


def _read(said: Asked, start: str) -> _Server:
    names = [flag_name(name.lower()) for name in _VARIABLE.findall(said("serve", "--help"))]
    if "num-parallel" not in names:
        raise MissingRequirement(f"{start} is no ollama: its serve --help names no {_PREFIX}NUM_PARALLEL")
    version = _VERSION.search(said("--version"))
    return _Server(version[1] if version else "", {name: Flag(name) for name in names})
