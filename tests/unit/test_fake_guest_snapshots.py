"""Guests of a session: restored, restored ahead, shared and kept, and what goes wrong with that."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_kernelvm.errors import (
    GuestDied,
    GuestHang,
    GuestPanic,
    GuestSplat,
    HarnessError,
    NotLeftClean,
)
from pytest_kernelvm.failures.saved_state import attach, resume_or_error, save_guest
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.session.guests import Guests
from pytest_kernelvm.store.digest import sparse_digest
from pytest_kernelvm.store.metadata import ENTRY, read_metadata
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.store.writing import write_whole
from pytest_kernelvm.vm.machine.bootable import Bootable
from pytest_kernelvm.vm.machine.start import restore_guest
from pytest_kernelvm.vm.machine.vm import Vm
from pytest_kernelvm.vm.qemu.snapshot import STATE, Snapshot, SnapshotUnusable, find_snapshot
from tests.fake_guest import BOOT, PANIC, WARNING, do, fake_bootable, fake_guest
from tests.fake_guest import fake_qemu as fake_qemu

pytestmark = pytest.mark.usefixtures("fake_qemu")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", Silent())


@pytest.fixture
def guests(store: Store, tmp_path: Path) -> Iterator[Guests]:
    numbers = itertools.count()

    def new_directory() -> Path:
        made = tmp_path / f"guest-{next(numbers)}"
        made.mkdir()
        return made

    made = Guests(store, new_directory)
    with contextlib.closing(made):
        yield made


@pytest.fixture
def bootable(tmp_path: Path) -> Bootable:
    return fake_bootable(tmp_path)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_second_one_boots_nothing(guests: Guests, bootable: Bootable) -> None:
    for _guest in range(2):
        with guests.restored(bootable) as vm:
            assert vm.snapshot
            assert vm.read("/proc/version")
            assert vm.console.text.count("Linux version") == 1
            assert "Linux version 6.12.0" in vm.dmesg
    assert (guests.counts.snapshots_made, guests.counts.restored) == (1, 2)


def test_booted_guests_have_no_snapshot(guests: Guests, bootable: Bootable) -> None:
    with guests.booted(bootable) as vm:
        assert vm.snapshot is None
    assert not is_alive(vm.pid)
    assert (guests.counts.booted, guests.counts.snapshots_made) == (1, 0)


def test_watchers_see_restored_guests_before_they_are_ready(
    guests: Guests, bootable: Bootable
) -> None:
    seen: list[tuple[Vm, float]] = []
    with guests.restored(bootable, lambda vm: seen.append((vm, vm.ready_s))) as vm:
        assert seen == [(vm, 0.0)]
        assert vm.ready_s > 0


def test_the_boot_behind_a_snapshot_is_answered_for(guests: Guests, tmp_path: Path) -> None:
    with guests.restored(fake_bootable(tmp_path, *WARNING, *BOOT)) as vm:
        vm.control.answer_for(boot=True)
        assert type(vm.control.conclude("a boot", ask=False)) is GuestSplat
        vm.control.answer_for()
        assert vm.control.conclude("the test", ask=True) is None


def replace_state(store: Store, bootable: Bootable, content: bytes) -> None:
    """Have a snapshot's state be other bytes, as if it had been made of them."""
    found = find_snapshot(store, bootable.boot)
    assert found
    found.state.write_bytes(content.ljust(found.state.stat().st_size))
    note = read_metadata(found.directory)
    digests = {**note.sha256, STATE: sparse_digest(found.state)}
    write_whole(found.directory / ENTRY, dataclasses.replace(note, sha256=digests).text())


def test_a_snapshot_that_qemu_refuses_is_made_anew(
    guests: Guests, store: Store, bootable: Bootable
) -> None:
    with guests.restored(bootable):
        pass
    replace_state(store, bootable, b"no state at all")
    seen: list[Vm] = []
    with guests.restored(bootable, seen.append) as vm:
        assert vm.read("/proc/version")
        assert seen[-1] is vm
        assert seen[0].control.ended
    assert guests.counts.snapshots_made == 2


@pytest.mark.parametrize(
    ("act", "why"),
    [
        ("refuse-qmp migrate-incoming", "migrate-incoming is refused"),
        ("refuse-qmp migrate-set-capabilities", "QEMU refused"),
        ("refuse clock_settime 1", "clock_settime failed: Operation not permitted"),
        ("refuse ioctl 25", "ioctl failed: Inappropriate ioctl for device"),
    ],
)
def test_a_snapshot_that_does_not_restore_just_after_it_was_made(
    act: str, why: str, guests: Guests, tmp_path: Path
) -> None:
    with (
        pytest.raises(HarnessError) as failed,
        guests.restored(fake_bootable(tmp_path, act, *BOOT)),
    ):
        pass
    assert why in f"{failed.value.summary} {failed.value.evidence.seen}"


@pytest.mark.parametrize("command", ["migrate", "getfd"])
def test_a_guest_that_cannot_be_saved(command: str, guests: Guests, tmp_path: Path) -> None:
    with (
        pytest.raises(HarnessError, match="QEMU refused"),
        guests.restored(fake_bootable(tmp_path, f"refuse-qmp {command}", *BOOT)),
    ):
        pass


