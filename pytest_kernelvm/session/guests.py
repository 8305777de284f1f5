"""The guests of one process: booted, restored from a snapshot, or shared by tests.

One guest is restored ahead of the test that uses it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.errors import Evidence, HarnessError, NotLeftClean
from pytest_kernelvm.session.cleanliness import GuestState, differences, guest_state
from pytest_kernelvm.store.store import StagingDirectory, Store
from pytest_kernelvm.vm.machine.vm import Bootable, Vm
from pytest_kernelvm.vm.qemu.bounded_text import CONSOLE_LIMIT_MIB
from pytest_kernelvm.vm.qemu.snapshot import (
    MEMORY,
    Snapshot,
    SnapshotUnusable,
    find_snapshot,
    forget_snapshot,
    make_snapshot,
    require_intact_boot,
)

# A guest is restored ahead only on a host whose free memory would hold this many of it.
GUESTS_OF_ROOM = 4

OnLaunch = Callable[[Vm], None]


@dataclass(kw_only=True, slots=True)
class GuestCounts:
    """What was done for the tests.

    Attributes:
        booted: Guests that were booted.
        restored: Guests that were restored from a snapshot.
        waiting: Those of the restored guests that were ready before their test asked for them.
        shared: How often a test got the guest of another test.
        snapshots_made: Snapshots that were made; each takes a boot.
    """

    booted: int = 0
    restored: int = 0
    waiting: int = 0
    shared: int = 0
    snapshots_made: int = 0


def _has_room(memory_mib: int) -> bool:
    """Whether the memory that the host could give would hold this guest several times over."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) > GUESTS_OF_ROOM * memory_mib * 1024
    return False


