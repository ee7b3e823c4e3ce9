"""Puts the content of presets in the place of their names, before a suite file is validated.

What a preset amounts to is then part of the suite like anything written in it: its values identify
measurements, its name does not. Only the places remember which file they come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_autotune import notation
from pytest_autotune.presets.library import find_preset
from pytest_autotune.presets.merging import MERGES, merge, plain
from pytest_autotune.problems import Collector
from pytest_autotune.spelling import nearest, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pytest_autotune.presets.library import Kind, Preset
    from pytest_autotune.presets.merging import Merge
    from pytest_autotune.yaml_source import Source

PREFIX = "preset:"
_ANY_FLAGS = "command"  # the engine whose server may be of any kind


def expand(source: Source, path: Path) -> Source:
    """Return a suite file with what its presets say; raise `Problems` for what is wrong in the file about them.

    What is wrong inside a preset is a `SuiteError` that names the preset's file and line.
    """
    collector = Collector()
    expansion = _Expansion(source, path.parent)
    for kind, read in (("parameters", expansion.parameters), ("slo", expansion.limits), ("tiers", expansion.tiers)):
        if kind in source.value:
            collector.read((kind,), read, source.value[kind])
    collector.finish()
    return expansion.source


class _Expansion:
    """A suite file whose blocks are expanded one after the other."""

    def __init__(self, source: Source, directory: Path) -> None:
        self.source = source
        self._directory = directory

    def parameters(self, written: Any) -> None:
        written = _as_mapping(written)
        if not isinstance(written, Mapping):
            return
        collector = Collector()
        named, how = written.get("preset"), written.get("merge")
        if not isinstance(named, str | list):  # nothing, or a setting that has this name
            if isinstance(how, str):
                collector.note(("merge",), "says how presets become one, and no preset is named; remove it")
            collector.finish()
            return
        presets = collector.read(("preset",), self._named, "parameters", named)
        merging = collector.read(("merge",), _read_merge, how) if isinstance(how, str) else "union"
        collector.finish()
        ours = ("preset", "merge") if isinstance(how, str) else ("preset",)
        own = {name: value for name, value in written.items() if name not in ours}
        set_here = {plain(name) for name in (*own, *self._fixed())}
        contents = {preset.name: preset.content for preset in presets}
        merged = collector.read(("preset",), merge, contents, merging, without=set_here)
        collector.finish()
        self._put("parameters", merged, own, presets if merging != "last" else presets[::-1])

    def limits(self, written: Any) -> None:
        written = _as_mapping(written)
        if not isinstance(written, Mapping) or "preset" not in written:
            return
        collector = Collector()
        presets = collector.read(("preset",), self._named, "slo", (written["preset"],))
        collector.finish()
        own = {name: value for name, value in written.items() if name != "preset"}
        content = {name: value for name, value in presets[0].content.items() if name not in own}
        self._put("slo", content, own, presets)

    def tiers(self, written: Any) -> None:
        """Put limits in the place of presets: each alone or in a list is a tier of its name, or what a tier is."""
        collector = Collector()
        listed = [written] if isinstance(written, str) and written.startswith(PREFIX) else written
        if isinstance(listed, list) and any(isinstance(each, str) and each.startswith(PREFIX) for each in listed):
            written = collector.read((), self._named_tiers, listed, single=listed is not written)
        collector.finish()
        if not isinstance(written, Mapping):
            return
        for name, block in written.items():
            collector.read((name,), self._tier, name, block)
        collector.finish()

    def _named_tiers(self, listed: Sequence[Any], *, single: bool) -> dict[str, Any]:
        """Return a tier for each preset of a list, by its name, and take over where each is written."""
        collector = Collector()
        tiers: dict[str, Any] = {}
        lines = dict(self.source.lines)
        for index, each in enumerate(listed):
            where = () if single else (index,)
            if not (isinstance(each, str) and each.startswith(PREFIX)):
                problem = f"{show(each)} is not the name of a preset; write e.g. preset:chat, or a mapping of tiers"
                collector.note(where, problem)
                continue
            name = each.removeprefix(PREFIX).strip()
            if name in tiers:
                collector.note(where, f"{show(name)} is named twice; remove one")
            collector.read(where, self._preset, "slo", name)
            tiers[name] = each
            lines["tiers", name] = self.source.line(("tiers", *where))
        collector.finish()
        self.source = replace(self.source, value={**self.source.value, "tiers": tiers}, lines=lines)
        return tiers

    def _tier(self, name: str, written: Any) -> None:
        written = _as_mapping(written)
        if not isinstance(written, Mapping) or "preset" not in written:
            return
        collector = Collector()
        (preset,) = collector.read(("preset",), self._named, "slo", (written["preset"],)) or (None,)
        collector.finish()
        assert preset is not None, "a problem was told otherwise"
        own = {key: value for key, value in written.items() if key != "preset"}
        content = {key: value for key, value in preset.content.items() if key not in (*own, *notation.OF_ALL_TIERS)}
        lines, files = dict(self.source.lines), dict(self.source.files)
        for limit in content:
            files["tiers", name, limit] = preset.path
            inside = (where for where in preset.lines if where[:2] == ("slo", limit))
            lines |= {("tiers", name, *where[1:]): preset.lines[where] for where in inside}
        tiers = {**self.source.value["tiers"], name: {**content, **own}}
        self.source = replace(self.source, value={**self.source.value, "tiers": tiers}, lines=lines, files=files)

    def _fixed(self) -> Iterable[str]:
        fixed = self.source.value.get("fixed")
        return fixed if isinstance(fixed, Mapping) else ()

    def _named(self, kind: Kind, named: str | Sequence[Any]) -> tuple[Preset, ...]:
        listed = [named] if isinstance(named, str) else named
        names = [each.removeprefix(PREFIX) if isinstance(each, str) else each for each in listed]
        if not names:
            raise ValueError("an empty list names no preset; remove the key")
        collector = Collector()
        found = []
        for index, name in enumerate(names):
            where = (index,) if len(names) > 1 else ()
            if name in names[:index]:
                collector.note(where, f"{show(name)} is named twice; remove one")
            found.append(collector.read(where, self._preset, kind, name))
        collector.finish()
        return tuple(found)

    def _preset(self, kind: Kind, name: Any) -> Preset:
        if not isinstance(name, str):
            raise ValueError(f"{show(name)} is not the name of a preset; see: python -m pytest_autotune presets")
        preset = find_preset(kind, name, beside=self._directory)
        engine = self.source.value.get("engine")
        if None not in (preset.engine, engine) and engine not in (preset.engine, _ANY_FLAGS):
            raise ValueError(f"preset {preset.name!r} is for engine {preset.engine}, not for {show(engine)}")
        return preset

    def _put(self, kind: Kind, content: Mapping[str, Any], own: Mapping[str, Any], presets: Sequence[Preset]) -> None:
        """Put `content` before what the suite writes itself, each with the place in the first preset that has it."""
        lines, files = dict(self.source.lines), dict(self.source.files)
        for name in content:
            preset, spelled = next(
                (preset, each) for preset in presets for each in preset.content if plain(each) == plain(name)
            )
            files[kind, name] = preset.path
            inside = (where for where in preset.lines if where[:2] == (kind, spelled))
            lines |= {(kind, name, *where[2:]): preset.lines[where] for where in inside}
        value = {**self.source.value, kind: {**content, **own}}
        self.source = replace(self.source, value=value, lines=lines, files=files)


def _as_mapping(written: Any) -> Any:
    """Return ``preset:chat`` as the mapping that it abbreviates."""
    if isinstance(written, str) and written.startswith(PREFIX):
        return {"preset": written.removeprefix(PREFIX).strip()}
    return written


def _read_merge(how: str) -> Merge:
    if how not in MERGES:
        raise ValueError(f"{show(how)} is not one of {', '.join(MERGES)}{nearest(how, MERGES)}")
    return how