def test_a_guest_that_panics_before_it_is_saved(guests: Guests, tmp_path: Path) -> None:
    acts = (*BOOT, *PANIC, "exit 0")
    with pytest.raises((GuestPanic, GuestDied)), guests.restored(fake_bootable(tmp_path, *acts)):
        pass


def test_one_is_restored_while_another_is_tested(guests: Guests, bootable: Bootable) -> None:
    guests.restore_ahead(bootable)
    assert guests.counts.waiting == 0
    with guests.restored(bootable) as vm:
        guests.restore_ahead(bootable)
        assert vm.read("/proc/version")
    with guests.restored(bootable) as vm:
        assert vm.read("/proc/version")
    assert guests.counts.waiting == 1
    assert not is_alive(vm.pid)


def test_an_unused_restored_guest_ends_with_the_session(
    guests: Guests, bootable: Bootable, tmp_path: Path
) -> None:
    with guests.restored(bootable):
        guests.restore_ahead(bootable)
        guests.restore_ahead(bootable)
    running = list(Path("/proc").glob("[0-9]*/cmdline"))
    mine = [each for each in running if str(tmp_path).encode() in _cmdline(each)]
    assert len(mine) == 1
    guests.close()
    assert _cmdline(mine[0]) == b""


def _cmdline(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_shared_guest_is_passed_on(guests: Guests, bootable: Bootable) -> None:
    first = guests.shared(bootable)
    first.write("/file", "")
    first.unlink("/file")
    guests.give_back(first)
    assert guests.shared(bootable) is first
    assert guests.counts.shared == 1
    guests.give_back(first, usable=False)
    assert not is_alive(first.pid)


@pytest.mark.parametrize(
    ("leave", "told"),
    [
        (lambda vm: vm.write("/left", ""), "file left: left"),
        (lambda vm: vm.write("/proc/modules", "dummy 1 0 - Live 0x0\n"), "module left: dummy"),
        (lambda vm: vm.write("/proc/mounts", "none /mnt tmpfs rw 0 0\n"), "mount left: none /mnt"),
        (lambda vm: vm.write("/proc/7/cmdline", "sleep\0"), "process left: 7 sleep"),
        (lambda vm: vm.write("/proc/meminfo", "Slab: 9000 kB\n"), "slab memory grew from 1024"),
        (lambda vm: do(vm, "log trouble"), "kernel's log: trouble"),
    ],
    ids=["file", "module", "mount", "process", "memory", "log"],
)
def test_what_is_left_behind_in_a_shared_guest(
    leave: Callable[[Vm], None], told: str, guests: Guests, bootable: Bootable
) -> None:
    vm = guests.shared(bootable)
    leave(vm)
    with pytest.raises(NotLeftClean) as left:
        guests.give_back(vm)
    assert told in left.value.evidence.excerpt
    assert not is_alive(vm.pid)
    assert guests.shared(bootable) is not vm


def test_a_shared_guest_that_does_not_answer_ends(guests: Guests, tmp_path: Path) -> None:
    vm = guests.shared(fake_bootable(tmp_path, command_s=0.3))
    with pytest.raises(GuestHang):
        do(vm, "mute")
    with pytest.raises(GuestHang):
        guests.give_back(vm)
    assert not is_alive(vm.pid)


# Kept guests


def kept(vm: Vm, directory: Path) -> Snapshot:
    directory.mkdir()
    return Snapshot.from_note(directory, save_guest(vm, directory))


def test_a_saved_guest_is_restored_unchanged(tmp_path: Path, bootable: Bootable) -> None:
    with fake_guest(tmp_path) as vm:
        vm.write("/file", "kept")
        snapshot = kept(vm, tmp_path / "state")
        # It goes on.
        vm.ping()
    with attach(bootable, tmp_path, snapshot) as again:
        assert resume_or_error(again) is None
        assert again.read("/file") == "kept"


def test_a_kept_guest_that_is_not_let_run(tmp_path: Path) -> None:
    with fake_guest(tmp_path) as vm:
        snapshot = kept(vm, tmp_path / "state")
    with attach(fake_bootable(tmp_path, "refuse-qmp cont", *BOOT), tmp_path, snapshot) as again:
        error = resume_or_error(again)
        assert type(error) is GuestDied
        assert "the guest is at its end" in error.summary


def test_a_guest_that_has_ended_is_not_saved(tmp_path: Path) -> None:
    with fake_guest(tmp_path) as vm:
        vm.kill()
        vm.wait_end(5)
        with pytest.raises(GuestDied, match="QEMU has ended"):
            save_guest(vm, tmp_path)


def test_a_saved_state_that_is_damaged(tmp_path: Path, bootable: Bootable) -> None:
    with fake_guest(tmp_path) as vm:
        snapshot = kept(vm, tmp_path / "state")
    snapshot.state.write_bytes(b"nothing")
    with pytest.raises((GuestDied, HarnessError)), attach(bootable, tmp_path, snapshot):
        pass
    with pytest.raises(SnapshotUnusable), restore_guest(bootable, tmp_path, snapshot):
        pass
