"""What the plugin stores with a run and with each test, in pytest's stashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import itertools
    from pathlib import Path

    from pytest_kernelvm.config.model import CellConfig
    from pytest_kernelvm.errors import KernelvmError
    from pytest_kernelvm.plugin.guest_factory import GuestFactory
    from pytest_kernelvm.report.run import RunReport
    from pytest_kernelvm.report.terminal import TerminalProgress

# What ends the run, and what fails one test before it is set up.
FATAL: pytest.StashKey[pytest.UsageError] = pytest.StashKey()
MISTAKE: pytest.StashKey[KernelvmError] = pytest.StashKey()
# The cells of the run, or why there are none.
CELLS: pytest.StashKey[tuple[CellConfig, ...]] = pytest.StashKey()
UNUSABLE: pytest.StashKey[KernelvmError] = pytest.StashKey()
# What makes a test's guests, and which test is next.
FACTORY: pytest.StashKey[GuestFactory] = pytest.StashKey()
NEXT: pytest.StashKey[pytest.Item | None] = pytest.StashKey()
# What reports the run, and what shows the progress of long work.
RUN: pytest.StashKey[RunReport] = pytest.StashKey()
PROGRESS: pytest.StashKey[TerminalProgress] = pytest.StashKey()
# Which test fails for splats of a snapshot's boot, and the numbers of guests' directories.
CHARGED: pytest.StashKey[dict[Path, str]] = pytest.StashKey()
NUMBERS: pytest.StashKey[itertools.count[int]] = pytest.StashKey()
