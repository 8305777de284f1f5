"""The cells of a run, and which tests are multiplied by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_kernelvm.plugin import claims
from pytest_kernelvm.plugin.options import are_named, configs_directory
from pytest_kernelvm.plugin.stash import CELLS, UNUSABLE

if TYPE_CHECKING:
    from pytest_kernelvm.config.model import CellConfig


def selected_cells(config: pytest.Config) -> tuple[CellConfig, ...]:
    """Return the cells of the run; the vm-configs are read once.

    Returns:
        The cells that the command line selects, by default all of the directory.

    Raises:
        KernelvmError: A vm-config has a mistake, or there is none; each further call raises the
            same error.
    """
    from pytest_kernelvm.errors import KernelvmError

    if UNUSABLE in config.stash:
        raise config.stash[UNUSABLE]
    if CELLS not in config.stash:
        try:
            config.stash[CELLS] = _read_cells(config)
        except KernelvmError as error:
            config.stash[UNUSABLE] = error
            raise
    return config.stash[CELLS]


def _read_cells(config: pytest.Config) -> tuple[CellConfig, ...]:
    from pytest_kernelvm.arch.registry import arch_named
    from pytest_kernelvm.config.select import select_cells, with_source
    from pytest_kernelvm.config.sources import source_named
    from pytest_kernelvm.errors import BadInput, Evidence

    directory = configs_directory(config)
    arches = config.getoption("--kernelvm-arch")
    for name in arches:
        arch_named(name)
    if not are_named(config) and not any(directory.glob("*.yaml")):
        raise BadInput(
            f"no vm-configs in {directory}, and a test asks for a kernel",
            Evidence(
                expected=f"{directory}/*.yaml: each a vm-config, which says what kernel is built "
                "and on what machine it is booted",
                next_step="write one (docs/how-to/write-a-vm-config.md), or name their directory: "
                "--kernelvm-configs=DIR, ini option kernelvm_configs",
            ),
        )
    cells = select_cells(directory, names=config.getoption("--kernelvm-config"), arches=arches)
    source = config.getoption("--kernelvm-source")
    return with_source(cells, source_named(source)) if source else cells


def cell_config_of(item: pytest.Item) -> CellConfig | None:
    """Return the cell that a test runs on.

    Returns:
        What the plugin gave the test as its parameter; None for a test that uses no fixture of the
        plugin, and for one whose cells were chosen by somebody else.
    """
    params = getattr(getattr(item, "callspec", None), "params", {})
    cells = item.config.stash.get(CELLS, ())
    return next((cell for cell in cells if cell is params.get(claims.CELL)), None)


def is_claimed(item: pytest.Item) -> bool:
    """Return whether a test runs once for each cell of the run."""
    by_others = claims.parametrized_by_others(item, claims.CELL)
    return claims.uses(item, claims.CELL) and not by_others
