"""What --autotune does around pytest's session: begins the run, shows progress, concludes with the gate."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager, nullcontext, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import pytest

from pytest_autotune.errors import AutotuneError, StoreError
from pytest_autotune.progress import CI_INTERVAL_S, StoreReporter, StoreWatcher, Throttled
from pytest_autotune.stash import WORKER_INTERRUPTED, run_of, settings_of, summary_key
from pytest_autotune.ticker import Ticker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from xdist.workermanage import WorkerController

    from pytest_autotune.results import Conclusion
    from pytest_autotune.settings import Settings

Outcome = Literal["passed", "failed", "skipped"]
PHASES: tuple[Literal["setup", "call", "teardown"], ...] = ("setup", "call", "teardown")


def begin(config: pytest.Config) -> None:
    """Refuse what cannot work, make the fixtures known, and on the controller begin the run."""
    from pytest_autotune import nodes

    _refuse_reruns(config)
    _refuse_contradictions(settings_of(config))
    config.pluginmanager.register(nodes, "autotune-fixtures")
    if settings_of(config).plan_only:
        return
    run = run_of(config)
    if run.is_worker:
        run.open_log(f"run-{os.environ['PYTEST_XDIST_WORKER']}")
        run.reporter = StoreReporter(run.store, run.id, run.owner)
        config.pluginmanager.register(_WorkerInterrupts(config), "autotune-interrupts")
        _handle(config, signal.SIGINT, _interrupt_once)
        return
    _end_on_signals(config)
    try:
        swept = run.begin(config.invocation_params.args)
    except AutotuneError as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[summary_key] = tuple(f"swept: {line}" for line in swept)


def _refuse_reruns(config: pytest.Config) -> None:
    """pytest-rerunfailures sets a trial up twice and tears it down once: a leaked server and half a record."""
    if getattr(config.option, "reruns", None):
        raise pytest.UsageError(
            "--reruns cannot be combined with suites of pytest-autotune: a trial's batches share one server and one "
            "record; run the same command again to measure again what could not be measured"
        )


def _refuse_contradictions(settings: Settings) -> None:
    if settings.compare is not None and settings.searching:
        raise pytest.UsageError(
            "--autotune-compare compares what is recorded and --autotune searches: leave one of them out"
        )
    if settings.record and not settings.searching and settings.compare is None:
        raise pytest.UsageError(
            "--autotune-record records what a search selects, or the noise of a comparison of equal sides: "
            "add --autotune or --autotune-compare, or leave it out"
        )
    if settings.fresh and settings.rejudge:
        raise pytest.UsageError(
            "--autotune-fresh measures everything again and --autotune-rejudge nothing: leave one of them out"
        )


def _end_on_signals(config: pytest.Config) -> None:
    """End on SIGTERM and SIGHUP as on Ctrl-C: servers torn down, results stored, JUnit written, exit status 2."""

    def interrupt(signum: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(signum).name)

    for signum in (signal.SIGTERM, signal.SIGHUP):
        _handle(config, signum, interrupt)
    config.add_cleanup(_forget_interrupts)
    config.pluginmanager.register(_InterruptsHaveLines(), "autotune-interrupts")


class _InterruptsHaveLines:
    """Keeps pytest's exit status after an interrupt that hit code without a line of its own.

    Python adds such code between the lines of a function. pytest shows where it was interrupted, and
    an entry of the traceback without a line is to it an internal error.
    """

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Give those entries the first line of their function."""
        entries: list[TracebackType] = []
        entry: TracebackType | None = excinfo.tb
        while entry is not None:
            entries.append(entry)
            entry = entry.tb_next
        for old in reversed(entries):
            line: int | None = old.tb_lineno  # None is what typeshed does not know of
            entry = TracebackType(entry, old.tb_frame, old.tb_lasti, line or old.tb_frame.f_code.co_firstlineno)
        if entry is not None:
            excinfo.traceback = type(excinfo.traceback)(entry)


def _forget_interrupts() -> None:
    """Keep pytest's exit status after an interrupt that hit code which Python compiled from a string.

    Python remembers an interrupt that left such code, a dataclass being made say, although pytest
    caught it, and would at its end kill itself by SIGINT. The next such code that runs clears that.
    """
    exec("pass")  # noqa: S102 - a constant


def _handle(config: pytest.Config, signum: signal.Signals, handler: Callable[[int, FrameType | None], None]) -> None:
    """Handle a signal until pytest unconfigures."""
    before = signal.signal(signum, handler)

    def restore() -> None:
        signal.signal(signum, before)

    config.add_cleanup(restore)


