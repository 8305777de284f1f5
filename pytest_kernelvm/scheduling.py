"""How xdist shares out the tests: all of a cell to one worker."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling


class CellScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Groups tests by cell, others by file. cells: ids."""

    def __init__(self, config: pytest.Config, log: Any, cells: Sequence[str]) -> None:
        super().__init__(config, log)
        # The longest first: malta-6.1 is the beginning of malta-6.12.
        ids = "|".join(re.escape(cell) for cell in sorted(cells, key=len, reverse=True))
        self._cell = re.compile(rf"\[(?:.*-)?({ids})(?:-.*)?\]$")

    def _split_scope(self, nodeid: str) -> str:
        found = self._cell.search(nodeid)
        return found[1] if found else nodeid.split("::", 1)[0]
