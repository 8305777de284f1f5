"""The state in which a failure left a guest, saved in files until somebody looks at it.

No process stays: what is saved is the state in which QEMU was stopped, and attaching to it is
restoring it. So it can be attached to again and again, each time as the failure left it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_kernelvm.errors import GuestDied, HarnessError, KernelvmError
from pytest_kernelvm.vm.machine.bootable import Bootable
from pytest_kernelvm.vm.machine.saving import note_state, write_state
from pytest_kernelvm.vm.machine.start import launch_guest
from pytest_kernelvm.vm.machine.vm import Vm
from pytest_kernelvm.vm.qemu.launch import Launch
from pytest_kernelvm.vm.qemu.migration import IGNORE_SHARED
from pytest_kernelvm.vm.qemu.snapshot import MEMORY, Snapshot

# How long an agent that nobody disturbs takes to answer.
ANSWER_S = 5.0


def save_guest(vm: Vm, directory: Path) -> dict[str, Any]:
    """Save the state of a guest, also of one that has panicked; it goes on if it ran.

    Raises HarnessError if QEMU refuses, OSError if the directory cannot take it.

    Args:
        vm: The guest.
        directory: Empty; gets the state.

    Returns:
        What Snapshot.from_note takes.

    Raises:
        GuestDied: QEMU is gone or does not answer.
    """
    if vm.control.ended:
        raise GuestDied("QEMU has ended")
    ran = vm.qmp.query("query-status")["running"]
    stopped = time.monotonic()
    vm.qmp.query("stop")
    write_state(vm.control, directory)
    if vm.snapshot:
        # The memory is in the state, as it is private to the guest. The file that QEMU maps before
        # it loads the state is one hole.
        with (directory / MEMORY).open("wb") as file:
            os.truncate(file.fileno(), vm.boot.machine.memory_mib << 20)
    about = note_state(vm.control, directory, 0.0, stopped)
    if ran:
        vm.qmp.query("cont")
    return about


@contextlib.contextmanager
def attach(bootable: Bootable, directory: Path, snapshot: Snapshot) -> Iterator[Vm]:
    """Give a saved guest, back in a QEMU of its own; stopped until `resume`.

    Raises GuestDied or HarnessError if QEMU does not take the state.

    Args:
        bootable: What the guest is made of.
        directory: Gets its logs.
        snapshot: Its saved state.

    Yields:
        The guest.
    """
    with launch_guest(bootable, directory, snapshot=snapshot) as vm:
        vm.qmp.perform(_load(vm.control.launch), "the kept state")
        # It may have panicked before it was saved.
        vm.control.collector.watch.look_from(0, 0)
        vm.control.readiness.note_ready()
        yield vm


async def _load(launch: Launch) -> None:
    client = await launch.streams.qmp_client()
    await client.execute("migrate-set-capabilities", {"capabilities": IGNORE_SHARED})
    await client.execute("migrate-incoming", {"uri": f"fd:{launch.state_descriptor}"})
    while True:
        found = await client.execute("query-status")
        assert isinstance(found, dict)
        if found["status"] != "inmigrate":
            return
        await asyncio.sleep(0.002)


def resume(vm: Vm) -> None:
    """Let an attached guest run and wait for its agent.

    Raises also the error that says why its agent does not answer.

    Args:
        vm: The guest, as `attach` gives it.

    Raises:
        GuestDied: It cannot run any more.
    """
    status = vm.qmp.query("query-status")["status"]
    try:
        vm.qmp.query("cont")
    except HarnessError:
        raise GuestDied(f"the guest is at its end ({status})") from None
    vm.ping(ANSWER_S)


def resume_or_error(vm: Vm) -> KernelvmError | None:
    """Let an attached guest run; return the error that says why its agent does not answer.

    Args:
        vm: The guest, as `attach` gives it.

    Returns:
        The error; None if the agent answers.
    """
    try:
        resume(vm)
    except KernelvmError as error:
        return error
    return None
