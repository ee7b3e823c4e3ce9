"""The kinds of fields a suite file has: how each is read as it was written, and its JSON schema."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema

from pytest_autotune import units
from pytest_autotune.problems import Collector, Problem, Problems
from pytest_autotune.space import Value, canonical
from pytest_autotune.spelling import nearest, show

SETTING = r"^[A-Za-z_][A-Za-z0-9_.-]*$"  # name of a parameter or fixed setting
SUITE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"  # also names files
IDENTIFIER = r"^[a-z][a-z0-9_-]*$"  # of an engine or deployer, which plugins may add
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"  # of the environment
SCREEN = (0.05, 0.5)  # least and largest share of a batch: less shows nothing, more saves little


class Block(BaseModel):
    """A block of a suite file: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, arbitrary_types_allowed=True)


def as_written(read: Callable[[Any], Any]) -> BeforeValidator:
    """Apply a reader to values that come from a file; values from Python are in base units already."""

    def convert(value: Any, info: ValidationInfo) -> Any:
        return read(value) if info.context else value

    return BeforeValidator(convert)


def read_mapping(value: Any, *, keys: Sequence[str] = ()) -> Mapping[str, Value]:
    """Return a mapping; with `keys` every other key is a problem."""
    if value is None:
        raise ValueError("has no value; remove the key or give it one")
    if not isinstance(value, Mapping):
        raise ValueError(f"{show(value)} is not a mapping of keys to values")
    if keys and not value.keys() <= set(keys):
        raise Problems([Problem((key,), unknown_key(key, keys)) for key in value if key not in keys])
    return value


def read_list(value: Any) -> Any:
    """Return a list of blocks, for what reads each of them."""
    if not isinstance(value, list):
        raise ValueError(f"{show(value)} is not a list")
    if not value:
        raise ValueError("an empty list says nothing; remove the key")
    return value


def unknown_key(key: str, allowed: Sequence[str]) -> str:
    """Return the problem of an unknown key (its place names it): the nearest valid spelling, else all of them."""
    return f"unknown key{nearest(key, allowed) or '; allowed: ' + ', '.join(allowed)}"


def read_setting_name(name: str) -> str:
    """Return the name of a parameter or fixed setting, written as the engine's flag without dashes."""
    if name.startswith("-"):
        raise ValueError(f"{show(name)} has leading dashes; write {show(name.lstrip('-'))}")
    if not re.fullmatch(SETTING, name):
        raise ValueError(f"{show(name)} is not the name of a setting; use letters, digits, '-', '_' and '.'")
    return name


def read_flag(value: Any) -> bool:
    """Return true or false; text such as ``yes`` is neither."""
    if not isinstance(value, bool):
        raise ValueError(f"{show(value)} is not true or false")
    return value


def read_above_zero(value: Any) -> float:
    """Return a finite number above 0."""
    number = units.number(value)
    if number <= 0:
        raise ValueError(f"{show(value)} is not above 0")
    return number


def read_levels(value: Any) -> tuple[int, ...]:
    """Return the concurrencies of ``concurrency: 8`` or ``concurrency: [1, 4, 16]``, in the order of the file."""
    if not isinstance(value, list):
        return (_read_positive_count(value),)
    if not value:
        raise ValueError("an empty list is no load; list at least one concurrency, e.g. [1, 4, 16]")
    collector = Collector()
    levels: list[int] = []
    for index, item in enumerate(value):
        level = collector.read((index,), _read_positive_count, item)
        if level is not None and level in levels:
            collector.note((index,), f"concurrency {level} is listed twice")
        levels.append(level)
    collector.finish()
    return tuple(levels)


def read_command(value: Any) -> tuple[str, ...]:
    """Return an argv template from a list, or from one string that is split as a shell would, without running one."""
    if isinstance(value, str):
        try:
            parts = shlex.split(value)
        except ValueError as error:
            raise ValueError(f"{show(value)} cannot be split into arguments: {str(error).lower()}") from None
        value = parts
    if not isinstance(value, list) or not value:
        raise ValueError(f"{show(value)} is not a command; write a list of arguments or one line of text")
    collector = Collector()
    arguments = [collector.read((index,), _read_argument, argument) for index, argument in enumerate(value)]
    collector.finish()
    return tuple(arguments)


