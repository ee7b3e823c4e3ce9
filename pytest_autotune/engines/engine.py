"""What an engine is: the contract between a suite and one kind of model server."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_autotune.engines.metric_names import MetricNames
    from pytest_autotune.engines.roofline import Layout, Served
    from pytest_autotune.space import Configuration, Value
    from pytest_autotune.suite import Suite


Knob = Literal["more", "less"]  # which value of a setting needs more memory: the larger one, or the smaller one
Memory = Literal[
    "weights", "KV cache", "activations", "host", "container"
]  # for what, or of what, there was too little


class CauseKind(StrEnum):
    """Why a server did not start, or died."""

    OUT_OF_MEMORY = "out of memory"
    BAD_ARGUMENT = "bad argument"
    MODEL = "model missing"
    DRIVER = "CUDA or driver"
    INFRASTRUCTURE = "infrastructure"
    PORT = "port in use"
    CRASH = "crash"
    KILLED = "killed"
    TIMEOUT = "timeout"
    WRONG_SERVER = "wrong server"
    IMAGE = "image missing"
    ENGINE_DEAD = "engine dead behind a healthy front"

    @property
    def finding(self) -> bool:
        """Whether the configuration is to blame, so that the search learns from it."""
        return self in (CauseKind.OUT_OF_MEMORY, CauseKind.BAD_ARGUMENT)


@dataclass(frozen=True, slots=True)
class Cause:
    """A classified failure, with the log lines that show it."""

    kind: CauseKind
    message: str  # one line
    lines: tuple[str, ...] = ()
    of: Memory | None = None  # which memory ran out, where the log tells

    def __str__(self) -> str:
        return ": ".join(part for part in (self.kind, self.of, self.message) if part)


@dataclass(frozen=True, slots=True)
class Flag:
    """One command-line setting of an engine."""

    name: str  # as the engine spells it, without leading dashes: `n_ctx`, `max-num-seqs`
    default: Value = None
    choices: tuple[str, ...] = ()
    boolean: bool = False
    negatable: bool = False  # understands --no-<name>
    valued: bool = False  # a switch that is written with its value: --<name> true
    many: bool = False  # takes a list of values
    reserved: str = ""  # why a suite may not set it; empty when it may


@dataclass(frozen=True, slots=True)
class Installed:
    """An engine as found on this machine.

    `missing` has one sentence for each thing that a suite needs and that is not here; when it is
    not empty nothing of the suite is started.
    """

    version: str = ""
    flags: Mapping[str, Flag] | None = (
        None  # by their names with dashes; None: the engine does not tell, nothing is checked
    )
    missing: tuple[str, ...] = ()
    image: str = ""  # of containers: the digest of what they run in
    simulated: bool = False  # its servers need none of this machine's GPUs, whatever they say they take


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server must listen, and the model name it must answer to (unique per deployment)."""

    host: str
    port: int
    model_name: str

    @property
    def url(self) -> str:
        """Base URL without a trailing slash and without ``/v1``."""
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Command:
    """How to start a server: one argv element per value, never a shell line."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)  # added to the inherited environment


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the engine's API takes beyond plain OpenAI."""

    token_ids: bool = False  # prompts as token ids to /v1/completions: exact lengths
    ignore_eos: bool = False  # generate exactly max_tokens
    reset_prefix_cache: str | None = None  # path to POST to
    metrics: MetricNames | None = None  # its Prometheus page; None: it has none, or nobody knows the names
    health: str = "/health"  # path that answers 200 when the HTTP front is up
    uuids: bool = False  # refuses a request whose x-request-id is none
    keeps_connections: bool = True  # False: it closes them after a streamed answer without saying so
    # What it lists of `requirements.model_of`, where it can be given no name of a deployment's own.
    own_name: Callable[[str], str] | None = None


class Engine(Protocol):
    """One kind of model server. Stateless; `inspect` may run the engine's interpreter and caches.

    A subclass says what it knows: what has a body here is what holds of a server that nothing is known of.
    `memory_knobs` are the settings, by the names of their flags, of which one direction never makes a
    server need less memory to start, whatever the others are. What only mostly does is none: a server
    that ran out of memory rules out all that ask for no less.
    """

    name: str
    abilities: Abilities
    memory_knobs: Mapping[str, Knob]

    def inspect(self, suite: Suite) -> Installed:
        """Look for the engine and what `suite` needs of it on this machine; start no server."""

    def command(self, suite: Suite, configuration: Configuration, address: Address) -> Command:
        """Return how to start a server with `suite.fixed` and `configuration` at `address`."""

    def gpus(self, suite: Suite, configuration: Configuration) -> int:
        """Return how many GPUs that server takes; 0 on an engine without GPUs."""

    def refuses(self, suite: Suite, configuration: Configuration) -> Cause | None:  # noqa: ARG002
        """Say why such a server is certain not to start here, a finding; None when it may, or nothing is known.

        Called for every configuration that a search considers: it must be quick and start nothing.
        """
        return None

    def served(self, suite: Suite) -> Served | None:  # noqa: ARG002 - an engine's that knows
        """Return the model and the kind of GPUs that servers of `suite` have; None when that is not known."""
        return None

    def layout(self, suite: Suite, configuration: Configuration) -> Layout | None:  # noqa: ARG002
        """Return how such a server divides its model; None when that cannot be said.

        What is expected of it orders what a search tries first, and judges nothing. A configuration may be a part of
        one. Called for thousands of them: it must be quick and start nothing.
        """
        return None

    def classify(self, log: str, returncode: int | None) -> Cause:
        """Say why a server died or never became ready, from its log and exit status.

        `returncode` is negative for a signal and None while the process lives (a timeout).
        """
        from pytest_autotune.engines import causes  # here: it is made of what this module has

        return causes.classify(log, returncode)

    def effective(self, log: str) -> Mapping[str, Value]:  # noqa: ARG002 - an engine's that knows
        """Read back from the log the settings that the server says it runs with; empty when it does not say."""
        return {}


def lacking(engine: object) -> tuple[str, ...]:
    """Return what of the contract an object does not have, by name."""
    methods = (name for name, value in vars(Engine).items() if callable(value) and not name.startswith("_"))
    return tuple(name for name in (*Engine.__annotations__, *methods) if not hasattr(engine, name))
