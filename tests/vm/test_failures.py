"""Every way to fail has its own error, with its evidence, and leaves no process."""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_kernelvm import BootVm, Cell, Vm
from pytest_kernelvm.config.model import Machine
from pytest_kernelvm.config.requests import Requested
from pytest_kernelvm.errors import (
    BootHang,
    ConfigLost,
    GuestDied,
    GuestHang,
    GuestPanic,
    LaunchFailed,
    NoOutput,
)
from pytest_kernelvm.kernel.build.build import build_kernel
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.session.guests import Guests
from pytest_kernelvm.store.store import Store
from tests.vm.provoking import bare


def children() -> set[int]:
    """Return the processes that this one started and that still are."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text().partition(") ")
            if "(qemu" in name and int(rest.split()[1]) == os.getpid():
                found.add(int(path.parent.name))
    return found


@pytest.fixture(autouse=True)
def no_process_is_left(kernelvm_guests: Guests) -> Iterator[None]:
    before = children()
    yield
    # The one that waits for the next test.
    kernelvm_guests.close()
    assert children() <= before


@pytest.mark.slow
@pytest.mark.any_cell
def test_lost_configuration(cell: Cell) -> None:
    """USB_STORAGE needs USB and SCSI; a symbol that no kernel has is distinguished from it."""
    asked = tuple(
        Requested(name=name, value="y", where="test.yaml:7:3")
        for name in ("USB_STORAGE", "NO_SUCH_SYMBOL")
    )
    kernel = dataclasses.replace(cell.config.kernel, symbols=(*cell.config.kernel.symbols, *asked))
    config = dataclasses.replace(cell.config, kernel=kernel)
    with pytest.raises(ConfigLost) as lost:
        build_kernel(Store(cell.store.root, Silent()), config)
    text = str(lost.value)
    assert text.startswith(f"config-lost: 2 symbols of {cell.config.id}")
    assert "USB_STORAGE     requested y, got n  (test.yaml:7:3)" in text
    assert "NO_SUCH_SYMBOL  requested y, got no such symbol here" in text


def test_panic_while_tested(vm: Vm) -> None:
    with pytest.raises(GuestPanic) as panic:
        vm.write("/proc/sysrq-trigger", "c")
    assert "sysrq triggered crash" in panic.value.summary
    assert "Kernel panic - not syncing" in panic.value.evidence.excerpt
    assert str(vm.console.log) in panic.value.evidence.where
    assert vm.wait_end(5) == 0


def test_panic_while_booting(boot_vm: BootVm) -> None:
    with pytest.raises(GuestPanic) as panic:
        boot_vm(cmdline="rdinit=/nosuch init=/nosuch")
    assert "while booting" in panic.value.evidence.seen


def test_init_that_exits(boot_vm: BootVm, cell: Cell) -> None:
    quitter = cell.compile_program("int main(void) { return 3; }")
    with pytest.raises(GuestPanic, match="Attempted to kill init! exitcode=0x00000300"):
        boot_vm(files={"/quitter": quitter}, cmdline="rdinit=/quitter")


def test_guest_that_never_answers(boot_vm: BootVm, cell: Cell) -> None:
    sleeper = cell.compile_program("int main(void) { for (;;) sleep(1000); }")
    with pytest.raises(BootHang) as hang:
        boot_vm(files={"/sleeper": sleeper}, cmdline="rdinit=/sleeper", boot_timeout_s=3.0)
    assert hang.value.evidence.seen == "the guest came as far as: init"
    assert "Run /sleeper as init process" in hang.value.evidence.excerpt


def test_guest_that_stops_answering(vm: Vm) -> None:
    vm.qmp.execute("stop")
    with pytest.raises(GuestHang, match=r"no answer within 0.5 s"):
        vm.ping(timeout_s=0.5)
    vm.qmp.execute("cont")
    assert vm.read("/proc/version")


def test_guest_whose_console_stays_empty(cell: Cell, tmp_path: Path) -> None:
    """QEMU's -S starts a machine whose CPU stands still."""
    boot = dataclasses.replace(cell.boot(cell.initramfs()), extra=("-S",))
    with pytest.raises(NoOutput) as silent, bare(cell, tmp_path, boot, boot_s=1.0):
        pass
    assert "nothing on the console within 1 s" in silent.value.summary


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_killed_qemu(vm: Vm, number: signal.Signals) -> None:
    vm.kill(number)
    with pytest.raises(GuestDied) as died:
        vm.read("/proc/version")
    assert f"QEMU was killed by {number.name} while it was tested" in died.value.summary
    with pytest.raises(ProcessLookupError):
        os.kill(vm.pid, 0)


def test_qemu_that_does_not_start(cell: Cell, tmp_path: Path) -> None:
    machine = Machine(memory_mib=128, cpu="no-such-cpu", fast_boot=True)
    boot = dataclasses.replace(cell.boot(cell.initramfs()), machine=machine)
    with pytest.raises(LaunchFailed) as failed, bare(cell, tmp_path, boot):
        pass
    assert "no-such-cpu" in failed.value.evidence.excerpt
    assert cell.config.arch.qemu_binary in failed.value.evidence.command
