"""Whether the settings that a suite names are ones that the installed engine understands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_autotune.engines.flags import flag_name
from pytest_autotune.space import Choice
from pytest_autotune.spelling import nearest, show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_autotune.engines.engine import Flag, Installed
    from pytest_autotune.errors import SuiteError
    from pytest_autotune.space import Value
    from pytest_autotune.suite import Suite


def unknown_flags(suite: Suite, installed: Installed) -> tuple[SuiteError, ...]:
    """Return one error for each setting of `suite` that the installed engine would refuse, with its file and line.

    Names must be flags of the engine in their full spelling (argparse would take ``max-num-seq``
    for ``max-num-seqs``, and the next release might not), not reserved for the deployment, and
    values must be among the flag's choices. Nothing is checked when the engine does not tell its flags.
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
    return tuple(found)


def _settings(suite: Suite) -> Iterator[tuple[tuple[str | int, ...], str, tuple[Value, ...]]]:
    """Yield where a setting is named, its name, and the values that are known to be tried."""
    for parameter in suite.space.parameters:
        values = parameter.values if isinstance(parameter, Choice) else ()
        yield ("parameters", parameter.name), parameter.name, values
    for name, value in suite.fixed.items():
        yield ("fixed", name), name, (value,)
    for at, constraint in enumerate(suite.space.constraints):
        for name in sorted(constraint.names):
            yield ("constraints", at), name, ()


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
