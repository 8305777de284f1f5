"""One kernel enters another in the same guest, and the agent answers on the same channel."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_kernelvm import Cell, Vm
from pytest_kernelvm.errors import SyscallFailed
from pytest_kernelvm.vm.bootpath.kexec import kexec_files
from pytest_kernelvm.vm.machine.start import boot_guest
from tests.vm.boot_variants import without_kexec

pytestmark = [pytest.mark.slow, pytest.mark.spread("boot paths")]

WORDS = "said.by=kexec"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
Start = Callable[[Cell], Vm]


@pytest.fixture
def second(cell: Cell) -> Cell:
    """A cell whose kernel is another one than the guest's, and says so."""
    return without_kexec(cell)


@pytest.fixture
def start(second: Cell, tmp_path: Path) -> Iterator[Start]:
    """Boots a cell that has at hand what it needs to enter the second kernel."""
    with contextlib.ExitStack() as stack:

        def give(first: Cell) -> Vm:
            files = kexec_files(second.bootable(cmdline=WORDS).boot)
            return stack.enter_context(
                boot_guest(first.bootable(modules=(), files=files), tmp_path)
            )

        yield give


def test_a_kernel_enters_another(cell: Cell, second: Cell, start: Start) -> None:
    vm = start(cell)
    symbol = cell.config.arch.kexec_symbol
    assert vm.configuration[symbol] == "y"
    before = vm.read(BOOT_ID)
    vm.kexec(second, cmdline=WORDS)
    assert vm.read(BOOT_ID) != before
    assert symbol not in vm.configuration
    assert WORDS in vm.cmdline
    vm.modprobe("loop")
    assert [module.name for module in vm.modules] == ["loop"]
    vm.power_off()


def test_without_the_cookie(cell: Cell, second: Cell, start: Start) -> None:
    vm = start(cell)
    vm.kexec(second, cmdline=WORDS, cookie=False)
    assert WORDS not in vm.cmdline
    assert "no cookie, ignoring" in vm.dmesg


def test_a_kernel_without_permission_refuses_kexec(cell: Cell, second: Cell, start: Start) -> None:
    vm = start(cell)
    before = vm.read(BOOT_ID)
    vm.write("/proc/sys/kernel/kexec_load_disabled", "1")
    with pytest.raises(SyscallFailed) as failed:
        vm.kexec(second, cmdline=WORDS)
    assert failed.value.errno == errno.EPERM
    assert vm.read(BOOT_ID) == before


def test_a_kernel_without_kexec_support(second: Cell, start: Start) -> None:
    vm = start(second)
    with pytest.raises(SyscallFailed) as failed:
        vm.kexec(second, cmdline=WORDS)
    assert failed.value.errno == errno.ENOSYS
