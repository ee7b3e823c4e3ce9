"""The xdist scheduler: whole trials, never half of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from xdist.scheduler import LoadScopeScheduling

from pytest_autotune.discovery import SUFFIXES
from pytest_autotune.stash import settings_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xdist.workermanage import WorkerController


class TrialScheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    """Hand out one trial (``suite.yaml::trial-003``) at a time.

    xdist 3.8 queues everything again that a dead worker ever ran and can then deadlock
    (pytest-dev/pytest-xdist#1313, #1327, #1378); it can go when #1371 is released. A trial dies
    with its server, so what is left of it is reported as lost; trials not yet begun go back.
    """

    packed = False  # whether the trials are in the order in which they are begun

    def _split_scope(self, nodeid: str) -> str:
        """Return what stays together: a trial, or a whole suite whose sides are compared in turn on one machine."""
        scope: str = super()._split_scope(nodeid)
        return nodeid.partition("::")[0] if settings_of(self.config).compare is not None else scope

    def remove_node(self, node: WorkerController) -> str | None:
        """Forget a dead worker; return the item that it was running, if any."""
        crashed: str | None = None
        waiting = self.workqueue.copy()
        self.workqueue.clear()
        for scope, unit in self.assigned_work.pop(node).items():
            pending = [nodeid for nodeid, done in unit.items() if not done]
            if pending and crashed is None:
                crashed, *lost = pending
                self._report_lost(lost, f"{node.gateway.id} died while running {crashed}")
            elif pending:
                self.workqueue[scope] = unit  # where it was: before those that were to follow it
        self.workqueue.update(waiting)
        for other in self.nodes:
            if other in self.registered_collections:  # a replacement that still collects gets its share later
                self._reschedule(other)
        return crashed

    def schedule(self) -> None:
        """Start handing out trials, and let workers end when there are none."""
        super().schedule()
        if self.collection and not self.workqueue:
            # A worker begins an item only when it knows the next one or that there is none:
            # without this a lone last item would wait for a successor forever.
            for node in self.nodes:
                node.shutdown()

    def _assign_work_unit(self, node: WorkerController) -> None:
        """Hand the next trial to a worker; it stays queued when the worker has just died.

        xdist learns of a death a moment after the connection is closed, and sends in between.
        """
        if not self.packed:
            self.packed = True
            self._pack()
        scope, unit = next(iter(self.workqueue.items()))
        try:
            super()._assign_work_unit(node)
        except OSError:
            del self.assigned_work[node][scope]
            self.workqueue[scope] = unit
            self.workqueue.move_to_end(scope, last=False)

    def _pack(self) -> None:
        """Bring the trials of each suite into an order in which they fill the GPUs that they share."""
        from pytest_autotune.packing import order_of

        of_suite: dict[str, list[str]] = {}
        for scope in self.workqueue:
            path, _, name = scope.partition("::")
            of_suite.setdefault(path, []).append(name)
        for path, names in of_suite.items():
            file = self.config.rootpath / path
            for name in order_of(file, names, len(self.nodes)) if file.suffix in SUFFIXES else names:
                self.workqueue.move_to_end(f"{path}::{name}" if name else path)

    def _report_lost(self, nodeids: Sequence[str], reason: str) -> None:
        for nodeid in nodeids:
            path, _, name = nodeid.partition("::")
            report = pytest.TestReport(
                nodeid=nodeid,
                location=(path, 0, name),
                keywords={},
                outcome="skipped",
                longrepr=(path, 0, f"Skipped: trial lost, {reason}"),
                when="setup",
            )
            self.config.hook.pytest_runtest_logreport(report=report)
