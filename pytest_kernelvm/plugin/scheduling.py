"""How xdist distributes the tests to its workers: neighbouring tests of a cell stay together."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# The most tests in a group: enough that a worker profits from what it read about a cell, and few
# enough that several workers take the tests of one cell.
TOGETHER = 25


def cell_pattern(cells: Sequence[str]) -> re.Pattern[str]:
    """Return a pattern that finds the cell in a test's id, as its first group.

    Args:
        cells: The ids of the cells.
    """
    # The longest first: malta-6.1 is the beginning of malta-6.12.
    ids = "|".join(re.escape(cell) for cell in sorted(cells, key=len, reverse=True))
    return re.compile(rf"\[(?:.*-)?({ids})(?:-.*)?\]$")


class CellScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Groups the tests of each cell into pieces that any worker can take; other tests by file."""

    def __init__(self, config: pytest.Config, log: Any, cells: Sequence[str]) -> None:
        """Prepare the schedule.

        Args:
            config: pytest's configuration.
            log: xdist's producer of log lines.
            cells: The ids of the run's cells.
        """
        super().__init__(config, log)
        self._cell = cell_pattern(cells)
        self._pieces: dict[str, str] = {}
        self._again = 0

    def schedule(self) -> None:
        """Distribute the tests once all workers have collected them."""
        if self.collection is None:
            self._cut(next(iter(self.registered_collections.values())))
        super().schedule()

    def _cut(self, nodeids: Sequence[str]) -> None:
        """Note which piece each test of a cell belongs to."""
        cells = collections.defaultdict(list)
        for nodeid in nodeids:
            found = self._cell.search(nodeid)
            if found:
                cells[found[1]].append(nodeid)
        for cell, of_cell in cells.items():
            length = min(TOGETHER, math.ceil(len(of_cell) / max(1, len(self.nodes))))
            for place, nodeid in enumerate(of_cell):
                self._pieces[nodeid] = f"{cell} {place // length}"

    def _split_scope(self, nodeid: str) -> str:
        return self._pieces.get(nodeid) or nodeid.split("::", 1)[0]

    def remove_node(self, node: Any) -> str | None:
        """Remove a worker, and give the tests that it has not run to others, in the same pieces.

        The test that ran when it crashed does not run again. LoadScopeScheduling would give it to
        the next worker too, until --max-worker-restart ends the run.

        Args:
            node: The worker.

        Returns:
            The id of the test that ran when the worker crashed, None if it had none left.
        """
        pieces = self.assigned_work.pop(node)
        left = {
            scope: [nodeid for nodeid, completed in piece.items() if not completed]
            for scope, piece in pieces.items()
        }
        crashed = next((nodeids.pop(0) for nodeids in left.values() if nodeids), None)
        for scope, nodeids in reversed(left.items()):
            if nodeids:
                self._put_first(scope, nodeids)
        if crashed:
            self._offer()
        return crashed

    def mark_test_pending(self, item: str) -> None:
        """Have a test run once more; plugins that rerun tests ask for it after a crash.

        Args:
            item: The test's id.
        """
        self._again += 1
        scope = f"{self._split_scope(item)} again {self._again}"
        self._pieces[item] = scope
        self._put_first(scope, [item])
        self._offer()

    def _put_first(self, scope: str, nodeids: Sequence[str]) -> None:
        self.workqueue[scope] = dict.fromkeys(nodeids, False)
        self.workqueue.move_to_end(scope, last=False)

    def _offer(self) -> None:
        for node in self.nodes:
            self._reschedule(node)

    def _reschedule(self, node: Any) -> None:
        """Give a worker more tests if it needs them.

        A worker that replaces another must first collect the tests. A worker begins its last test
        only when it has another one or knows that none follows (xdist.remote, run_one_test): one
        that has a single test gets more, or is shut down.
        """
        if node not in self.registered_collections:
            return
        super()._reschedule(node)
        if not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            super()._reschedule(node)
