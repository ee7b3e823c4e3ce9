"""Typed state of the plugin on pytest's config."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_autotune.settings import WORKER_RUN_ID, Settings

if TYPE_CHECKING:
    from pytest_autotune.run import Run

WORKER_INTERRUPTED = "autotune_interrupted"  # in its `workeroutput`

NOT_RUN = "autotune.not_run"  # property of the report that stands for a suite: why it is not run

settings_key = pytest.StashKey[Settings]()
run_key = pytest.StashKey["Run"]()
summary_key = pytest.StashKey[tuple[str, ...]]()  # lines for the end of the terminal output
foreign_benchmark_key = pytest.StashKey[str]()  # the plugin that has a fixture `benchmark` beside ours


def settings_of(config: pytest.Config) -> Settings:
    """Return the settings that `pytest_configure` resolved."""
    return config.stash[settings_key]


def run_of(config: pytest.Config) -> Run:
    """Return this process's run, made on first use: a pytest run without suites pays nothing for it."""
    from pytest_autotune.run import Run

    if run_key not in config.stash:
        worker: dict[str, str] | None = getattr(config, "workerinput", None)
        run_id = None if worker is None else worker.get(WORKER_RUN_ID)  # none where nothing can be verified
        config.stash[run_key] = run = Run(config, config.stash[settings_key], run_id=run_id)
        config.add_cleanup(run.close)
    return config.stash[run_key]
