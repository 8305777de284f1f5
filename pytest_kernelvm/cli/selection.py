"""Options that verbs share: cells, their source, and the store."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.config.select import select_cells, with_source
from pytest_kernelvm.config.sources import source_named
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.progress import StreamProgress
from pytest_kernelvm.store.store import Store, default_store

if TYPE_CHECKING:
    # argparse has no public name for what add_subparsers returns.
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]


def store_of(arguments: argparse.Namespace) -> Store:
    """Return the store that the options name.

    Args:
        arguments: The parsed command line; `store` is None if no option names one.
    """
    root = arguments.store.absolute() if arguments.store else default_store()
    return Store(root, StreamProgress())


def cells_of(arguments: argparse.Namespace, names: Sequence[str] = ()) -> tuple[CellConfig, ...]:
    """Return the cells of some names.

    Args:
        arguments: The parsed command line.
        names: Names of vm-configs, cells or files; empty for all of the directory.
    """
    cells = select_cells(arguments.configs, names=names)
    source = getattr(arguments, "source", None)
    return with_source(cells, source_named(source)) if source else cells


def add_source(parser: argparse.ArgumentParser) -> None:
    """Declare the option that overrides where kernels come from."""
    parser.add_argument(
        "--source",
        metavar="KIND:VALUE",
        help="take the kernel from there, whatever the vm-config says: tree:PATH, "
        "git:REPOSITORY@REF, tarball:PATH, tarball:URL@SHA256, debian:PACKAGE@SUITE, "
        "version:6.12.30, prebuilt:KERNEL",
    )


def one_cell(arguments: argparse.Namespace, name: str) -> CellConfig:
    """Return the cell of a name.

    Args:
        arguments: The parsed command line.
        name: The name of a cell, or of a vm-config or file with one cell.

    Returns:
        The cell.

    Raises:
        BadInput: The name stands for several cells.
    """
    cells = cells_of(arguments, [name])
    if len(cells) != 1:
        raise BadInput(
            f"{name} has several cells",
            Evidence(expected=f"one of {', '.join(cell.id for cell in cells)}"),
        )
    return cells[0]
