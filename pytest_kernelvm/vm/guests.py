"""The guests of one process: booted, or restored from a snapshot, one of them ahead of its test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.errors import Evidence, HarnessError
from pytest_kernelvm.kernel.store import Store, Work
from pytest_kernelvm.vm.snapshot import (
    MEMORY,
    Snapshot,
    SnapshotUnusable,
    find_snapshot,
    forget_snapshot,
    make_snapshot,
)
from pytest_kernelvm.vm.vm import Bootable, Vm


@dataclass(kw_only=True, slots=True)
class Counts:
    """What was done for the tests: for the summary at the end of a run."""

    booted: int = 0
    restored: int = 0
    waiting: int = 0
    snapshots_made: int = 0


class Guests:
    """Makes guests ready.

    store: where snapshots are kept.
    new_directory: makes a directory for one guest's logs.
    """

    def __init__(self, store: Store, new_directory: Callable[[], Path]) -> None:
        self._store = store
        self._new_directory = new_directory
        self._ahead: tuple[Bootable, Vm] | None = None
        self.counts = Counts()

    def booted(self, bootable: Bootable) -> Vm:
        """Return a ready guest that was booted for the caller, who ends it.

        Raises the error that says why it did not get ready.
        """
        self.counts.booted += 1
        return Vm(bootable, self._new_directory()).__enter__()

    def restored(self, bootable: Bootable) -> Vm:
        """Return a ready guest in the state right after its boot; the caller ends it.

        The first one is booted and its snapshot stored, unless the store has it.
        Raises what a boot raises, and HarnessError if a fresh snapshot cannot be restored.
        """
        vm = self._taken(bootable) or self._started(bootable, self._snapshot(bootable))
        try:
            vm.__enter__()
        except SnapshotUnusable as unusable:
            vm = self._anew(bootable, vm, unusable)
        self.counts.restored += 1
        return vm

    def _anew(self, bootable: Bootable, failed: Vm, unusable: SnapshotUnusable) -> Vm:
        """Replace a snapshot that does not restore."""
        assert failed.snapshot is not None
        self._store.progress.say(
            f"the snapshot of {bootable.label} does not restore ({unusable}); making it anew"
        )
        forget_snapshot(failed.snapshot)
        vm = self._started(bootable, self._snapshot(bootable))
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

    def _started(self, bootable: Bootable, snapshot: Snapshot) -> Vm:
        vm = Vm(bootable, self._new_directory(), snapshot=snapshot)
        vm.start()
        return vm

    def _snapshot(self, bootable: Bootable) -> Snapshot:
        found = find_snapshot(self._store, bootable.boot)
        if found:
            return found

        def record(work: Work) -> dict[str, Any]:
            self.counts.snapshots_made += 1
            with Vm(bootable, self._new_directory(), memory=work.directory / MEMORY) as vm:
                return vm.save(work.entry)

        label = f"the snapshot of {bootable.label}"
        return make_snapshot(self._store, bootable.boot, record, label=label)

    def prepare(self, bootable: Bootable) -> None:
        """Have one guest restored ahead of the call that asks for it, if its snapshot is there."""
        if self._ahead and self._ahead[0] == bootable:
            return
        self.close()
        snapshot = find_snapshot(self._store, bootable.boot)
        if snapshot:
            self._ahead = bootable, self._started(bootable, snapshot)

    def _taken(self, bootable: Bootable) -> Vm | None:
        """Return the guest that was prepared, if it is such a one."""
        if not self._ahead or self._ahead[0] != bootable:
            return None
        self.counts.waiting += 1
        _, vm = self._ahead
        self._ahead = None
        return vm

    def close(self) -> None:
        """End the guest that nobody took."""
        if self._ahead:
            self._ahead[1].__exit__(None, None, None)
            self._ahead = None
