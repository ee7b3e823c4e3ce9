"""The collection tree of a suite: file, trials, deploy and batch items, and the fixtures on them."""

from __future__ import annotations

from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import pytest

from pytest_autotune.bench import NotRun
from pytest_autotune.budget import SearchEnded
from pytest_autotune.errors import (
    AutotuneError,
    BenchmarkError,
    ClientSaturated,
    Inconclusive,
    MissingRequirement,
    SloViolation,
)
from pytest_autotune.formatting import settings
from pytest_autotune.pairing import is_baseline, place_of
from pytest_autotune.probing import find_capacity
from pytest_autotune.scope import SpaceExhausted
from pytest_autotune.slo import Status, explain
from pytest_autotune.stash import NOT_RUN, run_of
from pytest_autotune.trial import LiveTrial
from pytest_autotune.views import Batch, Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from pytest_autotune.bench import Plan, Slot
    from pytest_autotune.deploy.server import Server
    from pytest_autotune.probing import Capacity
    from pytest_autotune.samples import Level
    from pytest_autotune.trial import MeasuredBatch

CHECK_FIXTURES = frozenset({"batch", "trial", "model_server"})


@cache
def _config_mark() -> pytest.MarkDecorator:
    """Return the mark that all items have, looked up once: pytest checks its name each time."""
    mark: pytest.MarkDecorator = pytest.mark.config
    return mark


