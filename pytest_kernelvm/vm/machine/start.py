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


def tell_nobody(_vm: Vm) -> None:
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

    bootable: what it is made of. directory: where its logs go.
    snapshot: whose state QEMU is to wait for instead of booting; None to boot.
    memory: the file that is its memory; None where no snapshot is to be taken.
    link: its end of the cable to another guest, None without.
    console_limit_bytes: how much of its console's text is kept; a guest that says more is flooding.
    Raises LaunchFailed if the host does not let us, ToolMissing if this QEMU is not installed.
    """
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        try:
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
        except OSError as error:
            raise launch_failed(bootable.label, error, bootable.argv_by_hand) from None
        control = GuestControl(
            bootable, directory, launched, stack.close, started=started, snapshot=snapshot
        )
        # A guest that ends with an error is not asked anything more.
        with Vm(control) as vm:
            yield vm


@contextlib.contextmanager
def boot_guest(
    bootable: Bootable,
    directory: Path,
    launched: Launched = tell_nobody,
    *,
    memory: Path | None = None,
    link: socket.socket | None = None,
    console_limit_bytes: int = CONSOLE_LIMIT_MIB << 20,
) -> Iterator[Vm]:
    """Boot a guest and give it when its agent has answered.

    launched: told of it before. The rest is as launch_guest has it.
    Raises the error that says why it did not get ready.
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

    `vm.control.readiness.wait()` waits for its agent. The rest is as launch_guest has it.
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
    launched: Launched = tell_nobody,
    *,
    link: socket.socket | None = None,
    console_limit_bytes: int = CONSOLE_LIMIT_MIB << 20,
) -> Iterator[Vm]:
    """Restore a guest from a snapshot and give it when its agent has answered.

    launched: told of it before. The rest is as launch_guest has it.
    Raises SnapshotUnusable if the snapshot does not restore.
    """
    with begin_restore(
        bootable, directory, snapshot, link=link, console_limit_bytes=console_limit_bytes
    ) as vm:
        launched(vm)
        vm.control.readiness.wait()
        yield vm
