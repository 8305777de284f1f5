"""`kernelvm boot` and `kernelvm argv`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_kernelvm.cli.selection import add_source, one_cell, store_of
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.session.guest_request import ARGUMENTS, GuestRequest
from pytest_kernelvm.store.kinds import HISTORY
from pytest_kernelvm.store.writing import remove_tree

if TYPE_CHECKING:
    from pytest_kernelvm.cli.selection import Verbs
    from pytest_kernelvm.session.cell import Cell
    from pytest_kernelvm.vm.machine.vm import Vm

# How long a boot may take under gdb: a week.
PATIENCE_S = 7 * 86400.0


def add_boot(verbs: Verbs) -> None:
    """Declare the verbs `boot` and `argv`."""
    for name, meaning, verb in (
        ("boot", "boot a guest and talk with it", _boot),
        ("argv", "print the QEMU command that boots a guest, to paste", _argv),
    ):
        parser = verbs.add_parser(name, help=meaning, description=meaning)
        which = parser.add_mutually_exclusive_group(required=True)
        which.add_argument(
            "cell", nargs="?", metavar="CELL", help="the cell to boot, such as malta-6.12"
        )
        which.add_argument(
            "--prebuilt",
            metavar="KERNEL",
            help="a finished kernel instead: a directory, .deb or .rpm files joined by commas, "
            "host:/boot, or debian:PACKAGE[:ARCH][@SUITE] such as debian:linux-image-arm64",
        )
        add_source(parser)
        _add_request(parser)
        if verb is _boot:
            _add_boot_options(parser)
        parser.set_defaults(verb=verb)


def _add_request(parser: argparse.ArgumentParser) -> None:
    """Declare the options that ask something of the guest."""
    for name, argument in ARGUMENTS.items():
        option = argument.option
        if option is None:
            continue
        meaning = option.meaning or argument.meaning
        if option.has_value:
            parser.add_argument(
                option.flag,
                dest=name,
                choices=option.choices,
                metavar=option.metavar or None,
                help=meaning,
            )
        else:
            parser.add_argument(option.flag, dest=name, action="store_false", help=meaning)


def _request(arguments: argparse.Namespace) -> GuestRequest:
    """Return what the options ask of the guest."""
    given: dict[str, Any] = {}
    for name, argument in ARGUMENTS.items():
        if argument.option is None:
            continue
        value = getattr(arguments, name)
        if isinstance(value, str):
            given[name] = argument.option.from_text(value)
        elif value is not None:
            given[name] = value
    return GuestRequest().with_options(**given)


def _cell(arguments: argparse.Namespace) -> Cell:
    from pytest_kernelvm.config.select import prebuilt_cell
    from pytest_kernelvm.config.sources import source_named
    from pytest_kernelvm.kernel.prebuilt.prebuilt import arch_of
    from pytest_kernelvm.session.cell import Cell

    store = store_of(arguments)
    if arguments.prebuilt is None:
        return Cell(one_cell(arguments, arguments.cell), store)
    source = source_named(f"prebuilt:{arguments.prebuilt}")
    return Cell(prebuilt_cell(source, arch_of(store, source)), store)


def _add_boot_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from-snapshot",
        action="store_true",
        help="restore it from the snapshot that tests use; "
        "make the snapshot first if there is none",
    )
    parser.add_argument(
        "--gdb",
        action="store_true",
        help="have QEMU listen for gdb, and print the line that starts gdb",
    )
    parser.add_argument(
        "--wait", action="store_true", help="with --gdb: do not run until gdb continues the guest"
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
    from pytest_kernelvm.shell.shell import EXIT_HINT, GuestShell, interact
    from pytest_kernelvm.vm.agent.network import USER_ADDRESS, USER_GATEWAY
    from pytest_kernelvm.vm.machine.recording import following

    _check_wait(arguments)
    cell = _cell(arguments)
    store = cell.store
    # An error names the logs, so they stay then; after success they are removed.
    directory = store.new_log_directory(cell.config.id)
    request = _request(arguments)
    bootable = cell.bootable(request)
    if arguments.wait:
        bootable = replace(
            bootable,
            boot=replace(bootable.boot, extra=(*bootable.boot.extra, "-S")),
            limits=replace(bootable.limits, boot_s=PATIENCE_S),
        )
    shells: list[GuestShell] = []
    with contextlib.ExitStack() as stack:

        def launched(vm: Vm) -> None:
            shells.append(GuestShell(vm, sys.stdout))
            if arguments.gdb:
                socket = serve_gdb(vm, stack.enter_context(stub_directory()))
                vmlinux = cell.kernel.directory / "vmlinux"
                print(gdb_command(socket, vmlinux))
                if hint := gdb_hint(vmlinux, cell.kernel.config):
                    print(hint)
            # The console of a restored guest is shown from its boot on.
            stack.enter_context(following(vm.console, shells[-1].show_console))

        guests = Guests(store, lambda: directory)
        get = guests.restored if arguments.from_snapshot else guests.booted
        vm = stack.enter_context(get(bootable, launched))
        if request.network:
            vm.network.set_up(USER_ADDRESS, gateway=USER_GATEWAY)
        how = "restored" if vm.snapshot else "booted"
        intro = f"{vm.label}: {how} in {vm.ready_s:.2f} s; {EXIT_HINT}"
        interact(shells[-1], history=store.place(HISTORY), intro=intro)
    remove_tree(directory)
    return 0


def _argv(arguments: argparse.Namespace) -> int:
    from pytest_kernelvm.process import quoted
    from pytest_kernelvm.vm.qemu.argv import ON_TERMINAL, qemu_argv

    print(quoted(qemu_argv(_cell(arguments).bootable(_request(arguments)).boot, ON_TERMINAL)))
    if sys.stdout.isatty():
        print("Ctrl-A x leaves QEMU", file=sys.stderr)
    return 0
