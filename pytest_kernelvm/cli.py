"""The command `kernelvm`: the same work as in tests, by hand."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kernelvm import __version__
from pytest_kernelvm.config import VmConfig, json_schema, select_cells
from pytest_kernelvm.errors import BadInput, Evidence, KernelvmError, ToolMissing, Verdict
from pytest_kernelvm.kernel.store import Store, default_store, remove_tree
from pytest_kernelvm.process import signals_interrupt
from pytest_kernelvm.progress import StreamProgress

if TYPE_CHECKING:
    from pytest_kernelvm.vm.cell import Cell

INTERRUPTED = 130
CLEANED = ("kernels", "requests", "guests", "initramfs", "logs", "tmp")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code, which says the verdict."""
    arguments = _parser().parse_args(argv)
    verb: Callable[[argparse.Namespace], int] = arguments.verb
    try:
        with signals_interrupt():
            status = verb(arguments)
        sys.stdout.flush()
        return status
    except KernelvmError as error:
        print(f"kernelvm: {error}", file=sys.stderr)
        return error.verdict.exit_code
    except KeyboardInterrupt:
        print("kernelvm: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is satisfied; what is left for him goes nowhere, at exit as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    codes = ", ".join(f"{each.exit_code} {each.label}" for each in Verdict)
    parser = argparse.ArgumentParser(
        prog="kernelvm",
        description="Build Linux kernels, boot them in QEMU, look at their modules.",
        epilog=f"exit codes: {codes}, {INTERRUPTED} interrupted",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--configs",
        type=Path,
        default=Path("vm-configs"),
        metavar="DIR",
        help="directory of vm-configs, default %(default)s",
    )
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="where built kernels are kept, default $KERNELVM_STORE or ~/.cache/kernelvm",
    )
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    _add_doctor(verbs)
    _add_list(verbs)
    _add_build(verbs)
    _add_boot(verbs)
    _add_closure(verbs)
    _add_schema(verbs)
    _add_clean(verbs)
    return parser


_Verbs = argparse._SubParsersAction  # the only name that argparse has for it


def _store(arguments: argparse.Namespace) -> Store:
    root = arguments.store.absolute() if arguments.store else default_store()
    return Store(root, StreamProgress())


def _cells(arguments: argparse.Namespace, names: Sequence[str] = ()) -> tuple[VmConfig, ...]:
    return select_cells(arguments.configs, names=names)


def _one_cell(arguments: argparse.Namespace, name: str) -> VmConfig:
    cells = _cells(arguments, [name])
    if len(cells) != 1:
        raise BadInput(
            f"{name} has several cells",
            Evidence(expected=f"one of {', '.join(cell.id for cell in cells)}"),
        )
    return cells[0]


# doctor