def read_env(value: Any) -> dict[str, str]:
    """Return environment variables; whole numbers become text, what YAML may have changed is refused."""
    collector = Collector()
    variables = {}
    for name, written in read_mapping(value).items():
        if not re.fullmatch(VARIABLE, name):
            collector.note((name,), f"{show(name)} is not the name of an environment variable")
        variables[name] = collector.read((name,), _read_variable, written)
    collector.finish()
    return variables


def read_fixed(value: Any) -> dict[str, Value]:
    """Return settings that are the same for every configuration."""
    collector = Collector()
    fixed = dict(read_mapping(value))
    for name, written in fixed.items():
        collector.read((name,), read_setting_name, name)
        collector.read((name,), canonical, {name: written})
    collector.finish()
    return fixed


def read_seeds(value: Any) -> tuple[dict[str, Value], ...]:
    """Return configurations to begin with; whether the suite has what they name is checked later."""
    if isinstance(value, Mapping):
        raise ValueError(f"{show(value)} is not a list; write [{show(value)}]")
    if not isinstance(value, list):
        raise ValueError(f"{show(value)} is not a list of configurations; write e.g. [{{max-num-seqs: 128}}]")
    if not value:
        raise ValueError("an empty list says nothing; remove the key")
    collector = Collector()
    seeds = [collector.read((index,), _read_seed, each) for index, each in enumerate(value)]
    collector.finish()
    return tuple(seeds)


def _read_seed(value: Any) -> dict[str, Value]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{show(value)} is not a configuration; write e.g. {{max-num-seqs: 128}}")
    if not value:
        raise ValueError("an empty configuration is the engine's defaults; remove it, or write defaults: true")
    return read_fixed(value)


