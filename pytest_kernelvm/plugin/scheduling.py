"""How xdist shares out the tests: neighbouring tests of a cell stay together."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# Long enough for a worker to have use of what it read about a cell, short enough to share a cell.
TOGETHER = 25


def cell_pattern(cells: Sequence[str]) -> re.Pattern[str]:
    """Return what finds the cell in a test's id. cells: their ids."""
    # The longest first: malta-6.1 is the beginning of malta-6.12.
    ids = "|".join(re.escape(cell) for cell in sorted(cells, key=len, reverse=True))
    return re.compile(rf"\[(?:.*-)?({ids})(?:-.*)?\]$")


class CellScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Groups tests by cell, in pieces that all workers can take; others by file.

    cells: ids.
    """

    def __init__(self, config: pytest.Config, log: Any, cells: Sequence[str]) -> None:
        super().__init__(config, log)
        self._cell = cell_pattern(cells)
        self._pieces: dict[str, str] = {}
        self._again = 0

    def schedule(self) -> None:
        """Share out the tests once all workers have collected them."""
        if self.collection is None:
            self._cut(next(iter(self.registered_collections.values())))
        super().schedule()

    def _cut(self, nodeids: Sequence[str]) -> None:
        """Note for each test of a cell to which piece of it it belongs."""
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
        """Remove a worker; return the test that ran when it crashed, which does not run again.

        What the worker was to run besides goes to others, in pieces as before. LoadScopeScheduling
        gives them the crashing test too, until --max-worker-restart ends the run.
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
        """Have a test run once more; what reruns tests asks for it after a crash."""
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
        """Maybe give a worker more; one that replaces another has first to collect the tests.

        A worker begins its last test only when it has another one or knows that none follows
        (xdist.remote, run_one_test): who has got a single one is given more, or is sent home.
        """
        if node not in self.registered_collections:
            return
        super()._reschedule(node)
        if not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            super()._reschedule(node)
