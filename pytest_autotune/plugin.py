"""The pytest plugin: hooks that hand over to the modules that do the work.

Imports stay light: a pytest run without suites loads this module and little more.
"""

from __future__ import annotations

import gc
import os
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import pytest

from pytest_autotune import benchmark as load_benchmark
from pytest_autotune.discovery import is_suite, suites_of
from pytest_autotune.settings import WORKER_RUN_ID, Settings, add_options
from pytest_autotune.stash import NOT_RUN, run_of, settings_key, settings_of, summary_key

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from xdist.workermanage import WorkerController

    from pytest_autotune.outcomes import Markup
    from pytest_autotune.scheduling import TrialScheduling


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare options and ini values."""
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that other plugins may implement."""
    from pytest_autotune import hooks

    pluginmanager.add_hookspecs(hooks)


def pytest_configure(config: pytest.Config) -> None:
    """Resolve the settings and offer the fixture `benchmark`; with something to search or to verify, begin the run."""
    config.addinivalue_line("markers", "config(**parameters): parameters and load level of a trial's items")
    config.stash[settings_key] = settings = Settings.from_pytest(config)
    load_benchmark.offer(config)
    if settings.active:
        from pytest_autotune import searching

        searching.begin(config)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say whose fixture `benchmark` is where two plugins have one."""
    return load_benchmark.header(config)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Collect without the cyclic garbage collector: trials are made to stay, and it would look through all of them.

    What a search has collected it leaves alone from then on: pytest collects garbage at its end, which took about a
    third of the time of collecting 10,000 configurations.
    """
    if not settings_of(session.config).active or not gc.isenabled():
        return (yield)
    gc.disable()
    try:
        return (yield)
    finally:
        if settings_of(session.config).searching:
            gc.freeze()
        gc.enable()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect suites: YAML files, and Python files that pytest would not collect by itself."""
    if not _is_suite(file_path, parent):
        return None
    from pytest_autotune.nodes import PythonSuite, SuiteFile

    if file_path.suffix != ".py":
        return SuiteFile.from_parent(parent, path=file_path)
    by_pytest = parent.session.isinitpath(file_path) or any(
        fnmatch(file_path.name, pattern) for pattern in parent.config.getini("python_files")
    )
    return None if by_pytest else PythonSuite.from_parent(parent, path=file_path)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Collect ``suite_*.py`` files that pytest comes across as Python suites."""
    if not _is_suite(module_path, parent):
        return None
    from pytest_autotune.nodes import PythonSuite

    return PythonSuite.from_parent(parent, path=module_path)


def _is_suite(path: Path, parent: pytest.Collector) -> bool:
    patterns = settings_of(parent.config).suite_patterns
    return is_suite(path, given=parent.session.isinitpath(path), patterns=patterns)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report findings as expected failures, and errors without tracebacks."""
    report = yield
    if settings_of(item.config).active:
        from pytest_autotune import searching

        searching.restate_report(report, item, call)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report: pytest.TestReport | pytest.CollectReport, config: pytest.Config) -> Markup | None:
    """Put configuration and finding into the status word."""
    if not settings_of(config).active or not isinstance(report, pytest.TestReport):
        return None
    from pytest_autotune.outcomes import status

    return status(report)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Show progress while trials run; afterwards select, export and report the gate."""
    if not _is_controller(session.config):
        return (yield)
    from pytest_autotune import searching

    with searching.progress(session.config), searching.workers_interrupted_too(session.config):
        result = yield  # an interrupt or -x goes through: no verdict on half a run
    searching.conclude(session)
    return result


def pytest_sessionfinish(session: pytest.Session, exitstatus: int | pytest.ExitCode) -> None:
    """Note how the run ended."""
    if _is_controller(session.config):
        from pytest_autotune import searching

        searching.end(session.config, pytest.ExitCode(exitstatus))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the result of each suite, or what to do to get one."""
    skipped = [report for report in terminalreporter.stats.get("skipped", ()) if isinstance(report, pytest.TestReport)]
    reasons = [(report.nodeid.partition("::")[0], dict(report.user_properties).get(NOT_RUN)) for report in skipped]
    lines = [
        *(f"{suite}: skipped: {reason}" for suite, reason in reasons if reason is not None),
        *config.stash.get(summary_key, ()),
    ]
    if lines:
        terminalreporter.section("autotune")
        for line in lines:
            terminalreporter.write_line(line)


def _is_controller(config: pytest.Config) -> bool:
    settings = settings_of(config)
    return settings.active and not settings.plan_only and not hasattr(config, "workerinput")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    """Tell an xdist worker which run it belongs to."""
    if settings_of(node.config).active:
        node.workerinput[WORKER_RUN_ID] = run_of(node.config).id


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController, error: object | None) -> None:
    """Give up the trials of a worker that died, and go on."""
    if error and _is_controller(node.config):
        from pytest_autotune import searching

        searching.go_on_without(node)
        run_of(node.config).worker_died(node.gateway.id, str(error))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Of ``-n auto``: as many workers as trials fit onto the GPUs; without a suite as many as xdist would start."""
    settings = Settings.from_pytest(config)  # nothing is configured yet
    if not settings.active or os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    from pytest_autotune.workers import workers_for

    return workers_for(suites_of(config, settings.suite_patterns))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> TrialScheduling | None:
    """Hand whole trials to workers."""
    if not settings_of(config).active:
        return None
    from pytest_autotune.scheduling import TrialScheduling

    return TrialScheduling(config, log)
