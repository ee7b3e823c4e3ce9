"""Hooks that other plugins and conftest files implement to extend pytest-autotune.

A plugin that must also work where pytest-autotune is not installed marks its implementations with
``@pytest.hookimpl(optionalhook=True)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_autotune.deploy.server import Deployer
    from pytest_autotune.engines.engine import Engine
    from pytest_autotune.load.generator import LoadGenerator
    from pytest_autotune.records import TrialRecord
    from pytest_autotune.selection import JudgedBatch, JudgedTrial
    from pytest_autotune.space import Configuration
    from pytest_autotune.suite import Suite


@pytest.hookspec(firstresult=True)
def pytest_autotune_engine(name: str) -> Engine | None:
    """Return the engine that suites call `name`, or None for a name that is not yours.

    Called at collection in every process, before the built-in engines are asked; stops at the
    first result that is not None.
    """


@pytest.hookspec(firstresult=True)
def pytest_autotune_deployer(name: str) -> Deployer | None:
    """Return the deployer for ``deploy: name``, or None for a name that is not yours.

    Called at collection, to tell whether the suite can be deployed, and again for each trial.
    """


@pytest.hookspec(firstresult=True)
def pytest_autotune_load_generator(suite: Suite) -> LoadGenerator | None:
    """Return what loads the servers of `suite`, or None for the built-in streaming client."""


@pytest.hookspec(firstresult=True)
def pytest_autotune_objective(suite: Suite, batches: Sequence[JudgedBatch]) -> float | None:
    """Return the score of a trial from its compliant batches, in the direction of the suite's objective.

    Called with at least one batch, on the process that selects. None keeps the suite's objective.
    """


@pytest.hookspec(firstresult=True)
def pytest_autotune_prior(suite: Suite, configurations: Sequence[Configuration]) -> Sequence[Configuration] | None:
    """Return configurations that an adaptive search measures early, best first, or None to leave it to others.

    They may leave parameters to the engine. The search begins with `configurations` anyway, and takes
    at most ``search: {prior: K}`` of those that are not among them; they are measured like any other,
    and what was expected of them counts for nothing. One that the suite's space does not have refuses
    the suite. Stops at the first result that is not None: two lists, best first, have no common order.

    Called at collection, in every process that collects, until the search has begun; from then on
    its first answer stands.
    """


def pytest_autotune_suite_loaded(config: pytest.Config, suite: Suite) -> None:
    """Look at a validated suite before its trials are collected; raise `SuiteError` to refuse it.

    Called in every process; each must come to the same result, or xdist refuses the collection.
    """


def pytest_autotune_trial_finished(config: pytest.Config, suite: Suite, trial: TrialRecord) -> None:
    """Take note of a trial whose server is gone and whose results are stored.

    Called in the process that measured it, not for trials whose recorded result is reused.
    """


def pytest_autotune_selected(config: pytest.Config, suite: Suite, best: JudgedTrial | None) -> None:
    """Act on the selected trial, e.g. roll it out; None when no configuration complies.

    Called once per suite on the controller, after all trials and before the gate is reported.
    """
