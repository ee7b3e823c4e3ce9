"""Which files are suites, and whether what a run collects has any that can be verified."""

from __future__ import annotations

import os
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pytest

BASELINES = "*.best.json"
SUFFIXES = (".yaml", ".yml")
PRESETS = "*.preset.yaml"  # what suites beside it may name, and no suite itself


def is_suite(path: Path, *, given: bool, patterns: Sequence[str]) -> bool:
    """Say whether `path` is a suite: by its name when it is `given` on the command line, else by the patterns too."""
    if path.match(PRESETS):
        return False
    named = path.name.startswith("suite_") if path.suffix == ".py" else path.suffix in SUFFIXES
    return named and (given or any(path.match(pattern) for pattern in patterns))


def may_verify(config: pytest.Config, patterns: Sequence[str], store: Path | None) -> bool:
    """Say whether a run collects a suite for which a best configuration may be recorded, beside it or in a store.

    Decided by names of files alone, before anything is collected: xdist chooses its scheduler, and this plugin
    begins its run, before that. `store` is the file of the results store; None for one that is no file.
    """
    stored = store is None or store.exists()
    return any(stored or any(path.parent.glob(BASELINES)) for path in suites_of(config, patterns))


def suites_of(config: pytest.Config, patterns: Sequence[str]) -> Iterator[Path]:
    """Yield the files that a run collects as suites, by their names alone, before anything is collected."""
    pruned = config.getini("norecursedirs")
    for argument in config.args:
        path = config.invocation_params.dir / str(argument).partition("::")[0]
        if not path.is_dir():
            if path.exists() and is_suite(path, given=True, patterns=patterns):
                yield path
            continue
        for directory, below, files in os.walk(path):
            below[:] = [name for name in below if not any(fnmatch(name, pattern) for pattern in pruned)]
            found = (Path(directory, name) for name in files if name.endswith(SUFFIXES))
            yield from (file for file in found if is_suite(file, given=False, patterns=patterns))