def _interrupt_once(_signum: int, _frame: FrameType | None) -> None:
    """End an xdist worker in order, on the first of the SIGINTs that terminal, controller and execnet may send."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


class _WorkerInterrupts:
    """In an xdist worker: tells the controller of a SIGINT, which for xdist looks the same as `pytest.exit`."""

    def __init__(self, config: pytest.Config) -> None:
        self._config: Any = config

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Note it in what the worker sends when it ends."""
        self._config.workeroutput[WORKER_INTERRUPTED] = excinfo.errisinstance(KeyboardInterrupt)


@contextmanager
def workers_interrupted_too(config: pytest.Config) -> Iterator[None]:
    """Pass an interrupt on to workers in the middle of a trial; xdist would wait for them until CI loses patience."""
    try:
        yield
    except KeyboardInterrupt:
        with suppress(StoreError):  # they end later then; the interrupt must not turn into another error
            run_of(config).interrupt_workers()
        raise


def go_on_without(node: WorkerController) -> None:
    """Let the run go on after one worker was interrupted: it has lost a trial, like one that was killed.

    xdist ends the whole run then. Ctrl-C still does: the terminal interrupts the controller, too.
    """
    session: Any = node.config.pluginmanager.getplugin("dsession")
    if getattr(node, "workeroutput", {}).get(WORKER_INTERRUPTED) and not session.shuttingdown:
        session.shouldstop = False


def restate_report(report: pytest.TestReport, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Restate the report of a trial's item; leave other tests alone."""
    from pytest_autotune.nodes import SuiteNotRun, Trial
    from pytest_autotune.outcomes import restate
    from pytest_autotune.pairing import is_baseline

    if isinstance(item.parent, Trial) or isinstance(item, SuiteNotRun):
        error = None if call.excinfo is None else call.excinfo.value
        findings = settings_of(item.config).searching
        if isinstance(item.parent, Trial):
            findings = findings or is_baseline(item.parent.slot.name)
        restate(report, item, error, findings=findings)


@contextmanager
def progress(config: pytest.Config) -> Iterator[None]:
    """Show where the trials stand while the session runs."""
    run = run_of(config)
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is None:
        yield
        return

    def write(line: str) -> None:
        capture = config.pluginmanager.getplugin("capturemanager")
        with nullcontext() if capture is None else capture.global_and_fixture_disabled():
            reporter.ensure_newline()
            reporter.write_line(f"[autotune] {line}", purple=True)
            reporter.flush()

    if config.pluginmanager.hasplugin("dsession"):
        with Ticker(StoreWatcher(run.store, run.id, write).look, interval_s=CI_INTERVAL_S):
            yield
        return
    run.reporter = Throttled(write, interval_s=CI_INTERVAL_S)
    try:
        yield
    finally:
        run.reporter = None


def conclude(session: pytest.Session) -> None:
    """Select the best of each suite, write what was asked for, and report each suite's gate."""
    from pytest_autotune.results import conclude_suites

    conclusions = conclude_suites(run_of(session.config))
    for conclusion in conclusions:
        _report_gate(session, conclusion)
    lines = [line for conclusion in conclusions for line in conclusion.lines]
    session.config.stash[summary_key] = (*session.config.stash.get(summary_key, ()), *lines)


def end(config: pytest.Config, status: pytest.ExitCode) -> None:
    """Note how the run ended; after an interrupt say that nothing is lost."""
    run = run_of(config)
    run.end(status.name.lower())
    if status is pytest.ExitCode.INTERRUPTED and run.store.suites_of_run(run.id):
        hint = "every batch that ended is stored; the same command continues with the trials that have no result yet"
        config.stash[summary_key] = (*config.stash.get(summary_key, ()), hint)


def _report_gate(session: pytest.Session, conclusion: Conclusion) -> None:
    """Report the gate as a test of its own, so that terminal, JUnit and exit status follow by themselves."""
    suite, gate = conclusion.nodeid, conclusion.gate
    hook, nodeid, now = session.config.hook, f"{suite}::gate", time.time()
    location = (suite, None, "gate")
    skipped = conclusion.partial or ("" if gate.holds or gate.broken else gate.reason)
    verdict: Outcome = "skipped" if skipped else "passed" if gate.holds else "failed"
    text = (suite, 1, f"Skipped: {skipped}") if skipped else gate.reason or None
    session.testscollected += 1
    hook.pytest_runtest_logstart(nodeid=nodeid, location=location)
    for when in PHASES:
        report = pytest.TestReport(
            nodeid=nodeid,
            location=location,
            keywords={},
            outcome=verdict if when == "call" else "passed",
            longrepr=text if when == "call" else None,
            when=when,
            start=now,
            stop=now,
        )
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=nodeid, location=location)