def _add_doctor(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser("doctor", help="say what this machine has and lacks")
    verb.add_argument(
        "--packages",
        choices=("apt", "dnf", "pacman", "nix", "brew"),
        help="print only the missing packages of this system, on one line",
    )
    verb.add_argument(
        "--all-systems", action="store_true", help="print the install command of every system"
    )
    verb.set_defaults(verb=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm import doctor

    findings = doctor.examine(_cells(arguments))
    if arguments.packages:
        missing = doctor.missing_packages(findings, arguments.packages)
        if missing:
            print(" ".join(missing))
        return 0
    print(doctor.rendered(findings, all_systems=arguments.all_systems))
    lacking = any(finding.required and not finding.satisfied for finding in findings)
    return Verdict.TOOL_MISSING.exit_code if lacking else 0


# list, build


def _add_list(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser("list", help="list the cells and whether their kernels are built")
    verb.set_defaults(verb=_list)


def _list(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.kernel.build import find_kernel

    store = _store(arguments)
    cells = _cells(arguments)
    width = max((len(cell.id) for cell in cells), default=0)
    for cell in cells:
        try:
            kernel = find_kernel(store, cell)
            state = f"built    {kernel.release}  {kernel.directory}" if kernel else "not built"
        except KernelvmError as error:
            state = f"cannot be built: {error.summary}"
        print(f"{cell.id:{width}}  {cell.arch.name:8}  {state}")
    return 0


def _add_build(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser("build", help="build the kernels of cells that are not built yet")
    verb.add_argument("cells", nargs="*", metavar="CELL", help="malta or malta-6.12; default all")
    verb.add_argument("-j", "--jobs", type=int, help="compilers at once, default one a core")
    verb.set_defaults(verb=_build)


def _build(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.kernel.build import build_kernel

    store = _store(arguments)
    for cell in _cells(arguments, arguments.cells):
        kernel = build_kernel(store, cell, jobs=arguments.jobs)
        print(f"{cell.id}: {kernel.release} {kernel.directory}")
    return 0


# boot, argv


def _add_boot(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    for name, told, verb in (
        ("boot", "boot a guest and talk with it", _boot),
        ("argv", "print the QEMU command that boots a guest, to paste", _argv),
    ):
        parser = verbs.add_parser(name, help=told, description=told)
        parser.add_argument("cell", metavar="CELL")
        parser.add_argument("--modules", metavar="A,B", help="default those of the vm-config")
        parser.add_argument("--cmdline", default="", metavar="WORDS", help="for the bootloader's")
        parser.add_argument(
            "--no-cookie", action="store_true", help="leave the cookie off the command line"
        )
        parser.set_defaults(verb=verb)


def _wanted(arguments: argparse.Namespace) -> list[str] | None:
    if arguments.modules is None:
        return None
    return [name for name in arguments.modules.split(",") if name]


def _boot(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.vm.cell import Cell
    from pytest_kernelvm.vm.shell import following, interact

    store = _store(arguments)
    cell = Cell(_one_cell(arguments, arguments.cell), store)

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    # What went well needs no log; an error names it, so then it stays.
    directory = store.new_log_directory(cell.config.id)
    guest = cell.vm(
        directory,
        modules=_wanted(arguments),
        cmdline=arguments.cmdline,
        cookie=not arguments.no_cookie,
    )
    with guest as vm, following(vm, show):
        interact(vm, sys.stdout)
    remove_tree(directory)
    return 0


def _argv(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.process import quoted
    from pytest_kernelvm.vm.cell import Cell
    from pytest_kernelvm.vm.qemu_argv import BY_HAND, qemu_argv

    cell = Cell(_one_cell(arguments, arguments.cell), _store(arguments))
    initramfs = cell.initramfs(cell.closure(_wanted(arguments)))
    boot = cell.boot(initramfs, cmdline=arguments.cmdline, cookie=not arguments.no_cookie)
    print(quoted(qemu_argv(boot, BY_HAND)))
    if sys.stdout.isatty():
        print("Ctrl-A x leaves QEMU", file=sys.stderr)
    return 0


# closure


def _add_closure(verbs: _Verbs[argparse.ArgumentParser]) -> None:
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

    store = _store(arguments)
    if arguments.config:
        return Cell(_one_cell(arguments, arguments.config), store)
    cells = _cells(arguments)
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


# schema, clean


def _add_schema(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser("schema", help="print the JSON Schema of a vm-config")
    verb.set_defaults(verb=_schema)


def _schema(_arguments: argparse.Namespace) -> int:
    print(json.dumps(json_schema(), indent=2))
    return 0


def _add_clean(verbs: _Verbs[argparse.ArgumentParser]) -> None:
    verb = verbs.add_parser("clean", help="remove built kernels from the store")
    verb.add_argument("--sources", action="store_true", help="unpacked sources as well")
    verb.set_defaults(verb=_clean)


def _clean(arguments: argparse.Namespace) -> int:
    store = _store(arguments)
    for kind in (*CLEANED, *(("sources",) if arguments.sources else ())):
        directory = store.root / kind
        if directory.is_dir():
            with contextlib.suppress(FileNotFoundError):
                remove_tree(directory)
            print(f"removed {directory}")
    return 0
