"""Whether the settings that a suite names are ones that its engine, and the installed one, understands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_autotune.engines.flags import flag_name, merged
from pytest_autotune.engines.neutral import (
    MEMORY,
    NAMES,
    dialect_of,
    explicit,
    flags_of,
    is_ours,
    precedence,
    unknown_memory,
)
from pytest_autotune.space import Choice, canonical
from pytest_autotune.spelling import nearest, show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_autotune.engines.dialects import Dialect
    from pytest_autotune.engines.engine import Flag, Installed
    from pytest_autotune.errors import SuiteError
    from pytest_autotune.space import Value
    from pytest_autotune.suite import Suite

    Named = tuple[tuple[str | int, ...], str, tuple[Value, ...]]


def unknown_flags(suite: Suite, installed: Installed) -> tuple[SuiteError, ...]:
    """Return one error for each setting of `suite` that the installed engine would refuse, with its file and line.

    Names must be flags of the engine in their full spelling (argparse would take ``max-num-seq``
    for ``max-num-seqs``, and the next release might not), not reserved for the deployment, and
    values must be among the flag's choices. Nothing is checked when the engine does not tell its flags.
    Neutral and structured settings are checked by the flags that they stand for.
    """
    if installed.flags is None:
        return ()
    flags = installed.flags
    engine = f"{suite.engine} {installed.version}".rstrip()
    found: list[SuiteError] = []
    for where, name, values in _settings(suite):
        flag = flags.get(flag_name(name).partition(".")[0])
        if flag is None:
            found.append(suite.error(f"{engine} has no flag {name!r}{nearest(flag_name(name), flags)}", *where))
        elif flag.reserved:
            found.append(suite.error(f"a suite cannot set {name!r}: {flag.reserved}", *where))
        elif "." not in name:
            found += [suite.error(problem, *where) for value in values if (problem := _refused(flag, value))]
    for where, value, expanded in _expanded(suite):
        for name, told_value in expanded.items():
            flag = flags.get(name)
            problem = f"it has no flag {name!r}" if flag is None else _refused(flag, told_value)
            if problem:
                found.append(suite.error(f"{show(value)} is nothing for {engine}: {problem}", *where))
    return tuple(found)


def unusable_settings(suite: Suite) -> tuple[SuiteError, ...]:
    """Return one error for each neutral or structured setting that would not do what it says, whatever is installed.

    A value that the engine has nothing for, and two values of a parameter that come to one command line: they
    would be measured as two configurations, and be the same server.
    """
    dialect = dialect_of(suite)
    if dialect is None:
        return ()
    found: list[SuiteError] = []
    for where, name, values in _ours(suite):
        for value in values:
            try:
                flags_of(flag_name(name), value, dialect)
            except ValueError as error:
                found.append(suite.error(f"{show(value)}: {error}", *where))
    if found:
        return tuple(found)
    shares = [where for where, name, _ in _ours(suite) if flag_name(name) == MEMORY]
    problem = unknown_memory(suite, dialect) if shares else ""
    return (*((suite.error(problem, *shares[0]),) if problem else ()), *_without_effect(suite, dialect))


def _without_effect(suite: Suite, dialect: Dialect) -> Iterator[SuiteError]:
    """Yield an error for each value that settings which win leave nothing of, or nothing that tells it from another."""
    always = [parameter.name for parameter in suite.space.parameters if parameter.when is None]
    settings = merged(suite.fixed, dict.fromkeys(always))
    taken = explicit((name for name in settings if name not in NAMES), dialect)
    for where, name, values in sorted(_ours(suite), key=lambda each: precedence(flag_name(each[1])), reverse=True):
        expanded = [(value, flags_of(flag_name(name), value, dialect)) for value in values]
        lines: dict[str, Value] = {}
        for value, flags in expanded:
            left = {flag: said for flag, said in flags.items() if flag not in taken}
            hidden = ", ".join(repr(flag) for flag in flags if flag in taken)
            if flags and not left:
                yield suite.error(
                    f"{show(value)} has no effect: {hidden} is set by another setting, which wins", *where
                )
                break
            if (line := canonical(left)) in lines:
                reason = f", as another setting sets {hidden}" if hidden else ""
                both = f"{show(lines[line])} and {show(value)}"
                yield suite.error(f"{both} are one command line of {dialect.name}{reason}; remove one", *where)
                break
            lines[line] = value
        if flag_name(name) in settings:
            taken = taken.union(*(flags for _, flags in expanded))


def _expanded(suite: Suite) -> Iterator[tuple[tuple[str | int, ...], Value, dict[str, Value]]]:
    """Yield where a neutral or structured setting is named, each value, and the flags that it stands for."""
    dialect = dialect_of(suite)
    if dialect is not None:
        for where, name, values in _ours(suite):
            yield from ((where, value, flags_of(flag_name(name), value, dialect)) for value in values)


def _ours(suite: Suite) -> Iterator[Named]:
    """Yield the settings that are expanded: where each is named, its name, and those values that are not a flag's."""
    if dialect_of(suite) is None:
        return
    for parameter in suite.space.parameters:
        values = parameter.values if isinstance(parameter, Choice) else (parameter.low, parameter.high)
        if ours := tuple(value for value in values if is_ours(flag_name(parameter.name), value)):
            yield ("parameters", parameter.name), parameter.name, ours
    for name, value in suite.fixed.items():
        if is_ours(flag_name(name), value):
            yield ("fixed", name), name, (value,)


def _settings(suite: Suite) -> Iterator[Named]:
    """Yield the flags that are named: where, the name, and the values that are known to be tried."""
    known = NAMES if dialect_of(suite) is not None else frozenset[str]()
    for parameter in suite.space.parameters:
        values = parameter.values if isinstance(parameter, Choice) else ()
        yield from _of_flags(("parameters", parameter.name), parameter.name, values, known)
    for name, value in suite.fixed.items():
        yield from _of_flags(("fixed", name), name, (value,), known)
    set_here = {*suite.fixed, *(parameter.name for parameter in suite.space.parameters)}
    for at, constraint in enumerate(suite.space.constraints):
        for name in sorted(constraint.names):
            if name not in set_here or flag_name(name) not in known:
                yield ("constraints", at), name, ()


def _of_flags(
    where: tuple[str | int, ...], name: str, values: tuple[Value, ...], known: frozenset[str]
) -> Iterator[Named]:
    """Yield a setting unless it, or all of its values, are expanded."""
    if flag_name(name) not in known:
        yield where, name, values
    elif own := tuple(value for value in values if not is_ours(flag_name(name), value)):
        yield where, name, own


def _refused(flag: Flag, value: Value) -> str | None:
    if value is None:
        return None
    if flag.boolean:
        return None if isinstance(value, bool) else f"{show(value)} is not true or false, and the flag is a switch"
    if isinstance(value, bool) and not flag.choices:
        return None
    values = value if flag.many and isinstance(value, list | tuple) else [value]
    for each in values:
        if flag.choices and (each if isinstance(each, str) else str(each)) not in flag.choices:
            return f"{show(each)} is not one of {', '.join(flag.choices)}{nearest(str(each), flag.choices)}"
    return None
