"""One load level measured for a caller that wants its numbers or an exception."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_autotune.errors import BenchmarkError, ClientSaturated, SuiteError
from pytest_autotune.load.http import HttpLoad
from pytest_autotune.load_command.loadtest import read_load_test
from pytest_autotune.load_command.measuring import measure
from pytest_autotune.load_command.options import Written, keyword
from pytest_autotune.load_command.result import LoadResult
from pytest_autotune.load_command.server import prepared

if TYPE_CHECKING:
    from collections.abc import Mapping


def load_once(options: Mapping[str, object]) -> LoadResult:
    """Measure the one level that the options name.

    Raises `SuiteError` for a wrong option, `ClientSaturated` when the client was the bottleneck, and
    `BenchmarkError` for everything else that kept the level from being measured.
    """
    test = read_load_test(Written(options, label=keyword))
    if len(test.levels) != 1:
        named = ", ".join(map(str, test.levels))
        raise SuiteError(f"{len(test.levels)} load levels ({named}) in one call; measure one after the other")
    batch = measure(prepared(test, label=keyword), test.levels[0], HttpLoad())
    if batch.measurement is None or not batch.valid:
        saturated = batch.measurement is not None and batch.measurement.client.saturated
        raise (ClientSaturated if saturated else BenchmarkError)(f"{batch.level}: {batch.verdict.reason}")
    return LoadResult(batch, batch.measurement)
