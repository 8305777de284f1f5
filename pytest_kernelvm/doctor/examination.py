"""Comparing what cells need with what this machine has."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.doctor.finding import Finding
from pytest_kernelvm.doctor.needs import (
    Need,
    arch_needs,
    choice_needs,
    general_needs,
    optional_needs,
    source_needs,
)
from pytest_kernelvm.kernel.source.source import DEBIAN_SOURCES


def examine(
    cells: Sequence[CellConfig], *, debian_sources: Path = DEBIAN_SOURCES
) -> tuple[Finding, ...]:
    """Look for all that some cells need, from the interpreter to the kernels' source.

    Args:
        cells: The cells that are to be built and booted.
        debian_sources: The directory where Debian's linux-source packages put their tarballs.

    Returns:
        A finding for each thing, whether it is there or not.
    """
    needs = (
        *general_needs(cells),
        *arch_needs(cells),
        *source_needs(cells, debian_sources),
        *choice_needs(cells),
        *optional_needs(cells),
    )
    # Most of the time is spent on waiting for `PROGRAM --version`.
    with ThreadPoolExecutor(max_workers=8) as pool:
        return tuple(pool.map(Need.find, needs))
