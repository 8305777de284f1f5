"""`kernelvm closure` and `kernelvm modules diff`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kernelvm.cli.selection import cells_of, one_cell, store_of
from pytest_kernelvm.errors import BadInput, Evidence, ToolMissing

if TYPE_CHECKING:
    from pytest_kernelvm.cli.selection import Verbs
    from pytest_kernelvm.modules.closure import Closure
    from pytest_kernelvm.modules.modprobe_d import ModprobeD
    from pytest_kernelvm.modules.tree import ModuleTree
    from pytest_kernelvm.session.cell import Cell


def add_closure(verbs: Verbs) -> None:
    """Declare the verb `closure`."""
    text = "show or write all that some modules need, and why"
    verb = verbs.add_parser("closure", help=text, description=text)
    verb.add_argument(
        "modules", nargs="+", metavar="MODULE", help="a module, or an alias as modprobe takes it"
    )
    where = verb.add_mutually_exclusive_group()
    where.add_argument(
        "--config",
        metavar="CELL",
        help="in the kernel of this cell; default the first cell whose kernel is built",
    )
    where.add_argument(
        "--tree", type=Path, metavar="DIR", help="in this directory lib/modules/RELEASE"
    )
    verb.add_argument(
        "--format",
        choices=("tree", "list", "json", "dot", "sh"),
        default="tree",
        dest="form",
        help="a tree with sizes and reasons (default), names in load order, JSON, Graphviz, or "
        "load.sh",
    )
    _add_resolution(verb)
    verb.add_argument(
        "--allow-empty",
        action="store_true",
        help="with --output: write even if no module has to be loaded",
    )
    verb.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="write a root directory with the closure alone, its load.sh and its unload.sh",
    )
    verb.set_defaults(verb=_closure)


def _add_resolution(verb: argparse.ArgumentParser) -> None:
    """Declare the options that change how a closure is resolved."""
    verb.add_argument(
        "--allow-missing",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module that the kernel may lack",
    )
    verb.add_argument(
        "--modprobe-d",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="a modprobe.d of the guest, or a file of one; default none: the host's is never read",
    )
    verb.add_argument(
        "--firmware", type=Path, metavar="DIR", help="take firmware from this directory along"
    )
    verb.add_argument(
        "--missing-firmware",
        choices=("warning", "error"),
        default="warning",
        help="what to do about firmware that is not there; default %(default)s",
    )


def add_modules(verbs: Verbs) -> None:
    """Declare the verb `modules` with its action `diff`."""
    text = "compare the modules of two kernels"
    verb = verbs.add_parser("modules", help=text, description=text)
    actions = verb.add_subparsers(title="actions", required=True, metavar="ACTION")
    text = "show which modules of A are gone, new or changed in B"
    diff = actions.add_parser("diff", help=text, description=text)
    diff.add_argument("before", metavar="A", help="a cell, or a directory lib/modules/RELEASE")
    diff.add_argument("after", metavar="B", help="another cell or directory")
    diff.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        dest="form",
        help="default %(default)s",
    )
    diff.add_argument(
        "--closure",
        action="append",
        default=[],
        metavar="MODULE",
        help="compare the closure of this module too",
    )
    diff.add_argument(
        "--firmware",
        action="store_true",
        help="compare the firmware that the module files name too: takes some seconds",
    )
    diff.add_argument(
        "--all", action="store_true", help="list every module, however many there are"
    )
    diff.set_defaults(verb=_diff)


def _closure(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.modules.closure import resolve_closure
    from pytest_kernelvm.modules.pruned_tree import write_pruned_tree
    from pytest_kernelvm.modules.rendering import render
    from pytest_kernelvm.modules.tree import ModuleTree

    directory = arguments.tree or _cell_for_closure(arguments).tree.directory
    tree = ModuleTree(directory, modprobe_d=_modprobe_d(arguments.modprobe_d))
    found = resolve_closure(
        tree,
        arguments.modules,
        allow_missing=arguments.allow_missing,
        # Without --output an empty closure does no harm: the user sees it.
        allow_empty=arguments.allow_empty or not arguments.output,
        firmware_directory=arguments.firmware,
        missing_firmware=arguments.missing_firmware,
    )
    # The tree shows the closure's warnings itself.
    warnings = () if arguments.form == "tree" else found.warnings
    for warning in (*tree.modprobe_d.ignored, *warnings):
        print(f"kernelvm: {warning}", file=sys.stderr)
    if arguments.output:
        _check(found)
        place = write_pruned_tree(tree, found, arguments.output)
        print(f"kernelvm: wrote {place}", file=sys.stderr)
    print(render(found, arguments.form), end="")
    return 0


def _check(closure: Closure) -> None:
    """Check that the kernel would load the files."""
    from pytest_kernelvm.modules.file_check import check_files

    check_files(closure.modules, release=closure.release)


def _modprobe_d(paths: list[Path]) -> ModprobeD:
    from pytest_kernelvm.modules.modprobe_d import read_modprobe_d

    return read_modprobe_d(paths)


def _diff(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.modules.diff import diff_trees
    from pytest_kernelvm.modules.diff_rendering import diff_json, diff_text

    found = diff_trees(
        _tree_named(arguments, arguments.before),
        _tree_named(arguments, arguments.after),
        closures=arguments.closure,
        with_firmware=arguments.firmware,
    )
    if arguments.form == "json":
        print(diff_json(found), end="")
    else:
        print(diff_text(found, 0) if arguments.all else diff_text(found), end="")
    return 0


def _tree_named(arguments: argparse.Namespace, name: str) -> ModuleTree:
    from pytest_kernelvm.modules.tree import ModuleTree
    from pytest_kernelvm.session.cell import Cell

    if Path(name).is_dir():
        return ModuleTree(Path(name))
    return Cell(one_cell(arguments, name), store_of(arguments)).tree


def _cell_for_closure(arguments: argparse.Namespace) -> Cell:
    from pytest_kernelvm.kernel.build.build import find_kernel
    from pytest_kernelvm.session.cell import Cell

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
