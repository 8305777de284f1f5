"""`kernelvm boot` and `argv`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pytest_kernelvm.config import USERLANDS
from pytest_kernelvm.kernel.store import remove_tree
from pytest_kernelvm.verbs.selection import add_source, one_cell, store_of

if TYPE_CHECKING:
    from pytest_kernelvm.verbs.selection import Verbs
    from pytest_kernelvm.vm.cell import Cell


def add_boot(verbs: Verbs) -> None:
    """Declare the verb."""
    for name, told, verb in (
        ("boot", "boot a guest and talk with it", _boot),
        ("argv", "print the QEMU command that boots a guest, to paste", _argv),
    ):
        parser = verbs.add_parser(name, help=told, description=told)
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument("cell", nargs="?", metavar="CELL")
        which.add_argument(
            "--prebuilt",
            metavar="KERNEL",
            help="a finished kernel instead: a directory, .deb files joined by commas, host:/boot, "
            "or debian:PACKAGE[:ARCH][@SUITE] such as debian:linux-image-arm64",
        )
        add_source(parser)
        parser.add_argument("--modules", metavar="A,B", help="default those of the vm-config")
        parser.add_argument("--userland", choices=USERLANDS, help="default that of the vm-config")
        parser.add_argument("--cmdline", default="", metavar="WORDS", help="for the bootloader's")
        parser.add_argument(
            "--no-cookie", action="store_true", help="leave the cookie off the command line"
        )
        parser.set_defaults(verb=verb)


def _cell(arguments: argparse.Namespace) -> Cell:
    from pytest_kernelvm.config import prebuilt_cell, source_named
    from pytest_kernelvm.kernel.prebuilt import arch_of
    from pytest_kernelvm.vm.cell import Cell

    store = store_of(arguments)
    if arguments.prebuilt is None:
        cell = Cell(one_cell(arguments, arguments.cell), store)
    else:
        source = source_named(f"prebuilt:{arguments.prebuilt}")
        cell = Cell(prebuilt_cell(source, arch_of(store, source)), store)
    return cell.variant(userland=arguments.userland)


def _wanted(arguments: argparse.Namespace) -> list[str] | None:
    if arguments.modules is None:
        return None
    return [name for name in arguments.modules.split(",") if name]


def _boot(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.vm.shell import following, interact
    from pytest_kernelvm.vm.vm import Vm

    cell = _cell(arguments)

    def show(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    # What went well needs no log; an error names it, so then it stays.
    directory = cell.store.new_log_directory(cell.config.id)
    bootable = cell.bootable(
        modules=_wanted(arguments),
        cmdline=arguments.cmdline,
        cookie=not arguments.no_cookie,
    )
    with Vm(bootable, directory) as vm, following(vm, show):
        interact(vm, sys.stdout)
    remove_tree(directory)
    return 0


def _argv(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.process import quoted
    from pytest_kernelvm.vm.qemu_argv import BY_HAND, qemu_argv

    cell = _cell(arguments)
    initramfs = cell.initramfs(cell.closure(_wanted(arguments)))
    boot = cell.boot(initramfs, cmdline=arguments.cmdline, cookie=not arguments.no_cookie)
    print(quoted(qemu_argv(boot, BY_HAND)))
    if sys.stdout.isatty():
        print("Ctrl-A x leaves QEMU", file=sys.stderr)
    return 0
