"""Any OpenAI-compatible server that a command line starts, given by the suite as an argv template."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_autotune.engines import requirements
from pytest_autotune.engines.engine import Abilities, Cause, CauseKind, Command, Engine, Installed
from pytest_autotune.engines.executables import executable_of
from pytest_autotune.engines.flags import flag_name, merged, text_of, to_argv
from pytest_autotune.engines.neutral import contradiction, dialect_of, told
from pytest_autotune.variables import expand

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.engines.dialects import Dialect
    from pytest_autotune.engines.engine import Address, Knob
    from pytest_autotune.space import Configuration, Value
    from pytest_autotune.suite import Suite

FLAGS = "{flags}"
_PLACEHOLDER = re.compile(r"(?<!\$)\{([A-Za-z_][\w.-]*)\}")  # ${NAME} is a variable of the environment
_MODULE = re.compile(r"[A-Za-z_][\w.]*")
_MODULE_MISSING = 3
_FIND_MODULE = (
    f"import importlib.util, sys; sys.exit({_MODULE_MISSING} if importlib.util.find_spec(sys.argv[1]) is None else 0)"
)
_LOOK_S = 30.0


class CommandEngine(Engine):
    """A server of unknown make: what it takes is what the suite's `command` says, and plain OpenAI."""

    name = "command"
    abilities = Abilities()
    memory_knobs: Mapping[str, Knob] = MappingProxyType({})

    def inspect(self, suite: Suite) -> Installed:
        """Look for the executable (and Python module), the model and GPUs."""
        checks = [] if suite.deploy == "docker" else [_missing_executable]  # an image is not looked into
        if _names(suite) & {"model"}:
            checks.append(requirements.missing_model)
        if self._needs_gpus(suite):
            checks.append(requirements.missing_gpus)
        return Installed(missing=tuple(dict.fromkeys(requirements.lacking(suite, checks))))

    def command(self, suite: Suite, configuration: Configuration, address: Address) -> Command:
        """Fill in the template; ``{flags}`` becomes every setting that no other element names.

        In the dialect that the suite says: what a setting stands for there, without what other elements name.
        """
        settings, dialect = merged(suite.fixed, configuration), dialect_of(suite)
        named = {flag_name(name) for name in _names(suite)}
        given = {"host": address.host, "port": str(address.port), "model_name": address.model_name}
        argv: list[str] = []
        for element in suite.command:
            if element == FLAGS:
                argv += _flags(told(suite, configuration, dialect, without=named), dialect)
            else:
                argv.append(_filled(element, suite, settings=settings, given=given))
        return Command((executable_of(argv[0], suite), *argv[1:]), requirements.environment_of(suite))

    def gpus(self, suite: Suite, configuration: Configuration) -> int:
        """Return `suite.gpus`, else the product of the parallel sizes among the settings, 0 without any."""
        if suite.gpus is not None:
            return suite.gpus
        settings = merged(suite.fixed, configuration)
        return requirements.parallel_gpus(settings) if requirements.is_parallel(settings) else 0

    def refuses(self, suite: Suite, configuration: Configuration) -> Cause | None:
        """Say that a server takes more GPUs than there are or, in a known dialect, what contradicts its model."""
        if (dialect := dialect_of(suite)) is not None:
            problem = contradiction(told(suite, configuration, dialect), suite, dialect)
            if problem:
                return Cause(CauseKind.BAD_ARGUMENT, problem)
        if not self._needs_gpus(suite):
            return None
        lacking = requirements.too_few_for(suite, self.gpus(suite, configuration))
        return Cause(CauseKind.BAD_ARGUMENT, lacking) if lacking else None

    def _needs_gpus(self, suite: Suite) -> bool:
        names = [*suite.fixed, *(parameter.name for parameter in suite.space.parameters)]
        return suite.gpus is not None or requirements.is_parallel(dict.fromkeys(names))


def _flags(settings: Mapping[str, Value], dialect: Dialect | None) -> tuple[str, ...]:
    """Return settings as arguments, spelled as the engine of the dialect spells its flags."""
    if dialect is None:
        return to_argv(settings, None)
    argv: list[str] = []
    for name, value in settings.items():
        arguments = to_argv({name: value}, dialect.flags)
        argv += [*(_underscored(each) for each in arguments[:1]), *arguments[1:]] if dialect.underscores else arguments
    return tuple(argv)


def _underscored(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    return f"--{flag.removeprefix('--').replace('-', '_')}{equals}{value}"


def _names(suite: Suite) -> set[str]:
    return {name for element in suite.command for name in _PLACEHOLDER.findall(element)}


def _filled(element: str, suite: Suite, *, settings: Mapping[str, Value], given: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name == "python":
            return requirements.interpreter_of(suite)
        if name == "model":
            return requirements.model_of(suite)
        return given[name] if name in given else text_of(settings.get(flag_name(name)))

    # Variables first: a value that happens to contain ${...} is no template.
    return _PLACEHOLDER.sub(value, expand(element, key="command"))


def _missing_executable(suite: Suite) -> str | None:
    head = suite.command[0]
    if set(_PLACEHOLDER.findall(head)) - {"python"}:
        return None  # another one for each configuration
    named = _filled(head, suite, settings={}, given={})
    executable = executable_of(named, suite)
    if shutil.which(executable) is None:
        return f"command: no such executable: {named}"
    switch, module = (*suite.command[1:3], "", "")[:2]
    if switch != "-m" or not _MODULE.fullmatch(module) or "python" not in Path(executable).name:
        return None
    return _missing_module(executable, module.partition(".")[0])


def _missing_module(python: str, package: str) -> str | None:
    try:
        status = subprocess.run(
            [python, "-c", _FIND_MODULE, package],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LOOK_S,
            check=False,
        ).returncode
    except (subprocess.TimeoutExpired, OSError) as error:
        return f"command: {python} does not run: {error}"
    if status == _MODULE_MISSING:
        return f"needs {package}: `pip install {package}`, or set engine_python: to a Python that has it"
    return None if status == 0 else f"command: {python} does not run (exit status {status})"
