"""The guests of one process: booted, restored from a snapshot, or shared by tests.

One guest is restored ahead of the test that uses it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.errors import Evidence, HarnessError, NotLeftClean
from pytest_kernelvm.session.cleanliness import GuestState, differences, guest_state
from pytest_kernelvm.store.store import StagingDirectory, Store
from pytest_kernelvm.vm.machine.bootable import Bootable
from pytest_kernelvm.vm.machine.saving import save_guest
from pytest_kernelvm.vm.machine.start import Launched, begin_restore, boot_guest, ignore_launch
from pytest_kernelvm.vm.machine.vm import Vm
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _AheadGuest:
    """A guest that is restored ahead of its test. stack: ends it."""

    bootable: Bootable
    vm: Vm
    stack: contextlib.ExitStack


@dataclass(frozen=True, kw_only=True, slots=True)
class _SharedGuest:
    """A guest that tests pass on to each other. before: how it was. stack: ends it."""

    bootable: Bootable
    vm: Vm
    before: GuestState
    stack: contextlib.ExitStack


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
        is_shared_lent: Whether a test has the shared guest, so that nobody else can.
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
        self._ahead: _AheadGuest | None = None
        self._shared: _SharedGuest | None = None
        self.is_shared_lent = False
        self.counts = GuestCounts()

    @contextlib.contextmanager
    def booted(
        self,
        bootable: Bootable,
        launched: Launched = ignore_launch,
        *,
        link: socket.socket | None = None,
    ) -> Iterator[Vm]:
        """Give a ready guest that was booted for the caller; it ends with the context.

        A guest that does not get ready raises the error with its verdict; a kernel or initramfs
        that was changed in the store raises DamagedStore.

        Args:
            bootable: What it is made of.
            launched: Called with the guest before its boot is waited for.
            link: Its end of a cable to another guest; None for none.

        Yields:
            The guest.
        """
        require_intact_boot(bootable.boot)
        self.counts.booted += 1
        with boot_guest(
            bootable,
            self._new_directory(),
            launched,
            link=link,
            console_limit_bytes=self._console_limit_bytes,
        ) as vm:
            yield vm

    @contextlib.contextmanager
    def restored(
        self,
        bootable: Bootable,
        launched: Launched = ignore_launch,
        *,
        link: socket.socket | None = None,
    ) -> Iterator[Vm]:
        """Give a ready guest in the state right after its boot; it ends with the context.

        If the store has no snapshot, a guest is booted to make one. A boot raises what `booted`
        does; a new snapshot that cannot be restored raises HarnessError.

        Args:
            bootable: What it is made of.
            launched: Called with the guest before it is waited for.
            link: Its end of a cable to another guest; None for none.

        Yields:
            The guest.
        """
        with contextlib.ExitStack() as stack:
            vm = self._take_restored_ahead(bootable, stack)
            if vm is None:
                vm = self._launched(stack, bootable, self._snapshot(bootable), link)
            launched(vm)
            try:
                vm.control.readiness.wait()
            except SnapshotUnusable as unusable:
                stack.close()
                vm = self._remade(stack, bootable, vm, unusable, link)
                launched(vm)
            self.counts.restored += 1
            yield vm

    def _remade(
        self,
        stack: contextlib.ExitStack,
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
        vm = self._launched(stack, bootable, self._snapshot(bootable), link)
        try:
            vm.control.readiness.wait()
        except SnapshotUnusable as again:
            raise HarnessError(
                f"{bootable.label}: a snapshot just made cannot be restored",
                Evidence(
                    seen=str(again),
                    where=tuple(str(log) for log in vm.control.logs),
                    next_step="--kernelvm-fresh=boot does without snapshots",
                ),
            ) from None
        return vm

    def _launched(
        self,
        stack: contextlib.ExitStack,
        bootable: Bootable,
        snapshot: Snapshot,
        link: socket.socket | None = None,
    ) -> Vm:
        """Return a guest that is being restored and ends with a stack."""
        return stack.enter_context(
            begin_restore(
                bootable,
                self._new_directory(),
                snapshot,
                link=link,
                console_limit_bytes=self._console_limit_bytes,
            )
        )

    def _snapshot(self, bootable: Bootable) -> Snapshot:
        found = find_snapshot(self._store, bootable.boot)
        if found:
            return found

        def record(work: StagingDirectory) -> dict[str, Any]:
            self.counts.snapshots_made += 1
            memory = work.directory / MEMORY
            with boot_guest(
                bootable,
                self._new_directory(),
                memory=memory,
                console_limit_bytes=self._console_limit_bytes,
            ) as vm:
                return save_guest(vm.control, memory, work.entry)

        label = f"the snapshot of {bootable.label}"
        return make_snapshot(self._store, bootable.boot, record, label=label)

    def restore_ahead(self, bootable: Bootable) -> None:
        """Have one guest restored ahead of the call of `restored` that asks for it.

        Nothing happens if there is no snapshot, or not enough memory.

        Args:
            bootable: What it is made of.
        """
        if self._ahead and self._ahead.bootable == bootable:
            return
        self._end_ahead()
        snapshot = find_snapshot(self._store, bootable.boot)
        if snapshot and _has_room(bootable.boot.machine.memory_mib):
            with contextlib.ExitStack() as stack:
                vm = self._launched(stack, bootable, snapshot)
                self._ahead = _AheadGuest(bootable=bootable, vm=vm, stack=stack.pop_all())

    def _take_restored_ahead(self, bootable: Bootable, stack: contextlib.ExitStack) -> Vm | None:
        """Return the guest that was restored ahead, if it is made of the same; a stack ends it."""
        ahead = self._ahead
        if not ahead or ahead.bootable != bootable:
            return None
        self.counts.waiting += 1
        self._ahead = None
        stack.enter_context(ahead.stack)
        return ahead.vm

    def _end_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead:
            ahead.stack.close()

    def shared(self, bootable: Bootable, launched: Launched = ignore_launch) -> Vm:
        """Return the guest that tests share; `give_back` must follow before the next call.

        It is restored, which raises what `restored` does, or it is the one that the test before
        gave back.

        Args:
            bootable: What it is made of.
            launched: Called with the guest.

        Returns:
            The guest.
        """
        assert not self.is_shared_lent
        if self._shared is None or self._shared.bootable != bootable:
            self._end_shared()
            with contextlib.ExitStack() as stack:
                vm = stack.enter_context(self.restored(bootable, launched))
                self._shared = _SharedGuest(
                    bootable=bootable, vm=vm, before=guest_state(vm), stack=stack.pop_all()
                )
        else:
            self.counts.shared += 1
            launched(self._shared.vm)
        self.is_shared_lent = True
        return self._shared.vm

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
        assert self._shared.vm is vm
        self.is_shared_lent = False
        if not usable:
            self._end_shared()
            return
        found = ["the guest does not answer any more"]
        try:
            found = differences(vm, self._shared.before)
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
        shared, self._shared = self._shared, None
        if shared:
            shared.stack.close()

    def close(self) -> None:
        """End the shared guest, and the one that was restored ahead."""
        self._end_shared()
        self._end_ahead()
