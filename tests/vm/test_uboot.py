"""A bootloader that people use, built from Debian's source, in front of the kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kernelvm import Cell, Vm
from pytest_kernelvm.errors import BadInput, GuestPanic, ToolMissing
from pytest_kernelvm.kernel.uboot import UBootBinary, obtain_uboot
from pytest_kernelvm.session.cmdline import BOOTLOADER, BUILTIN, TREE, assert_cmdline_from
from pytest_kernelvm.vm.bootpath.uboot import through_uboot
from tests.vm.boot_variants import with_device_tree
from tests.vm.provoking import bare

pytestmark = [pytest.mark.slow, pytest.mark.spread("boot paths")]

RTC = "/isa/rtc@70"
CHANGED = ("fdt addr {tree}", "fdt resize 1024", "fdt set / model 'changed by U-Boot'")
WITH_TREE = "bootm {kernel} - {tree}"
Enter = Callable[..., Vm]


@pytest.fixture
def uboot(cell: Cell) -> UBootBinary:
    if not cell.config.arch.uboot:
        pytest.skip(f"{cell.config.arch.name} gets its command line and tree from QEMU")
    try:
        return obtain_uboot(cell.store, cell.config.arch)
    except (ToolMissing, BadInput) as error:
        pytest.skip(f"no source of U-Boot: {error}")


@pytest.fixture
def enter(uboot: UBootBinary, tmp_path: Path) -> Iterator[Enter]:
    """Boots a cell through U-Boot, which is given commands and a tree."""
    with contextlib.ExitStack() as stack:

        def give(cell: Cell, *commands: str, tree: bytes = b"", cmdline: str = "") -> Vm:
            directory = tmp_path / str(len(list(tmp_path.iterdir())))
            directory.mkdir()
            made = cell.boot(cell.initramfs(cell.closure(())), cookie=False)
            made = replace(made, cmdline=cmdline)
            boot = through_uboot(made, uboot, directory, commands, tree=tree)
            return stack.enter_context(bare(cell, directory, boot))

        yield give


def test_a_property_that_uboot_changes(cell: Cell, vm: Vm, enter: Enter) -> None:
    """It is in /proc, and the driver obeys it."""
    paths = with_device_tree(cell)
    assert vm.exists("/sys/bus/platform/devices/70.rtc")
    changed = (*CHANGED, f"fdt set {RTC} status disabled")
    guest = enter(paths, *changed, "setenv bootargs said.by=tree", WITH_TREE, tree=vm.device_tree)
    assert guest.read("/proc/device-tree/model") == "changed by U-Boot\0"
    assert not guest.exists("/sys/bus/platform/devices/70.rtc")
    assert_cmdline_from(guest, TREE, BUILTIN)


def test_without_the_patch_it_is_ignored(cell: Cell, vm: Vm, enter: Enter, tmp_path: Path) -> None:
    """The built-in tree counts. The size of memory is in the other, so the initramfs is lost."""
    with pytest.raises(GuestPanic, match="Unable to mount root fs"):
        enter(cell, *CHANGED, WITH_TREE, tree=vm.device_tree)
    (console,) = tmp_path.glob("*/console.log")
    said = console.read_text(errors="replace")
    assert "Working FDT set to" in said
    assert f"machine is {cell.config.arch.for_tests.compatible}" in said
    assert "Initrd extends beyond end of memory" in said


def test_uboot_boots_without_a_device_tree(cell: Cell, enter: Enter) -> None:
    """Without a tree it passes arguments and environment as YAMON did; any kernel takes those.

    But it means megabytes in the environment, where the kernel reads bytes.
    """
    arch = cell.config.arch
    assert arch.fixed_initramfs is not None
    assert arch.uboot is not None
    memory_mib = arch.uboot.memory_mib
    words = (
        arch.fixed_initramfs.cmdline,
        arch.base_cmdline,
        f"memsize={memory_mib}M said.by=uboot",
        cell.config.cookie.text,
    )
    line = " ".join(words)
    guest = enter(cell, f"setenv bootargs {line}", "bootm {kernel}", cmdline=line)
    assert_cmdline_from(guest, BOOTLOADER)
    assert not guest.exists("/proc/device-tree/model")
    total_kib = int(guest.read("/proc/meminfo").split()[1])
    assert 0.9 * memory_mib < total_kib >> 10 < memory_mib
