"""gdb on a guest: QEMU's stub, and the command that connects to it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pytest_kernelvm.errors import HarnessError
from pytest_kernelvm.process import quoted
from pytest_kernelvm.vm.machine.vm import Vm

# Debian's gdb knows only the host's architecture; this one knows all.
GDB = "gdb-multiarch"
# What the kernel's build makes for gdb where CONFIG_GDB_SCRIPTS is set.
SCRIPTS = "vmlinux-gdb.py"


@contextlib.contextmanager
def stub_directory() -> Iterator[Path]:
    """Give a directory for a stub's socket that nobody else may enter.

    A path below the store may be longer than the 107 bytes that AF_UNIX takes (unix(7)).

    Yields:
        The directory, which is removed at the end.
    """
    with tempfile.TemporaryDirectory(prefix="kernelvm-gdb-") as directory:
        yield Path(directory)


def serve_gdb(vm: Vm, directory: Path) -> Path:
    """Have a launched QEMU listen for gdb; the guest goes on.

    Args:
        vm: The guest.
        directory: Of `stub_directory`.

    Returns:
        The socket.

    Raises:
        HarnessError: QEMU refuses.
    """
    socket = directory / "stub"
    said = vm.qmp.monitor(f"gdbserver unix:{socket},server=on,wait=off").strip()
    if not socket.exists():
        raise HarnessError(f"QEMU does not listen for gdb: {said}")
    return socket


def gdb_command(socket: Path, vmlinux: Path) -> str:
    """Return the command that connects gdb to a stub.

    Args:
        socket: The stub's.
        vmlinux: The kernel with its symbols; gdb scripts that lie beside it are loaded.
    """
    argv = [GDB]
    if (vmlinux.parent / SCRIPTS).exists():
        argv += ["-iex", f"add-auto-load-safe-path {vmlinux.parent}"]
    return quoted([*argv, str(vmlinux), "-ex", f"target remote {socket}"])


def gdb_hint(vmlinux: Path, symbols: dict[str, str]) -> str:
    """Return what a kernel lacks for gdb, in words; empty if nothing.

    Args:
        vmlinux: Where the kernel with its symbols would be.
        symbols: The kernel's configuration, value by symbol without CONFIG_.
    """
    if not vmlinux.exists():
        return "no vmlinux here: gdb sees registers and memory, and no symbols"
    lacking = []
    if symbols.get("DEBUG_INFO") != "y":
        lacking.append("DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT: y (lines and types)")
    if not (vmlinux.parent / SCRIPTS).exists():
        lacking.append("GDB_SCRIPTS: y (lx-dmesg, lx-ps, …)")
    return f"more with these symbols in the vm-config: {', '.join(lacking)}" if lacking else ""