def read_url(value: Any) -> str:
    """Return a base URL without trailing slash and without ``/v1``; ``${NAME}`` is expanded when it is used."""
    help_ = "write the base URL of the server, e.g. http://127.0.0.1:8000"
    if not isinstance(value, str):
        raise ValueError(f"{show(value)} is not a URL; {help_}")
    try:
        parts = urlsplit(_with_variables_filled(value))
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or re.search(r"\s", value):
        raise ValueError(f"{show(value)} is not a URL; {help_}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(f"a URL with a user, a query or a fragment is not a base URL; {help_}")
    return value.rstrip("/").removesuffix("/v1").rstrip("/")


def _with_variables_filled(url: str) -> str:
    """Put something usable in place of ``${NAME}``, so that what stands around it can be checked."""
    return re.sub(r"\$\{[^{}]*\}", "1", re.sub(r"^\$\{[^{}]*\}", "http://variable", url))


def _read_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{show(value)} is not text; put it in quotes")
    if not value.strip() or "\0" in value:
        raise ValueError(f"{show(value)} is empty; remove the key or give it a value")
    return value


def _read_any_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{show(value)} is not text; put it in quotes")
    return value


def read_suite_name(value: Any) -> str:
    """Return a name that can also be that of a file."""
    if not re.fullmatch(SUITE_NAME, _read_text(value)):
        raise ValueError(
            f"{show(value)} cannot name files; use letters, digits, '-', '_' and '.', beginning with a letter or digit"
        )
    return str(value)


def _read_identifier(value: Any) -> str:
    if not re.fullmatch(IDENTIFIER, _read_text(value)):
        hint = f" (did you mean {value.lower()!r}?)" if re.fullmatch(IDENTIFIER, value.lower()) else ""
        raise ValueError(f"{show(value)} is not an identifier{hint}; use small letters, digits, '-' and '_'")
    return str(value)


def _read_argument(value: Any) -> str:
    if isinstance(value, Mapping) and len(value) == 1 and None in value.values():
        name = next(iter(value))
        raise ValueError(f"{{{name}}} without quotes is a YAML mapping; write '{{{name}}}'")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{show(value)} is not an argument; put it in quotes")
    if "\0" in str(value):
        raise ValueError(f"{show(value)} has a NUL character, which no argument can have")
    return str(value)


def _read_variable(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{show(value)} is not text; put it in quotes")
    if "\0" in str(value):
        raise ValueError("the value has a NUL character, which no variable can have")
    return str(value)


def _read_positive_percentage(value: Any) -> float:
    percentage = units.percentage(value)
    if not 0 < percentage < 1:
        raise ValueError(f"{show(value)} is not between 0% and 100%; write e.g. 1%")
    return percentage


def _read_positive_duration(value: Any) -> float:
    seconds = units.duration(value)
    if seconds <= 0:
        raise ValueError(f"{show(value)} must be longer than 0; write e.g. 500ms, 30s, 2m")
    return seconds


def _read_positive_size(value: Any) -> int:
    size = units.size(value)
    if size <= 0:
        raise ValueError(f"{show(value)} must be more than 0; write e.g. 512MiB, 16GiB")
    return size


def _read_texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (_read_text(value),)
    if not isinstance(value, list):
        raise ValueError(f"{show(value)} is not a list of texts")
    return tuple(_read_text(text) for text in value)


def _read_screen(value: Any) -> float:
    share = units.percentage(value)
    if not SCREEN[0] <= share <= SCREEN[1]:
        raise ValueError(f"{show(value)} is not from {SCREEN[0]:.0%} to {SCREEN[1]:.0%}; write e.g. 20%")
    return share


def _read_positive_count(value: Any) -> int:
    return units.count(value, least=1)


_LEVEL = {"type": "integer", "minimum": 1}
_ARGUMENTS = {"type": "array", "items": {"type": ["string", "integer"]}, "minItems": 1}
_DURATION = {"type": "string", "pattern": units.DURATION}

Text = Annotated[str, as_written(_read_text), WithJsonSchema({"type": "string", "minLength": 1})]
AnyText = Annotated[str, as_written(_read_any_text)]
SuiteName = Annotated[str, as_written(read_suite_name), WithJsonSchema({"type": "string", "pattern": SUITE_NAME})]
Identifier = Annotated[str, as_written(_read_identifier), WithJsonSchema({"type": "string", "pattern": IDENTIFIER})]
Url = Annotated[str, as_written(read_url), WithJsonSchema({"type": "string", "pattern": r"^(https?://[^/]|\$\{)"})]
Flag = Annotated[bool, as_written(read_flag)]
Count = Annotated[int, as_written(units.count), Field(ge=0), WithJsonSchema({"type": "integer", "minimum": 0})]
PositiveCount = Annotated[int, as_written(_read_positive_count), Field(ge=1), WithJsonSchema(_LEVEL)]
Duration = Annotated[
    float, as_written(units.duration), Field(ge=0), WithJsonSchema({"anyOf": [_DURATION, {"const": 0}]})
]
PositivePercentage = Annotated[
    float,
    as_written(_read_positive_percentage),
    Field(gt=0, lt=1),
    WithJsonSchema({"type": ["string", "number"], "examples": ["1%"]}),
]
PositiveDuration = Annotated[float, as_written(_read_positive_duration), Field(gt=0), WithJsonSchema(_DURATION)]
Screen = Annotated[
    float,
    as_written(_read_screen),
    Field(ge=SCREEN[0], le=SCREEN[1]),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": units.PERCENTAGE},
                {"type": "number", "minimum": SCREEN[0], "maximum": SCREEN[1]},
            ]
        }
    ),
]
Command = Annotated[
    tuple[str, ...], as_written(read_command), WithJsonSchema({"anyOf": [{"type": "string"}, _ARGUMENTS]})
]
PositiveSize = Annotated[int, as_written(_read_positive_size), Field(gt=0), WithJsonSchema({"type": "string"})]
Texts = Annotated[
    tuple[str, ...],
    as_written(_read_texts),
    WithJsonSchema({"type": "array", "items": {"type": "string", "minLength": 1}}),
]
Env = Annotated[
    dict[str, str],
    as_written(read_env),
    WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": VARIABLE},
            "additionalProperties": {"type": ["string", "integer"]},
        }
    ),
]
_SETTINGS = {"type": "object", "propertyNames": {"pattern": SETTING}}
Fixed = Annotated[dict[str, Any], as_written(read_fixed), WithJsonSchema(_SETTINGS)]
Seeds = Annotated[
    tuple[dict[str, Any], ...],
    as_written(read_seeds),
    WithJsonSchema({"type": "array", "minItems": 1, "items": {**_SETTINGS, "minProperties": 1}}),
]
