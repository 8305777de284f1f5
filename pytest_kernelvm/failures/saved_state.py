"""The state in which a failure left a guest, saved in files until somebody looks at it.

No process stays: what is saved is the state in which QEMU was stopped, and attaching to it is
restoring it. So it can be attached to again and again, each time as the failure left it.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from pytest_kernelvm.errors import GuestDied, HarnessError, KernelvmError
from pytest_kernelvm.vm.machine.vm import Vm
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
    if vm.ended:
        raise GuestDied("QEMU has ended")
    ran = vm.qmp.query("query-status")["running"]
    stopped = time.monotonic()
    vm.qmp.query("stop")
    vm.write_state(directory)
    if vm.snapshot:
        # The memory is in the state, as it is private to the guest. The file that QEMU maps before
        # it loads the state is one hole.
        with (directory / MEMORY).open("wb") as file:
            os.truncate(file.fileno(), vm.boot.machine.memory_mib << 20)
    about = vm.note_state(directory, 0.0, stopped)
    if ran:
        vm.qmp.query("cont")
    return about


class AttachedVm(Vm):
    """A saved guest, back in a QEMU of its own; stopped until `resume`."""

    def _bring_in(self, _snapshot: Snapshot, descriptor: int) -> None:
        self._descriptor = descriptor

    def _await_restored(self) -> None:
        self.qmp.perform(self._load(), "the kept state")
        # It may have panicked before it was saved.
        self._collector.watch.look_from(0, 0)

    async def _load(self) -> None:
        client = await self._launch.streams.qmp_client()
        await client.execute("migrate-set-capabilities", {"capabilities": IGNORE_SHARED})
        await client.execute("migrate-incoming", {"uri": f"fd:{self._descriptor}"})
        while True:
            found = await client.execute("query-status")
            assert isinstance(found, dict)
            if found["status"] != "inmigrate":
                return
            await asyncio.sleep(0.002)

    def resume(self) -> None:
        """Let it run and wait for its agent.

        Raises also the error that says why its agent does not answer.

        Raises:
            GuestDied: It cannot run any more.
        """
        status = self.qmp.query("query-status")["status"]
        try:
            self.qmp.query("cont")
        except HarnessError:
            raise GuestDied(f"the guest is at its end ({status})") from None
        self.ping(ANSWER_S)

    def resume_or_error(self) -> KernelvmError | None:
        """Let it run; return the error that says why its agent does not answer, None if it does."""
        try:
            self.resume()
        except KernelvmError as error:
            return error
        return None
