"""Which configurations are known not to start: by the engine's own rules, or by what ran out of memory before."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_autotune import hardware
from pytest_autotune.engines.causes import crowded_out
from pytest_autotune.engines.dialects import DIALECTS
from pytest_autotune.engines.engine import Cause, CauseKind
from pytest_autotune.engines.flags import merged
from pytest_autotune.engines.neutral import dialect_of, expand
from pytest_autotune.engines.requirements import environment_of, model_of
from pytest_autotune.errors import Infeasible, MissingRequirement
from pytest_autotune.masking import mask
from pytest_autotune.space import canonical, label
from pytest_autotune.structured import dialect_named

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_autotune.engines.dialects import Dialect
    from pytest_autotune.engines.engine import Engine, Flag, Knob
    from pytest_autotune.records import StartRecord
    from pytest_autotune.space import Configuration, Value
    from pytest_autotune.suite import Suite

    Flags = Mapping[str, Flag] | None

NOT_LAUNCHED = "not launched: "  # begins the reason of a trial that was settled without a server

# What two starts must have in common, their settings apart, for one to tell anything about the other.
_SAME = (
    *("engine", "engine_version", "hardware", "served_model", "server_env"),
    *("engine_python", "deploy", "command", "gpus"),
)


@dataclass(frozen=True, slots=True)
class KnownStart:
    """A start that ran out of memory: what it asked for, and where it is recorded."""

    settings: Mapping[str, Value]
    label: str
    day: str
    run_id: str

    def __str__(self) -> str:
        return f"{self.label} did on {self.day} in run {self.run_id}"


@dataclass(frozen=True, slots=True)
class Feasibility:
    """What is known of a suite's configurations before a server of theirs is launched."""

    suite: Suite
    engine: Engine
    fixed: Mapping[str, Value]  # as it is stored: with secrets masked
    flags: Flags = None
    known: tuple[KnownStart, ...] = ()

    def refusal(self, configuration: Configuration) -> Infeasible | None:
        """Return why a server with `configuration` need not be launched; None when nothing speaks against it."""
        if cause := self.engine.refuses(self.suite, configuration):
            return Infeasible(f"{NOT_LAUNCHED}{cause}", cause=cause)
        asked = settings_of(self.fixed, configuration, dialect_of(self.suite))
        for start in self.known:
            if asks_no_less(asked, start.settings, knobs=self.engine.memory_knobs, flags=self.flags):
                cause = Cause(CauseKind.OUT_OF_MEMORY, f"known to run out of memory: {start}")
                return Infeasible(f"{NOT_LAUNCHED}{cause.message}", cause=cause)
        return None

    def bars(self, configuration: Configuration) -> bool:
        """Say whether a search need not propose `configuration`."""
        return self.refusal(configuration) is not None


def conditions(suite: Suite, *, version: str) -> dict[str, Any]:
    """Return what a start depends on beside the suite's document, to be stored with it; secrets masked.

    Empty when it is not known: an engine without a version, a server that may run on another machine,
    or a variable that is not set. Such starts are never compared.
    """
    if not version or suite.deploy != "local":
        return {}
    try:
        model, env = model_of(suite), environment_of(suite)
    except MissingRequirement:
        return {}
    found: dict[str, Any] = mask(
        {"engine_version": version, "hardware": hardware.fingerprint(), "served_model": model, "server_env": env}
    )
    return found


def known_out_of_memory(
    starts: Iterable[StartRecord], document: Mapping[str, Any], *, knobs: Mapping[str, Knob], flags: Flags
) -> tuple[KnownStart, ...]:
    """Return the starts that ran out of memory under the conditions of `document`, a suite's as it is stored.

    A start proves nothing when others held the memory, or when one that asked for no less became ready:
    then it was not its settings.
    """
    comparable = [
        (start, settings_of(start.document["fixed"], start.configuration, _dialect(start.document)))
        for start in starts
        if _comparable(start.document, document)
    ]
    ready = [settings for start, settings in comparable if start.ready]
    return tuple(
        KnownStart(settings, label(start.configuration), f"{start.started_at:%Y-%m-%d}", start.run_id)
        for start, settings in comparable
        if not start.ready
        and not crowded_out(start.reason)
        and not any(asks_no_less(started, settings, knobs=knobs, flags=flags) for started in ready)
    )


def settings_of(
    fixed: Mapping[str, Value], configuration: Configuration, dialect: Dialect | None = None
) -> dict[str, Value]:
    """Return what a server is told, by the names of its flags; None stands for the engine's default.

    What the dialect has no flags for, in a record of another version of this package, stays as it is.
    """
    settings = merged(fixed, configuration)
    with suppress(ValueError):
        settings = expand(settings, dialect)
    return {name: value for name, value in settings.items() if value is not None}


def _dialect(document: Mapping[str, Any]) -> Dialect | None:
    return DIALECTS.get(dialect_named(document["engine"], document.get("dialect")) or "")


def asks_no_less(
    asked: Mapping[str, Value], known: Mapping[str, Value], *, knobs: Mapping[str, Knob], flags: Flags
) -> bool:
    """Say whether `asked` needs at least the memory of `known`: as much by every knob, and no other difference.

    A setting that one of them leaves out has the flag's default where that is a number, else the two
    cannot be compared. Numbers below 1 of a knob have meanings of their own (-1: as much as fits) and
    must be equal, as every setting that is no knob.
    """
    return all(
        _no_less(_value(name, asked, flags), _value(name, known, flags), knobs.get(name))
        for name in asked.keys() | known.keys()
    )


def _no_less(asked: Value, known: Value, knob: Knob | None) -> bool:
    if asked is None or known is None:
        return False
    if knob is not None and _is_number(asked) and _is_number(known) and min(asked, known) >= 1:
        return bool(asked >= known if knob == "more" else asked <= known)
    return canonical({"": asked}) == canonical({"": known})


def _value(name: str, settings: Mapping[str, Value], flags: Flags) -> Value:
    if name in settings:
        return settings[name]
    default = flags[name].default if flags is not None and name in flags else None
    return default if _is_number(default) else None


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(name in one and name in other and one[name] == other[name] for name in _SAME)
