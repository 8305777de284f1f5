"""The verbs `list` and `build`: the cells and their kernels."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pytest_kernelvm.cli.selection import add_source, cells_of, store_of
from pytest_kernelvm.errors import KernelvmError

if TYPE_CHECKING:
    from pytest_kernelvm.cli.selection import Verbs


def add_list(verbs: Verbs) -> None:
    """Declare `list`."""
    text = "list the cells and whether their kernels are built"
    verb = verbs.add_parser("list", help=text, description=text)
    verb.set_defaults(verb=_list)


def _list(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.kernel.build.build import find_kernel

    store = store_of(arguments)
    cells = cells_of(arguments)
    width = max((len(cell.id) for cell in cells), default=0)
    for cell in cells:
        try:
            kernel = find_kernel(store, cell)
            state = f"built    {kernel.release}  {kernel.directory}" if kernel else "not built"
        except KernelvmError as error:
            state = f"cannot be built: {error.summary}"
        print(f"{cell.id:{width}}  {cell.arch.name:8}  {state}")
    return 0


def add_build(verbs: Verbs) -> None:
    """Declare `build`."""
    text = "build the kernels of cells that are not built yet"
    verb = verbs.add_parser("build", help=text, description=text)
    verb.add_argument(
        "cells",
        nargs="*",
        metavar="CELL",
        help="a vm-config (malta) or a cell (malta-6.12); default all",
    )
    add_source(verb)
    verb.add_argument(
        "-j", "--jobs", type=int, help="how many compilers run at once, default one for each core"
    )
    verb.set_defaults(verb=_build)


def _build(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.kernel.build.build import build_kernel

    store = store_of(arguments)
    for cell in cells_of(arguments, arguments.cells):
        kernel = build_kernel(store, cell, jobs=arguments.jobs)
        print(f"{cell.id}: {kernel.release} {kernel.directory}")
    return 0
