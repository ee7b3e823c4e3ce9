"""llama.cpp: settings to the flags of ``llama-server``, what is installed, why it failed, what it runs with."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_autotune.engines import gguf, llamacpp_help, metric_names, requirements
from pytest_autotune.engines.dialects import LLAMACPP as DIALECT
from pytest_autotune.engines.engine import Abilities, Cause, CauseKind, Command, Engine, Installed
from pytest_autotune.engines.executables import Answers, Executable
from pytest_autotune.engines.flags import to_argv, with_reserved
from pytest_autotune.engines.neutral import told
from pytest_autotune.engines.packaged import settings_of
from pytest_autotune.errors import MissingRequirement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.engines.engine import Address, Flag, Knob
    from pytest_autotune.engines.executables import Asked
    from pytest_autotune.space import Configuration, Value
    from pytest_autotune.suite import Suite

RESERVED = {
    **dict.fromkeys(
        ("model", "model-url", "hf-repo", "hf-file", "docker-repo", "models-dir", "models-preset"),
        "say model: at the top of the suite, a .gguf file",
    ),
    "alias": "every deployment has a name of its own",
    **dict.fromkeys(("host", "port", "reuse-port", "api-prefix"), "the deployment says where the server listens"),
    **dict.fromkeys(("api-key", "api-key-file"), "the load generator sends none"),
    **dict.fromkeys(("ssl-key-file", "ssl-cert-file"), "the load is sent to http://"),
    "hf-token": "secrets belong into the environment: env: {HF_TOKEN: ${HF_TOKEN}}",
    **dict.fromkeys(("log-file", "log-disable"), "the server's log is kept with its trial"),
    **dict.fromkeys(
        ("help", "usage", "version", "list-devices", "cache-list", "completion-bash"), "it starts no server"
    ),
}
_SERVER = Executable("llama-server", "llama.cpp")
_MOST_SEQUENCES = 256  # LLAMA_MAX_SEQ in src/llama-cparams.h
_QUANTIZED = re.compile(r"(?:iq|q)\d")
_LOGGED = (  # the last of them is what counts, after llama.cpp has fitted its settings to the memory
    ("parallel", re.compile(r"\bn_slots = (\d+)")),
    ("threads", re.compile(r"\bn_threads = (\d+)")),
    ("batch-size", re.compile(r"llama_context: n_batch += (\d+)")),
    ("ubatch-size", re.compile(r"llama_context: n_ubatch += (\d+)")),
)
_SLOT = re.compile(r"\bn_ctx_slot = (\d+)(?:, kv_unified = '(true|false)')?")


@dataclass(frozen=True, slots=True)
class _Server:
    version: str
    flags: Mapping[str, Flag]
    devices: int  # beside the processor; 0 where it can use none


class LlamaCppEngine(Engine):
    """llama.cpp's OpenAI-compatible server: the ``llama-server`` in ``PATH``, or what the suite's `command` names."""

    name = "llamacpp"
    # A prompt cache is emptied by slot, not by one path. A next request on the connection of a streamed answer is lost
    # (read in the build of commit 7e4c0a9), so that each has one of its own.
    abilities = Abilities(token_ids=True, ignore_eos=True, keeps_connections=False, metrics=metric_names.LLAMACPP)
    # A context of 0 is the model's, parallel -1 and an ubatch of 0 are chosen: none of them is the least of its kind.
    memory_knobs: Mapping[str, Knob] = MappingProxyType({"batch-size": "more"})

    def __init__(self) -> None:
        self._answers = Answers(_SERVER, _read)

    def inspect(self, suite: Suite) -> Installed:
        """Look for the server, ask it for its flags, and look for the model's file and for GPUs."""
        missing: list[str] = []
        server: _Server | None = None
        try:
            server = self._answers.of(suite)
        except MissingRequirement as error:
            missing.append(str(error))
        checks = [gguf.missing_file]
        if suite.gpus is not None and (server is None or server.devices):
            checks.append(requirements.missing_gpus)
        lacks = tuple(dict.fromkeys([*missing, *requirements.lacking(suite, checks)]))
        if server is None:
            return Installed(missing=lacks)
        return Installed(server.version, with_reserved(server.flags, RESERVED), lacks)

    def command(self, suite: Suite, configuration: Configuration, address: Address) -> Command:
        """Return how to start a server; raise `MissingRequirement` where `inspect` would tell the same."""
        flags = self._answers.of(suite).flags
        settings = told(suite, configuration, DIALECT)
        argv = [
            *_SERVER.start(suite),
            *("--model", requirements.model_of(suite), "--alias", address.model_name),
            *("--host", address.host, "--port", str(address.port)),
            *(("--metrics",) if "metrics" in flags and "metrics" not in settings else ()),
            *to_argv(settings, flags, joins=False),
        ]
        return Command(tuple(argv), requirements.environment_of(suite))

    def gpus(self, suite: Suite, configuration: Configuration) -> int:
        """Return `suite.gpus`, else all devices that the server sees, or the ones that it is told to use.

        By default llama.cpp spreads layers over all of them; without any, or any layer on one, it takes 0.
        """
        settings = settings_of(suite, configuration)
        try:
            devices = self._answers.of(suite).devices
        except MissingRequirement:
            devices = 0
        if not devices or settings.get("n-gpu-layers", settings.get("gpu-layers")) == 0:
            return 0
        if suite.gpus is not None:
            return suite.gpus
        if settings.get("device") == "none":
            return 0
        if settings.get("split-mode") == "none":
            return 1
        named = settings.get("device")
        return len(named.split(",")) if isinstance(named, str) else devices

    def refuses(self, suite: Suite, configuration: Configuration) -> Cause | None:
        """Say which rule of llama.cpp's a configuration breaks: both end a server before it listens.

        They are `llama_init_from_model` in src/llama-context.cpp, read in the llama.cpp of October 2026.
        """
        settings = settings_of(suite, configuration)
        parallel, kept = settings.get("parallel"), settings.get("cache-type-v")
        if isinstance(parallel, int) and parallel > _MOST_SEQUENCES:
            return Cause(CauseKind.BAD_ARGUMENT, f"parallel {parallel} is more than {_MOST_SEQUENCES} sequences")
        if isinstance(kept, str) and _QUANTIZED.match(kept) and settings.get("flash-attn") == "off":
            return Cause(CauseKind.BAD_ARGUMENT, f"cache-type-v {kept} is quantized, which needs flash-attn")
        return None

    def effective(self, log: str) -> Mapping[str, Value]:
        """Read back slots, context, threads and batches, which llama.cpp may choose by itself."""
        settings: dict[str, Value] = {
            name: int(found[-1]) for name, logged in _LOGGED if (found := logged.findall(log))
        }
        if slots := _SLOT.findall(log):
            length, unified = slots[-1]
            shared = unified == "true"
            parallel = settings.get("parallel", 1)
            assert isinstance(parallel, int), "read as one above"
            settings["ctx-size"] = int(length) * (1 if shared else parallel)
            if unified:
                settings["kv-unified"] = shared
        return settings


def _read(said: Asked, start: str) -> _Server:
    flags = llamacpp_help.flags_in(said("--help"))
    if "ctx-size" not in flags:
        raise MissingRequirement(f"{start} is no llama-server: its --help names no --ctx-size")
    devices = llamacpp_help.devices_in(said("--list-devices")) if "list-devices" in flags else 0
    return _Server(llamacpp_help.version_in(said("--version")), flags, devices)
