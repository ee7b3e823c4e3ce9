"""The presets there are: shipped files and those beside a suite, each read and validated by itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pytest_autotune import notation
from pytest_autotune.errors import SuiteError
from pytest_autotune.fields import read_mapping, read_suite_name
from pytest_autotune.problems import Collector, dotted
from pytest_autotune.spelling import nearest, show
from pytest_autotune.yaml_source import read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_autotune.problems import Where

Kind = Literal["parameters", "slo"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SUFFIX = ".preset.yaml"  # of a user's own, beside the suite; it is never taken for a suite

_SHIPPED = Path(__file__).parent
_READERS = {"parameters": notation.read_parameters, "slo": notation.read_limits}


@dataclass(frozen=True, slots=True)
class Preset:
    """One preset; `content` is as it is written, and valid by itself."""

    name: str
    kind: Kind
    description: str
    engine: str | None  # None fits any
    source: str
    content: Mapping[str, Any]
    path: Path
    lines: Mapping[Where, int]


def find_preset(kind: Kind, name: str, *, beside: Path | None) -> Preset:
    """Return a preset by name: that of the directory `beside` if it has one, else the shipped one.

    Raise `ValueError` when there is none, and `SuiteError`, with its own file and line, for one that is wrong.
    """
    read_suite_name(name)
    own = None if beside is None else beside / f"{name}{SUFFIX}"
    if own is not None and own.is_file():
        preset = _read(own, name)
        if preset.kind == kind:
            return preset
    shipped = _SHIPPED / kind / f"{name}.yaml"
    if shipped.is_file():
        return _read(shipped, name)
    known = sorted({_name(path) for path in _files(kind, beside)})
    raise ValueError(f"{show(name)} is no preset for {kind}{nearest(name, known)}; there are {', '.join(known)}")


def all_presets(*, beside: Path | None) -> tuple[Preset, ...]:
    """Return the presets that a suite in the directory `beside` may name, by kind and name."""
    names = {(kind, _name(path)) for kind in KINDS for path in _files(kind, beside)}
    return tuple(find_preset(kind, name, beside=beside) for kind, name in sorted(names))


def _files(kind: Kind, beside: Path | None) -> Iterator[Path]:
    own: Iterable[Path] = () if beside is None else beside.glob(f"*{SUFFIX}")
    yield from (path for path in own if _read(path, _name(path)).kind == kind)
    yield from (_SHIPPED / kind).glob("*.yaml")


def _name(path: Path) -> str:
    return path.name.removesuffix(SUFFIX).removesuffix(".yaml")


def _read(path: Path, name: str) -> Preset:
    source = read_yaml(path, least="parameters: or slo:")
    collector = Collector()
    keys = ("description", "engine", "source", *KINDS)
    written = collector.read((), read_mapping, source.value, keys=keys) or {}
    kinds = [kind for kind in KINDS if kind in written]
    if not collector.found and len(kinds) != 1:
        collector.note((), "a preset has either parameters: or slo:")
    for key in ("description", "engine", "source"):
        if not isinstance(written.get(key, ""), str):
            collector.note((key,), f"{show(written[key])} is not text; put it in quotes")
    for kind in kinds:
        collector.read((kind,), _READERS[kind], written[kind])
        if not written[kind]:
            collector.note((kind,), "is empty; a preset has something to give")
    if kinds == ["slo"] and not written.get("source"):
        collector.note(("slo",), "has no source:; say where these limits come from, by a URL or a document's name")
    if kinds == ["slo"] and "engine" in written:
        collector.note(("engine",), "limits are the same for every engine; remove it")
    if collector.found:
        problem = min(collector.found, key=lambda each: source.line(each.where))
        prefix = f"{dotted(problem.where)}: " if problem.where else ""
        raise SuiteError(f"{prefix}{problem.text}", path=path, line=source.line(problem.where))
    return Preset(
        name=name,
        kind=kinds[0],
        description=written.get("description", ""),
        engine=written.get("engine"),
        source=written.get("source", ""),
        content=written[kinds[0]],
        path=path,
        lines=source.lines,
    )
