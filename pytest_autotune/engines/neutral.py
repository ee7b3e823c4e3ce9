"""What a server is told: the settings of a suite as flags of its engine, neutral and structured ones expanded.

The one place where that happens: whatever wants to know flags (command lines, rules, GPUs, memory) asks here.
A flag that the suite sets itself wins over what a neutral setting stands for, and that over `quantization` and
`parallelism`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_autotune import parallelism, quantization
from pytest_autotune.engines import requirements, vllm_rules
from pytest_autotune.engines.dialects import DIALECTS, NEUTRAL, Memory
from pytest_autotune.engines.flags import flag_name, merged
from pytest_autotune.errors import MissingRequirement
from pytest_autotune.parallelism import parallelism_of
from pytest_autotune.quantization import quantization_of
from pytest_autotune.spelling import show
from pytest_autotune.structured import dialect_named

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from pytest_autotune.engines.dialects import Dialect
    from pytest_autotune.space import Configuration, Value
    from pytest_autotune.suite import Suite

MEMORY = "memory-fraction"
NAMES = frozenset((*NEUTRAL, parallelism.NAME, quantization.NAME))  # of settings that may be expanded
_SWITCHES = ("eager", "prefix-cache")
_COUNTS = ("max-sequences", "max-batched-tokens", "context-length")


def dialect_of(suite: Suite) -> Dialect | None:
    """Return the dialect of a suite's engine, or the one that it says for its command; None for unknown flags."""
    return DIALECTS.get(dialect_named(suite.engine, suite.dialect) or "")


def told(
    suite: Suite, configuration: Configuration, dialect: Dialect | None, *, without: Collection[str] = ()
) -> dict[str, Value]:
    """Return what a server with `suite.fixed` and `configuration` is told, by the names of flags.

    `without` are settings that it is told in another way, by the names of flags. A share of memory that cannot be
    converted stays under its neutral name (`contradiction` says why). Raises `SuiteError` for what the engine
    does not have, which `validation` tells of everything that a suite tries.
    """
    settings = merged(suite.fixed, configuration)
    left = {name: value for name, value in settings.items() if name not in without or not is_ours(name, value)}
    try:
        found = {name: value for name, value in expand(left, dialect).items() if name not in without}
    except ValueError as error:
        raise suite.error(str(error)) from error
    if MEMORY not in found or dialect is None or dialect.share is None:
        return found
    memory = memory_of(suite)
    try:
        converted = {} if dialect.share.lacks(memory) else dialect.share.convert(found[MEMORY], found, memory)
    except ValueError:
        return found
    return {name: value for name, value in found.items() if name != MEMORY} | converted if converted else found


def unknown_memory(suite: Suite, dialect: Dialect) -> str:
    """Say why no share of memory can be converted for a suite; an empty text where it can."""
    if dialect.share is None or not (lacking := dialect.share.lacks(memory_of(suite))):
        return ""
    remedy = f"write {dialect.share.flag}, the engine's own share, instead"
    return f"{dialect.name} counts shares of memory in another way, and {lacking} is not known here; {remedy}"


def contradiction(settings: Mapping[str, Value], suite: Suite, dialect: Dialect) -> str:
    """Return what no server of the dialect starts with, from flags and the model's files; else an empty text.

    A share of memory that cannot be converted, heads that the GPUs of a tensor-parallel group cannot share, and
    weights that are to be quantized while they are loaded, but are quantized in another way already.
    """
    if MEMORY in settings and dialect.share is not None:
        if lacking := unknown_memory(suite, dialect):
            return lacking
        try:
            dialect.share.convert(settings[MEMORY], settings, memory_of(suite))
        except ValueError as error:
            return f"memory_fraction: {error}"
    config = checkpoint_of(suite).config
    tp = settings.get(dialect.degree)
    heads = config.get("num_attention_heads") if "text_config" not in config else None
    if isinstance(tp, int) and tp > 0 and isinstance(heads, int) and heads % tp:
        return f"{heads} attention heads cannot be shared by {dialect.degree} {tp}"
    return vllm_rules.quantized_already(settings.get(dialect.method), config)


