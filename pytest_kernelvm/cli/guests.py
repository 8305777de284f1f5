"""`kernelvm boot` and `argv`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_kernelvm.cli.selection import add_source, one_cell, store_of
from pytest_kernelvm.config.model import USERLANDS
from pytest_kernelvm.config.roots import KINDS, Root
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.store.writing import remove_tree

if TYPE_CHECKING:
    from pytest_kernelvm.cli.selection import Verbs
    from pytest_kernelvm.session.cell import Cell
    from pytest_kernelvm.vm.machine.vm import Bootable, Vm

# The file in the store with the lines given at prompts.
HISTORY = "history"
# Somebody who steps through a boot is in no hurry.
PATIENCE_S = 7 * 86400.0


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
        parser.add_argument("--root", choices=KINDS, help="boot into a root file system of a kind")
        parser.add_argument("--cmdline", default="", metavar="WORDS", help="for the bootloader's")
        parser.add_argument(
            "--no-cookie", action="store_true", help="leave the cookie off the command line"
        )
        parser.add_argument(
            "--network", choices=("user", "outside"), default="", help="with a network card"
        )
        if verb is _boot:
            _add_ways(parser)
        parser.set_defaults(verb=verb)


def _cell(arguments: argparse.Namespace) -> Cell:
    from pytest_kernelvm.config.select import prebuilt_cell
    from pytest_kernelvm.config.sources import source_named
    from pytest_kernelvm.kernel.prebuilt import arch_of
    from pytest_kernelvm.session.cell import Cell

    store = store_of(arguments)
    if arguments.prebuilt is None:
        cell = Cell(one_cell(arguments, arguments.cell), store)
    else:
        source = source_named(f"prebuilt:{arguments.prebuilt}")
        cell = Cell(prebuilt_cell(source, arch_of(store, source)), store)
    root = None if arguments.root is None else Root(kind=arguments.root)
    return cell.variant(userland=arguments.userland, root=root)


def _add_ways(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from-snapshot",
        action="store_true",
        help="restore it from the snapshot that tests use, made if need be",
    )
    parser.add_argument("--gdb", action="store_true", help="have QEMU listen for gdb")
    parser.add_argument(
        "--wait", action="store_true", help="with --gdb: stand still until gdb lets it go on"
    )


def _wanted(arguments: argparse.Namespace) -> list[str] | None:
    if arguments.modules is None:
        return None
    return [name for name in arguments.modules.split(",") if name]


def _bootable(cell: Cell, arguments: argparse.Namespace) -> Bootable:
    return cell.bootable(
        modules=_wanted(arguments),
        cmdline=arguments.cmdline,
        cookie=not arguments.no_cookie,
        network=arguments.network,
    )


def _check_wait(arguments: argparse.Namespace) -> None:
    if not arguments.wait:
        return
    if arguments.from_snapshot or not arguments.gdb:
        raise BadInput(
            "--wait is for a guest that boots under gdb",
            Evidence(expected="--gdb --wait, without --from-snapshot"),
        )


def _boot(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.session.guests import Guests
    from pytest_kernelvm.shell.debugging import gdb_command, gdb_hint, serve_gdb, stub_directory
    from pytest_kernelvm.shell.shell import LEAVE, GuestShell, interact
    from pytest_kernelvm.vm.agent.network import USER_ADDRESS, USER_GATEWAY
    from pytest_kernelvm.vm.machine.recording import following

    _check_wait(arguments)
    cell = _cell(arguments)
    store = cell.store
    # What went well needs no log; an error names it, so then it stays.
    directory = store.new_log_directory(cell.config.id)
    bootable = _bootable(cell, arguments)
    if arguments.wait:
        bootable = replace(
            bootable,
            boot=replace(bootable.boot, extra=(*bootable.boot.extra, "-S")),
            limits=replace(bootable.limits, boot_s=PATIENCE_S),
        )
    shells: list[GuestShell] = []
    with contextlib.ExitStack() as stack:

        def launched(vm: Vm) -> None:
            stack.push(vm)
            shells.append(GuestShell(vm, sys.stdout))
            if arguments.gdb:
                socket = serve_gdb(vm, stack.enter_context(stub_directory()))
                vmlinux = cell.kernel.directory / "vmlinux"
                print(gdb_command(socket, vmlinux))
                if hint := gdb_hint(vmlinux, cell.kernel.config):
                    print(hint)
            # What a restored guest had said is shown as well.
            stack.enter_context(following(vm.console, shells[-1].show_console))

        guests = Guests(store, lambda: directory)
        get = guests.restored if arguments.from_snapshot else guests.booted
        vm = get(bootable, launched)
        if arguments.network:
            vm.network.set_up(USER_ADDRESS, gateway=USER_GATEWAY)
        how = "restored" if vm.snapshot else "booted"
        intro = f"{vm.label}: {how} in {vm.ready_s:.2f} s; {LEAVE}"
        interact(shells[-1], history=store.root / HISTORY, intro=intro)
    remove_tree(directory)
    return 0


def _argv(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.process import quoted
    from pytest_kernelvm.vm.qemu.argv import BY_HAND, qemu_argv

    print(quoted(qemu_argv(_bootable(_cell(arguments), arguments).boot, BY_HAND)))
    if sys.stdout.isatty():
        print("Ctrl-A x leaves QEMU", file=sys.stderr)
    return 0
