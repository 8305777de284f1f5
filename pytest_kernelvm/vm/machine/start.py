"""How a guest comes to be: booted, or restored from a snapshot.

Each function is a context manager that gives a Vm and leaves nothing of it behind. Only the main
thread may enter one: QEMU dies with the thread that started it.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_kernelvm.vm.machine.bootable import Bootable
from pytest_kernelvm.vm.machine.control import GuestControl
from pytest_kernelvm.vm.machine.vm import Vm
from pytest_kernelvm.vm.qemu.argv import MemoryFile
from pytest_kernelvm.vm.qemu.bounded_text import CONSOLE_LIMIT_MIB
from pytest_kernelvm.vm.qemu.launch import launch
from pytest_kernelvm.vm.qemu.snapshot import Snapshot
from pytest_kernelvm.vm.verdict.diagnosis import launch_failed

# Told of a guest as soon as it is launched, before its agent has answered.
Launched = Callable[[Vm], None]


def ignore_launch(_vm: Vm) -> None:
    """Be a `Launched` for those who watch nothing."""


@contextlib.contextmanager
def launch_guest(
    bootable: Bootable,
    directory: Path,
    *,
    snapshot: Snapshot | None = None,
    memory: Path | None = None,
    link: socket.socket | None = None,
    console_limit_bytes: int = CONSOLE_LIMIT_MIB << 20,
) -> Iterator[Vm]:
    """Launch QEMU and give the guest at once; it boots, or waits for its state, by itself.

    Raises LaunchFailed if the host does not let us, ToolMissing if this QEMU is not installed.

    Args:
        bootable: What the guest is made of.
        directory: Where its logs go.
        snapshot: Whose state QEMU is to wait for instead of booting; None to boot.
        memory: The file that is the guest's memory; None where no snapshot is to be taken.
        link: The guest's end of the cable to another guest; None without.
        console_limit_bytes: How much of the console's text is kept; a guest that says more is
            flooding.

    Yields:
        The guest, whose agent may not have answered yet.
    """
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        with _reported_as_launch_failed(bootable):
            launched = stack.enter_context(
                launch(
                    bootable.boot,
                    directory,
                    memory=MemoryFile(path=memory, shared=True) if memory else None,
                    snapshot=snapshot,
                    link=link,
                    console_limit_bytes=console_limit_bytes,
                )
            )
        control = GuestControl(
            bootable, directory, launched, stack.close, started=started, snapshot=snapshot
        )
        # A guest that ends with an error is not asked anything more.
        with Vm(control) as vm:
            yield vm


@contextlib.contextmanager
def _reported_as_launch_failed(bootable: Bootable) -> Iterator[None]:
    """Have what the host refuses be the error of a launch."""
    try:
        yield
    except OSError as error:
        failed = launch_failed(bootable.label, error, bootable.quoted_argv)
        raise failed from None


@contextlib.contextmanager
def boot_guest(
    bootable: Bootable,
    directory: Path,
    launched: Launched = ignore_launch,
    *,
    memory: Path | None = None,
    link: socket.socket | None = None,
    console_limit_bytes: int = CONSOLE_LIMIT_MIB << 20,
) -> Iterator[Vm]:
    """Boot a guest and give it when its agent has answered.

    Raises the error that says why it did not get ready, and what launch_guest raises.

    Args:
        bootable: What the guest is made of.
        directory: Where its logs go.
        launched: Told of the guest before its agent has answered.
        memory: As launch_guest takes it.
        link: As launch_guest takes it.
        console_limit_bytes: As launch_guest takes it.

    Yields:
        The guest.
    """
    with launch_guest(
        bootable,
        directory,
        memory=memory,
        link=link,
        console_limit_bytes=console_limit_bytes,
    ) as vm:
        launched(vm)
        vm.control.readiness.wait()
        yield vm


@contextlib.contextmanager
def begin_restore(
    bootable: Bootable,
    directory: Path,
    snapshot: Snapshot,
    *,
    link: socket.socket | None = None,
    console_limit_bytes: int = CONSOLE_LIMIT_MIB << 20,
) -> Iterator[Vm]:
    """Launch QEMU, have it load a snapshot, and give the guest at once.

    `vm.control.readiness.wait()` waits for its agent. Raises what launch_guest raises.

    Args:
        bootable: What the guest is made of.
        directory: Where its logs go.
        snapshot: What it is restored from.
        link: As launch_guest takes it.
        console_limit_bytes: As launch_guest takes it.

    Yields:
        The guest, whose agent may not have answered yet.
    """
    with launch_guest(
        bootable,
        directory,
        snapshot=snapshot,
        link=link,
        console_limit_bytes=console_limit_bytes,
    ) as vm:
        vm.control.readiness.begin_restore()
        yield vm


@contextlib.contextmanager
def restore_guest(
    bootable: Bootable,
    directory: Path,
    snapshot: Snapshot,
    launched: Launched = ignore_launch,
    *,
    link: socket.socket | None = None,
    console_limit_bytes: int = CONSOLE_LIMIT_MIB << 20,
) -> Iterator[Vm]:
    """Restore a guest from a snapshot and give it when its agent has answered.

    Raises SnapshotUnusable if the snapshot does not restore, and what launch_guest raises.

    Args:
        bootable: What the guest is made of.
        directory: Where its logs go.
        snapshot: What it is restored from.
        launched: Told of the guest before its agent has answered.
        link: As launch_guest takes it.
        console_limit_bytes: As launch_guest takes it.

    Yields:
        The guest.
    """
    with begin_restore(
        bootable, directory, snapshot, link=link, console_limit_bytes=console_limit_bytes
    ) as vm:
        launched(vm)
        vm.control.readiness.wait()
        yield vm