def memory_of(suite: Suite) -> Memory:
    """Return what is known of this machine's GPUs, and of the model's weights where its files are here."""
    try:
        gpus = requirements.gpus_here(suite)
    except MissingRequirement:
        gpus = ()  # which preflight tells
    return Memory(min((gpu.memory_bytes for gpu in gpus), default=0), checkpoint_of(suite).stored_bytes)


def checkpoint_of(suite: Suite) -> vllm_rules.Checkpoint:
    """Return what is known of a suite's model where its files are on this machine."""
    try:
        files = requirements.files_of_model(suite)
    except MissingRequirement:
        files = ""
    return vllm_rules.read_checkpoint(files) if files else vllm_rules.Checkpoint()


def expand(settings: Mapping[str, Value], dialect: Dialect | None) -> dict[str, Value]:
    """Return settings by the names of flags, those that are none expanded; without a dialect, all as they are.

    Shares of memory that must be converted stay under their neutral name. Raises `ValueError` for what the
    engine does not have.
    """
    given = merged(settings)
    if dialect is None:
        return given
    own = {name: value for name, value in given.items() if not is_ours(name, value)}
    derived: dict[str, Value] = {}
    for name in sorted(given.keys() - own.keys(), key=precedence):
        derived |= flags_of(name, given[name], dialect)
    known = explicit(own, dialect)
    left = {name: value for name, value in derived.items() if name not in known}
    return {**dialect.adjust(left, own), **own}


def explicit(own: Iterable[str], dialect: Dialect) -> set[str]:
    """Return the flags that a suite sets itself, in the spelling of the dialect: nothing else says what they do."""
    known = {dialect.spellings.get(name, name) for name in own}
    share = dialect.share
    return known | {MEMORY} if share is not None and flag_name(share.flag) in known else known


def is_ours(name: str, value: Value) -> bool:
    """Say whether a setting, by the name of its flag, is expanded and no flag of the engine itself."""
    if name == quantization.NAME:
        return value is None or quantization_of(value) is not None
    return name in NEUTRAL or name == parallelism.NAME


def flags_of(name: str, value: Value, dialect: Dialect) -> dict[str, Value]:
    """Return what one setting of ours stands for; `ValueError` where the engine has no such thing."""
    if value is None:
        return {}
    if name == parallelism.NAME:
        sizes = parallelism_of(value)
        if sizes is None:
            raise ValueError(f"parallelism: {show(value)} is none; write e.g. tp4 or {{tp: 2, pp: 2}}")
        return dialect.divide(sizes)
    if name == quantization.NAME:
        asked = quantization_of(value)
        assert asked is not None  # `is_ours`
        return dialect.quantize(asked)
    if problem := _problem_of(name, value):
        raise ValueError(problem)
    return _neutral(name, value, dialect)


def _neutral(name: str, value: Any, dialect: Dialect) -> dict[str, Value]:
    if name == "kv-cache-type":
        return dialect.kept(value)
    if name in dialect.written:
        return dialect.written[name](value)
    if name in dialect.renamed:
        return {dialect.renamed[name]: value}
    if name == MEMORY and dialect.share is not None:
        return {name: value}
    raise ValueError(f"{dialect.name} has no such setting; leave it out")


def _problem_of(name: str, value: Any) -> str:
    if name in _SWITCHES and not isinstance(value, bool):
        return f"{show(value)} is not true or false"
    if name in _COUNTS and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        return f"{show(value)} is not a whole number of at least 1"
    if name == MEMORY and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1):
        return f"{show(value)} is not a share of memory above 0 and at most 1"
    sizes = value if isinstance(value, list | tuple) else ()
    if name == "graph-sizes" and not (sizes and all(type(size) is int and size > 0 for size in sizes)):
        return f"{show(value)} is not a list of batch sizes, e.g. [1, 2, 4, 8]"
    return ""


def precedence(name: str) -> tuple[int, str]:
    """Return the place of a setting of ours among those that may stand for the same flag: later ones win."""
    return (0 if name in (parallelism.NAME, quantization.NAME) else 1, name)
