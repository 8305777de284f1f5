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
