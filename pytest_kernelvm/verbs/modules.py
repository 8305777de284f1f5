"""`kernelvm closure`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kernelvm.errors import BadInput, Evidence, ToolMissing
from pytest_kernelvm.verbs.selection import cells_of, one_cell, store_of

if TYPE_CHECKING:
    from pytest_kernelvm.verbs.selection import Verbs
    from pytest_kernelvm.vm.cell import Cell


def add_closure(verbs: Verbs) -> None:
    """Declare the verb."""
    verb = verbs.add_parser("closure", help="show all that some modules need, and why")
    verb.add_argument("modules", nargs="+", metavar="MODULE")
    where = verb.add_mutually_exclusive_group()
    where.add_argument(
        "--config", metavar="CELL", help="in this cell's kernel; default the first that is built"
    )
    where.add_argument("--tree", type=Path, metavar="DIR", help="in this lib/modules/RELEASE")
    verb.add_argument(
        "--format", choices=("tree", "list", "json", "dot", "sh"), default="tree", dest="form"
    )
    verb.add_argument(
        "--allow-missing", action="append", default=[], metavar="MODULE", help="may be missing"
    )
    verb.set_defaults(verb=_closure)


def _closure(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.modules.closure import close
    from pytest_kernelvm.modules.rendering import render
    from pytest_kernelvm.modules.tree import ModuleTree

    tree = ModuleTree(arguments.tree) if arguments.tree else _cell_for_closure(arguments).tree
    found = close(tree, arguments.modules, allow_missing=arguments.allow_missing, allow_empty=True)
    for warning in found.warnings:
        print(f"kernelvm: {warning}", file=sys.stderr)
    print(render(found, arguments.form), end="")
    return 0


def _cell_for_closure(arguments: argparse.Namespace) -> Cell:
    from pytest_kernelvm.kernel.build import find_kernel
    from pytest_kernelvm.vm.cell import Cell

    store = store_of(arguments)
    if arguments.config:
        return Cell(one_cell(arguments, arguments.config), store)
    cells = cells_of(arguments)
    built = None
    for cell in cells:
        with contextlib.suppress(ToolMissing):
            built = built or (cell if find_kernel(store, cell) else None)
    if built is None:
        raise BadInput(
            "no cell is built yet",
            Evidence(next_step=f"name one with --config: {', '.join(cell.id for cell in cells)}"),
        )
    print(f"kernelvm: in the modules of {built.id}", file=sys.stderr)
    return Cell(built, store)
