"""SGLang: settings to its server's flags, what is installed, why it failed, what it says it runs with.

What is known of its flags was read by `python_probe` in the argument parser of release 0.5.23; the table of them in
``known/`` answers for an SGLang of that release that cannot be imported, as on a machine without its kernels.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_autotune.engines import metric_names, requirements
from pytest_autotune.engines.dialects import SGLANG as DIALECT
from pytest_autotune.engines.engine import Abilities, Command
from pytest_autotune.engines.flags import flag_name, to_argv
from pytest_autotune.engines.installation import Package, known_release
from pytest_autotune.engines.neutral import told
from pytest_autotune.engines.packaged import Packaged, settings_of
from pytest_autotune.engines.reprs import plain, split

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_autotune.engines.engine import Address, Knob
    from pytest_autotune.engines.installation import Installation
    from pytest_autotune.engines.requirements import Check
    from pytest_autotune.space import Configuration, Value
    from pytest_autotune.suite import Suite

SGLANG = Package("sglang", "SGLang", "sglang")
KNOWN = "0.5.23"  # the release of the table
RESERVED = {
    **dict.fromkeys(("model-path", "model"), "say model: at the top of the suite"),
    "served-model-name": "every deployment has a name of its own",
    **dict.fromkeys(
        ("host", "port", "skip-server-warmup", "fastapi-root-path"), "the deployment says where the server listens"
    ),
    **dict.fromkeys(("grpc-mode", "smg-grpc-mode", "encoder-only"), "the load is sent over HTTP"),
    **dict.fromkeys(("api-key", "admin-api-key"), "the load generator sends none"),
    **dict.fromkeys(
        ("ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "ssl-keyfile-password"), "the load is sent to http://"
    ),
    "config": "settings belong into the suite, where they are recorded",
    **dict.fromkeys(("nnodes", "node-rank", "dist-init-addr"), "a server is started on one machine"),
}
_SETTINGS = re.compile(r"server_args=(?:ServerArgs\((?P<call>.*)\)|\{(?P<mapping>.*)\})\s*$", re.MULTILINE)
_KEY = re.compile(r"\s*(?:'(?P<key>\w+)': |(?P<name>\w+)=)")


class SglangEngine(Packaged):
    """SGLang's OpenAI-compatible server, run by an interpreter that has SGLang installed."""

    name = "sglang"
    package = SGLANG
    reserved = RESERVED
    abilities = Abilities(
        token_ids=True, ignore_eos=True, reset_prefix_cache="/flush_cache", metrics=metric_names.SGLANG
    )
    # The pool of requests grows with it. The memory fraction takes from one use what it gives another, and the
    # sizes of prompts' chunks and of graphs have values that switch them off.
    memory_knobs: Mapping[str, Knob] = MappingProxyType({"max-running-requests": "more"})

    def command(self, suite: Suite, configuration: Configuration, address: Address) -> Command:
        """Return how to start a server; raise `MissingRequirement` where `inspect` would tell the same."""
        flags, settings = self._inquiry.answer(suite).flags, told(suite, configuration, DIALECT)
        argv = [
            *(requirements.interpreter_of(suite), "-m", "sglang.launch_server"),
            *("--model-path", requirements.model_of(suite), "--served-model-name", address.model_name),
            *("--host", address.host, "--port", str(address.port)),
            *(("--enable-metrics",) if "enable-metrics" in flags and "enable-metrics" not in settings else ()),
            *to_argv(settings, flags),
        ]
        return Command(tuple(argv), requirements.environment_of(suite))

    def gpus(self, suite: Suite, configuration: Configuration) -> int:
        """Return the product of the parallel sizes, of which attention's data parallelism is none."""
        settings = settings_of(suite, configuration)
        if suite.gpus is not None or settings.get("enable-dp-attention") is not True:
            return super().gpus(suite, configuration)
        tp, pp, of_prefill, _ = requirements.parallel_sizes(settings)
        return tp * pp * of_prefill

    def checks(self, suite: Suite, installation: Installation | None) -> tuple[Check, ...]:
        """Return what looks for the model and for GPUs, where the parallel sizes alone tell how many."""
        names = [*suite.fixed, *(parameter.name for parameter in suite.space.parameters)]
        if suite.gpus is None and "enable-dp-attention" in map(flag_name, names):
            return (requirements.missing_model,)
        return super().checks(suite, installation)

    def contradiction(self, settings: Mapping[str, Value]) -> str:
        """Return that attention's data parallelism does not divide tensor parallelism, or an empty text.

        The rule is an assertion of `parallel_hook` (release 0.5.23), and of `check_server_args` before.
        """
        tp, _, _, dp = requirements.parallel_sizes(settings)
        if settings.get("enable-dp-attention") is True and tp % dp:
            return f"tensor parallelism of {tp} cannot be shared by data parallelism of {dp} with enable-dp-attention"
        return ""

    def effective(self, log: str) -> Mapping[str, Value]:
        """Read back the settings that differ from the defaults of the release that is known, by their flags' names.

        SGLang logs what it made of its flags: a setting that it chose by itself is among them.
        """
        found = _SETTINGS.search(log)
        known = known_release(SGLANG, KNOWN)
        assert known is not None, "its table is in this package"
        if found is None:
            return {}
        settings: dict[str, Value] = {}
        for part in split(found["call"] or found["mapping"] or ""):
            if key := _KEY.match(part):
                settings[flag_name(key["key"] or key["name"])] = plain(part[key.end() :].strip())
        return {
            name: value
            for name, value in settings.items()
            if name not in RESERVED and value is not None and name in known.flags and value != known.flags[name].default
            if not (value is False and known.flags[name].boolean)
        }
