"""A restored guest is as good as a booted one, and unlike every other of its snapshot."""

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kernelvm import BootVm, Cell, Vm
from pytest_kernelvm.guest.protocol import Batch
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.session.guests import Guests
from pytest_kernelvm.store.digest import sparse_digest
from pytest_kernelvm.store.metadata import ENTRY, read_metadata
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.store.writing import write_whole
from pytest_kernelvm.vm.qemu.migration import SET_CLOCK_S, add_clock_query, clock_offset_s
from pytest_kernelvm.vm.qemu.snapshot import MEMORY, STATE, find_snapshot

pytestmark = pytest.mark.kernelvm(modules=["dummy"], fresh="restore")


# Writes to the log when it has slept, in a process that stays behind.
LATE = """
int main(void)
{
	int log = open("/dev/kmsg", O_WRONLY);

	if (fork())
		return 0;
	usleep(300000);
	write(log, "late by a moment\\n", 17);
	return 0;
}
"""


@pytest.fixture
def private(tmp_path: Path) -> tuple[Store, Guests]:
    """A store without snapshots, and guests that use it."""
    store = Store(tmp_path / "store", Silent())
    numbers = iter(range(100))

    def new_directory() -> Path:
        directory = tmp_path / f"guest-{next(numbers)}"
        directory.mkdir()
        return directory

    return store, Guests(store, new_directory)


def test_a_restored_guest_was_not_booted(vm: Vm) -> None:
    assert vm.snapshot is not None
    assert "-incoming" in Path(f"/proc/{vm.pid}/cmdline").read_text().split("\0")


@pytest.mark.kernelvm(fresh="boot")
def test_fresh_boot_boots_the_guest(vm: Vm) -> None:
    assert vm.snapshot is None


def test_restored_guests_do_not_share_state(new_vm: BootVm) -> None:
    one, other = new_vm(), new_vm()
    one.modprobe("dummy")
    one.write("/file", "of one")
    assert other.modules == ()
    assert "file" not in other.list("/")
    third = new_vm()
    assert third.modules == ()
    assert "file" not in third.list("/")


def drawn(vm: Vm) -> bytes:
    """Return what getrandom(2) gives."""
    batch = Batch()
    batch.call("getrandom", batch.space(32), 32, 0, out=(0, 32))
    return vm.control.transact(batch).outputs[0]


def test_random_numbers_differ(new_vm: BootVm) -> None:
    guests = [new_vm() for _ in range(3)]
    assert len({drawn(vm) for vm in guests}) == 3
    for name in ("uuid", "boot_id"):
        assert len({vm.read(f"/proc/sys/kernel/random/{name}") for vm in guests}) == 3


def clock(vm: Vm) -> float:
    """Return the guest's time of day."""
    batch = Batch()
    add_clock_query(batch, vm.abi)
    ahead_s = clock_offset_s(vm.control.transact(batch), vm.boot.arch.endianness)
    return time.time() + ahead_s


def test_the_clock_is_the_hosts_where_boots_set_it(new_vm: BootVm, boot_vm: BootVm) -> None:
    """A machine with a clock knows the time, not that of the snapshot; one without is in 1970."""
    before = time.time()
    restored, booted = clock(new_vm()), clock(boot_vm())
    if booted < SET_CLOCK_S:
        assert restored < SET_CLOCK_S
    else:
        # On a busy host the guest is told the time some moments before it can set its clock.
        assert before - 5 < restored < before + 60


def test_log_and_console_of_a_restored_guest_begin_with_the_boot(vm: Vm) -> None:
    assert [record.sequence for record in vm.dmesg][:3] == [0, 1, 2]
    assert "Linux version" in vm.console.text
    assert vm.console.log.read_text() == vm.console.text
    vm.console.expect("Linux version")
    vm.console.expect("Run /init as init process")
    vm.write("/dev/kmsg", "<4>after the restore\n")
    vm.console.expect("after the restore")


@pytest.mark.parametrize("modules", [[], ["lkdtm"], ["dummy", "loop"]], ids=len)
def test_timers_of_a_restored_guest_expire(new_vm: BootVm, cell: Cell, modules: list[str]) -> None:
    """A MIPS CPU's timer is not in a snapshot; whether one was set depends on its moment."""
    vm = new_vm(modules=modules, files={"/late": cell.compile_program(LATE)})
    # By the log's own clock: /proc/uptime lags behind it where ticks were lost in a starved boot.
    vm.write("/dev/kmsg", "<4>on time\n")
    vm.succeed("/late")
    vm.console.expect("late by a moment", timeout_s=60)
    before, after = vm.dmesg.matching("on time|late by a moment")
    # Without its timer the CPU sleeps until its counter wraps, after 21 s.
    assert after.time_s - before.time_s < 5


def test_a_restored_guest_ends_as_a_booted_one(vm: Vm) -> None:
    vm.power_off()
    assert vm.wait_end(0) == 0


@pytest.mark.kernelvm(shared_console=True)
def test_a_guest_with_a_shared_console_is_restored(vm: Vm) -> None:
    vm.modprobe("dummy")
    assert [module.name for module in vm.modules] == ["dummy"]
    assert vm.console.text.count("Linux version") == 1


def test_a_second_run_boots_nothing(cell: Cell, private: tuple[Store, Guests]) -> None:
    _store, guests = private
    for _guest in range(2):
        with guests.restored(cell.bootable(modules=["dummy"])) as vm:
            assert vm.read("/proc/version")
    assert (guests.counts.snapshots_made, guests.counts.restored) == (1, 2)


def test_one_is_restored_while_another_is_tested(cell: Cell, private: tuple[Store, Guests]) -> None:
    _store, guests = private
    bootable = cell.bootable(modules=["dummy"])
    guests.restore_ahead(bootable)
    assert guests.counts.waiting == 0
    with guests.restored(bootable) as vm:
        guests.restore_ahead(bootable)
        assert vm.read("/proc/version")
    with guests.restored(bootable) as vm:
        assert vm.read("/proc/version")
    assert guests.counts.waiting == 1
    guests.restore_ahead(bootable)
    guests.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", [MEMORY, STATE])
@pytest.mark.parametrize("how", ["cut", "changed"])
def test_damage_is_noticed(cell: Cell, private: tuple[Store, Guests], name: str, how: str) -> None:
    store, guests = private
    bootable = cell.bootable(modules=["dummy"])
    with guests.restored(bootable):
        pass
    found = find_snapshot(store, bootable.boot)
    assert found is not None
    damage(found.directory / name, how)
    with guests.restored(bootable) as vm:
        assert vm.read("/proc/version")
    assert guests.counts.snapshots_made == 2


def damage(path: Path, how: str) -> None:
    if how == "cut":
        os.truncate(path, path.stat().st_size - 4096)
        return
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"damage")


@pytest.mark.slow
def test_a_snapshot_that_does_not_restore_is_made_anew(
    cell: Cell, private: tuple[Store, Guests]
) -> None:
    """Its bytes are those that were stored; this QEMU refuses them."""
    store, guests = private
    bootable = cell.bootable(modules=["dummy"])
    with guests.restored(bootable):
        pass
    found = find_snapshot(store, bootable.boot)
    assert found is not None
    found.state.write_bytes(found.state.read_bytes()[:64].ljust(found.state.stat().st_size, b"x"))
    note = read_metadata(found.directory)
    digests = {**note.sha256, STATE: sparse_digest(found.state)}
    write_whole(found.directory / ENTRY, replace(note, sha256=digests).text())
    with guests.restored(bootable) as vm:
        assert vm.read("/proc/version")
    assert guests.counts.snapshots_made == 2