class Guests:
    """Makes guests ready.

    Attributes:
        counts: What was done so far.
    """

    def __init__(
        self,
        store: Store,
        new_directory: Callable[[], Path],
        console_limit_bytes: int = CONSOLE_LIMIT_MIB << 20,
    ) -> None:
        """Begin without guests.

        Args:
            store: Where snapshots are stored.
            new_directory: Makes a directory for one guest's logs.
            console_limit_bytes: How much of each guest's console is stored.
        """
        self._store = store
        self._new_directory = new_directory
        self._console_limit_bytes = console_limit_bytes
        self._ahead: tuple[Bootable, Vm] | None = None
        self._shared: tuple[Bootable, Vm, GuestState] | None = None
        self.counts = GuestCounts()

    def _vm(
        self,
        bootable: Bootable,
        *,
        snapshot: Snapshot | None = None,
        memory: Path | None = None,
        link: socket.socket | None = None,
    ) -> Vm:
        return Vm(
            bootable,
            self._new_directory(),
            snapshot=snapshot,
            memory=memory,
            link=link,
            console_limit_bytes=self._console_limit_bytes,
        )

    def booted(
        self,
        bootable: Bootable,
        launched: OnLaunch = lambda _vm: None,
        *,
        link: socket.socket | None = None,
    ) -> Vm:
        """Return a ready guest that was booted for the caller, who ends it.

        A guest that does not get ready raises the error with its verdict; a kernel or initramfs
        that was changed in the store raises DamagedStore.

        Args:
            bootable: What it is made of.
            launched: Called with the guest before its boot is waited for.
            link: Its end of a cable to another guest; None for none.

        Returns:
            The guest.
        """
        require_intact_boot(bootable.boot)
        self.counts.booted += 1
        vm = self._vm(bootable, link=link)
        vm.start()
        launched(vm)
        return vm.__enter__()

    def restored(
        self,
        bootable: Bootable,
        launched: OnLaunch = lambda _vm: None,
        *,
        link: socket.socket | None = None,
    ) -> Vm:
        """Return a ready guest in its state right after boot; the caller ends it.

        If the store has no snapshot, a guest is booted to make one. A boot raises what `booted`
        does; a new snapshot that cannot be restored raises HarnessError.

        Args:
            bootable: What it is made of.
            launched: Called with the guest before it is waited for.
            link: Its end of a cable to another guest; None for none.

        Returns:
            The guest.
        """
        vm = self._restored_ahead(bootable) or self._started(
            bootable, self._snapshot(bootable), link
        )
        launched(vm)
        try:
            vm.__enter__()
        except SnapshotUnusable as unusable:
            vm = self._remade(bootable, vm, unusable, link)
            launched(vm)
        self.counts.restored += 1
        return vm

    def _remade(
        self,
        bootable: Bootable,
        failed: Vm,
        unusable: SnapshotUnusable,
        link: socket.socket | None,
    ) -> Vm:
        """Make a snapshot that does not restore again, and restore that."""
        assert failed.snapshot is not None
        self._store.progress.say(
            f"the snapshot of {bootable.label} does not restore ({unusable}); making it anew"
        )
        forget_snapshot(self._store, failed.snapshot)
        vm = self._started(bootable, self._snapshot(bootable), link)
        try:
            return vm.__enter__()
        except SnapshotUnusable as again:
            raise HarnessError(
                f"{bootable.label}: a snapshot just made cannot be restored",
                Evidence(
                    seen=str(again),
                    where=tuple(str(log) for log in vm.logs),
                    next_step="--kernelvm-fresh=boot does without snapshots",
                ),
            ) from None

    def _started(
        self, bootable: Bootable, snapshot: Snapshot, link: socket.socket | None = None
    ) -> Vm:
        vm = self._vm(bootable, snapshot=snapshot, link=link)
        vm.start()
        return vm

    def _snapshot(self, bootable: Bootable) -> Snapshot:
        found = find_snapshot(self._store, bootable.boot)
        if found:
            return found

        def record(work: StagingDirectory) -> dict[str, Any]:
            self.counts.snapshots_made += 1
            with self._vm(bootable, memory=work.directory / MEMORY) as vm:
                return vm.save(work.entry)

        label = f"the snapshot of {bootable.label}"
        return make_snapshot(self._store, bootable.boot, record, label=label)

    def restore_ahead(self, bootable: Bootable) -> None:
        """Have one guest restored ahead of the call of `restored` that asks for it.

        Nothing happens if there is no snapshot, or not enough memory.

        Args:
            bootable: What it is made of.
        """
        if self._ahead and self._ahead[0] == bootable:
            return
        if self._ahead:
            self._ahead[1].__exit__(None, None, None)
            self._ahead = None
        snapshot = find_snapshot(self._store, bootable.boot)
        if snapshot and _has_room(bootable.boot.machine.memory_mib):
            self._ahead = bootable, self._started(bootable, snapshot)

    def _restored_ahead(self, bootable: Bootable) -> Vm | None:
        """Return the guest that was restored ahead, if it is made of the same."""
        if not self._ahead or self._ahead[0] != bootable:
            return None
        self.counts.waiting += 1
        _, vm = self._ahead
        self._ahead = None
        return vm

    def shared(self, bootable: Bootable, launched: OnLaunch = lambda _vm: None) -> Vm:
        """Return the guest that tests share; `give_back` must follow.

        It is restored, which raises what `restored` does, or it is the one that the test before
        gave back.

        Args:
            bootable: What it is made of.
            launched: Called with the guest.

        Returns:
            The guest.
        """
        if self._shared is None or self._shared[0] != bootable:
            self._end_shared()
            vm = self.restored(bootable, launched)
            self._shared = bootable, vm, guest_state(vm)
        else:
            self.counts.shared += 1
            launched(self._shared[1])
        return self._shared[1]

    def give_back(self, vm: Vm, *, usable: bool = True) -> None:
        """Take a shared guest back, and check that the next test can have it.

        A guest that does not answer any more raises the error with its verdict.

        Args:
            vm: The guest.
            usable: False after a test that failed; then the guest ends unchecked.

        Raises:
            NotLeftClean: The test left something behind; the guest has ended.
        """
        assert self._shared is not None
        assert self._shared[1] is vm
        if not usable:
            self._end_shared()
            return
        found = ["the guest does not answer any more"]
        try:
            found = differences(vm, self._shared[2])
        finally:
            if found:
                self._end_shared()
        if found:
            raise NotLeftClean(
                f"{vm.label}: the test was to leave its guest clean and did not",
                Evidence(
                    excerpt="\n".join(found),
                    next_step="clean up in the test, or leave clean=True out of its marker",
                ),
            )

    def _end_shared(self) -> None:
        if self._shared:
            self._shared[1].__exit__(None, None, None)
            self._shared = None

    def close(self) -> None:
        """End the shared guest, and the one that was restored ahead."""
        self._end_shared()
        if self._ahead:
            self._ahead[1].__exit__(None, None, None)
            self._ahead = None