class Trial(pytest.Collector):
    """One configuration, or a slot for one: claimed when its first item is set up, always torn down after its last."""

    def __init__(self, *, plan: Plan, slot: Slot, checks: tuple[pytest.Function, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan
        self.slot = slot
        self.checks = checks
        self.live: LiveTrial | None = None

    def collect(self) -> Iterator[pytest.Item]:
        """Yield ``deploy``, then for each level its batch and the file's own checks of it, then checks of the trial."""
        yield Deploy.from_parent(self, name="deploy")
        if self.plan.suite.load.searched is not None and not self.plan.levels:
            yield CapacityItem.from_parent(self, name="capacity")
            for check in self.checks:
                yield Check.from_parent(self, name=check.name, callobj=check.obj, level=None)
            return
        for level in self.plan.levels:
            yield BatchItem.from_parent(self, name=level.name, level=level)
            for check in self.checks:
                if "batch" in check.fixturenames:
                    yield Check.from_parent(self, name=f"{check.name}[{level.name}]", callobj=check.obj, level=level)
        for check in self.checks:
            if "batch" not in check.fixturenames:
                yield Check.from_parent(self, name=check.name, callobj=check.obj, level=None)

    def setup(self) -> None:
        """Claim the slot, once; a slot that is not to be run skips all its items."""
        run = run_of(self.config)
        if run.settings.plan_only:
            return
        try:
            self.live = LiveTrial(self.plan, self.slot, run.bench(self.plan))
        except (NotRun, SpaceExhausted, SearchEnded) as reason:
            pytest.skip(str(reason))
        self.addfinalizer(self.live.close)
        self.live.forget_checks_but({check.name for check in self.checks})

    def marker(self, level: Level | None = None) -> pytest.MarkDecorator:
        """Return what ``-m 'config(max_num_seqs=64, concurrency=8)'`` selects items by.

        Dashes become underscores; numbers with a fraction and lists are matched as text, since a
        mark expression knows integers, text, true, false and none only.
        """
        values = self._marked
        if level is not None:
            values = {**values, level.shape: _markable(level.number)}
        return _config_mark().with_args(**values)

    @cached_property
    def _marked(self) -> dict[str, Any]:
        return {name.replace("-", "_"): _markable(value) for name, value in self.slot.parameters.items()}

    @property
    def claimed(self) -> LiveTrial:
        """The claimed trial; only after `setup`."""
        assert self.live is not None, "a trial's items run only after its setup"
        return self.live


def _describe(item: pytest.Item, live: LiveTrial, **properties: object) -> None:
    """Put the trial's parameters and `properties` on the item's reports, which reach the controller and JUnit."""
    item.user_properties += [(f"param.{name}", value) for name, value in live.configuration.items()]
    item.user_properties += list(properties.items())
    item.user_properties.append(("autotune.configuration", settings(live.configuration)))
    if live.recorded:
        item.user_properties.append(("autotune.recorded", live.record.run_id))


class Deploy(pytest.Item):
    """``deploy``: starting the server, with a duration of its own, and what it answers where that is asked."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trial = _trial_of(self)

    def setup(self) -> None:
        """Deploy; a server that refuses is a finding, one that does not come up an error."""
        _describe(self, self.trial.claimed)
        _not_run_is_skip(self.trial.claimed.deploy)
        self.user_properties.append(("autotune.outcome", "deployed"))

    def runtest(self) -> None:
        """Assert that its answers are accurate, where it may have lost something; else there is nothing more to do."""
        if why := self.trial.claimed.inaccurate:
            raise SloViolation(why)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Place the item in its suite file."""
        return self.path, 0, f"{self.trial.name} deploy"


class BatchItem(pytest.Item):
    """``c8``: one load level, measured in the set-up phase and judged in the call phase.

    So a batch that cannot be measured is an error, one that misses its limits a failure.
    """

    def __init__(self, *, level: Level, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trial = _trial_of(self)
        self.level = level
        self.measured: MeasuredBatch | None = None
        self.add_marker(self.trial.marker(level))

    def setup(self) -> None:
        """Measure the batch, or read its record."""
        _describe(self, self.trial.claimed, **{self.level.shape: self.level.number})
        self.measured = measured = _measure(self.trial, self.level)
        self.user_properties += [(metric, _rounded(value)) for metric, value in sorted(measured.record.metrics.items())]
        if measured.verdict.status is Status.FAILED:
            raise BenchmarkError(measured.verdict.reason)

    def runtest(self) -> None:
        """Assert every SLO of the suite."""
        assert self.measured is not None, "pytest sets an item up before it runs it"
        verdict = self.measured.verdict
        if verdict.status is not Status.COMPLIANT:
            kind = Inconclusive if verdict.status is Status.INCONCLUSIVE else SloViolation
            raise kind(f"{verdict.reason}\n{explain(verdict)}")
        self.user_properties.append(("autotune.outcome", "compliant"))

    def reportinfo(self) -> tuple[Path, int, str]:
        """Place the item in its suite file."""
        return self.path, 0, f"{self.trial.name} {self.name}"


class CapacityItem(pytest.Item):
    """``capacity``: the largest load that complies, searched for in the set-up phase and judged in the call phase."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trial = _trial_of(self)
        self.capacity: Capacity | None = None

    def setup(self) -> None:
        """Probe the server, or read the record of its probes."""
        _describe(self, self.trial.claimed)
        self.capacity = capacity = _find_capacity(self.trial)
        self.user_properties += [("probes", len(capacity.probes)), ("ended", capacity.found.reason)]
        if (level := capacity.found.capacity) is not None:
            best = next(record for record, _ in capacity.probes if record.level == level)
            self.user_properties.append((f"capacity.{level.shape}", level.number))
            self.user_properties += [(metric, _rounded(value)) for metric, value in sorted(best.metrics.items())]

    def runtest(self) -> None:
        """Assert that some load complies."""
        assert self.capacity is not None, "pytest sets an item up before it runs it"
        found, probes = self.capacity.found, self.capacity.probes
        table = "\n".join(f"{record.level}: {verdict.reason or verdict.status}" for record, verdict in probes)
        if found.capacity is None:
            undecided = all(verdict.status is not Status.VIOLATING for _, verdict in probes)
            raise (Inconclusive if undecided else SloViolation)(f"no load complies: {found.reason}\n{table}")
        self.add_report_section("call", "probes", f"{table}\n{found.capacity}: {found.reason}")
        self.user_properties.append(("autotune.outcome", "compliant"))

    def reportinfo(self) -> tuple[Path, int, str]:
        """Place the item in its suite file."""
        return self.path, 0, f"{self.trial.name} {self.name}"


class Check(pytest.Function):
    """A test function of a Python suite, run on each batch of each trial (that of its capacity), or once per trial."""

    def __init__(self, *, level: Level | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.trial = _trial_of(self)
        self.level = level
        self.add_marker(self.trial.marker(level))

    def setup(self) -> None:
        """Put the parameters on the reports, then set the function's fixtures up."""
        _describe(self, self.trial.claimed)
        super().setup()

    def runtest(self) -> None:
        """Run the function; its verdict counts for the batch."""
        try:
            super().runtest()
        except AssertionError as missed:
            self._note(str(missed).partition("\n")[0])
            raise
        self._note("")
        self.user_properties.append(("autotune.outcome", "compliant"))

    def _note(self, problem: str) -> None:
        if self.level is not None:
            self.trial.claimed.note_check(self.level, self.name, problem)


class PlainErrors(pytest.Collector):
    """A collector whose errors of ours are one line each, without a traceback."""

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:  # noqa: ARG002 - pytest's signature
        """Return the text of an error that says it all itself."""
        return str(excinfo.value) if isinstance(excinfo.value, AutotuneError) else super().repr_failure(excinfo)


class SuiteFile(PlainErrors, pytest.File):
    """A YAML suite."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Yield the suite's trials, or one item that says why it is not run."""
        yield from collect_suite(self, self.path, checks=())


class PythonSuite(PlainErrors, pytest.Module):
    """A Python suite: ``SUITE`` names a YAML suite, test functions add checks of their own to its trials."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Yield the trials of ``SUITE`` with the module's checks; other tests of the module as they are."""
        checks = []
        for node in super().collect():
            if isinstance(node, pytest.Function) and CHECK_FIXTURES & set(node.fixturenames):
                if hasattr(node, "callspec"):
                    raise self.CollectError(
                        f"{self.nodeid}::{node.originalname}: a check of a suite cannot be parametrized; it already "
                        "runs once per trial and batch. Put the values under `parameters:` of the suite, or loop inside"
                    )
                checks.append(node)
            else:
                yield node
        suite = getattr(self.obj, "SUITE", None)
        if suite is None and checks:
            raise self.CollectError(
                f"{self.nodeid}: {checks[0].name} takes fixtures of a trial, but the module has no SUITE; "
                'add SUITE = "<file>.yaml", relative to this file'
            )
        if suite is not None:
            yield from collect_suite(self, self.path.parent / suite, checks=tuple(checks))


class SuiteNotRun(pytest.Item):
    """Stands for a whole suite that is not run, and says why: a skip, or an error where it was to be verified."""

    def __init__(self, *, reason: str, error: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reason = reason
        if not error:
            self.add_marker(pytest.mark.skip(reason=reason))
        self.user_properties.append((NOT_RUN, reason))

    def setup(self) -> None:
        """Say why, where the mark does not skip."""
        raise MissingRequirement(self.reason)

    def runtest(self) -> None:
        """Never reached: its set-up does not succeed."""

    def reportinfo(self) -> tuple[Path, int, str]:
        """Place the item in its suite file."""
        return self.path, 0, self.name


def collect_suite(
    parent: SuiteFile | PythonSuite, path: Path, *, checks: tuple[pytest.Function, ...]
) -> Iterator[pytest.Item | pytest.Collector]:
    """Yield the trials of the suite at `path` under `parent`, or the one item that says why there are none."""
    run = run_of(parent.config)
    if not run.settings.active:
        yield SuiteNotRun.from_parent(parent, name="verify", reason=run.how_to_start(path))
        return
    try:
        plan = run.plan(path, nodeid=parent.nodeid)
    except NotRun as reason:
        yield SuiteNotRun.from_parent(parent, name="verify", reason=str(reason))
        return
    missing = () if run.settings.plan_only else run.missing(plan)
    if plan.opponent is not None and not run.settings.plan_only:
        missing = tuple(dict.fromkeys((*missing, *run.missing(plan.opponent))))
    if missing:
        error = plan.baseline is not None and plan.suite.gate.inconclusive != "warn"
        yield SuiteNotRun.from_parent(parent, name="preflight", reason="; ".join(missing), error=error)
        return
    if not run.settings.plan_only:
        run.first(plan)  # here, where a mistake of a hook is one error, and not one for each trial
    for slot in plan.slots:
        of_baseline = plan.opponent is not None and is_baseline(slot.name)
        trial: Trial = Trial.from_parent(
            parent,
            name=slot.name,
            plan=plan.opponent if of_baseline else plan,
            slot=slot,
            checks=() if of_baseline else checks,
        )
        trial.add_marker(trial.marker())
        yield trial


def _trial_of(item: pytest.Item) -> Trial:
    assert isinstance(item.parent, Trial)
    return item.parent


def _not_run_is_skip(action: Callable[[], object]) -> None:
    try:
        action()
    except NotRun as reason:
        pytest.skip(str(reason))


def _measure(trial: Trial, level: Level) -> MeasuredBatch:
    try:
        return trial.claimed.measure(level)
    except NotRun as reason:
        pytest.skip(str(reason))
    except ClientSaturated as reason:
        if place_of(trial.slot.name) is None:
            raise
        pytest.skip(f"this pair does not count: {reason}")  # another takes its place


def _find_capacity(trial: Trial) -> Capacity:
    try:
        return find_capacity(trial.claimed)
    except NotRun as reason:
        pytest.skip(str(reason))


def _capacity_of(trial: Trial) -> Level:
    level = _find_capacity(trial).found.capacity
    if level is None:
        pytest.skip("no load complies: there is no batch to look at")
    return level


def _markable(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


@pytest.fixture
def trial(request: pytest.FixtureRequest) -> LiveTrial:
    """The trial that the check belongs to: its configuration, slot, record and GPUs."""
    return _node(request, "trial").claimed


@pytest.fixture
def batch(request: pytest.FixtureRequest) -> Batch:
    """The measured batch that the check is about; measured on first use, once for all checks."""
    node = _node(request, "batch")
    item: Check = request.node
    if item.level is None:  # of a trial whose load levels are searched for
        item.level = _capacity_of(node)
    return Batch(_measure(node, item.level))


@pytest.fixture
def slo(request: pytest.FixtureRequest) -> Limits:
    """The limits of the suite."""
    return Limits(_node(request, "slo").plan.suite.slo)


@pytest.fixture
def model_server(request: pytest.FixtureRequest) -> Server:
    """The trial's running server, deployed on first use; it lives until the trial ends."""
    try:
        return _node(request, "model_server").claimed.server()
    except NotRun as reason:
        pytest.skip(str(reason))


def _node(request: pytest.FixtureRequest, fixture: str) -> Trial:
    node: Trial | None = request.node.getparent(Trial)
    if node is None:
        pytest.fail(
            f"the fixture {fixture!r} belongs to the checks of a suite: put the test into a file suite_*.py "
            'with SUITE = "<file>.yaml" and run pytest with --autotune',
            pytrace=False,
        )
    return node
