"""Text Generation Inference: settings to the flags of its launcher, what is installed, what it is given.

It is a program of Rust's, which cannot be had as a package: what is known of it is its published help page and
metrics (docs/source/reference/launcher.md and metrics.md of huggingface/text-generation-inference, 3.3). The flags that
count are those that the launcher itself tells where it is installed.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from pytest_autotune.engines import metric_names, requirements, tgi_help
from pytest_autotune.engines.dialects import TGI as DIALECT
from pytest_autotune.engines.engine import Abilities, Cause, CauseKind, Command, Engine, Installed
from pytest_autotune.engines.executables import Answers, Executable
from pytest_autotune.engines.flags import to_argv, with_reserved
from pytest_autotune.engines.neutral import contradiction, told
from pytest_autotune.engines.packaged import settings_of
from pytest_autotune.errors import MissingRequirement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.engines.engine import Address, Flag, Knob
    from pytest_autotune.engines.executables import Asked
    from pytest_autotune.space import Configuration
    from pytest_autotune.suite import Suite

RESERVED = {
    "model-id": "say model: at the top of the suite",
    **dict.fromkeys(("hostname", "port"), "the deployment says where the server listens"),
    "shard-uds-path": "every deployment has one of its own",
    "api-key": "the load generator sends none",
    **dict.fromkeys(("ngrok", "ngrok-authtoken", "ngrok-edge"), "the load is sent to this machine"),
    "json-output": "its log is read as text",
    **dict.fromkeys(("help", "version", "env"), "it starts no server"),
}
_LAUNCHER = Executable("text-generation-launcher", "Text Generation Inference")


class _Launcher(NamedTuple):
    version: str
    flags: Mapping[str, Flag]


class TgiEngine(Engine):
    """Hugging Face's server: the ``text-generation-launcher`` in ``PATH``, or what the suite's `command` names."""

    name = "tgi"
    # Its completions take text alone. It lists its model as it was told it, whatever a request asks for.
    abilities = Abilities(metrics=metric_names.TGI, own_name=str)
    # What it warms up with grows with both.
    memory_knobs: Mapping[str, Knob] = MappingProxyType(
        {"max-batch-prefill-tokens": "more", "max-input-tokens": "more"}
    )

    def __init__(self) -> None:
        self._answers = Answers(_LAUNCHER, _read)

    def inspect(self, suite: Suite) -> Installed:
        """Look for the launcher, ask it for its flags, and look for the model and for GPUs."""
        lacks = requirements.lacking(suite, [requirements.missing_model, requirements.missing_gpus])
        try:
            launcher = self._answers.of(suite)
        except MissingRequirement as error:
            return Installed(missing=tuple(dict.fromkeys([str(error), *lacks])))
        return Installed(launcher.version, with_reserved(launcher.flags, RESERVED), tuple(dict.fromkeys(lacks)))

    def command(self, suite: Suite, configuration: Configuration, address: Address) -> Command:
        """Return how to start a server; raise `MissingRequirement` where `inspect` would tell the same."""
        argv = [
            *_LAUNCHER.start(suite),
            *("--model-id", requirements.model_of(suite), "--hostname", address.host, "--port", str(address.port)),
            *("--shard-uds-path", f"/tmp/text-generation-server-{address.port}"),  # noqa: S108 - its own default's place
            *to_argv(told(suite, configuration, DIALECT), self._answers.of(suite).flags),
        ]
        return Command(tuple(argv), requirements.environment_of(suite))

    def gpus(self, suite: Suite, configuration: Configuration) -> int:
        """Return the number of shards, 1 where it is left open: the launcher takes the GPUs that it is shown."""
        return requirements.gpus_taken(suite, settings_of(suite, configuration))

    def refuses(self, suite: Suite, configuration: Configuration) -> Cause | None:
        """Say that a server takes more GPUs than there are, or what contradicts its model or itself."""
        settings = settings_of(suite, configuration)
        problem = contradiction(settings, suite, DIALECT)
        if not problem and settings.get("dtype") and settings.get("quantize"):
            problem = "dtype cannot be used with quantize"
        problem = problem or requirements.too_few_for(suite, self.gpus(suite, configuration)) or ""
        return Cause(CauseKind.BAD_ARGUMENT, problem) if problem else None


def _read(said: Asked, start: str) -> _Launcher:
    flags = tgi_help.flags_in(said("--help"))
    if "num-shard" not in flags:
        raise MissingRequirement(f"{start} is no text-generation-launcher: its --help names no --num-shard")
    return _Launcher(tgi_help.version_in(said("--version")), flags)
