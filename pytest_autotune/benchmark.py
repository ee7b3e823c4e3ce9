"""The fixture `benchmark`, also called `load_benchmark`: loads a server inside any test and measures it."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from pytest_autotune.stash import foreign_benchmark_key

if TYPE_CHECKING:
    from pytest_autotune.load_command.result import LoadResult

NAME = "benchmark"  # of the fixture, unless another plugin has one of this name


def offer(config: pytest.Config) -> None:
    """Register the fixture under both names; under the second one only where another plugin has the first.

    pytest takes whichever of two plugins' fixtures was registered last, which depends on the order
    of installation; and existing tests of pytest-benchmark must go on as they are. So the other one
    wins, always, and the report's header says so.
    """
    config.pluginmanager.register(_Fixtures(), "autotune-load-benchmark")
    others = [
        name
        for name, plugin in config.pluginmanager.list_name_plugin()
        if isinstance(plugin, ModuleType) and hasattr(plugin, NAME) and not _is_conftest(plugin)
    ]
    if others:
        config.stash[foreign_benchmark_key] = others[0]
    else:
        config.pluginmanager.register(_ShortName(), "autotune-benchmark")


def header(config: pytest.Config) -> str | None:
    """Return the line that says which fixture is whose, where both are there."""
    other = config.stash.get(foreign_benchmark_key, None)
    if other is None:
        return None
    return f"autotune: the fixture {NAME} is that of plugin {other}; load_benchmark loads a server"


class LoadBenchmark:
    """Loads a server: ``benchmark(url, concurrency=8, duration="10s")``.

    The keywords are the options of ``python -m pytest_autotune load`` with `_` for `-`; durations
    are text with a unit, or seconds. A batch that could not be measured raises: a saturated
    client is `ClientSaturated`, so that no test passes on numbers that are not the server's.
    """

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        self._names: list[str] = []

    def __call__(self, url: str, **options: object) -> LoadResult:
        """Measure one load level; the metrics also become properties of the test's report, for JUnit."""
        from pytest_autotune.load_command.single import load_once

        result = load_once({"url": url, **options})
        self._report(result)
        return result

    def _report(self, result: LoadResult) -> None:
        self._names.append(result.level.name)
        repeated = self._names.count(result.level.name)
        name = result.level.name if repeated == 1 else f"{result.level.name}#{repeated}"
        self._item.user_properties += [(f"{name}.{metric}", float(f"{result[metric]:.6g}")) for metric in result]
        self._item.user_properties.append((f"{name}.verdict", str(result.verdict.status)))


class _Fixtures:
    @pytest.fixture
    def load_benchmark(self, request: pytest.FixtureRequest) -> LoadBenchmark:
        """Load a server and measure it, as in ``load_benchmark(url, concurrency=8, duration="10s")``."""
        return LoadBenchmark(request.node)


class _ShortName:
    @pytest.fixture
    def benchmark(self, load_benchmark: LoadBenchmark) -> LoadBenchmark:
        """Load a server and measure it, as in ``benchmark(url, concurrency=8, duration="10s")``."""
        return load_benchmark


def _is_conftest(plugin: ModuleType) -> bool:
    """Say whether a plugin is a conftest.py: a fixture there overrides ours for its own tests, as pytest documents."""
    return (plugin.__file__ or "").endswith("conftest.py")
