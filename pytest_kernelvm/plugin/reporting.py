"""What the plugin reports of a run: its header, its progress, its summary, wrong markers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_kernelvm.plugin.cells import selected_cells
from pytest_kernelvm.plugin.options import store_root
from pytest_kernelvm.plugin.stash import MISTAKE, PROGRESS, RUN

if TYPE_CHECKING:
    from pytest_kernelvm.report.run import RunReport
    from pytest_kernelvm.report.terminal import TerminalProgress


def run_report(config: pytest.Config) -> RunReport:
    """Return the plugin that reports this run; the first call registers it."""
    if RUN not in config.stash:
        from pytest_kernelvm.report.run import RunReport

        config.stash[RUN] = RunReport(config, progress(config).clear)
        config.pluginmanager.register(config.stash[RUN], "kernelvm-run")
    return config.stash[RUN]


def report_mistakes(session: pytest.Session) -> None:
    """Report mistakes in the markers of collected tests as errors of the collection, each once."""
    tests: dict[str, list[str]] = {}
    for item in session.items:
        if MISTAKE in item.stash:
            tests.setdefault(str(item.stash[MISTAKE]), []).append(item.nodeid)
    for words, nodeids in tests.items():
        more = f"\n  and so for {len(nodeids) - 1} more tests" if nodeids[1:] else ""
        report = pytest.CollectReport(nodeids[0], "failed", f"{words}{more}", result=[])
        session.ihook.pytest_collectreport(report=report)


def header_of(config: pytest.Config, nodeids: Sequence[str]) -> list[str]:
    """Return the lines that say with what some tests' cells are tested.

    Args:
        config: pytest's configuration.
        nodeids: The ids of the tests.

    Returns:
        The header; nothing if no test has a cell, and with `-q`.
    """
    from pytest_kernelvm.plugin.scheduling import cell_pattern
    from pytest_kernelvm.report.run import header

    cells = {cell.id: cell for cell in selected_cells(config)}
    pattern = cell_pattern(list(cells))
    found = {match[1] for nodeid in nodeids if (match := pattern.search(nodeid))}
    if not found or config.get_verbosity() < 0:
        return []
    return header([cell for name, cell in cells.items() if name in found], store_root(config))


def progress(config: pytest.Config) -> TerminalProgress:
    """Return what shows the progress of long work in the terminal, one for the run."""
    if PROGRESS not in config.stash:
        from pytest_kernelvm.report.terminal import TerminalProgress

        config.stash[PROGRESS] = TerminalProgress(config)
    return config.stash[PROGRESS]
