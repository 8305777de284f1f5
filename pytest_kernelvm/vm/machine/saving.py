"""Writing a guest's state into files: for a snapshot, or as a failure leaves it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pytest_kernelvm.guest.protocol import Batch
from pytest_kernelvm.process import Deadline
from pytest_kernelvm.vm.agent.requests import require_success
from pytest_kernelvm.vm.machine.control import GuestControl
from pytest_kernelvm.vm.qemu.migration import add_clock_query, clock_offset_s, save_state
from pytest_kernelvm.vm.qemu.snapshot import CONSOLE, LOG, MEMORY, STATE, write_sparse
from pytest_kernelvm.vm.verdict.guest_end import END_S


def save_guest(control: GuestControl, memory: Path, entry: Path) -> dict[str, Any]:
    """Write a guest as it is into the directory of a snapshot's entry, and end it.

    Raises HarnessError if QEMU refuses.

    Args:
        control: Of the guest.
        memory: The file that is the guest's memory.
        entry: Of the store.

    Returns:
        What Snapshot is to know of it.
    """
    streams = control.launch.streams
    control.transactions.read_log(control.findings.look)
    batch = Batch()
    add_clock_query(batch, control.abi)
    what = "clock_gettime"
    reply = require_success(control.abi, control.transact(batch, what=what), what)
    ahead_s = clock_offset_s(reply, control.byteorder)
    write_state(control, entry)
    control.launch.process.kill()
    streams.wait_for(lambda: streams.console_ended or None, Deadline(END_S))
    now = time.monotonic()
    write_sparse(memory, entry / MEMORY)
    return note_state(control, entry, ahead_s, now)


def write_state(control: GuestControl, directory: Path) -> None:
    """Have QEMU write the state of a guest into a directory; the guest is stopped then.

    Raises HarnessError if QEMU refuses, GuestDied if it is gone.

    Args:
        control: Of the guest.
        directory: Gets the state.
    """
    control.qmp.perform(save_state(control.launch.streams, directory / STATE))


def note_state(
    control: GuestControl, entry: Path, ahead_s: float, stopped: float
) -> dict[str, Any]:
    """Add to a guest's written state what is ours of it.

    Args:
        control: Of the guest.
        entry: The directory with the state.
        ahead_s: Seconds by which the guest's clock is ahead of the host's.
        stopped: When the guest was stopped, on the monotonic clock.

    Returns:
        What Snapshot is to know of it.
    """
    (entry / CONSOLE).write_bytes(control.launch.streams.console_text)
    (entry / LOG).write_bytes(control.findings.copy.raw)
    return {
        "request_id": control.channel.last_id,
        "boot_id": control.channel.boot_id,
        "clock_offset_s": ahead_s,
        "taint": control.findings.reader.taint,
        "console_ages_s": [(stopped - at, offset) for at, offset in control.console.times],
    }
